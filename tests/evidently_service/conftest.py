"""Fixtures: the real monitoring file, census rows, a registry and an empty window."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from config.contract import CONTRACT_PATH, Contract
from evidently_service.reference.reference_data import monitored_frame
from evidently_service.reference.monitoring_config import Monitoring, load_monitoring
from evidently_service.verdict.thresholds import find_thresholds
from evidently_service.store.window import Window
from tests.evidently_service.events import made_up_rows
from tests.evidently_service.mlflow_registry import RegistryFile

MONITORING_PATH = CONTRACT_PATH.with_name("monitoring.yaml")


@pytest.fixture(scope="session")
def monitoring(contract: Contract) -> Monitoring:
    """Return the project's monitoring file."""
    return load_monitoring(MONITORING_PATH, contract)


@pytest.fixture(scope="session")
def judging(monitoring: Monitoring, contract: Contract) -> Monitoring:
    """Return it with thresholds for windows of 500 made-up rows, found once for all tests."""
    reference = monitored_frame(made_up_rows(contract, 2000, seed=1), contract)
    return monitoring.with_tests(find_thresholds(reference, monitoring, 500))


@pytest.fixture
def window(tmp_path: Path, contract: Contract) -> Iterator[Window]:
    """Return an empty window."""
    with closing(Window(tmp_path / "window.db", segments=contract.segments)) as opened:
        yield opened


@pytest.fixture(scope="session")
def census_rows(census_dir: Path, contract: Contract) -> pd.DataFrame:
    """Return the census's training split as in its file."""
    names = [*(feature.name for feature in contract.features), "label"]
    path = census_dir / "adult.data"
    return pd.read_csv(path, names=names, skipinitialspace=True, na_filter=False)


@pytest.fixture(scope="session")
def mlflow_registry(tmp_path_factory: pytest.TempPathFactory) -> RegistryFile:
    """Return a real MLflow registry, shared by all tests: each promotes its own version."""
    return RegistryFile(tmp_path_factory.mktemp("mlflow"))
