"""What the tests of every part share: the contract, a valid record, ports, a MongoDB server."""

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests

from config.contract import Contract, load_contract
from config.runtime.telemetry import SWITCHES, turn_off
from prediction_service.sinks.mongodb import MongoSink

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
# Read when XGBoost's threads are made; spinning ones make small fits slow on busy machines.
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
    """Fail a run in which a test skipped for a reason that EXPECTED_SKIPS, a pattern, has not.

    For a machine that provides all else: there a skip hides that something was not tested.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if EXPECTED_SKIPS is None or reporter is None:  # a process of xdist has no reporter
        return
    reasons = {report.longrepr[2] for report in reporter.stats.get("skipped", [])}
    unexpected = sorted(reason for reason in reasons if not re.search(EXPECTED_SKIPS, reason))
    if unexpected:
        reporter.write_line("unexpected skips: " + "; ".join(unexpected), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the caller's shell or of a developer's .env reaches a test."""
    for name in list(os.environ):
        if name not in KEPT_VARIABLES and not name.startswith(KEPT_PREFIXES):
            monkeypatch.delenv(name)
    for name, value in SWITCHES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENV_FILE", os.devnull)


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The project's own contract."""
    return load_contract()


@pytest.fixture
def record(contract: Contract) -> dict[str, Any]:
    """A valid request record: every default of the contract."""
    return {feature.name: feature.default for feature in contract.inputs}


@pytest.fixture(scope="session")
def census_dir() -> Path:
    """The folder of the real UCI files; skips where it is not given."""
    folder = os.environ.get("CENSUS_DATA_DIR", "")
    if not folder or not (Path(folder) / "adult.data").exists():
        pytest.skip("CENSUS_DATA_DIR names no folder with adult.data and adult.test")
    return Path(folder)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on just now.

    Not one that the kernel would choose: those are what outgoing connections get, and the next one
    may take it before the server that it is meant for.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(
    condition: Callable[[], Any], timeout_s: float = 30, what: str | Callable[[], str] = ""
) -> Any:
    """The first true value of `condition`, asked every 50 ms; fails after the deadline.

    `what` is told then: what was waited for, or what reads it, such as the log of a process.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    said = what() if callable(what) else what
    raise AssertionError(f"not within {timeout_s} s: {said or condition}")


def accepts_connections(port: int) -> bool:
    """True if something listens on the loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def gcs_emulator(folder: Path) -> Iterator[str]:
    """The address of a gs:// emulator with the bucket `tests`."""
    port = free_port()
    command = [sys.executable, str(ROOT / "config/gcs/emulator.py"), "--data-dir", str(folder)]
    command += ["start", "--quiet", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([*command, "--default-bucket", "tests"]) as process:
        address = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return requests.get(f"{address}/storage/v1/b", timeout=5).ok
            except requests.ConnectionError:
                return False

        try:
            wait_until(answers, 30, "the emulator")
            yield address
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def mlflow_server(folder: Path, artifacts: str = "", **environ: str) -> Iterator[str]:
    """The address of an MLflow server that keeps artifacts the way the stack's does: proxied.

    Its database and log are in the folder, and so are its `artifacts` if they have no address.
    """
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", artifacts or str(folder / "artifacts")]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | environ
    with (folder / "mlflow.log").open("w") as log:
        with subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
            try:
                log_text = (folder / "mlflow.log").read_text
                wait_until(lambda: accepts_connections(port), 120, log_text)
                yield address
            finally:
                server.terminate()


@pytest.fixture(scope="session")
def mongodb_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MongoDB server: MONGODB_TEST_URI, else a `mongod` on PATH, else the test skips."""
    if uri := os.environ.get("MONGODB_TEST_URI"):
        yield uri
        return
    if not (mongod := shutil.which("mongod")):
        pytest.skip("no MongoDB: set MONGODB_TEST_URI or install mongod")
    port, folder = free_port(), tmp_path_factory.mktemp("mongod")
    command = [mongod, "--port", str(port), "--dbpath", str(folder), "--bind_ip", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: accepts_connections(port), 30, "mongod to accept connections")
            yield f"mongodb://127.0.0.1:{port}"
        finally:
            server.terminate()


def made_up_rows(contract: Contract, rows: int, seed: int = 0) -> pd.DataFrame:
    """A checked frame of random people whose income follows from education, age and hours."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            f.name: (
                random.choice(f.categories, rows)
                if f.is_categorical
                else random.integers(f.minimum or 0, f.maximum or 0, rows, endpoint=True)
            )
            for f in contract.features
        }
    )
    rank = frame["education"].map({c: i for i, c in enumerate(contract["education"].categories)})
    frame["education_num"] = rank + 1
    margin = 0.5 * (rank - 9) + 0.03 * (frame["age"] - 50) + 0.03 * (frame["hours_per_week"] - 50)
    chance = 1 / (1 + np.exp(1.2 - margin))
    return frame.assign(income=(random.random(rows) < chance).astype(int))


@pytest.fixture
def sink(mongodb_uri: str) -> Iterator[MongoSink]:
    """The prediction service's sink, on a database of the test's own."""
    opened = MongoSink(mongodb_uri, f"test_{uuid.uuid4().hex}", timeout_s=10)
    yield opened
    opened.client.drop_database(opened.collection.database.name)
    opened.close()
