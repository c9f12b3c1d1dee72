"""How often labels promote, reject and undo a version, and after how many labels.

    make bench NAME=promotion

The versions are two models of the census that differ by their seed. The mean of their log-odds on
the test split is taken as the truth. Each run draws rows of the split with labels, and the test
decides with every label. Versions are equal if a coin swaps both predictions of each row. Others
get a change of their log-odds, as large as the stated difference of the expected log loss needs.

The first peer is the gate's bootstrap, repeated while the holdout set grows. The second is a z-test
with a fixed number of labels. It knows the mean and the variance of the differences beforehand.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit

from config.contract import load_contract
from config.runtime.statistics import LEVEL, log_losses
from evidently_service.shadow.sequential import Decision, Rules, decide, loss_differences
from tests.benchmarks.benchmark_gate import models_of
from tests.benchmarks.report import at_least, at_most, result, write
from training.evaluation.gate import RESAMPLES, Bootstrap, interval
from training.evaluation.metrics import groups_of

RULES = Rules()
BETTER, WORSE = 0.005, 0.02  # of log loss
MAX_FACTOR = 5.0  # of a change of log-odds
BLUR = 1.0  # standard deviation of the noise on log-odds of an equal version
FIRST_LOOK, LOOK_EVERY = 250, 50  # labels between two looks at the bootstrap
USUAL_POWER = 0.8
MAX_WRONG, MAX_RATIO, MIN_REJECTED = 0.05, 1.5, 0.95
HARMED = ("race Black", "sex Female")
NORMAL = NormalDist()


class World(NamedTuple):
    """The test split: the probability of label 1, and the mask of each segment's rows."""

    truth: np.ndarray
    segments: dict[str, np.ndarray]


class Pair(NamedTuple):
    """The log-odds of two versions for each row of the split."""

    production: np.ndarray
    shadow: np.ndarray
    are_swapped: bool = False  # by a coin at each row


class Run(NamedTuple):
    """Labelled rows in the order of their arrival."""

    y: np.ndarray
    production: np.ndarray  # probabilities of label 1
    shadow: np.ndarray
    segments: dict[str, np.ndarray]  # indices of rows

    def decide(self, *, guards: bool) -> Decision:
        """Return the decision of the test, which ends with the last row at the latest."""
        differences = loss_differences(self.y, self.production, self.shadow)
        decision = decide(differences, self.segments, RULES, guards=guards)
        assert decision
        return decision

    def losses(self) -> np.ndarray:
        """Return production's log loss minus the shadow's by row, as the gate has it."""
        return log_losses(self.y, self.production) - log_losses(self.y, self.shadow)


def runs_of(world: World, pair: Pair, count: int) -> Iterator[Run]:
    """Yield runs of `max_labels` rows."""
    random = np.random.default_rng(0)
    for _ in range(count):
        rows = random.integers(0, len(world.truth), RULES.max_labels)
        y = (random.random(len(rows)) < world.truth[rows]).astype(int)
        first, second = expit(pair.production[rows]), expit(pair.shadow[rows])
        if pair.are_swapped:
            swapped = random.random(len(rows)) < 0.5
            first, second = np.where(swapped, second, first), np.where(swapped, first, second)
        segments = {name: np.flatnonzero(mask[rows]) for name, mask in world.segments.items()}
        yield Run(y, first, second, segments)


def moments(truth: np.ndarray, pair: Pair) -> tuple[float, float]:
    """Return the mean and the variance of the difference of one row's log losses."""
    first, second = expit(pair.production), expit(pair.shadow)
    by_label = [
        log_losses(np.full(len(truth), label), first)
        - log_losses(np.full(len(truth), label), second)
        for label in (0, 1)
    ]
    mean, square = (
        float(((1 - truth) * by_label[0] ** power + truth * by_label[1] ** power).mean())
        for power in (1, 2)
    )
    return mean, square - mean**2


def with_gain(truth: np.ndarray, gain: float, change: Callable[[float], Pair]) -> Pair:
    """Return the pair for which the shadow is better by so much, found by the change's factor."""
    return change(brentq(lambda factor: moments(truth, change(factor))[0] - gain, 0, MAX_FACTOR))


def equal_versions(world: World, frame: pd.DataFrame, count: int) -> Iterator[dict[str, Any]]:
    """Yield the shares of wrong decisions, and those of the gate's bootstrap."""
    champion, candidate = frame["champion"].to_numpy(), frame["candidate"].to_numpy()
    blurred = candidate + np.random.default_rng(0).normal(0, BLUR, len(frame))
    for who, shadow in {"seeds": candidate, "noise": blurred}.items():
        name, pair = f"equal, other {who}", Pair(champion, shadow, are_swapped=True)
        decisions = [
            [run.decide(guards=guards).outcome for guards in (False, True)]
            for run in runs_of(world, pair, count)
        ]
        first, second = zip(*decisions)
        yield at_most(f"{name}: promoted", first.count("better") / count, "", MAX_WRONG)
        yield result(f"{name}: rejected", first.count("worse") / count, "")
        yield at_most(f"{name}: undone", second.count("better") / count, "", MAX_WRONG)
        yield from repeated_bootstrap(name, (run.losses() for run in runs_of(world, pair, count)))


