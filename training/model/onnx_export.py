"""The model package: a folder with one ONNX graph on raw columns, golden rows and the contract.

The refit comes before it. The gate, the registry and the services all use this package, so
training and serving cannot differ:

    model.onnx     a tensor (n,) per input column -> `probability` (n,); facts as metadata
    golden.json    raw rows with the probabilities that every host must reproduce
    booster.ubj    the same trees in XGBoost's format, for explanations; the graph has its checksum
    features.yaml  the contract of the model
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from sklearn.pipeline import Pipeline
from xgboost import XGBClassifier

from config.contract import Contract, contract_path
from config.feature import Feature
from config.model_registry import BOOSTER
from config.rare_pairs import RARE_PAIRS
from training.data.rows import records_of
from training.data.validation import known_categories
from training.model.calibration import Platt
from training.model.date_graph import DateGraph
from training.model.pipeline import by_encoding, encoded_columns
from training.model.rare_pairs import find_rare_pairs

TOLERANCE = 1e-5  # in probability; the graph computes in float32
GOLDEN_ROWS = 64
ENCODED = "columns.encoded"  # the trees' input
OPSET = {"": 17, "ai.onnx.ml": 3}


class ParityError(Exception):
    """The graph and the Python pipeline differ on a row."""


@dataclass(frozen=True)
class FittedModel:
    """The fitted parts that score: encoder, classifier, calibration and threshold."""

    encode_and_classify: Pipeline
    platt: Platt
    threshold: float

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the probability of the positive label (n_samples,) for input columns."""
        encoded = self.encode_and_classify[:-1].transform(frame)
        return self.platt.of_margin(
            self.encode_and_classify[-1].predict(encoded, output_margin=True)
        )


class Package:
    """A package folder, opened for scoring."""

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
        """Size of the graph in megabytes."""
        return (self.folder / "model.onnx").stat().st_size / 1e6

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the probability of the positive label (n_samples,) float32 for raw columns."""
        feeds = as_tensors(frame, self.contract)
        return self.session.run(["probability"], feeds)[0]


def as_tensors(frame: pd.DataFrame, contract: Contract) -> dict[str, np.ndarray]:
    """Return the input columns as tensors: float32 or strings, each (n,)."""
    return {
        f.name: frame[f.name].to_numpy(dtype=object if f.is_categorical else np.float32)
        for f in contract.inputs
    }


def to_graph(model: FittedModel, contract: Contract) -> onnx.ModelProto:
    """Return the whole scoring path as one ONNX graph with the output `probability`."""
    update_registered_converter(
        XGBClassifier,
        "XGBoostXGBClassifier",
        calculate_linear_classifier_output_shapes,
        convert_xgboost,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    classifier = model.encode_and_classify[-1]
    encoded = [("encoded", FloatTensorType([None, classifier.n_features_in_]))]
    options = {id(classifier): {"zipmap": False}}
    graph = to_onnx(classifier, initial_types=encoded, target_opset=OPSET, options=options)
    return append_calibration(prepend_encoder(graph, contract), model.platt)


def prepend_encoder(model: onnx.ModelProto, contract: Contract) -> onnx.ModelProto:
    """Add the nodes of `make_encoder` before the trees: raw columns (n,) replace `encoded`.

    The names of inner values have a point, so no column of a contract can have the same name.
    skl2onnx converts a ColumnTransformer to a graph on columns (n, 1), which MLflow's ONNX flavour
    does not support. It also has more nodes: scoring one row took a third longer.
    """
    inputs = by_encoding(contract)
    nodes: list[onnx.NodeProto] = []
    columns = [feature.name for feature in inputs["number"]]
    for feature in inputs["date"]:
        dates = DateGraph(feature)
        columns += dates.outputs
        nodes += dates.nodes
        model.graph.initializer.extend(dates.constants)
    for feature in inputs["rank"]:
        columns.append(f"{feature.name}.rank")
        nodes.append(rank_node(feature, columns[-1]))
    blocks = [f"{feature.name}.flags" for feature in inputs["nominal"]]
    nodes += [flags_node(*pair) for pair in zip(inputs["nominal"], blocks)]
    if columns:  # ONNX Runtime rejects a Concat without inputs
        shape = numpy_helper.from_array(np.array([len(columns), -1]), "columns.shape")
        model.graph.initializer.append(shape)
        nodes += [
            helper.make_node("Concat", columns, ["columns.flat"], axis=0),
            helper.make_node("Reshape", ["columns.flat", shape.name], ["columns.stacked"]),
            helper.make_node("Transpose", ["columns.stacked"], ["columns.rows"]),
        ]
        blocks.insert(0, "columns.rows")
    nodes.append(helper.make_node("Concat", blocks, [ENCODED], axis=1))
    replace(model.graph.node, [*nodes, *model.graph.node])
    replace(model.graph.input, [input_of(feature) for feature in contract.inputs])
    return model


def rank_node(feature: Feature, output: str) -> onnx.NodeProto:
    """Return the node from categories (n,) to ranks from 0 (n,), NaN for a missing category."""
    ranks = [float(rank) for rank in range(len(feature.categories))]
    keys: dict[str, Any] = {
        "keys_strings": feature.categories,
        "values_floats": ranks,
        "default_float": float("nan"),
    }
    return helper.make_node("LabelEncoder", [feature.name], [output], domain="ai.onnx.ml", **keys)


def flags_node(feature: Feature, output: str) -> onnx.NodeProto:
    """Return the node from categories (n,) to one-hot columns (n, n_categories)."""
    known: dict[str, Any] = {"cats_strings": known_categories(feature), "zeros": 1}
    return helper.make_node("OneHotEncoder", [feature.name], [output], domain="ai.onnx.ml", **known)


def input_of(feature: Feature) -> onnx.ValueInfoProto:
    """Return the graph's input for a raw column."""
    kind = TensorProto.STRING if feature.is_categorical else TensorProto.FLOAT
    return helper.make_tensor_value_info(feature.name, kind, [None])


