"""What labels show on the census: concept shift, false alarms, and the band of the estimate.

    make bench NAME=labels

The model is fitted on the training split. Its reference data are predicted out of fold. Windows
come from the test split and from the other training rows, which are also predicted out of fold. The
false alarms are those of labels drawn by the model's own probabilities, so nothing is wrong with
it.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from config.contract import Contract, load_contract
from evidently_service.measure.performance import (
    concept_shift_scores,
    estimate_quality,
    measure_quality,
    roc_auc,
    roc_auc_floor,
    z_limit,
)
from evidently_service.measure.segments import estimation_spread, group_errors
from evidently_service.reference.reference_data import Reference
from evidently_service.reference.registry import Version
from tests.benchmarks.benchmark_retraining import N_FOLDS, SEED, SETTING
from tests.benchmarks.census import fit_model, read_census
from tests.benchmarks.report import at_most, result, write
from training.model.search import Folds

REFERENCE_ROWS = 5000
WINDOW_ROWS, MIN_LABELS = 1000, 200
LIMIT = z_limit(1, 2880)
STEP_ROWS = 20  # between two looks at a sliding window
Labelled = tuple[np.ndarray, np.ndarray]  # labels, probabilities


class World(NamedTuple):
    """Rows with label, probability and class, and the reference data of their model."""

    frame: pd.DataFrame
    label: np.ndarray
    probability: np.ndarray
    threshold: float
    reference: Reference

    def at(self, rows: np.ndarray) -> Labelled:
        """Return labels and probabilities of some rows."""
        return self.label[rows].copy(), self.probability[rows]


def make_world(contract: Contract) -> World:
    """Return the census as one model sees it."""
    census = read_census(contract)
    names, target = list(contract.input_names), contract.target.name
    best = Folds.of(census.train, contract, N_FOLDS, SEED).score(SETTING)
    y = census.train[target].to_numpy()
    model = fit_model(census.train, contract, best, SEED)
    order = np.random.default_rng(SEED).permutation(len(y))
    known, rest = order[:REFERENCE_ROWS], order[REFERENCE_ROWS:]
    outputs = {"probability": best.probability, "income_class": best.probability >= model.threshold}
    frame = census.train.assign(**outputs).iloc[known]
    return World(
        pd.concat([census.train.iloc[rest], census.test], ignore_index=True),
        np.concatenate([y[rest], census.test[target]]),
        np.concatenate([best.probability[rest], model.score(census.test[names])]).astype(float),
        model.threshold,
        Reference(Version("1", ""), frame.astype({"income_class": int}), y[known]),
    )


def cases(world: World, random: np.random.Generator) -> dict[str, Callable[[int], Labelled]]:
    """Return by name what draws a window of that many labelled rows."""

    def drawn(rows: int, of: np.ndarray | None = None) -> np.ndarray:
        every = np.arange(len(world.label)) if of is None else np.flatnonzero(of)
        return random.choice(every, rows, replace=False)

    def flipped(rows: np.ndarray, those: np.ndarray) -> Labelled:
        label, probability = world.at(rows)
        return np.where(those, 1 - label, label), probability

    def with_odds(rows: int, factor: float) -> Labelled:
        probability = world.probability[drawn(rows)]
        true = expit(logit(probability) + np.log(factor))
        return (random.random(rows) < true).astype(int), probability

    def specialists(rows: int) -> Labelled:
        chosen = drawn(rows)
        occupation = world.frame["occupation"].to_numpy()[chosen]
        return flipped(chosen, occupation == "Prof-specialty")

    p = world.probability
    return {
        "healthy": lambda n: world.at(drawn(n)),
        "labels for predicted positives alone": lambda n: world.at(drawn(n, p >= world.threshold)),
        "labels where p > 0.2": lambda n: world.at(drawn(n, p > 0.2)),
        "5 % of labels flipped": lambda n: flipped(drawn(n), random.random(n) < 0.05),
        "specialists' labels flipped": specialists,
        "odds times 1.35": lambda n: with_odds(n, 1.35),
        "odds times 2": lambda n: with_odds(n, 2.0),
    }


def power(world: World, windows: int) -> Iterator[dict[str, Any]]:
    """Yield the share of windows with concept shift, and below the floor of the ROC AUC."""
    reference = world.reference.frame["probability"].to_numpy()
    floor = roc_auc_floor(world.reference.label, reference, MIN_LABELS)
    for name, draw in cases(world, np.random.default_rng(SEED)).items():
        for rows in (MIN_LABELS, WINDOW_ROWS):
            found = [draw(rows) for _ in range(windows)]
            seen = np.mean(
                [max(concept_shift_scores(*one, reference, LIMIT).values()) > 1 for one in found]
            )
            yield result(f"{name}, {rows} labels: concept shift", 100 * float(seen), "% of windows")
            bounds = [roc_auc(*one)[1] for one in found]
            below = np.mean([one is not None and one.upper < floor for one in bounds])
            yield result(
                f"{name}, {rows} labels: below the floor", 100 * float(below), "% of windows"
            )


def false_alarms(world: World, windows: int) -> dict[str, Any]:
    """Return the alarms of a sliding window of healthy labels, by the budget's limit."""
    random, budget = np.random.default_rng(SEED), windows / 10
    limit = z_limit(budget, windows)
    rows = random.choice(len(world.label), (windows + 1) * WINDOW_ROWS)
    probability = world.probability[rows]
    label = (random.random(len(rows)) < probability).astype(int)
    reference = world.reference.frame["probability"].to_numpy()
    last, alarms = {"roc_auc": -np.inf, "calibration": -np.inf}, 0
    for start in range(0, windows * WINDOW_ROWS, STEP_ROWS):
        window = slice(start, start + WINDOW_ROWS)
        scores = concept_shift_scores(label[window], probability[window], reference, limit)
        for check in (name for name, score in scores.items() if score > 1):
            # Later looks at the same rows belong to the same alarm.
            alarms += start - last[check] > WINDOW_ROWS
            last[check] = start
    return at_most(f"alarms in {windows} windows, budget {budget:g}", alarms, "", budget * 1.2)


