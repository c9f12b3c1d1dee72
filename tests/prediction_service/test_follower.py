"""The follower with a real MLflow, whose database and artifacts are in a folder."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from config.contract import Contract
from config.model_registry import (
    ALIAS,
    CARD,
    FILE_SHA256,
    GRAPH,
    MODEL_NAME,
    PACKAGE,
    file_digests,
)
from prediction_service.follower import Follower
from prediction_service.backoff import FIRST_PAUSE_S
from prediction_service.models.model_folder import ModelFolder, Status
from prediction_service.models.registry import Registry, RegistryUnavailable
from prediction_service.settings import Settings
from tests.conftest import mlflow_database, wait_until
from tests.prediction_service.conftest import Start, with_wrong_golden

Register = Callable[..., str]


@pytest.fixture
def tracking_uri(tmp_path: Path) -> Iterator[str]:
    """Return the address of a registry for this test; reset MLflow's global state afterwards."""
    yield mlflow_database(tmp_path)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # None is its "not set"
    mlflow.set_registry_uri("")


@pytest.fixture
def client(tracking_uri: str) -> mlflow.MlflowClient:
    """Return MLflow's own client."""
    return mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)


@pytest.fixture
def register(client: mlflow.MlflowClient, package: Path, tmp_path: Path) -> Register:
    """Return a function that registers and promotes a folder, by default the valid package."""
    experiment = client.create_experiment("income", str(tmp_path / "artifacts"))
    client.create_registered_model(MODEL_NAME)

    def register_package(folder: Path = package, tags: dict[str, str] | None = None) -> str:
        """Return the id of the version's run."""
        run_id = client.create_run(experiment).info.run_id
        client.log_artifacts(run_id, str(folder), PACKAGE)
        source = f"{client.get_run(run_id).info.artifact_uri}/{PACKAGE}"
        if tags is None:
            tags = {FILE_SHA256: json.dumps(file_digests(folder))}
        version = client.create_model_version(MODEL_NAME, source, run_id, tags=tags)
        client.set_registered_model_alias(MODEL_NAME, ALIAS, version.version)
        return run_id

    return register_package


@pytest.fixture
def folder(settings: Settings) -> ModelFolder:
    """Return an empty model folder."""
    return ModelFolder(settings.model_path)


@pytest.fixture
def follower(tracking_uri: str, folder: ModelFolder, contract: Contract) -> Follower:
    """Return a follower of the test's registry."""
    return Follower(Registry(tracking_uri), folder, contract)


@pytest.fixture
def pin(tracking_uri: str, folder: ModelFolder, contract: Contract) -> Callable[[str], None]:
    """Return a function that follows a run once, instead of the alias."""
    return lambda run_id: Follower(Registry(tracking_uri, run_id), folder, contract).follow()


@pytest.fixture(params=[GRAPH, CARD])
def changed(
    request: pytest.FixtureRequest, register: Register, package: Path, tmp_path: Path
) -> str:
    """Register a version and change one of its files in the artifact store; return its run id."""
    carded = Path(shutil.copytree(package, tmp_path / "carded"))
    (carded / CARD).write_text("<h1>Card</h1>", "utf-8")
    run_id = register(carded)
    path = tmp_path / "artifacts" / run_id / "artifacts" / PACKAGE / request.param
    path.write_bytes(path.read_bytes() + b" ")
    return run_id


def current_version(folder: ModelFolder) -> str | None:
    """Return the live version."""
    current = folder.current()
    return current.version if current else None


def rejection_of(folder: ModelFolder) -> str:
    """Return the reason for which the follower rejects the wanted version."""
    status = folder.status()
    assert status and status.rejected
    return status.rejected.reason


def test_the_alias_is_followed_forward_and_back(
    follower: Follower,
    folder: ModelFolder,
    register: Register,
    client: mlflow.MlflowClient,
) -> None:
    register()
    follower.follow()
    assert current_version(folder) == "1"
    register()
    follower.follow()
    assert current_version(folder) == "2"
    downloaded = (folder.path / "2" / "model.onnx").stat().st_ino
    follower.follow()
    assert (folder.path / "2" / "model.onnx").stat().st_ino == downloaded, "downloaded again"
    client.set_registered_model_alias(MODEL_NAME, ALIAS, "1")
    follower.follow()
    assert current_version(folder) == "1"
    status = folder.status()
    assert status and (status.registry, status.rejected) == ("reached", None)
    assert not list(folder.path.glob(".download-*"))


def test_a_version_with_wrong_golden_rows_is_rejected_and_the_live_version_stays(
    follower: Follower, folder: ModelFolder, register: Register, package: Path, tmp_path: Path
) -> None:
    register()
    follower.follow()
    register(with_wrong_golden(package, tmp_path / "wrong"))
    follower.follow()
    assert current_version(folder) == "1"
    assert "golden.json: row 0" in rejection_of(folder)
    assert not (folder.path / "2").exists()
    register()
    follower.follow()
    assert current_version(folder) == "3"
    status = folder.status()
    assert status and status.rejected is None


@pytest.fixture
def broken_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make every load of a model fail for lack of memory; return their versions."""
    versions: list[str] = []

    def load(_: Path, version: str, __: Contract) -> None:
        versions.append(version)
        raise MemoryError("no memory for the graph")

    monkeypatch.setattr("prediction_service.follower.Model", load)
    return versions


def test_a_rejected_version_becomes_live_once_the_fault_has_passed(
    follower: Follower,
    folder: ModelFolder,
    register: Register,
    broken_loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The version once stayed rejected until the follower's next start, or was downloaded again and
    again.
    """
    register()
    for _ in range(3):
        follower.follow()
    assert rejection_of(folder) == "MemoryError: no memory for the graph"
    monkeypatch.undo()
    follower.follow()
    assert current_version(folder) is None  # the pause has not ended
    after = time.monotonic() + FIRST_PAUSE_S
    monkeypatch.setattr("prediction_service.backoff.time.monotonic", lambda: after)
    follower.follow()
    assert (current_version(folder), broken_loads) == ("1", ["1"])
    assert folder.status() == Status("reached")


