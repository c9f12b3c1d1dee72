"""Backup and restore with a stand-in for Docker, whose volumes are folders."""

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, run

OPERATE = ROOT / "config/operate"
VOLUMES = ("mongo", "mlflow", "prefect", "gcs", "data", "postgres")
DOCKER = """\
#!/usr/bin/env bash
echo "$*" >>docker.log
case "$*" in
  "compose ps"*) printf '%s\\n' mongo worker relay prediction ;;
  *" run "*)
    [ ! -e broken ] || exit 1
    while [ "$1" != volumes ]; do shift; done
    shift
    exec "${@//\\/volumes/$PWD/disk}" ;;
esac
"""


class Machine:
    """A project's folder with its secrets and volumes."""

    def __init__(self, folder: Path) -> None:
        """Make secrets, and volumes in which MongoDB's user has this machine's password."""
        self.folder = folder
        (folder / "config").mkdir(parents=True)
        shutil.copytree(OPERATE, folder / "config/operate")
        docker = folder / "bin/docker"
        docker.parent.mkdir()
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self.run("secrets")
        for name in VOLUMES:
            (folder / "disk" / name).mkdir(parents=True)
            (folder / "disk" / name / "file").write_text(f"{name} of {folder.name}")
        self.users.write_text(self.secrets()["mongo_password"])

    @property
    def users(self) -> Path:
        """The file of MongoDB's users."""
        return self.folder / "disk/mongo/users"

    def secrets(self) -> dict[str, str]:
        """Return the secrets by their names."""
        return {path.name: path.read_text() for path in (self.folder / "var/secrets").iterdir()}

    def run(self, script: str, *arguments: str, status: int = 0) -> str:
        """Return the last line that a script prints. Raises AssertionError for another status."""
        env = os.environ | {"PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        command = self.folder / "config/operate" / script
        return (run(command, *arguments, env=env, status=status).splitlines() or [""])[-1]

    def calls(self) -> list[str]:
        """Return the commands that Docker got."""
        return (self.folder / "docker.log").read_text().splitlines()


@pytest.fixture(name="old")
def old_machine(tmp_path: Path) -> Machine:
    """The machine of the backup."""
    return Machine(tmp_path / "old")


@pytest.fixture(name="new")
def new_machine(tmp_path: Path) -> Machine:
    """Another machine with its own secrets and data."""
    return Machine(tmp_path / "new")


def test_a_restore_on_another_machine_brings_the_passwords_of_the_databases(
    old: Machine, new: Machine
) -> None:
    """The users are in the databases' volumes, so a restore once locked every service out."""
    archive = old.folder / old.run("backup")
    assert archive.stat().st_mode & 0o077 == 0 or archive.parent.stat().st_mode & 0o077 == 0
    before = new.secrets()
    new.run("restore", str(archive))
    for name in VOLUMES:
        assert (new.folder / "disk" / name / "file").read_text() == f"{name} of old"
    after = new.secrets()
    assert new.users.read_text() == after["mongo_password"]
    changed = {name for name in after if after[name] != before.get(name)}
    mongo, postgres = ("", "_root", "_worker", "_jupyter"), ("", "_mlflow", "_prefect")
    expected = {f"mongo{user}_password" for user in mongo}
    assert changed == expected | {f"postgres{user}_password" for user in postgres}
    assert all(after[name] == old.secrets()[name] for name in changed)
    modes = {p.stat().st_mode & 0o777 for p in (new.folder / "var/secrets").iterdir()}
    assert modes == {0o444}
    new.run("secrets")
    assert new.secrets() == after
    *_, started, _, restarted = new.calls()
    assert started.startswith("compose up ") and "mongo" in started
    assert restarted == "compose restart relay", "it has the replaced password"


def test_a_restore_that_fails_replaces_no_secret(old: Machine, new: Machine) -> None:
    archive, before = old.folder / old.run("backup"), new.secrets()
    (new.folder / "broken").touch()
    new.run("restore", str(archive), status=1)
    assert new.secrets() == before
    assert any(call.startswith("compose up ") for call in new.calls())


def test_an_archive_of_an_earlier_release_has_no_secrets(new: Machine) -> None:
    disk, archive = new.folder / "disk", new.folder / "archive.tar.gz"
    run("tar", "-C", disk, "-czf", archive, "mongo", "mlflow")
    (disk / "data/file").write_text("newer")
    (disk / "mongo/file").write_text("newer")
    before = new.secrets()
    new.run("restore", str(archive))
    assert new.secrets() == before
    assert (disk / "mongo/file").read_text() == "mongo of new"
    assert (disk / "data/file").read_text() == "newer"


def test_a_restore_needs_an_archive(new: Machine) -> None:
    new.run("restore", "none.tar.gz", status=2)
