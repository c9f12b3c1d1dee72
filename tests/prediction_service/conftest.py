"""A small real model, its folder, and a service with it: in this process and under gunicorn."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import SecretStr
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from sklearn.pipeline import Pipeline

from config.contract import Contract
from config.events import Prediction
from config.feature import Value
from config.model.package import sha256_of
from config.model_registry import BOOSTER
from prediction_service.http.app import create_app
from prediction_service.journal import Journal, journal_paths, read_after
from prediction_service.metrics import Metrics
from prediction_service.models.model_folder import Current, ModelFolder
from prediction_service.models.live_model import LiveModel
from prediction_service.predict.model import Model
from prediction_service.settings import Settings
from tests.conftest import accepts_connections, clean, free_port, random_columns, wait_until
from training.model.calibration import Platt
from training.model.onnx_export import FittedModel, write_package
from training.model.pipeline import make_classifier, make_encoder

Start = Callable[..., "subprocess.Popen[bytes]"]
Command = Callable[..., str]
ROOT = Path(__file__).parents[2]
GUNICORN = (
    *("gunicorn", "-c", "python:prediction_service.gunicorn_config"),
    "prediction_service.wsgi:app",
)
CHURN = ROOT / "tests" / "end_to_end" / "churn.yaml"


def make_package(contract: Contract, folder: Path, column: str = "age", limit: int = 45) -> Path:
    """Write the package of a trained model: from 45 years on, income is high."""
    rows = random_columns(contract, 400, np.random.default_rng(1))[list(contract.input_names)]
    y = (rows[column] >= limit).astype(int)
    encoder = make_encoder(contract)
    classifier = make_classifier({"n_estimators": 20, "max_depth": 3}, seed=1, threads=1)
    classifier.fit(encoder.fit_transform(rows), y)
    pipeline = Pipeline([("encoder", encoder), ("classifier", classifier)])
    facts = {
        "data_source": "synthetic",
        "joined_rows": "812",
        "trained_at": "2026-11-01T00:00:00+00:00",
        "run_id": "0" * 32,
        "metrics": json.dumps({"roc_auc": 0.99, "precision": 0.714, "recall": 0.6}),
        "metric_intervals": json.dumps({"roc_auc": (0.985, 0.994)}),
    }
    write_package(folder, FittedModel(pipeline, Platt(1.0, 0.0), 0.5), contract, rows, facts)
    return folder


@pytest.fixture(scope="session")
def package(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model package that is made once."""
    return make_package(contract, tmp_path_factory.mktemp("package") / "model")


@pytest.fixture(scope="session")
def churn_folder(churn: Contract, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Return a model folder for `churn`: from 60 months on, a subscriber leaves."""
    folder = ModelFolder(tmp_path_factory.mktemp("churn"))
    package = make_package(churn, folder.path / "1", "tenure", 60)
    folder.switch(Current("1", "run of 1", "1", sha256_of(package / "model.onnx")))
    return folder


@pytest.fixture
def churn_client(
    settings: Settings, churn: Contract, churn_folder: ModelFolder, journal: Journal
) -> FlaskClient:
    """Return a client of the service with the model for `churn`, in this process."""
    live = LiveModel(churn_folder, churn, Model)
    live.refresh()
    return create_app(settings, live, journal, Metrics(CollectorRegistry())).test_client()


def made_predictions(n_rows: int) -> list[Prediction]:
    """Return predictions with new ids, as the service would journal them, a second apart."""
    features: dict[str, Value] = {"age": 40, "workclass": None, "sex": "Male"}
    return [
        Prediction(uuid.uuid4().hex, 1.7e9 + index, "1", features, 0.25, 0, 0.5)
        for index in range(n_rows)
    ]


def with_metadata(package: Path, folder: Path, **changes: str) -> Path:
    """Copy a package, with other facts in its graph."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = onnx.load(package / "model.onnx")
    facts = {entry.key: entry.value for entry in graph.metadata_props} | changes
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, folder / "model.onnx")
    for name in ("golden.json", "features.yaml", BOOSTER):
        (folder / name).write_bytes((package / name).read_bytes())
    return folder


def with_wrong_golden(package: Path, folder: Path) -> Path:
    """Copy a package, with 0.1 added to its first golden probability."""
    with_metadata(package, folder)
    golden = json.loads((package / "golden.json").read_text())
    golden["probabilities"][0] += 0.1
    (folder / "golden.json").write_text(json.dumps(golden))
    return folder


def install(folder: ModelFolder, package: Path, version: str) -> None:
    """Put a package into a model folder, as the follower does."""
    with_metadata(package, folder.path / version)
    digest = sha256_of(folder.path / version / "model.onnx")
    folder.switch(Current(version, f"run of {version}", version, digest))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with folders of the test's own."""
    return make_settings(tmp_path)


