"""A trained model of production size, for the service and for MLflow, and requests for it."""

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
    """One model in both formats, and the rows of the test split as requests."""

    package: Path
    logged: Path
    records: Records


def train(folder: Path, contract: Contract) -> TrainedModel:
    """Return a model with the default parameters, without sampler and calibration."""
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
    """Save the graph and its signature in MLflow's format, as training does."""
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
    """Return rows as requests, with null in place of '?'."""
    records: Records = json.loads(rows.to_json(orient="records"))
    return [{n: None if v == MISSING else v for n, v in one.items()} for one in records]
