"""Retention on a real MLflow server: old runs go with their files, needed ones stay."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow.entities.model_registry import ModelVersion

from config.contract import Contract
from config.runtime.settings import SettingsError, read_settings
from config.model_registry import CHALLENGER, FALLBACK, MODEL_NAME
from tests.conftest import mlflow_server
from training.__main__ import main
from training.model.onnx_export import Package
from training.registry.ledger import Promotion
from training.registry.mlflow_registry import Registry
from training.settings import Settings

IN_A_YEAR = datetime.now(UTC) + timedelta(days=365)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A server of the test's own, with its artifacts in the folder `artifacts`."""
    with mlflow_server(tmp_path) as uri:
        yield Registry(uri)


def trained(registry: Registry, package: Package, contract: Contract) -> ModelVersion:
    """Make a run with a trial, a file and a version, as training does."""
    with registry.run("a training", {}, {}) as run_id:
        registry.log_trial(run_id, 1, {"depth": 3}, {"loss": 0.3})
        registry.log_files(package.folder)
        number = registry.register(package.folder, contract)
        registry.complete(number, package.folder, "A version.", {})
    return registry.client.get_model_version(MODEL_NAME, number)


def files(folder: Path) -> int:
    """Return the number of files under a folder."""
    return sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_old_runs_are_removed_with_their_files_except_newest_and_production(
    registry: Registry, tmp_path: Path, package: Package, contract: Contract
) -> None:
    artifacts = tmp_path / "artifacts"
    versions = [trained(registry, package, contract) for _ in range(3)]
    per_run = files(artifacts) // 3
    assert per_run > 5
    registry.promote("1", Promotion("a test", "to roll back to"))
    registry.promote("3", Promotion("a test", "to keep it"))
    assert registry.expired(Settings(run_retention_days=0), IN_A_YEAR, 1).runs == []
    assert registry.expired(Settings(run_retention_days=366), IN_A_YEAR, 1).runs == []
    for alias in (CHALLENGER, FALLBACK):
        registry.client.set_registered_model_alias(MODEL_NAME, alias, "2")
        assert not registry.expired(Settings(), IN_A_YEAR, n_versions=1).runs
        registry.client.delete_registered_model_alias(MODEL_NAME, alias)
    expired = registry.expired(Settings(run_retention_days=90), IN_A_YEAR, n_versions=1)
    assert [version.version for version in expired.versions] == [versions[1].version]
    assert len(expired.runs) == 2  # the second run and its trial
    assert [line.split()[:2] for line in expired.lines()] == [
        ["version", versions[1].version],
        *(["run", run.info.run_id] for run in expired.runs),
    ]
    registry.remove(expired)
    assert files(artifacts) == 2 * per_run
    assert not registry.expired(Settings(run_retention_days=90), IN_A_YEAR, 1).runs
    with registry.package_of(versions[0]) as kept:
        assert (kept / "model.onnx").exists()


def test_a_dry_run_lists_expired_runs_and_the_run_of_model_run_id_is_kept(
    registry_copy: Registry, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention once removed the run that MODEL_RUN_ID names."""
    with registry_copy.run("a training", {}, {}) as run_id:
        pass
    with registry_copy.run("a training", {}, {}) as pinned:
        registry_copy.log_trial(pinned, 1, {"depth": 3}, {"loss": 0.3})
    monkeypatch.setenv("MODEL_RUN_ID", pinned)
    main(["retain", "--dry-run"])
    assert "would remove 0 runs" in capsys.readouterr().out
    monkeypatch.setenv("RUN_RETENTION_DAYS", "0.0000001")  # some milliseconds
    main(["retain", "--dry-run"])
    said = capsys.readouterr().out
    assert f"run {run_id} of " in said and "would remove 1 runs" in said
    for removed in (1, 0):
        main(["retain"])
        assert f"removed {removed} runs" in capsys.readouterr().out


def test_a_negative_age_is_rejected(monkeypatch) -> None:
    monkeypatch.setenv("RUN_RETENTION_DAYS", "-1")
    with pytest.raises(SettingsError, match="RUN_RETENTION_DAYS: got -1, expected greater"):
        read_settings(Settings)
