"""The value of each part of the training: the best setting of a search with one change.

    make bench NAME=ablation

All figures are out of fold on the training split; the test split is not read. A gain in ROC AUC is
relative to the best setting on the same rows, with a 95 % paired bootstrap interval.

The last figures are of made-up rows with missing numbers, with and without SMOTE.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from sklearn.datasets import make_classification

from config.contract import Contract, load_contract
from tests.benchmarks.census import read_census, read_space
from tests.benchmarks.report import result, write
from training.model.calibration import best_f1_threshold
from training.evaluation.fairness import Scored, find_gaps
from training.evaluation.metrics import measure
from training.evaluation.gate import RESAMPLES, Bootstrap, auc_gain
from training.model.pipeline import Params, make_encoder, make_sampler
from training.model.search import Folds, Trial, run_search
from training.model.search_space import DEFAULT_START

N_FOLDS, SEED = 5, 0
RISING = ("education", "hours_per_week", "capital_gain")
MAX_AUC_COST_OF_SMOTE = 0.001  # relative to the same setting without SMOTE
FEWEST = 1.04  # the smallest multiplier of config/search.yaml that adds rows
NO_SMOTE, WITH_SMOTE = "no SMOTE", f"SMOTE multiplier {FEWEST}"
# The made-up rows: 20,000, one in twenty positive. Half of the columns lack 30 % of their numbers.
MISSING_SHARE, MISSING_COLUMNS = 0.3, 5
MADE_UP = {"n_samples": 20_000, "n_features": 10, "n_informative": 8, "weights": [0.95]}


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
    changed: dict[str, Params] = {
        NO_SMOTE: {"smote_multiplier": 1.0},
        **{f"SMOTE multiplier {m}": {"smote_multiplier": m} for m in (FEWEST, 1.14, 1.6, 2.4)},
        "SMOTE to balance": {"smote_multiplier": 1000.0},
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


class CompleteRows(Folds):
    """Trains on the rows that lack nothing, and scores all."""

    def resampled(self, fold: int, params: Params) -> tuple[np.ndarray, np.ndarray]:
        train, _ = self.indices[fold]
        whole = train[~np.isnan(self.X[train]).any(axis=1)]
        return make_sampler(params, self.seed).fit_resample(self.X[whole], self.y[whole])


def missing_numbers() -> Iterator[dict[str, Any]]:
    """Yield the figures of each treatment of missing numbers, on made-up rows."""
    X, y = make_classification(**MADE_UP, flip_y=0.02, class_sep=0.8, random_state=SEED)
    X = X.astype(np.float32)
    lost = np.random.default_rng(SEED).random((len(X), MISSING_COLUMNS)) < MISSING_SHARE
    X[:, :MISSING_COLUMNS][lost] = np.nan
    known, filled = (
        Folds(rows, y, N_FOLDS, SEED) for rows in (X, np.where(np.isnan(X), np.nanmedian(X, 0), X))
    )
    complete = CompleteRows(X, y, N_FOLDS, SEED)
    yield result("made up: rows that lack a number", float(lost.any(axis=1).mean()), "")
    for name, folds in (
        ("numbers missing", known),
        ("medians in their place", filled),
        ("without incomplete rows", complete),
    ):
        for multiplier in (1.0, 3.0, 1000.0):
            trial = folds.score(DEFAULT_START | {"smote_multiplier": multiplier})
            for metric in ("roc_auc", "log_loss"):
                text = f"made up: {name}, SMOTE multiplier {multiplier:g}: {metric}"
                yield result(text, trial.metrics[f"cv_{metric}"], "")


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
    scored = Scored.of(y, trial.probability, threshold)
    for gap in find_gaps(frame, load_contract().segments, scored):
        if gap.rate == "selection_rate":
            title = f"{name}: selection rate gap by {gap.columns}"
            rows.append(result(title, gap.gap.estimate, ""))
    return rows


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-evals", type=int, default=50, help="trials of the search (50)")
    options = parser.parse_args()
    contract = load_contract()
    frame = read_census(contract).train
    folds = Folds.of(frame, contract, N_FOLDS, SEED)
    best = run_search(folds, options.max_evals, None, seed=SEED, space=read_space(contract))
    results = describe("best", best, frame, folds.y, best)
    roc_auc: dict[str, float] = {}
    for name, trial in variants(frame, contract, folds, best.params):
        results += describe(name, trial, frame, folds.y, best)
        roc_auc[name] = trial.metrics["cv_roc_auc"]
    cost = roc_auc[NO_SMOTE] - roc_auc[WITH_SMOTE]
    goal, met = f"<= {MAX_AUC_COST_OF_SMOTE}", cost <= MAX_AUC_COST_OF_SMOTE
    results.append(result("cost of SMOTE in ROC AUC", cost, "", goal, met))
    raw = best.platt.slope, best.platt.intercept
    results += [result(f"Platt {n}", v, "") for n, v in zip(("slope", "intercept"), raw)]
    results += missing_numbers()
    write("ablation", results)


if __name__ == "__main__":
    main()
