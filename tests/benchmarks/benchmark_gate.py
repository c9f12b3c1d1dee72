"""How often the gate promotes an equal, a recalibrated and a worse candidate, by holdout rows.

    make bench NAME=gate

Two models of the census differ by their seed alone. The mean of their log-odds on the test split is
taken as the truth: it draws labels for the split's rows, again for each comparison. The champion is
the first model; the candidate is the second. In the A/A comparison a coin swaps both predictions of
each row, so the models are equal. In the others the champion's odds are twice too high, as after a
change of the base rate. The last candidate has noise on its log-odds besides. The gate has the
segments of the contract and no floor set.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from config.contract import Contract, load_contract
from tests.benchmarks.benchmark_retraining import fit
from tests.benchmarks.census import read_census
from tests.benchmarks.report import at_least, at_most, result, write
from training.evaluation.gate import MARGIN_ROC_AUC, HoldoutSet, Verdict, gate
from training.evaluation.metrics import weighted_auc

SIZES = (250, 1000, 2000, 8139)
ODDS = 2.0  # the factor of the champion's odds
BLUR = 0.5  # standard deviation of the noise on log-odds
RESAMPLES = 200
MAX_AA, MIN_POWER = 0.05, 0.7
CANDIDATES = ("equal", "recalibrated", "recalibrated, blurred")


class Column:
    """A model whose log-odds are a column of the frame."""

    threshold, size_mb = 0.5, 1.0
    metadata = {"data_source": "uci"}

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the probability of the positive label (n_samples,)."""
        return expit(frame[self.name].to_numpy())


def models_of(contract: Contract) -> pd.DataFrame:
    """Return the test split with the log-odds of each model and the true probability."""
    census = read_census(contract)
    frame, margins = census.test.reset_index(drop=True), []
    for seed in (0, 1):
        model, _ = fit(census.train, contract, seed=seed)
        margins.append(logit(model.score(frame[list(contract.input_names)]).astype(float)))
    blur = np.random.default_rng(0).normal(0, BLUR, len(frame))
    return frame.assign(
        champion=margins[0],
        candidate=margins[1],
        blurred=margins[1] + blur,
        truth=expit(np.mean(margins, axis=0)),
    )


def compare(
    world: pd.DataFrame, who: str, size: int, random: np.random.Generator, contract: Contract
) -> Verdict:
    """Return the verdict on one candidate, on drawn rows with drawn labels."""
    frame = world.iloc[random.choice(len(world), size, replace=False)].reset_index(drop=True)
    y = (random.random(size) < frame["truth"].to_numpy()).astype(int)
    if who == "equal":
        swapped = random.random(size) < 0.5
        first, second = frame["champion"], frame["candidate"]
        frame["champion"] = np.where(swapped, second, first)
        frame["candidate"] = np.where(swapped, first, second)
    else:
        frame["champion"] += np.log(ODDS)
    holdout = HoldoutSet(frame, y, "drawn", segments=contract.segments)
    candidate = Column("blurred" if "blurred" in who else "candidate")
    seed = int(random.integers(2**31))
    champion = Column("champion")
    return gate(candidate, champion, holdout, seed=seed, resamples=RESAMPLES, latency_rows=1)


def true_auc(world: pd.DataFrame, name: str) -> float:
    """Return the expected ROC AUC of a column: each row counts for both labels."""
    truth = world["truth"].to_numpy()
    y = np.repeat([1, 0], len(world))
    return weighted_auc(y, np.tile(world[name].to_numpy(), 2))(np.r_[truth, 1 - truth])


def figures(who: str, size: int, verdicts: list[Verdict]) -> Iterator[dict[str, Any]]:
    """Yield the share of promotions, that of each rule, and how narrow the intervals are."""
    name, share = f"{size} rows, {who}", float(np.mean([one.promote for one in verdicts]))
    if who == "equal":
        yield at_most(f"{name}: promoted", share, "", MAX_AA)
    elif who == "recalibrated" and size >= 1000:
        yield at_least(f"{name}: promoted", share, "", MIN_POWER)
    else:
        yield result(f"{name}: promoted", share, "")
    for rule in ("roc_auc", "log loss may", "not shown"):
        stopped = float(np.mean([one.reason.startswith(rule) for one in verdicts]))
        yield result(f"{name}: stopped by '{rule}'", stopped, "")
    gains = [one.roc_auc_gain for one in verdicts if one.roc_auc_gain]
    width = float(np.median([one.estimate - one.low for one in gains])) / MARGIN_ROC_AUC
    yield result(f"{name}: half width of the ROC AUC, in margins", width, "")


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=100, help="of each kind and size (100)")
    options = parser.parse_args()
    contract, random = load_contract(), np.random.default_rng(0)
    world = models_of(contract)
    results: list[dict[str, Any]] = []
    for name in ("candidate", "blurred"):
        gain = true_auc(world, name) - true_auc(world, "champion")
        results.append(result(f"true gain in ROC AUC, {name}", gain, ""))
    for size in SIZES:
        for who in CANDIDATES:
            verdicts = [
                compare(world, who, size, random, contract) for _ in range(options.comparisons)
            ]
            results += figures(who, size, verdicts)
    write("gate", results)


if __name__ == "__main__":
    main()
