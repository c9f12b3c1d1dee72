"""A trained model of the real size, as the service and as MLflow take it, and rows to send."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import onnx
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.pipeline import Pipeline

from config.contract import MISSING, Contract
from tests.benchmarks.census import read_census
from training.model.calibration import Platt
from training.model.onnx_export import FittedModel, write_package
from training.model.pipeline import DEFAULT_PARAMS, make_classifier, make_encoder

Records = list[dict[str, Any]]


class TrainedModel(NamedTuple):
    """One model in both forms, and the test split's rows as requests."""

    package: Path
    logged: Path
    records: Records


def train(folder: Path, contract: Contract) -> TrainedModel:
    """The default parameters fitted on the census, without the sampler and the calibration."""
    census = read_census(contract)
    names = list(contract.input_names)
    encoder, classifier = make_encoder(contract), make_classifier(DEFAULT_PARAMS, seed=0)
    encoded = encoder.fit_transform(census.train[names])
    classifier.fit(encoded, census.train[contract.target.name])
    pipeline = Pipeline([("encoder", encoder), ("classifier", classifier)])
    fitted = FittedModel(pipeline, Platt(1.0, 0.0), threshold=0.5)
    package, logged = folder / "package", folder / "logged"
    write_package(package, fitted, contract, census.test[names], {"data_source": census.source})
    log_for_mlflow(logged, package, contract)
    return TrainedModel(package, logged, records_of(census.test[names]))


def log_for_mlflow(folder: Path, package: Path, contract: Contract) -> None:
    """The graph as training registers it, with its signature."""
    columns: list[Any] = [
        ColSpec("string" if f.is_categorical else "float", f.name) for f in contract.inputs
    ]
    mlflow.onnx.save_model(
        onnx.load(package / "model.onnx"),
        folder,
        signature=ModelSignature(Schema(columns), Schema([ColSpec("float", "probability")])),
        pip_requirements=["onnxruntime"],
    )


def records_of(rows: pd.DataFrame) -> Records:
    """Rows as requests: null where the files say '?'."""
    records: Records = json.loads(rows.to_json(orient="records"))
    return [{n: None if v == MISSING else v for n, v in one.items()} for one in records]
