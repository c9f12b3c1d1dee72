"""Names in MLflow that one part writes and others read."""

import hashlib
from pathlib import Path

MODEL_NAME = "income-classifier"
# Aliases of versions: to serve and to watch; to be proved beside it; that it replaced.
ALIAS, CHALLENGER, FALLBACK = "production", "challenger", "fallback"
PROMOTIONS = "income-promotions"  # experiment: each change of production, who and why
DECISIONS = "income-decisions"  # experiment: whether drift starts a training, and why

# Artifacts of a training run.
PACKAGE = "models_mlflow"  # the model with its golden rows, booster and card
REFERENCE = "monitoring/reference.jsonl"  # the version's reference data
TRAFFIC = "traffic/traffic.jsonl"  # labelled rows for the stream generator
LINEAGE = "data/lineage.json"  # the training files with their checksums
VERDICT = "gate/verdict.json"  # the gate's decision with every figure
CARD = "card.html"  # in the package: the model card
BOOSTER = "booster.ubj"  # in the package: the trees in XGBoost's format, for explanations
GRAPH = "model.onnx"
GOLDEN = "golden.json"

# MLflow's error codes for a missing model, version or run; the second one is for an alias.
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")

# Tag of a version: the sha256 of each file of its package, as JSON. MLflow sorts tags by name, so
# this name comes after the gate's.
FILE_SHA256 = "sha256_of_files"


def no_response(tracking_uri: str, err: Exception) -> str:
    """Return why MLflow gave no response, in one sentence if it cannot be reached."""
    if "ConnectionPool" in str(err):  # urllib3's words for every failed connection
        return f"MLFLOW_TRACKING_URI: MLflow does not respond; got {tracking_uri}. Start it."
    return f"MLFLOW_TRACKING_URI: no response; got {tracking_uri}: {err}"


def file_digests(package: Path) -> dict[str, str]:
    """Return the hex sha256 of each file of a package, by name."""
    files = sorted(path for path in package.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
