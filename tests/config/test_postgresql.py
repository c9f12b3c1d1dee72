"""MLflow and Prefect on a real PostgreSQL, with the users that its container makes."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
import requests
from mlflow import MlflowClient

from config.model_registry import MODEL_NAME
from tests import conftest
from tests.conftest import ROOT, free_port, mlflow_server, prefect_process, wait_until

PASSWORDS = {"mlflow": "m" * 32, "prefect": "p" * 32}
IS_ROOT = os.geteuid() == 0  # PostgreSQL does not run as root
AS_POSTGRES = ("runuser", "-u", "postgres", "--") if IS_ROOT else ()


def find_program(name: str) -> str:
    """Return the path of a program of PostgreSQL. Skip the test without it."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(debian[-1]) if debian else "")
    if not found:
        pytest.skip(f"PostgreSQL: {name} is not installed. On Debian: apt-get install postgresql")
    return found


class Database:
    """A PostgreSQL server with the users of MLflow and Prefect."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder

    def make_users(self, passwords: dict[str, str]) -> None:
        """Run the script of the container, with these passwords."""
        for name, password in passwords.items():
            (self.folder / f"postgres_{name}_password").write_text(f"{password}\n")
        env = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "SECRETS": str(self.folder)}
        conftest.run(ROOT / "config/postgres/users.sh", env=os.environ | env)

    def address(self, user: str, driver: str) -> str:
        """Return the address for a service, which reads the password from PGPASSWORD."""
        return f"postgresql+{driver}://{user}@127.0.0.1:{self.port}/{user}"

    def connect(self, user: str, password: str, database: str) -> None:
        """Raise psycopg.OperationalError unless the user can connect."""
        server = f"host=127.0.0.1 port={self.port} user={user} dbname={database}"
        psycopg.connect(server, password=password).close()


@pytest.fixture(name="database", scope="module")
def run_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Run a server that requires passwords of the users of MLflow and Prefect."""
    initdb, postgres = find_program("initdb"), find_program("postgres")
    folder, port = tmp_path_factory.mktemp("postgresql"), free_port()
    data = folder / "data"
    data.mkdir()
    if IS_ROOT:
        shutil.chown(data, "postgres")
        for parent in (folder, *folder.parents[:-2]):  # only the user of pytest can open them
            parent.chmod(parent.stat().st_mode | 0o011)
    conftest.run(
        *AS_POSTGRES,
        initdb,
        "--no-sync",
        "--pgdata",
        data,
        "--username=postgres",
        "--auth=trust",
        cwd=data,
    )
    rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    (data / "pg_hba.conf").write_text(rules)
    server = [*AS_POSTGRES, postgres, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", ""]
    server.append("--fsync=off")  # its data ends with the test
    with (folder / "log").open("w") as log:
        with subprocess.Popen(server, stdout=log, stderr=log, cwd=data):
            try:
                made = Database(port, folder)
                wait_until(lambda: is_up(made), (folder / "log").read_text)
                made.make_users(PASSWORDS)
                yield made
            finally:
                # `runuser` would forward a signal and then sleep for 2 seconds.
                if (pid := data / "postmaster.pid").exists():
                    os.kill(int(pid.read_text().splitlines()[0]), signal.SIGINT)


def is_up(database: Database) -> bool:
    """Return whether the server accepts connections."""
    try:
        database.connect("postgres", "", "postgres")
    except psycopg.OperationalError:
        return False
    return True


def test_each_user_reaches_its_own_database_and_a_replaced_password_applies(
    database: Database,
) -> None:
    for user, password in PASSWORDS.items():
        database.connect(user, password, user)
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        database.connect("mlflow", PASSWORDS["mlflow"], "prefect")
    database.make_users({"mlflow": "it's new", "prefect": PASSWORDS["prefect"]})
    database.connect("mlflow", "it's new", "mlflow")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        database.connect("mlflow", PASSWORDS["mlflow"], "mlflow")
    database.make_users(PASSWORDS)


@pytest.mark.slow
def test_mlflow_keeps_a_version_in_postgresql(database: Database, tmp_path: Path) -> None:
    address = database.address("mlflow", "psycopg")
    server_of = partial(
        mlflow_server, tmp_path, MLFLOW_BACKEND_STORE_URI=address, PGPASSWORD=PASSWORDS["mlflow"]
    )
    with server_of() as server:
        client = MlflowClient(server, registry_uri=server)
        run = client.create_run("0")
        client.log_metric(run.info.run_id, "roc_auc", 0.93)
        client.create_registered_model(MODEL_NAME)
        source = f"{run.info.artifact_uri}/model"
        made = client.create_model_version(MODEL_NAME, source, run.info.run_id)
        client.set_registered_model_alias(MODEL_NAME, "production", made.version)
    assert not (tmp_path / "mlflow.db").exists()
    with server_of() as server:
        client = MlflowClient(server, registry_uri=server)
        version = client.get_model_version_by_alias(MODEL_NAME, "production")
        assert client.get_run(version.run_id or "").data.metrics == {"roc_auc": 0.93}


@pytest.mark.slow
def test_prefect_keeps_a_work_pool_in_postgresql(database: Database, tmp_path: Path) -> None:
    server_of = partial(
        prefect_process,
        tmp_path,
        PREFECT_SERVER_DATABASE_CONNECTION_URL=database.address("prefect", "asyncpg"),
        PGPASSWORD=PASSWORDS["prefect"],
    )
    with server_of() as url:
        pool = {"name": "income", "type": "process"}
        requests.post(f"{url}/work_pools/", json=pool, timeout=30).raise_for_status()
    with server_of() as url:
        assert requests.get(f"{url}/work_pools/income", timeout=30).json()["type"] == "process"
    assert not list(tmp_path.rglob("*.db"))
