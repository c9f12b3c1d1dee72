"""The model as a folder: one ONNX graph on raw columns, golden rows and the contract.

Comes after the refit. What is written here is what is judged, registered, served and replayed,
so training and serving cannot disagree:

    model.onnx     a tensor (n,) per input column -> `probability` (n,); facts as metadata
    golden.json    raw rows with the probabilities that any host must reproduce
    features.yaml  the contract the model was made for
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from sklearn.pipeline import Pipeline
from xgboost import XGBClassifier

from config.contract import CONTRACT_PATH, Contract, Feature
from training.calibration import EDGE, Platt

TOLERANCE = 1e-5  # in probability; the graph computes in float32
GOLDEN_ROWS = 64
OPSET = {"": 17, "ai.onnx.ml": 3}


class ParityError(Exception):
    """The graph and the Python pipeline disagree on a row."""


@dataclass(frozen=True)
class FittedModel:
    """The parts that score: encoder, classifier, calibration and threshold, but no sampler."""

    encode_and_classify: Pipeline
    platt: Platt
    threshold: float

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Probability of the positive label (n_samples,) for a frame of input columns."""
        return self.platt(self.encode_and_classify.predict_proba(frame)[:, 1])


class Package:
    """A package folder opened for scoring; what the services do in their own way."""

    def __init__(self, folder: Path, contract: Contract) -> None:
        self.folder = folder
        self.contract = contract
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    @property
    def threshold(self) -> float:
        """The decision threshold in [0, 1]."""
        return float(self.metadata["threshold"])

    @property
    def size_mb(self) -> float:
        """The graph's size, in megabytes."""
        return (self.folder / "model.onnx").stat().st_size / 1e6

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Probability of the positive label (n_samples,) float32, for raw input columns."""
        feeds = {feature.name: as_tensor(frame, feature) for feature in self.contract.inputs}
        return self.session.run(["probability"], feeds)[0]


def as_tensor(frame: pd.DataFrame, feature: Feature) -> np.ndarray:
    """One column as the graph takes it: (n,), float32 or strings."""
    return frame[feature.name].to_numpy(dtype=object if feature.is_categorical else np.float32)


def to_graph(model: FittedModel, contract: Contract) -> onnx.ModelProto:
    """The whole scoring path as one ONNX graph with the single output `probability`."""
    update_registered_converter(
        XGBClassifier,
        "XGBoostXGBClassifier",
        calculate_linear_classifier_output_shapes,
        convert_xgboost,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    types = [
        (f.name, (StringTensorType if f.is_categorical else FloatTensorType)([None, 1]))
        for f in contract.inputs
    ]
    pipeline = model.encode_and_classify
    options = {id(pipeline): {"zipmap": False}}
    graph = to_onnx(pipeline, initial_types=types, target_opset=OPSET, options=options)
    return append_calibration(take_columns(graph), model.platt)


def take_columns(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes every input (n, 1) a column (n,), as MLflow's ONNX flavour feeds a data frame's."""
    graph = model.graph
    names = [tensor.name for tensor in graph.input]
    steps = [helper.make_node("Unsqueeze", [n, "column_axis"], [f"{n}_as_2d"]) for n in names]
    for node in graph.node:
        node.input[:] = [f"{name}_as_2d" if name in names else name for name in node.input]
    for tensor in graph.input:
        del tensor.type.tensor_type.shape.dim[1]
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "column_axis"))
    steps += graph.node
    del graph.node[:]
    graph.node.extend(steps)
    return model


def append_calibration(graph: onnx.ModelProto, platt: Platt) -> onnx.ModelProto:
    """Adds Platt's scaling of the class-1 probability and makes it the only output."""
    constants: dict[str, np.ndarray] = {
        "positive": np.array(1, dtype=np.int64),
        "low": np.array(EDGE, dtype=np.float32),
        "high": np.array(1 - EDGE, dtype=np.float32),
        "one": np.array(1, dtype=np.float32),
        "slope": np.array(platt.slope, dtype=np.float32),
        "intercept": np.array(platt.intercept, dtype=np.float32),
    }
    graph.graph.initializer.extend(
        numpy_helper.from_array(value, f"platt_{name}") for name, value in constants.items()
    )
    raw = graph.graph.output[1].name
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Gather", [raw, "platt_positive"], "platt_raw", {"axis": 1}),
        ("Clip", ["platt_raw", "platt_low", "platt_high"], "platt_p", {}),
        ("Sub", ["platt_one", "platt_p"], "platt_q", {}),
        ("Div", ["platt_p", "platt_q"], "platt_odds", {}),
        ("Log", ["platt_odds"], "platt_logit", {}),
        ("Mul", ["platt_logit", "platt_slope"], "platt_scaled", {}),
        ("Add", ["platt_scaled", "platt_intercept"], "platt_margin", {}),
        ("Sigmoid", ["platt_margin"], "probability", {}),
    ]
    for operator, inputs, output, attributes in steps:
        graph.graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
    del graph.graph.output[:]
    graph.graph.output.append(
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None])
    )
    return graph


def write_package(
    folder: Path,
    model: FittedModel,
    contract: Contract,
    rows: pd.DataFrame,
    facts: dict[str, str],
) -> Package:
    """Writes the package, proves it on every row of `rows`, and returns it opened.

    `facts` go into the graph's metadata beside the threshold and the contract's digest.
    Raises ParityError if the graph and the pipeline differ by more than TOLERANCE on any row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph = to_graph(model, contract)
    metadata = {"threshold": repr(model.threshold), "contract_digest": contract.digest, **facts}
    helper.set_model_props(graph, metadata)
    onnx.save(graph, folder / "model.onnx")
    shutil.copyfile(CONTRACT_PATH, folder / "features.yaml")
    package = Package(folder, contract)
    prove_parity(package, model, rows)
    write_golden(folder, package, rows.head(GOLDEN_ROWS))
    return package


def prove_parity(package: Package, model: FittedModel, rows: pd.DataFrame) -> None:
    """Raises ParityError naming the worst row, unless graph and pipeline agree on all."""
    difference = np.abs(package.score(rows) - model.score(rows))
    worst = int(difference.argmax())
    if not difference[worst] <= TOLERANCE:  # written so that NaN fails too
        raise ParityError(
            f"row {worst}: the graph and the pipeline differ by {difference[worst]:.2g},"
            f" expected at most {TOLERANCE}: {rows.iloc[worst].to_dict()}"
        )


def write_golden(folder: Path, package: Package, rows: pd.DataFrame) -> None:
    """Raw rows with the graph's answers, to be reproduced wherever the model is loaded."""
    golden = {
        "tolerance": TOLERANCE,
        "rows": json.loads(rows[list(package.contract.input_names)].to_json(orient="records")),
        "probabilities": [float(p) for p in package.score(rows)],
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1), encoding="utf-8")
