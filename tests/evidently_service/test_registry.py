"""The reference follows the production version: a real MLflow, on SQLite in a folder."""

from pathlib import Path

import msgspec
import pytest

from evidently_service.reference.registry import References, Registry, RegistryError, Version
from tests.evidently_service.mlflow_registry import RegistryFile


class Source:
    """A registry that says and gives what a test wants."""

    def __init__(self) -> None:
        self.version: Version | None = Version("1", "run-a")
        self.text: str | None = "first\n"
        self.downloads = 0

    def production_version(self) -> Version:
        """The version, unless the registry is away."""
        if self.version is None:
            raise RegistryError("away")
        return self.version

    def download_reference(self, version: Version, folder: Path) -> Path:
        """A file of its text, unless the artifact is missing."""
        if self.text is None:
            raise RegistryError(f"version {version.number} has no reference")
        self.downloads += 1
        path = folder / "monitoring" / "reference.jsonl"
        path.parent.mkdir()
        path.write_text(self.text, encoding="utf-8")
        return path


def kept(references: References) -> str:
    """The text of the reference that is here."""
    version = references.version()
    assert version is not None
    return references.path(version).read_text("utf-8")


def test_a_reference_is_fetched_once(tmp_path: Path) -> None:
    source = Source()
    references = References(tmp_path / "reference", source)
    assert references.version() is None
    references.follow()
    references.follow()
    assert source.downloads == 1
    assert references.version() == Version("1", "run-a")
    assert kept(references) == "first\n"


def test_a_promotion_brings_the_new_versions_reference_and_drops_the_old(tmp_path: Path) -> None:
    source = Source()
    references = References(tmp_path, source)
    references.follow()
    source.version, source.text = Version("2", "run-b"), "second\n"
    references.follow()
    assert kept(references) == "second\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.jsonl", "production.json"]


def test_the_same_number_from_a_fresh_registry_is_another_version(tmp_path: Path) -> None:
    """A registry made anew starts at 1 again: only the run tells its version from the old one."""
    source = Source()
    references = References(tmp_path, source)
    references.follow()
    source.version, source.text = Version("1", "run-of-another-registry"), "another\n"
    references.follow()
    assert kept(references) == "another\n"


def test_the_last_reference_stays_while_the_registry_is_away_and_after_a_restart(
    tmp_path: Path,
) -> None:
    source = Source()
    References(tmp_path, source).follow()
    source.version = None
    restarted = References(tmp_path, source)
    with pytest.raises(RegistryError, match="away"):
        restarted.follow()
    assert kept(restarted) == "first\n"


def test_a_pointer_that_a_power_cut_emptied_is_written_anew(tmp_path: Path) -> None:
    source = Source()
    references = References(tmp_path, source)
    references.follow()
    (tmp_path / "production.json").write_bytes(b"")
    assert references.version() is None
    references.follow()
    assert references.version() == Version("1", "run-a")


def test_a_version_without_a_reference_leaves_the_last_one(tmp_path: Path) -> None:
    source = Source()
    references = References(tmp_path, source)
    references.follow()
    source.version, source.text = Version("2", "run-b"), None
    with pytest.raises(RegistryError, match="version 2 has no reference"):
        references.follow()
    assert references.version() == Version("1", "run-a")
    assert kept(references) == "first\n"


def test_the_production_alias_leads_to_its_runs_reference(
    mlflow_registry: RegistryFile, tmp_path: Path
) -> None:
    references = References(tmp_path / "reference", Registry(mlflow_registry.uri))
    first = mlflow_registry.promote([{"age": 40}, {"age": 41}])
    references.follow()
    assert references.version() == first
    assert kept(references) == '{"age":40}\n{"age":41}\n'
    second = mlflow_registry.promote([{"age": 50}])
    references.follow()
    assert int(second.number) == int(first.number) + 1
    assert references.version() == second
    assert [msgspec.json.decode(line) for line in kept(references).splitlines()] == [{"age": 50}]


def test_a_version_without_the_artifact_says_what_is_missing_and_where(
    mlflow_registry: RegistryFile, tmp_path: Path
) -> None:
    version = mlflow_registry.promote(None)
    with pytest.raises(RegistryError) as caught:
        References(tmp_path / "reference", Registry(mlflow_registry.uri)).follow()
    assert f"no monitoring/reference.jsonl of version {version.number}" in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_registry_without_the_alias_says_so(mlflow_registry: RegistryFile) -> None:
    mlflow_registry.demote()
    with pytest.raises(RegistryError, match="no income-classifier@production from MLflow"):
        Registry(mlflow_registry.uri).production_version()


def test_a_registry_that_is_away_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match="127.0.0.1:9"):
        Registry("http://127.0.0.1:9").production_version()
