"""The cached reference data follow the production version: with a real MLflow on SQLite."""

import time
from pathlib import Path

import msgspec
import pytest

from config.model_registry import DECISIONS, PROMOTIONS
from evidently_service.reference.registry import ReferenceCache, Registry, RegistryError, Version
from evidently_service.store.records import Decision, Promotion
from tests.evidently_service.mlflow_registry import RegistryFile
from training.registry import ledger


class Source:
    """A registry set by the test."""

    def __init__(self) -> None:
        self.version: Version | None = Version("1", "run-a")
        self.text: str | None = "first\n"
        self.downloads = 0

    def production_version(self) -> Version:
        """Return the version, unless the registry is unavailable."""
        if self.version is None:
            raise RegistryError("unavailable")
        return self.version

    def last_decision(self) -> None:
        """Return no decision."""

    def last_promotion(self) -> None:
        """Return no promotion."""

    def download_reference(self, version: Version, folder: Path) -> Path:
        """Write its text to a file, unless the artifact is missing."""
        if self.text is None:
            raise RegistryError(f"version {version.number} has no reference")
        self.downloads += 1
        path = folder / "monitoring" / "reference.jsonl"
        path.parent.mkdir()
        path.write_text(self.text, encoding="utf-8")
        return path


def cached(references: ReferenceCache) -> str:
    """Return the text of the cached reference."""
    version = references.version()
    assert version is not None
    return references.path(version).read_text("utf-8")


def test_a_reference_is_downloaded_once(tmp_path: Path) -> None:
    source = Source()
    references = ReferenceCache(tmp_path / "reference", source)
    assert references.version() is None
    references.refresh()
    references.refresh()
    assert source.downloads == 1
    assert references.version() == Version("1", "run-a")
    assert cached(references) == "first\n"


def test_a_promotion_replaces_the_cached_reference(tmp_path: Path) -> None:
    source = Source()
    references = ReferenceCache(tmp_path, source)
    references.refresh()
    source.version, source.text = Version("2", "run-b"), "second\n"
    references.refresh()
    assert cached(references) == "second\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.jsonl", "production.json"]


def test_the_same_number_from_a_new_registry_is_another_version(tmp_path: Path) -> None:
    """A new registry starts at version 1 again. Only the run id differs."""
    source = Source()
    references = ReferenceCache(tmp_path, source)
    references.refresh()
    source.version, source.text = Version("1", "run-of-another-registry"), "another\n"
    references.refresh()
    assert cached(references) == "another\n"


def test_the_cached_reference_stays_while_the_registry_is_unavailable_and_after_a_restart(
    tmp_path: Path,
) -> None:
    source = Source()
    ReferenceCache(tmp_path, source).refresh()
    source.version = None
    restarted = ReferenceCache(tmp_path, source)
    with pytest.raises(RegistryError, match="unavailable"):
        restarted.refresh()
    assert cached(restarted) == "first\n"


@pytest.mark.parametrize("content", [b"", b'{"number": "\xff"}'])
def test_a_pointer_damaged_by_a_power_cut_is_written_again(tmp_path: Path, content: bytes) -> None:
    source = Source()
    references = ReferenceCache(tmp_path, source)
    references.refresh()
    (tmp_path / "production.json").write_bytes(content)
    assert references.version() is None
    references.refresh()
    assert references.version() == Version("1", "run-a")


def test_a_version_without_a_reference_leaves_the_cached_one(tmp_path: Path) -> None:
    source = Source()
    references = ReferenceCache(tmp_path, source)
    references.refresh()
    source.version, source.text = Version("2", "run-b"), None
    with pytest.raises(RegistryError, match="version 2 has no reference"):
        references.refresh()
    assert references.version() == Version("1", "run-a")
    assert cached(references) == "first\n"


def test_the_production_alias_leads_to_its_runs_reference(
    mlflow_registry: RegistryFile, tmp_path: Path
) -> None:
    references = ReferenceCache(tmp_path / "reference", Registry(mlflow_registry.uri))
    first = mlflow_registry.promote([{"age": 40}, {"age": 41}])
    references.refresh()
    assert references.version() == first
    assert cached(references) == '{"age":40}\n{"age":41}\n'
    second = mlflow_registry.promote([{"age": 50}])
    references.refresh()
    assert int(second.number) == int(first.number) + 1
    assert references.version() == second
    assert [msgspec.json.decode(line) for line in cached(references).splitlines()] == [{"age": 50}]


def test_a_version_without_the_artifact_is_an_error_that_names_it_and_the_server(
    mlflow_registry: RegistryFile, tmp_path: Path
) -> None:
    version = mlflow_registry.promote(None)
    with pytest.raises(RegistryError) as caught:
        ReferenceCache(tmp_path / "reference", Registry(mlflow_registry.uri)).refresh()
    assert f"monitoring/reference.jsonl of version {version.number}" in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_registry_without_a_production_version_is_no_error(
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
