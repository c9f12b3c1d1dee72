"""Where the parts meet in MLflow: names that one part writes and others read."""

import hashlib
from pathlib import Path

MODEL_NAME = "income-classifier"
ALIAS = "production"  # of the version to serve and to watch

# Artifacts of a training run.
PACKAGE = "models_mlflow"  # the model and all that travels with it
REFERENCE = "monitoring/reference.jsonl"  # what the version's traffic is compared with
TRAFFIC = "traffic/traffic.jsonl"  # labelled rows to send
LINEAGE = "data/lineage.json"  # which files a version was trained on, with their sums
VERDICT = "gate/verdict.json"  # what the gate found, with every figure
CARD = "card.html"  # in the package: the model card
BOOSTER = "booster.ubj"  # in the package: the trees as XGBoost's own, for explanations
GRAPH = "model.onnx"
GOLDEN = "golden.json"

# A tag of a version: the sha256 of each file of its package, as JSON. Earlier releases wrote only
# that of the graph.
FILE_SHA256 = "file_sha256"
GRAPH_SHA256 = "model_sha256"


def file_digests(package: Path) -> dict[str, str]:
    """The hex sha256 of each file of a package, by name."""
    files = sorted(path for path in package.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
