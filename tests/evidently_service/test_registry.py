"""The cached reference data follow the production version: with a real MLflow on SQLite."""

import time
from pathlib import Path

import pytest

from config.model_registry import DECISIONS, PROMOTIONS
from evidently_service.reference.registry import ReferenceCache, Registry, RegistryError
from evidently_service.store.records import Decision, Promotion
from tests.evidently_service.mlflow_registry import RegistryFile
from training.registry import ledger


def cached(references: ReferenceCache) -> str:
    """Return the text of the cached reference."""
    version = references.version()
    assert version is not None
    return references.path(version).read_text("utf-8")


def test_the_production_alias_leads_to_its_runs_reference_which_is_downloaded_once(
    mlflow_registry: RegistryFile, tmp_path: Path
) -> None:
    references = ReferenceCache(tmp_path / "reference", Registry(mlflow_registry.uri))
    assert references.version() is None
    first = mlflow_registry.promote([{"age": 40}, {"age": 41}])
    references.refresh()
    assert references.version() == first
    assert cached(references) == '{"age":40}\n{"age":41}\n'
    references.path(first).write_text("kept")
    references.refresh()
    assert cached(references) == "kept"
    second = mlflow_registry.promote([{"age": 50}])
    references.refresh()
    assert references.version() == second
    assert cached(references) == '{"age":50}\n'
    names = sorted(path.name for path in references.folder.iterdir())
    assert names == [f"{second.number}.jsonl", "production.json"]


@pytest.mark.parametrize(
    "pointer", [b"", b'{"number": "\xff"}', b'{"number": "%d", "run_id": "of-another-registry"}']
)
def test_a_damaged_pointer_or_one_of_another_registry_is_replaced(
    mlflow_registry: RegistryFile, tmp_path: Path, pointer: bytes
) -> None:
    """A power cut may leave a damaged file. A new registry begins with version 1 again."""
    version = mlflow_registry.promote([{"age": 40}])
    content = pointer % int(version.number) if b"%d" in pointer else pointer
    (tmp_path / "production.json").write_bytes(content)
    references = ReferenceCache(tmp_path, Registry(mlflow_registry.uri))
    references.refresh()
    assert references.version() == version
    assert cached(references) == '{"age":40}\n'


def test_a_version_without_the_artifact_is_an_error_and_the_cached_one_stays(
    mlflow_registry: RegistryFile, tmp_path: Path
) -> None:
    mlflow_registry.promote([{"age": 40}])
    ReferenceCache(tmp_path, Registry(mlflow_registry.uri)).refresh()
    version = mlflow_registry.promote(None)
    restarted = ReferenceCache(tmp_path, Registry(mlflow_registry.uri))
    with pytest.raises(RegistryError) as caught:
        restarted.refresh()
    assert f"monitoring/reference.jsonl of version {version.number}" in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert cached(restarted) == '{"age":40}\n'


def test_a_registry_without_a_production_version_is_not_an_error(
    mlflow_registry: RegistryFile, tmp_path: Path
) -> None:
    mlflow_registry.demote()
    references = ReferenceCache(tmp_path / "reference", Registry(mlflow_registry.uri))
    references.refresh()
    assert references.version() is None


def test_the_newest_decision_of_the_ledger_is_read(mlflow_registry: RegistryFile) -> None:
    registry = Registry(mlflow_registry.uri)
    assert registry.last_decision() is None
    client = mlflow_registry.client
    experiment = client.create_experiment(DECISIONS)
    client.create_run(experiment, 1_000, {"rule": "labels", "why": "0 labelled rows"})
    tags = {"rule": "", "why": "drift", "flow_run": "brave-otter"}
    run = client.create_run(experiment, 2_000, tags)
    assert registry.last_decision() == Decision(2.0, 2.0, "", "drift", "brave-otter")
    client.set_terminated(run.info.run_id, end_time=9_000)
    assert registry.last_decision() == Decision(2.0, 9.0, "", "drift", "brave-otter")


def test_the_newest_promotion_of_the_ledger_is_read(mlflow_registry: RegistryFile) -> None:
    registry = Registry(mlflow_registry.uri)
    assert registry.last_promotion() is None
    client = mlflow_registry.client
    with ledger.Ledger(client).promotion(ledger.Promotion("gate", "the best"), "none", "1"):
        pass
    experiment = client.get_experiment_by_name(PROMOTIONS)
    assert experiment is not None
    client.create_run(experiment.experiment_id, tags={"to_version": "2"})  # an interrupted one
    found = registry.last_promotion()
    assert found is not None and time.time() - found.at < 120
    assert found == Promotion(found.at, "none", "1", "the best")


def test_an_unavailable_registry_is_an_error_with_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match="MLflow does not respond; got http://127.0.0.1:9. "):
        Registry("http://127.0.0.1:9").production_version()
