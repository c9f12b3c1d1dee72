"""The value of each part of the training: the best setting of a search with one change.

    make bench NAME=ablation

All figures are out of fold on the training split; the test split is not read. A gain in ROC AUC is
relative to the best setting on the same rows, with a 95 % paired bootstrap interval.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from config.contract import Contract, load_contract
from tests.benchmarks.census import read_census
from tests.benchmarks.report import result, write
from training.model.calibration import best_f1_threshold
from training.evaluation.model_card import MIN_ROWS, gaps
from training.evaluation.metrics import measure, segment_table
from training.evaluation.gate import RESAMPLES, Bootstrap, auc_gain
from training.model.pipeline import Params, make_encoder
from training.model.search import Folds, Trial, run_search

N_FOLDS, SEED = 5, 0
RISING = ("education", "hours_per_week", "capital_gain")
MAX_AUC_COST_OF_SMOTE = 0.001  # relative to the same setting without SMOTE


def without(contract: Contract, *names: str) -> Contract:
    """Return the contract without some of the model's inputs."""
    features = tuple(
        msgspec.structs.replace(feature, used=False) if feature.name in names else feature
        for feature in contract.features
    )
    return msgspec.structs.replace(contract, features=features)


def rising(frame: pd.DataFrame, contract: Contract) -> str:
    """Return XGBoost's monotone constraints: the odds never fall with a column of RISING."""
    encoder = make_encoder(contract).fit(frame[list(contract.input_names)])
    signs = ["1" if name in RISING else "0" for name in encoder.get_feature_names_out()]
    return f"({','.join(signs)})"


def variants(
    frame: pd.DataFrame, contract: Contract, folds: Folds, best: Params
) -> Iterator[tuple[str, Trial]]:
    """Yield (name, trial) of each change."""
    smote = best["smote_ratio"]
    changed: dict[str, Params] = {
        "no SMOTE": {"smote_ratio": 0.0},
        **{f"SMOTE ratio {r}": {"smote_ratio": r} for r in (0.36, 0.5, 0.75, 1.0) if r != smote},
        "SMOTE with 1 neighbour": {"smote_neighbours": 1},
        "SMOTE with 15 neighbours": {"smote_neighbours": 15},
        "trees of depth 3": {"max_depth": 3},
        "every column in every tree": {"colsample_bytree": 1.0},
        "three trees a round": {"num_parallel_tree": 3},
        "a third of the learning rate": {"learning_rate": best["learning_rate"] / 3},
        f"monotone in {', '.join(RISING)}": {"monotone_constraints": rising(frame, contract)},
    }
    for name, changes in changed.items():
        yield name, folds.score(best | changes)
    for names in (("sex",), ("race",), ("sex", "race")):
        folds = Folds.of(frame, without(contract, *names), N_FOLDS, SEED)
        yield f"without {' and '.join(names)}", folds.score(best)


def describe(
    name: str, trial: Trial, frame: pd.DataFrame, y: np.ndarray, best: Trial
) -> list[dict[str, Any]]:
    """Return the figures of one variant."""
    threshold = best_f1_threshold(trial.probability, y)
    metrics = measure(y, trial.probability, threshold)
    shown = ("roc_auc", "log_loss", "f1", "ece")
    rows = [result(f"{name}: {metric}", metrics[metric], "") for metric in shown]
    if trial is not best:
        gain = auc_gain(
            y,
            trial.probability,
            best.probability,
            Bootstrap(np.random.default_rng(SEED), RESAMPLES),
        )
        interval = f"{gain.low:+.5f} to {gain.high:+.5f}"
        rows.append(result(f"{name}: ROC AUC gain, {interval}", gain.estimate, ""))
    table = gaps(segment_table(frame, y, trial.probability, threshold, MIN_ROWS))
    for column in table.index:
        rate = float(table.loc[column, "selection_rate"])
        rows.append(result(f"{name}: selection rate gap by {column}", rate, ""))
    return rows


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-evals", type=int, default=50, help="trials of the search (50)")
    options = parser.parse_args()
    contract = load_contract()
    frame = read_census(contract).train
    folds = Folds.of(frame, contract, N_FOLDS, SEED)
    best = run_search(folds, options.max_evals, None, SEED)
    results = describe("best", best, frame, folds.y, best)
    for name, trial in variants(frame, contract, folds, best.params):
        results += describe(name, trial, frame, folds.y, best)
        if name == "no SMOTE":
            cost = trial.metrics["cv_roc_auc"] - best.metrics["cv_roc_auc"]
            goal = f"<= {MAX_AUC_COST_OF_SMOTE}"
            met = cost <= MAX_AUC_COST_OF_SMOTE
            results.append(result("cost of SMOTE in ROC AUC", cost, "", goal, met))
    raw = best.platt.slope, best.platt.intercept
    results += [result(f"Platt {n}", v, "") for n, v in zip(("slope", "intercept"), raw)]
    write("ablation", results)


if __name__ == "__main__":
    main()
