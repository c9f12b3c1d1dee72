"""Where the parts meet in MLflow: names that one part writes and others read."""

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
