"""The gain of a training after drift, and its cost on the census, by scenario.

    make bench NAME=retraining

The champion is the model of the census's training split. The generator produces 5,000 labelled
requests of a scenario. A candidate is trained with them for each weight of recent rows. All models
are measured on the gate's two sets: the holdout set of recent rows, and the floor set of the
census. All models have the same parameters, so no search is measured.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config.contract import Contract, load_contract
from stream_generator.traffic.changes import load_changes
from stream_generator.traffic.rows import Row, read_rows
from stream_generator.traffic.scenarios import SCENARIOS
from tests.benchmarks.census import fit_model, read_census
from tests.benchmarks.report import at_least, result, write
from training.data.assemble import (
    TrainingRows,
    assemble_rows,
    downsample_old_rows,
    from_feedback,
    reject_overlap,
)
from training.data.dataset import Dataset, split_judge_traffic
from training.data.feedback import Feedback
from training.data.rows import write_requests
from training.data.validation import check_frame
from training.evaluation.gate import MARGIN_FLOOR_ROC_AUC
from training.evaluation.metrics import measure
from training.model.calibration import best_f1_threshold
from training.model.onnx_export import FittedModel
from training.model.pipeline import DEFAULT_PARAMS, Params
from training.model.search import Folds

N_FOLDS, SEED = 3, 0
WEIGHTS = (1.0, 3.0)
SETTING: Params = DEFAULT_PARAMS | {
    "smote_multiplier": 1.04,
    "learning_rate": 0.08,
    "max_depth": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.4,
}


def fit(
    frame: pd.DataFrame,
    contract: Contract,
    recent: np.ndarray | None = None,
    *,
    seed: int = SEED,
) -> tuple[FittedModel, FittedModel]:
    """Return a model calibrated on all rows, and the same trees calibrated on the recent ones.

    Cross-validation gives the number of trees, calibration and threshold.
    """
    best = Folds.of(frame, contract, N_FOLDS, seed).score(SETTING)
    y = frame[contract.target.name].to_numpy()
    rows = np.ones(len(y), bool) if recent is None else recent
    again, model = best.recalibrated(y, rows), fit_model(frame, contract, best, seed)
    threshold = best_f1_threshold(again.probability[rows], y[rows])
    return model, replace(model, platt=again.platt, threshold=threshold)


def labelled_requests(rows: list[Row], name: str, n_rows: int, contract: Contract) -> pd.DataFrame:
    """Return labelled requests of a scenario, as read from the prediction log."""
    sent = list(SCENARIOS[name](load_changes(rows), n_rows, SEED))
    raw = pd.DataFrame([row.record | {contract.target.name: row.label} for row in sent])
    checked, _ = check_frame(raw, contract)
    ids = [str(number) for number in checked.index]
    return checked.assign(prediction_id=ids, predicted_at=np.arange(len(ids), dtype=float))


def measured(model: FittedModel, frame: pd.DataFrame, contract: Contract) -> dict[str, float]:
    """Return metrics on labelled rows."""
    probability = model.score(frame[list(contract.input_names)])
    return measure(frame[contract.target.name].to_numpy(), probability, model.threshold)


def candidates(rows: TrainingRows, contract: Contract) -> dict[str, FittedModel]:
    """Return a model for each weight of the recent rows and each calibration."""
    models = {}
    for weight in WEIGHTS:
        weighted = downsample_old_rows(rows, weight, SEED)
        for how, model in zip(("all", "recent"), fit(weighted.frame, contract, weighted.recent)):
            models[f"weight {weight:g}, calibrated on {how}"] = model
    return models


def compare(
    name: str, champion: FittedModel, rows: TrainingRows, contract: Contract
) -> Iterator[dict[str, Any]]:
    """Yield the figures of the champion and of each candidate, on both sets."""
    models = {"champion": champion, **candidates(rows, contract)}
    for judge, frame in (("newest", rows.recent_holdout), ("census", rows.test_holdout)):
        found = {who: measured(model, frame, contract) for who, model in models.items()}
        for who, metrics in found.items():
            what = f"{name}, {judge}, {len(frame)} rows: {who}"
            for metric in ("log_loss", "ece", "f1", "roc_auc"):
                yield result(f"{what}: {metric}", metrics[metric], "")
            if judge == "census" and who != "champion":
                gain = metrics["roc_auc"] - found["champion"]["roc_auc"]
                yield at_least(f"{what}: ROC AUC gain", gain, "", -MARGIN_FLOOR_ROC_AUC)


def read_traffic(census: Dataset, contract: Contract) -> tuple[pd.DataFrame, list[Row]]:
    """Return the floor set of the test split, and the other rows as the generator sends them."""
    judges, traffic = split_judge_traffic(census.test, contract)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "traffic.jsonl"
        write_requests(traffic, contract, path)
        return judges, read_rows(path)


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000, help="labelled requests (5000)")
    options = parser.parse_args()
    contract = load_contract()
    census = read_census(contract)
    judges, traffic = read_traffic(census, contract)
    champion, _ = fit(census.train, contract)
    results: list[dict[str, Any]] = []
    for name in ("sudden", "label_shift", "concept_shift"):
        feedback = Feedback(labelled_requests(traffic, name, options.rows, contract), 0, 0)
        rows = assemble_rows(census, judges, [from_feedback(feedback, contract)], contract)
        reject_overlap(rows, contract)
        results += compare(name, champion, rows, contract)
    write("retraining", results)


if __name__ == "__main__":
    main()
