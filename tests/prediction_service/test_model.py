"""Accepted and rejected packages, and the replacement of a worker's model."""

import threading
from pathlib import Path
from typing import Any

import pytest

from config.contract import Contract
from config.model.model import to_tensor
from config.model.package import ModelRejected
from prediction_service.predict.model import Model
from prediction_service.models.model_folder import Current, ModelFolder, Rejection, Status
from prediction_service.models.live_model import LiveModel
from tests.conftest import wait_until
from tests.prediction_service.conftest import install, with_metadata


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    """Return a copy of the package, to be damaged."""
    return with_metadata(package, tmp_path / "copy")


def test_a_tensor_holds_the_known_values_of_the_contract(contract: Contract) -> None:
    for feature in contract.inputs:
        values: list[Any] = [None, "Atlantis"] if feature.is_categorical else [feature.minimum]
        values += feature.categories
        known = [feature.known(value) for value in values]
        assert to_tensor(feature)(values).tolist() == known


@pytest.mark.parametrize(
    ("fact", "value", "message"),
    [
        ("contract_digest", "another", "made for another contract; got another"),
        ("threshold", "1.5", "threshold: got '1.5', expected 0 to 1"),
    ],
)
def test_wrong_facts_are_rejected(
    copy: Path, contract: Contract, fact: str, value: str, message: str
) -> None:
    with_metadata(copy, copy, **{fact: value})
    with pytest.raises(ModelRejected, match=message):
        Model(copy, "1", contract)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"no graph", "model.onnx cannot be opened"),
        ("golden.json", b"{}", "golden.json cannot be read"),
        ("golden.json", b'{"tolerance": 1, "rows": [], "probabilities": []}', "at least 1"),
        (
            "golden.json",
            b'{"tolerance": 1, "rows": [{}], "probabilities": [1]}',
            "tolerance: got 1",
        ),
    ],
)
def test_damaged_files_are_rejected(
    copy: Path, contract: Contract, name: str, content: bytes, message: str
) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(ModelRejected, match=message):
        Model(copy, "1", contract)


def test_a_worker_starts_without_a_model_and_loads_the_first_one(
    package: Path, tmp_path: Path, contract: Contract
) -> None:
    folder = ModelFolder(tmp_path)
    live = LiveModel(folder, contract, Model)
    live.refresh()
    assert (live.model, live.rejection()) == (None, None)
    live.follow(0.05)
    install(folder, package, "1")
    wait_until(lambda: live.model, "the first model")


def test_the_live_model_stays_when_the_next_one_is_damaged(
    package: Path, live_model: LiveModel
) -> None:
    good = live_model.model
    folder = live_model.folder
    install(folder, package, "2")
    (folder.path / "2" / "model.onnx").write_bytes(b"damaged")
    live_model.refresh()
    assert live_model.model is good
    rejection = live_model.rejection()
    assert rejection and rejection.version == "2" and "sha256" in rejection.reason
    install(folder, package, "3")
    live_model.refresh()
    assert live_model.model and live_model.model.version == "3"
    assert live_model.rejection() is None


def test_a_version_with_an_unexpected_error_is_rejected_and_retried_after_a_pause(
    model_folder: ModelFolder, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a version was once neither reported nor ever loaded again."""
    results: list[Any] = [MemoryError("no memory"), MemoryError("no memory"), "a model"]
    loaded = []

    def load(_: Path, version: str, __: Contract) -> Any:
        loaded.append(version)
        if isinstance(result := results.pop(0), Exception):
            raise result
        return result

    now = 0.0
    monkeypatch.setattr("prediction_service.backoff.time.monotonic", lambda: now)
    live = LiveModel(model_folder, contract, load)
    attempts = []
    for now in (0.0, 29.0, 30.0, 89.0, 90.0):  # the pause doubles
        live.refresh()
        attempts.append(len(loaded))
        expected = None if live.model else Rejection("1", "MemoryError: no memory")
        assert live.rejection() == expected
    assert (attempts, live.model) == ([1, 1, 2, 2, 3], "a model")


@pytest.mark.parametrize("content", [b"{", b'{"version": "\xff"}'])
def test_a_damaged_pointer_is_reported_and_the_next_version_is_loaded(
    live_model: LiveModel, package: Path, content: bytes
) -> None:
    (live_model.folder.path / "current.json").write_bytes(content)
    live_model.refresh()
    rejection = live_model.rejection()
    assert rejection and "current.json" in rejection.reason
    install(live_model.folder, package, "2")
    live_model.refresh()
    assert live_model.rejection() is None


def test_old_versions_are_removed_except_the_current_one(package: Path, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    for version in ("1", "2", "3", "4", "5"):
        install(folder, package, version)
    folder.switch(Current("1", "", "1", ""))
    folder.remove_old(keep=2)
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert "1" in left
    assert len(left) == 3


def test_a_reader_never_sees_an_incomplete_report(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    reports = [Status("reached"), Status("down " * 5000)]
    done = threading.Event()

    def write() -> None:
        for index in range(200):
            folder.report(reports[index % 2])
        done.set()

    threading.Thread(target=write).start()
    while not done.is_set():
        assert folder.status() in (None, *reports)