def repeated_bootstrap(name: str, runs: Iterator[np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield how often the gate's bootstrap finds a gain in log loss in runs of differences.

    A normal distribution stands for the resamples; they confirm its first find.
    """
    looks = np.arange(FIRST_LOOK, RULES.max_labels + 1, LOOK_EVERY)
    found, confirmed, at_the_end = [], [], []
    for losses in runs:
        finds = looks[lower_ends(losses, looks) > 0]
        found.append(len(finds) > 0)
        at_the_end.append(RULES.max_labels in finds)
        if len(finds):
            seen, bootstrap = losses[: finds[0]], Bootstrap(np.random.default_rng(0), RESAMPLES)
            confirmed.append(interval(seen.mean(), bootstrap.means(seen)).low > 0)
    for what, those in {
        f"promoted, {len(looks)} looks": found,
        "promoted, one look at the end": at_the_end,
        "first find is the resamples' too": confirmed,
    }.items():
        yield result(f"{name}, bootstrap: {what}", float(np.mean(those)), "")


def lower_ends(values: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """Return the lower end of the mean's interval at each look, by the normal distribution."""
    mean, square = (np.cumsum(values**power)[looks - 1] / looks for power in (1, 2))
    return mean - NORMAL.inv_cdf((1 + LEVEL) / 2) * np.sqrt((square - mean**2) / looks)


def challengers(world: World, frame: pd.DataFrame, count: int) -> Iterator[dict[str, Any]]:
    """Yield the labels that a better version needs, and how often a worse one is rejected."""
    champion, candidate = frame["champion"].to_numpy(), frame["candidate"].to_numpy()
    noise = np.random.default_rng(0).normal(size=len(frame))
    better: Mapping[str, Callable[[float], Pair]] = {
        "blurred": lambda factor: Pair(champion + factor * noise, candidate),
        "overconfident": lambda factor: Pair(champion * (1 + factor), candidate),
    }
    for who, change in better.items():
        pair = with_gain(world.truth, BETTER, change)
        decisions = [run.decide(guards=False) for run in runs_of(world, pair, count)]
        name = f"better by {BETTER}, {who} champion"
        yield from promotions(name, decisions, *moments(world.truth, pair))
    pair = with_gain(world.truth, -WORSE, lambda factor: Pair(champion, candidate + factor * noise))
    decisions = [run.decide(guards=False) for run in runs_of(world, pair, count)]
    labels, share = until(decisions, "worse")
    yield at_least(f"worse by {WORSE}: rejected", share, "", MIN_REJECTED)
    yield result(f"worse by {WORSE}: median", labels, "labels")


def promotions(
    name: str, decisions: list[Decision], mean: float, variance: float
) -> Iterator[dict[str, Any]]:
    """Yield the labels until a promotion, beside those of a z-test that promotes as often."""
    labels, share = until(decisions, "better")
    yield result(f"{name}: promoted", share, "")
    yield result(f"{name}: rejected", until(decisions, "worse")[1], "")
    yield result(f"{name}: median", labels, "labels")
    same_power = min(share, 1 - 0.5 / len(decisions))
    usual, fixed = (
        (NORMAL.inv_cdf(1 - RULES.error_rate) + NORMAL.inv_cdf(power)) ** 2 * variance / mean**2
        for power in (USUAL_POWER, same_power)
    )
    yield result(f"{name}: z-test, power {USUAL_POWER}", usual, "labels")
    yield result(f"{name}: z-test, same power", fixed, "labels")
    yield at_most(f"{name}: median / z-test", labels / fixed, "", MAX_RATIO)


def until(decisions: list[Decision], outcome: str) -> tuple[float, float]:
    """Return the median number of labels until an outcome, and the share of runs with it."""
    labels = [one.labels if one.outcome == outcome else math.inf for one in decisions]
    return float(np.median(labels)), float(np.isfinite(labels).mean())


def harmful_pairs(world: World, frame: pd.DataFrame) -> dict[str, Pair]:
    """Return harmful versions after their promotion, each with the former version as the shadow."""
    former, harmful = frame["champion"].to_numpy(), frame["candidate"].to_numpy()
    noise = np.random.default_rng(0).normal(size=len(frame))
    worse = with_gain(world.truth, WORSE, lambda factor: Pair(former + factor * noise, harmful))
    pairs = {"classes inverted": Pair(-harmful, former)}
    for segment in HARMED:
        rows = world.segments[segment]
        constant = np.where(rows, logit(world.truth[rows].mean()), harmful)
        pairs[f"{segment} constant"] = Pair(constant, former)
        pairs[f"{segment} constant, else better by {WORSE}"] = Pair(constant, worse.production)
    return pairs


def fallbacks(world: World, frame: pd.DataFrame, count: int) -> Iterator[dict[str, Any]]:
    """Yield how soon the promotion of a harmful version is undone."""
    for name, pair in harmful_pairs(world, frame).items():
        decisions = [run.decide(guards=True) for run in runs_of(world, pair, count)]
        labels, share = until(decisions, "better")
        yield result(f"{name}: loss by promotion", moments(world.truth, pair)[0], "log loss")
        yield result(f"{name}: undone", share, "")
        yield result(f"{name}: median", labels, "labels")


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="of each kind (200)")
    count, contract = parser.parse_args().runs, load_contract()
    frame = models_of(contract)
    world = World(frame["truth"].to_numpy(), dict(groups_of(frame, contract.segments)))
    results = [
        one
        for part in (equal_versions, challengers, fallbacks)
        for one in part(world, frame, count)
    ]
    write("promotion", results)


if __name__ == "__main__":
    main()