def coverage(world: World, contract: Contract, windows: int) -> Iterator[dict[str, Any]]:
    """Yield how often the band of the estimate holds the measured quality, by group of people."""
    errors = group_errors(world.reference, contract.segments, MIN_LABELS)
    frame, random = world.frame, np.random.default_rng(SEED)
    groups = {one.name: one.frame_groups(frame[one.name].to_numpy()) for one in contract.segments}
    for name, of in {
        "everyone": np.ones(len(frame), bool),
        "not from the US": (frame["native_country"] != "United-States").to_numpy(),
        "from 45 on": (frame["age"] >= 45).to_numpy(),
        "from 60 on": (frame["age"] >= 60).to_numpy(),
        "self-employed": frame["workclass"].astype(str).str.startswith("Self").to_numpy(),
        "Black": (frame["race"] == "Black").to_numpy(),
    }.items():
        held: dict[str, list[bool]] = {}
        for _ in range(windows):
            rows = random.choice(np.flatnonzero(of), WINDOW_ROWS, replace=False)
            spread = estimation_spread(
                errors, {one: column[rows] for one, column in groups.items()}
            )
            for band, inside in held_by_band(world, rows, spread):
                held.setdefault(band, []).append(inside)
        for band, found in held.items():
            yield result(f"{name}: band of {band}", 100 * float(np.mean(found)), "% held")


def held_by_band(
    world: World, rows: np.ndarray, spread: dict[str, float]
) -> Iterator[tuple[str, bool]]:
    """Yield each band's name, and whether it holds the quality of a window of these rows."""
    label, probability = world.at(rows)
    classes = (probability >= world.threshold).astype(int)
    measured = measure_quality(label, classes, probability)
    for band, more in (("label noise", None), ("with the segments", spread)):
        bounds = estimate_quality(classes, probability, spread=more).bounds
        for metric in ("roc_auc", "log_loss", "recall"):
            ends = bounds[metric]
            yield f"{metric}, {band}", ends.lower <= getattr(measured, metric) <= ends.upper


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=100, help="of each case (100)")
    options = parser.parse_args()
    contract = load_contract()
    world = make_world(contract)
    results = list(power(world, options.windows))
    results.append(false_alarms(world, 3 * options.windows))
    results += coverage(world, contract, options.windows)
    write("labels", results)


if __name__ == "__main__":
    main()
