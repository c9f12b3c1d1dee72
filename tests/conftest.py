"""Fixtures and helpers for the tests of every part: contract, record, ports, servers."""

import gc
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

import numpy as np
import pandas as pd
import pytest
import requests
from werkzeug.serving import make_server

from config.contract import Contract, load_contract
from config.runtime.telemetry import SWITCHES, turn_off
from prediction_service.settings import Settings
from prediction_service.sinks.mongodb import MongoSink

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
# OpenMP reads this when XGBoost starts its threads. Spinning threads slow small fits down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
turn_off()

EXPECTED_SKIPS = os.environ.get("EXPECTED_SKIPS")  # see pytest_sessionfinish
KEPT_VARIABLES = (
    "OMP_WAIT_POLICY",
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "VIRTUAL_ENV",
    "CENSUS_DATA_DIR",
)
KEPT_PREFIXES = (
    "SSL_",
    "PIP_",
    "REQUESTS_CA",
    "MONGODB_TEST",
    "DOCKER_",
    "PREFECT_HOME",
    "MPLCONFIG",
    "PYTEST",
)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test skipped for a reason that the pattern EXPECTED_SKIPS does not match.

    On a machine that provides everything else, any other skip hides a missing test.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if EXPECTED_SKIPS is None or reporter is None:  # an xdist process has no reporter
        return
    reasons = {report.longrepr[2] for report in reporter.stats.get("skipped", [])}
    unexpected = sorted(reason for reason in reasons if not re.search(EXPECTED_SKIPS, reason))
    if unexpected:
        reporter.write_line("unexpected skips: " + "; ".join(unexpected), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection, which took a tenth of the time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the caller's shell and of a developer's `.env`."""
    clean(monkeypatch)


def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the same for a fixture that lives longer than one test."""
    for name in list(os.environ):
        if name not in KEPT_VARIABLES and not name.startswith(KEPT_PREFIXES):
            monkeypatch.delenv(name)
    for name, value in SWITCHES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENV_FILE", os.devnull)


@pytest.fixture(scope="session")
def contract() -> Contract:
    """Return the project's own contract."""
    return load_contract()


@pytest.fixture(scope="session")
def churn() -> Contract:
    """Return a contract of another table, with columns of every kind."""
    return load_contract(ROOT / "tests" / "end_to_end" / "churn.yaml")


@pytest.fixture
def record(contract: Contract) -> dict[str, Any]:
    """Return a valid request record: every default of the contract."""
    return {feature.name: feature.default for feature in contract.inputs}


@pytest.fixture(scope="session")
def census_dir() -> Path:
    """Return the folder of the real UCI files. Skip the test without CENSUS_DATA_DIR."""
    folder = os.environ.get("CENSUS_DATA_DIR", "")
    if not folder or not (Path(folder) / "adult.data").exists():
        pytest.skip("CENSUS_DATA_DIR: expected a folder with adult.data and adult.test")
    return Path(folder)


def free_port() -> int:
    """Return an unused TCP port of the loopback interface, outside of the kernel's own range.

    The kernel gives ports of its range to outgoing connections. One of them could take the port
    before the server under test does.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(
    condition: Callable[[], Any], what: str | Callable[[], str] = "", timeout_s: float = 120
) -> Any:
    """Return the first true value of `condition`, which is called every 50 ms.

    Raises AssertionError after the deadline, which a loaded machine does not reach. Its message
    holds `what`: a text, or a function that returns one, such as the log of a process.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    text = what() if callable(what) else what
    raise AssertionError(f"not within {timeout_s} s: {text or condition}")


def accepts_connections(port: int) -> bool:
    """Return True if a server listens on the loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(
    *command: str | Path,
    status: int = 0,
    timeout_s: float = 180,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> str:
    """Return the output of a command, with its errors if it must fail.

    Raises AssertionError for another exit status than `status`.
    """
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == status, f"{command}: status {done.returncode}\n{output[-4000:]}"
    return output if status else done.stdout


@contextmanager
def served(app: WSGIApplication, port: int = 0) -> Iterator[str]:
    """Serve an app over HTTP; yield its address."""
    server = make_server("127.0.0.1", port, app, threaded=True)
    # The end waits for the next poll: by default half a second.
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@contextmanager
def gcs_emulator(folder: Path) -> Iterator[str]:
    """Run a gs:// emulator with the bucket `tests`; yield its address."""
    port = free_port()
    command = [sys.executable, str(ROOT / "config/gcs/emulator.py"), "--data-dir", str(folder)]
    command += ["start", "--quiet", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([*command, "--default-bucket", "tests"]) as process:
        address = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            try:
                return requests.get(f"{address}/storage/v1/b", timeout=60).ok
            except requests.ConnectionError:
                return False

        try:
            wait_until(is_ready, "the emulator")
            yield address
        finally:
            process.terminate()
            process.wait(20)


@cache
def empty_mlflow() -> bytes:
    """Return an MLflow database with empty tables. To make it takes seconds, to copy it nothing."""
    # The import takes seconds, which most tests do not need.
    from mlflow import MlflowClient  # pylint: disable=import-outside-toplevel

    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        MlflowClient(uri, registry_uri=uri).search_registered_models()
        with closing(sqlite3.connect(f"{folder}/mlflow.db")) as made:
            made.execute("DELETE FROM experiments")  # its address is in this folder
            made.commit()
        return Path(folder, "mlflow.db").read_bytes()


def mlflow_database(folder: Path) -> str:
    """Return the address of the MLflow database in a folder, which is made unless it exists."""
    path = folder / "mlflow.db"
    if not path.exists():
        path.write_bytes(empty_mlflow())
    return f"sqlite:///{path}"


@contextmanager
def mlflow_server(
    folder: Path, artifacts: str = "", options: tuple[str, ...] = (), **environ: str
) -> Iterator[str]:
    """Run an MLflow server with proxied artifacts, as in the stack; yield its address.

    The folder holds its database, unless `environ` has another, its log and, without an address for
    `artifacts`, its artifacts.
    """
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", *options]
    command += ["--artifacts-destination", artifacts or str(folder / "artifacts")]
    if "MLFLOW_BACKEND_STORE_URI" not in environ:
        environ["MLFLOW_BACKEND_STORE_URI"] = mlflow_database(folder)
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | environ
    with (folder / "mlflow.log").open("w") as log:
        with subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
            try:
                log_text = (folder / "mlflow.log").read_text
                wait_until(lambda: accepts_connections(port), log_text)
                yield address
            finally:
                server.terminate()


@contextmanager
def prefect_process(folder: Path, **environ: str) -> Iterator[str]:
    """Run Prefect's server with all its services; yield the address of its API.

    The folder holds its log and, unless `environ` has another, its database.
    """
    address = f"http://127.0.0.1:{(port := free_port())}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    env = os.environ | {"PREFECT_HOME": str(folder / "prefect")} | environ

    def is_ready() -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{address}/health", timeout=60).ok
        return False

    log = folder / "prefect.log"
    with log.open("w") as file:
        with subprocess.Popen(command, env=env, stdout=file, stderr=file) as server:
            try:
                wait_until(is_ready, log.read_text)
                yield address
            finally:
                server.terminate()


@pytest.fixture(scope="session")
def mongodb_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a MongoDB server: MONGODB_TEST_URI, or a `mongod` from PATH.

    Skip the test without either.
    """
    if uri := os.environ.get("MONGODB_TEST_URI"):
        yield uri
        return
    if not (mongod := shutil.which("mongod")):
        pytest.skip("no MongoDB: set MONGODB_TEST_URI or install mongod")
    port, folder = free_port(), tmp_path_factory.mktemp("mongod")
    command = [mongod, "--port", str(port), "--dbpath", str(folder), "--bind_ip", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: accepts_connections(port), "mongod to accept connections")
            yield f"mongodb://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Run a real Prefect server on a database of its own.

    One for all tests of a process: with a second one inside it, trainings waited without end.
    """
    # The import takes 2 s, which most tests do not need.
    from prefect.testing.utilities import (  # pylint: disable=import-outside-toplevel
        prefect_test_harness,
    )

    with prefect_test_harness(server_startup_timeout=120):
        yield


def random_columns(contract: Contract, rows: int, random: np.random.Generator) -> pd.DataFrame:
    """Return a frame (n_rows, n_features) of random integers and categories."""
    return pd.DataFrame(
        {
            f.name: (
                random.choice(f.categories, rows)
                if f.is_categorical
                else random.integers(int(f.bounds[0]), int(f.bounds[1]), rows, endpoint=True)
            )
            for f in contract.features
        }
    )


def made_up_rows(contract: Contract, rows: int, seed: int = 0) -> pd.DataFrame:
    """Return a checked frame (n_rows, n_features + label) of random people.

    Education, age and hours a week determine the odds of a high income.
    """
    random = np.random.default_rng(seed)
    frame = random_columns(contract, rows, random)
    rank = frame["education"].map({c: i for i, c in enumerate(contract["education"].categories)})
    frame["education_num"] = rank + 1
    margin = 0.5 * (rank - 9) + 0.03 * (frame["age"] - 50) + 0.03 * (frame["hours_per_week"] - 50)
    chance = 1 / (1 + np.exp(1.2 - margin))
    return frame.assign(income=(random.random(rows) < chance).astype(int))


@pytest.fixture
def sink(mongodb_uri: str) -> Iterator[MongoSink]:
    """Return the prediction service's sink, on a database for this test."""
    name = f"test_{uuid.uuid4().hex}"
    with closing(MongoSink(Settings(mongodb_address=mongodb_uri, mongodb_database=name))) as opened:
        yield opened
        opened.client.drop_database(name)
