"""A version that inverts its classes, registered beside a good one."""

import json
import shutil
import tempfile
from pathlib import Path

import mlflow
import onnx
from mlflow.entities.model_registry import ModelVersion
from onnx import helper

from config.contract import load_contract
from config.model_registry import CARD, GOLDEN, GRAPH
from training.registry.mlflow_registry import Registry


def plant_inverted(registry: Registry, good: ModelVersion) -> str:
    """Register a copy of a version with the probabilities 1 - p; return its number."""
    with tempfile.TemporaryDirectory() as scratch, registry.package_of(good) as package:
        folder = Path(scratch) / "package"
        folder.mkdir()
        for name in (GRAPH, GOLDEN, CARD):  # not what MLflow adds; it adds that again
            shutil.copy(package / name, folder)
        invert(folder)
        rows = mlflow.artifacts.download_artifacts(run_id=good.run_id, dst_path=f"{scratch}/run")
        with registry.run("a drill", {"data_source": "a drill"}, {}):
            for name in ("monitoring", "traffic"):
                mlflow.log_artifacts(f"{rows}/{name}", name)
            version = registry.register(folder, load_contract())
        registry.complete(version, folder, "Made for a drill.", {"gate": "failed"})
    return version


def invert(folder: Path) -> None:
    """Turn the classes of a package around: graph and golden rows. It has no explanations."""
    model = onnx.load(folder / GRAPH)
    (last,) = [node for node in model.graph.node if "probability" in node.output]
    margin = last.input[0]
    last.input[0] = "inverted.margin"
    nodes = [*model.graph.node]
    nodes.insert(nodes.index(last), helper.make_node("Neg", [margin], ["inverted.margin"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, folder / GRAPH)
    golden = json.loads((folder / GOLDEN).read_text("utf-8"))
    golden["probabilities"] = [1 - p for p in golden["probabilities"]]
    (folder / GOLDEN).write_text(json.dumps(golden), "utf-8")