def test_an_unexpected_error_of_the_registry_is_reported(
    follower: Follower, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanted() -> None:
        raise KeyError("version")

    monkeypatch.setattr(follower.registry, "wanted", wanted)
    follower.follow()
    assert folder.status() == Status("KeyError: 'version'")


def test_a_rejection_ends_once_another_version_is_production(
    follower: Follower,
    folder: ModelFolder,
    register: Register,
    client: mlflow.MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rejection once was reported again when MLflow went down hours after a rollback."""
    register()
    follower.follow()
    register(tags={FILE_SHA256: "{}"})
    follower.follow()
    assert "The registry has no sha256" in rejection_of(folder)
    client.set_registered_model_alias(MODEL_NAME, ALIAS, "1")
    follower.follow()

    def wanted() -> None:
        raise RegistryUnavailable("MLflow does not respond")

    monkeypatch.setattr(follower.registry, "wanted", wanted)
    follower.follow()
    assert folder.status() == Status("MLflow does not respond")


@pytest.mark.parametrize("content", [b"", b'{"registry": "\xff"}'])
def test_a_damaged_report_is_replaced(
    follower: Follower, folder: ModelFolder, register: Register, content: bytes
) -> None:
    """The follower once failed until a person deleted the file."""
    register()
    folder.path.mkdir()
    (folder.path / "status.json").write_bytes(content)
    follower.follow()
    assert current_version(folder) == "1"
    assert folder.status() == Status("reached")


def test_a_version_with_a_changed_file_is_rejected_and_the_live_version_stays(
    follower: Follower,
    folder: ModelFolder,
    register: Register,
    client: mlflow.MlflowClient,
    changed: str,
) -> None:
    """The run `changed` made version 1."""
    assert changed
    register()
    follower.follow()
    client.set_registered_model_alias(MODEL_NAME, ALIAS, "1")
    follower.follow()
    assert current_version(folder) == "2"
    assert "was changed or damaged" in rejection_of(folder)


def test_a_changed_file_of_a_pinned_run_is_rejected(
    folder: ModelFolder, register: Register, changed: str, pin: Callable[[str], None]
) -> None:
    """The checksums come from the version that the run registered."""
    pin(good := register())
    pin(changed)
    assert current_version(folder) == f"run-{good}"
    assert "was changed or damaged" in rejection_of(folder)


def test_a_card_that_was_added_after_the_registration_is_rejected(
    follower: Follower, folder: ModelFolder, register: Register, tmp_path: Path
) -> None:
    run_id = register()
    (tmp_path / "artifacts" / run_id / "artifacts" / PACKAGE / CARD).write_text("another's")
    follower.follow()
    assert current_version(folder) is None
    assert f"{CARD} was added after the version was registered" in rejection_of(folder)


@pytest.mark.parametrize("tags", [{}, {FILE_SHA256: "nonsense"}])
def test_a_version_without_checksums_is_rejected(
    follower: Follower, folder: ModelFolder, register: Register, tags: dict[str, str]
) -> None:
    register(tags=tags)
    follower.follow()
    assert current_version(folder) is None
    assert "The registry has no sha256 of model.onnx" in rejection_of(folder)


def test_a_pinned_run_without_a_registered_version_is_rejected(
    folder: ModelFolder,
    client: mlflow.MlflowClient,
    package: Path,
    pin: Callable[[str], None],
    tmp_path: Path,
) -> None:
    run_id = client.create_run(client.create_experiment("x", str(tmp_path / "x"))).info.run_id
    client.log_artifacts(run_id, str(package), PACKAGE)
    pin(run_id)
    assert "The registry has no sha256" in rejection_of(folder)


def test_an_empty_registry_is_reported(
    folder: ModelFolder, tracking_uri: str, contract: Contract
) -> None:
    for run_id, missing in (("", "income-classifier@production"), ("f" * 32, "run ffff")):
        Follower(Registry(tracking_uri, run_id), folder, contract).follow()
        status = folder.status()
        assert status and f"has no {missing}" in status.registry


def test_only_three_versions_are_kept(
    follower: Follower, folder: ModelFolder, register: Register
) -> None:
    for _ in range(4):
        register()
        follower.follow()
    kept = sorted(path.name for path in folder.path.iterdir() if path.is_dir())
    assert kept == ["2", "3", "4"]


def test_the_process_starts_while_the_registry_is_down_and_keeps_the_live_version(
    settings: Settings, model_folder: ModelFolder, start: Start
) -> None:
    down = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"})
    process = start(down, "prediction_service.follower")
    status = wait_until(model_folder.status, "a report")
    assert status.registry.startswith("MLFLOW_TRACKING_URI: MLflow does not respond; got http://")
    assert current_version(model_folder) == "1"
    assert process.poll() is None


def test_the_process_follows_the_alias_and_ends_on_sigterm(
    settings: Settings,
    folder: ModelFolder,
    register: Register,
    tracking_uri: str,
    start: Start,
) -> None:
    register()
    followed = settings.model_copy(update={"mlflow_tracking_uri": tracking_uri})
    process = start(followed, "prediction_service.follower")
    status = wait_until(folder.status, "a report, which is written after the switch")
    assert (status.registry, current_version(folder)) == ("reached", "1")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
