"""The package: the graph scores raw columns as the pipeline does, on every kind of row."""

import json

import mlflow
import numpy as np
import onnx
import pytest

from config.contract import load_contract
from tests.conftest import made_up_rows, random_columns
from tests.training.conftest import fit_small
from training.model.calibration import Platt
from training.model.onnx_export import FittedModel, ParityError, to_graph, write_package


def test_graph_and_pipeline_agree_on_new_rows_and_are_calibrated(contract, package, model):
    unseen = made_up_rows(contract, 5000, seed=9)
    unseen.loc[:99, ["workclass", "occupation", "native_country"]] = "?"
    probability = package.score(unseen)
    assert probability == pytest.approx(model.score(unseen), abs=1e-6)
    raw = model.encode_and_classify.predict_proba(unseen)[:, 1]
    assert probability == pytest.approx(Platt(1.1, -0.2)(raw), abs=1e-6)
    facts = package.metadata["contract_digest"], package.metadata["data_source"], package.threshold
    assert facts == (contract.digest, "uci", 0.4)


def test_a_graph_that_disagrees_with_the_pipeline_is_not_packaged(
    contract, model, inputs, tmp_path, monkeypatch
):
    def to_another_graph(model, contract):
        other = FittedModel(model.encode_and_classify, Platt(1.1, -0.1), model.threshold)
        return to_graph(other, contract)

    monkeypatch.setattr("training.model.onnx_export.to_graph", to_another_graph)
    with pytest.raises(
        ParityError, match=r"row \d+.* differs from the pipeline by .*expected at most"
    ):
        write_package(tmp_path, model, contract, inputs, {})


def test_golden_rows_have_raw_values_and_the_probabilities_of_the_graph(contract, package, inputs):
    golden = json.loads((package.folder / "golden.json").read_text())
    assert golden["rows"] == inputs.head(64).to_dict("records")
    assert all(row.keys() == set(contract.input_names) for row in golden["rows"])
    assert not any(contract.check(row) for row in golden["rows"])
    assert golden["probabilities"] == pytest.approx(package.score(inputs.head(64)), abs=1e-7)


def test_mlflow_serves_the_packaged_graph(package, inputs, contract, tmp_path):
    """MLflow passes each column as (n,); graphs that took (n, 1) failed."""
    graph = onnx.load(package.folder / "model.onnx")
    # To find the packages, MLflow would load the graph in a second interpreter.
    mlflow.onnx.save_model(graph, tmp_path / "logged", pip_requirements=[])
    numbers = {f.name: np.float32 for f in contract.inputs if not f.is_categorical}
    scored = mlflow.pyfunc.load_model(str(tmp_path / "logged")).predict(inputs.astype(numbers))
    assert scored["probability"].to_numpy() == pytest.approx(package.score(inputs), abs=1e-6)


ONLY_CATEGORIES = [
    {"name": "v1", "kind": "nominal", "missing": "allow", "categories": ["n", "y"]},
    {"name": "v2", "kind": "nominal", "categories": ["n", "y"]},
]
NAMED_LIKE_STEPS = [
    {"name": "education", "kind": "ordinal", "categories": ["low", "high"]},
    *(
        {"name": name, "kind": "integer", "minimum": 0, "maximum": 9}
        for name in ("education_rank", "encoded", "margin", "rows", "columns_flat", "shape_tensor")
    ),
]


@pytest.mark.parametrize("columns", [ONLY_CATEGORIES, NAMED_LIKE_STEPS], ids=["texts", "names"])
def test_any_columns_make_a_graph(columns, tmp_path):
    """A graph of categories alone, or with a column named like a step, failed after the search."""
    target = {"name": "y", "negative": "a", "positive": "b", "description": "it"}
    features = [{"description": "it", **column} for column in columns]
    path = tmp_path / "features.yaml"
    path.write_text(json.dumps({"target": target, "features": features}))
    contract = load_contract(path)
    random = np.random.default_rng(1)
    rows = random_columns(contract, 300, random).assign(y=random.integers(0, 2, 300))
    model, inputs = fit_small(contract, rows), rows[list(contract.input_names)]
    package = write_package(tmp_path / "package", model, contract, inputs, {})
    assert package.score(inputs) == pytest.approx(model.score(inputs), abs=1e-6)
