"""A small fitted model and its package, for the tests of training."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline
from werkzeug import Request, Response

from config.contract import Contract
from config.feature import MISSING
from tests.conftest import made_up_rows, mlflow_database, random_columns, served
from training.model.calibration import Platt
from training.model.onnx_export import FittedModel, Package, write_package
from training.model.pipeline import DEFAULT_PARAMS, make_pipeline
from training.batch_scoring.spark import SparkUnavailable, spark_session
from training.registry.mlflow_registry import Registry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession  # pylint: disable=import-error


def fit_small(contract: Contract, rows: pd.DataFrame, trees: int = 20) -> FittedModel:
    """Fit a model of a few trees."""
    pipeline = make_pipeline(contract, DEFAULT_PARAMS | {"n_estimators": trees}, seed=0)
    pipeline.fit(rows[[f.name for f in contract.inputs]], rows[contract.target.name].to_numpy())
    parts = [(name, pipeline.named_steps[name]) for name in ("encoder", "classifier")]
    return FittedModel(Pipeline(parts), Platt(1.1, -0.2), threshold=0.4)


@pytest.fixture(scope="session")
def rows(contract: Contract) -> pd.DataFrame:
    """600 made-up rows."""
    return made_up_rows(contract, 600)


@pytest.fixture(scope="session")
def inputs(contract: Contract, rows: pd.DataFrame) -> pd.DataFrame:
    """The input columns of the made-up rows."""
    return rows[[feature.name for feature in contract.inputs]]


@pytest.fixture(scope="session")
def model(contract: Contract, rows: pd.DataFrame) -> FittedModel:
    """A model fitted on the made-up rows."""
    return fit_small(contract, rows)


@pytest.fixture(scope="session")
def package(
    contract: Contract,
    model: FittedModel,
    inputs: pd.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> Package:
    """The model's package."""
    folder: Path = tmp_path_factory.mktemp("package")
    return write_package(folder, model, contract, inputs, {"data_source": "uci", "run_id": "r"})


@pytest.fixture(scope="session")
def churn_rows(churn: Contract) -> pd.DataFrame:
    """400 random rows with columns of every kind, a third of the values missing."""
    random = np.random.default_rng(2)
    frame = random_columns(churn, 400, random)
    for one in churn.features:
        if one.missing == "allow":
            missing = MISSING if one.is_categorical else np.nan
            frame[one.name] = frame[one.name].mask(random.random(400) < 0.33, missing)
    return frame.assign(churn=np.arange(400) % 2)


@pytest.fixture
def registry_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry of the test's own, which MLFLOW_TRACKING_URI names."""
    uri = mlflow_database(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return Registry(uri)


@pytest.fixture(scope="package")
def spark() -> Iterator["SparkSession"]:
    """A session on two local cores; skips without pyspark or Java."""
    try:
        with spark_session("local[2]") as session:
            yield session
    except SparkUnavailable as err:
        pytest.skip(str(err))


@pytest.fixture
def notifications(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The messages that NOTIFY_URL has received."""
    received: list[dict[str, Any]] = []

    @Request.application
    def receiver(request: Request) -> Response:
        received.append(request.get_json())
        return Response()

    with served(receiver) as address:
        monkeypatch.setenv("NOTIFY_URL", f"{address.replace('http', 'json')}/failed")
        yield received