def replace(field: Any, content: list[Any]) -> None:
    """Replace the content of a repeated field of a graph."""
    del field[:]
    field.extend(content)


def append_calibration(model: onnx.ModelProto, platt: Platt) -> onnx.ModelProto:
    """Make the trees return the raw margin, and Platt's scaling of it the only output."""
    nodes = [node for node in model.graph.node if node.op_type != "TreeEnsembleClassifier"]
    (trees,) = (node for node in model.graph.node if node.op_type == "TreeEnsembleClassifier")
    constants: dict[str, np.ndarray] = {
        "flat": np.array([-1]),
        "slope": np.array(platt.slope, dtype=np.float32),
        "intercept": np.array(platt.intercept, dtype=np.float32),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value, f"platt.{name}") for name, value in constants.items()
    )
    steps = [
        ("Reshape", ["trees.sums", "platt.flat"], "trees.margin"),
        ("Mul", ["trees.margin", "platt.slope"], "platt.scaled"),
        ("Add", ["platt.scaled", "platt.intercept"], "platt.margin"),
        ("Sigmoid", ["platt.margin"], "probability"),
    ]
    nodes.append(as_regressor(trees, "trees.sums"))
    nodes += [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
    replace(model.graph.node, nodes)
    probability = helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None])
    replace(model.graph.output, [probability])
    return model


def as_regressor(trees: onnx.NodeProto, output: str) -> onnx.NodeProto:
    """Return the classifier's trees as a regressor of their sum (n, 1): the margin in log-odds."""
    given = {one.name: helper.get_attribute_value(one) for one in trees.attribute}
    kept = {
        name.replace("class_", "target_"): value
        for name, value in given.items()
        if name.startswith(("nodes_", "class_", "base_values"))
    }
    return helper.make_node(
        "TreeEnsembleRegressor", [ENCODED], [output], domain=trees.domain, n_targets=1, **kept
    )


def write_package(
    folder: Path,
    model: FittedModel,
    contract: Contract,
    rows: pd.DataFrame,
    facts: dict[str, str],
) -> Package:
    """Write the package, compare it with the model on every row of `rows`, and return it opened.

    The graph's metadata gets `facts`, threshold, calibration, the rare pairs of `rows`, and the
    digests of contract and booster. Raises ParityError if graph and model differ by more than
    TOLERANCE on any row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph = to_graph(model, contract)
    metadata = {
        "threshold": repr(model.threshold),
        "platt_slope": repr(model.platt.slope),
        "platt_intercept": repr(model.platt.intercept),
        "contract_digest": contract.digest,
        "booster_sha256": write_booster(folder / BOOSTER, model, contract),
        RARE_PAIRS: msgspec.json.encode(find_rare_pairs(rows, contract)).decode(),
        **facts,
    }
    helper.set_model_props(graph, metadata)
    onnx.save(graph, folder / "model.onnx")
    shutil.copyfile(contract_path(), folder / "features.yaml")
    package = Package(folder, contract)
    check_parity(package, model, rows)
    write_golden(folder, package, rows.head(GOLDEN_ROWS))
    return package


def write_booster(path: Path, model: FittedModel, contract: Contract) -> str:
    """Write the trees with column names; return the file's sha256.

    The names are those of `encoded_columns`.
    """
    booster = model.encode_and_classify[-1].get_booster().copy()
    booster.feature_names = encoded_columns(contract)
    booster.save_model(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_parity(package: Package, model: FittedModel, rows: pd.DataFrame) -> None:
    """Raise ParityError naming the worst row if graph and model differ on any."""
    difference = np.abs(package.score(rows) - model.score(rows))
    worst = int(difference.argmax())
    if not difference[worst] <= TOLERANCE:  # written so that NaN fails too
        raise ParityError(
            f"graph: row {worst} of the test rows differs from the pipeline by"
            f" {difference[worst]:.2g}, expected at most {TOLERANCE}."
        )


def write_golden(folder: Path, package: Package, rows: pd.DataFrame) -> None:
    """Write raw rows with the graph's probabilities, which every host must reproduce."""
    golden = {
        "tolerance": TOLERANCE,
        "rows": records_of(rows, package.contract),
        "probabilities": [float(p) for p in package.score(rows)],
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1), encoding="utf-8")