def make_settings(folder: Path) -> Settings:
    """Return settings with everything in a folder, and a free port."""
    return Settings(
        model_dir=str(folder / "model"),
        journal_dir=str(folder / "journal"),
        instance="here",
        prediction_port=free_port(),
        model_check_s=0.1,
        follow_period_s=0.2,
        graceful_timeout_s=2,
        relay_batch_age_s=0.1,
        relay_backoff_max_s=0.05,
        sink_timeout_s=2,
        max_records=50,
        max_body_bytes=20_000,
        log_requests=False,
    )


@pytest.fixture
def model_folder(settings: Settings, package: Path) -> ModelFolder:
    """Return a model folder with version 1 in it."""
    folder = ModelFolder(settings.model_path)
    install(folder, package, "1")
    return folder


@pytest.fixture
def live_model(model_folder: ModelFolder, contract: Contract) -> LiveModel:
    """Return version 1, loaded."""
    live = LiveModel(model_folder, contract, Model)
    live.refresh()
    return live


@pytest.fixture
def journal(settings: Settings) -> Iterator[Journal]:
    """Open a worker's journal."""
    opened = Journal(settings.journal_path, settings.instance, "normal", 10**8)
    yield opened
    opened.close()


@pytest.fixture
def client(settings: Settings, live_model: LiveModel, journal: Journal) -> FlaskClient:
    """Return a client of the service in this process."""
    return create_app(settings, live_model, journal, Metrics(CollectorRegistry())).test_client()


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as environment variables of a new process."""
    own = {}
    for name, value in settings:
        own[name.upper()] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return {**os.environ, **own, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the `main` of a command and returns what it prints."""

    def run_main(main: Callable[[], None], settings: Settings, *arguments: str) -> str:
        for name, value in environment(settings).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        main()
        return capsys.readouterr().out

    return run_main


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts `python -m ...`. The processes end after the test."""
    with ExitStack() as stack:
        yield stack.enter_context(starting(tmp_path))


@contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """Yield a function that starts `python -m ...` with settings. The processes end after the body.

    Their logs go to `folder`.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def start_one(settings: Settings, *arguments: str) -> "subprocess.Popen[bytes]":
        with (folder / f"{arguments[0]}-{len(processes)}.log").open("wb") as log:
            process = subprocess.Popen(  # pylint: disable=consider-using-with  # ended below
                [sys.executable, "-m", *arguments],
                env=environment(settings),
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def arbiter(start: Start, settings: Settings) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the service under gunicorn; yield its process once all workers have started."""
    process = start(settings, *GUNICORN)
    wait_until(lambda: accepts_connections(settings.prediction_port), "gunicorn to listen")
    n_workers = settings.workers
    wait_until(lambda: len(journal_paths(settings.journal_path)) == n_workers, "all workers")
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@contextmanager
def gunicorn(start: Start, settings: Settings) -> Iterator[str]:
    """Run the service under gunicorn; yield its address."""
    with arbiter(start, settings):
        yield address_of(settings)


def shared_service(
    package: Path, folder: Path, gunicorn_options: str = "", **changes: Any
) -> Iterator[Settings]:
    """Run the service for several tests; yield its settings. See `shared_arbiter`."""
    for settings, _ in shared_arbiter(package, folder, gunicorn_options, **changes):
        yield settings


def shared_arbiter(
    package: Path, folder: Path, gunicorn_options: str = "", **changes: Any
) -> Iterator[tuple[Settings, "subprocess.Popen[bytes]"]]:
    """Run the service for several tests, on version 1 in a folder of its own.

    It has one worker, unless `changes` of its settings have another number. `gunicorn_options` are
    command-line options. Yield its settings and gunicorn's process.
    """
    settings = make_settings(folder).model_copy(update={"workers": 1} | changes)
    install(ModelFolder(settings.model_path), package, "1")
    with ExitStack() as stack:
        clean(monkeypatch := stack.enter_context(pytest.MonkeyPatch.context()))
        monkeypatch.setenv("GUNICORN_CMD_ARGS", gunicorn_options)
        start = stack.enter_context(starting(folder))
        yield settings, stack.enter_context(arbiter(start, settings))


def journalled_ids(settings: Settings) -> list[str]:
    """Return every prediction id of every journal."""
    return [
        event.prediction_id
        for path in journal_paths(settings.journal_path)
        for event in read_after(path, 0, 10**6)
    ]


def address_of(settings: Settings) -> str:
    """Return the address of the service."""
    return f"http://127.0.0.1:{settings.prediction_port}"
