"""How a model treats groups of people: rates, gaps between groups and calibration, with intervals.

The groups are those of each column with `segment` in the contract, and of each pair of columns. A
share needs enough rows below its line: over fewer it is noise, and may reveal single people.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from config.contract import Contract
from config.runtime.statistics import LEVEL, log_losses
from config.segments import Segment
from training.evaluation.gate import Interval
from training.evaluation.metrics import groups_of, weighted_auc

MIN_ROWS = 30  # below the line of a share, as `min_segment_rows` of the monitoring
RATES = ("selection_rate", "true_positive_rate", "false_positive_rate")


class Scored(NamedTuple):
    """Labelled rows with their predictions; each array is (n_samples,)."""

    y: np.ndarray
    probability: np.ndarray
    selected: np.ndarray  # whether the positive label is predicted
    weight: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, probability: np.ndarray, threshold: float) -> "Scored":
        """Return rows of equal weight."""
        return cls(y, probability, probability >= threshold, np.ones(len(y)))


class Share(NamedTuple):
    """A share of rows in [0, 1], and their effective number, which unequal weights lower."""

    value: float
    rows: float

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the share with the ends of its interval.

        Source: Wilson (1927), Probable inference, doi:10.1080/01621459.1927.10502953.
        """
        square = norm.isf((1 - level) / 2) ** 2 / self.rows
        middle = self.value + square / 2
        spread = math.sqrt(square * self.value * (1 - self.value) + square**2 / 4)
        return Interval(self.value, *((middle + way * spread) / (1 + square) for way in (-1, 1)))


class Gap(NamedTuple):
    """The difference of a rate between the groups with its maximum and its minimum."""

    columns: str
    rate: str
    gap: Interval
    highest: str
    lowest: str


def rates(rows: np.ndarray, scored: Scored) -> dict[str, Share]:
    """Return the share predicted positive of a group's rows, its positives and its negatives."""
    below = (rows, rows & (scored.y == 1), rows & (scored.y == 0))
    return {
        rate: Share(
            float(np.average(scored.selected[of], weights=scored.weight[of])),
            effective_rows(scored.weight[of]),
        )
        for rate, of in zip(RATES, below)
        if of.sum() >= MIN_ROWS
    }


def groups_by_columns(
    frame: pd.DataFrame, segments: Sequence[Segment]
) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Return name and mask of the groups of each column, and of each pair: "race and sex"."""
    groups = {one.name: list(groups_of(frame, [one])) for one in segments}
    for first, second in combinations(groups.copy(), 2):
        groups[f"{first} and {second}"] = [
            (f"{one}, {other}", rows & others)
            for one, rows in groups[first]
            for other, others in groups[second]
        ]
    return groups


def find_gaps(frame: pd.DataFrame, segments: Sequence[Segment], scored: Scored) -> Iterator[Gap]:
    """Yield the gap of each rate over the groups of each column and of each pair of columns.

    The two groups are chosen for their difference. So the level of the interval is that of all
    pairs of groups together, by Bonferroni.
    """
    for columns, of in groups_by_columns(frame, segments).items():
        shares = {name: rates(rows, scored) for name, rows in of}
        for rate in RATES:
            known = sorted((one[rate], name) for name, one in shares.items() if rate in one)
            if len(known) > 1:
                (low, lowest), (high, highest) = known[0], known[-1]
                level = 1 - (1 - LEVEL) / math.comb(len(known), 2)
                yield Gap(columns, rate, difference(high, low, level), highest, lowest)


def difference(high: Share, low: Share, level: float) -> Interval:
    """Return the difference of two shares of independent rows, with its interval.

    Source: Newcombe (1998), Interval estimation for the difference between independent proportions,
    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I, method 10.
    """
    gap, one, other = high.value - low.value, high.interval(level), low.interval(level)
    below = math.hypot(high.value - one.low, other.high - low.value)
    above = math.hypot(one.high - high.value, low.value - other.low)
    return Interval(gap, gap - below, gap + above)


def excess(rows: np.ndarray, scored: Scored) -> Interval:
    """Return mean probability minus share of positives; the interval holds the labels' noise."""
    weight = scored.weight[rows] / scored.weight[rows].sum()
    p = scored.probability[rows].astype(np.float64)
    value = float(weight @ (p - scored.y[rows]))
    noise = norm.isf((1 - LEVEL) / 2) * math.sqrt(weight**2 @ (p * (1 - p)))
    return Interval(value, value - noise, value + noise)


def group_table(frame: pd.DataFrame, segments: Sequence[Segment], scored: Scored) -> pd.DataFrame:
    """Return a row per group of at least MIN_ROWS rows: counts, rates, excess, AUC, log loss."""
    found = {}
    for name, rows in groups_of(frame, segments):
        y, p = scored.y[rows], scored.probability[rows].astype(np.float64)
        counts = np.bincount(y, minlength=2)
        if counts.sum() >= MIN_ROWS:
            found[name] = {
                "rows": int(counts.sum()),
                "positives": int(counts[1]),
                **{rate: in_words(one.interval()) for rate, one in rates(rows, scored).items()},
                "calibration_excess": in_words(excess(rows, scored)),
                "roc_auc": roc_auc_score(y, p) if counts.min() >= MIN_ROWS else math.nan,
                "log_loss": log_losses(y, p).mean(),
            }
    return pd.DataFrame.from_dict(found, orient="index")


def gap_table(frame: pd.DataFrame, contract: Contract, scored: Scored) -> pd.DataFrame:
    """Return a row per gap, with the gap of weighted rows too if the contract has a weight."""
    rows = [
        gap._asdict() | {"gap": in_words(gap.gap)}
        for gap in find_gaps(frame, contract.segments, scored)
    ]
    if (weight := row_weights(frame, contract)) is not None:
        weighted = find_gaps(frame, contract.segments, scored._replace(weight=weight))
        for row, gap in zip(rows, weighted):
            row["weighted gap"] = in_words(gap.gap)
    return pd.DataFrame(rows).set_index("columns").rename_axis(None) if rows else pd.DataFrame()


def row_weights(frame: pd.DataFrame, contract: Contract) -> np.ndarray | None:
    """Return what each row stands for; None without a column of weights, or with a missing one."""
    column = next((one.name for one in contract.features if one.weight), None)
    if column is None or column not in frame or frame[column].isna().any():
        return None
    return frame[column].to_numpy(float)


def population_words(frame: pd.DataFrame, contract: Contract, scored: Scored) -> str:
    """Return the quality of weighted rows as a paragraph of HTML, empty without a weight."""
    weight = row_weights(frame, contract)
    if weight is None:
        return ""
    y, probability = scored.y, scored.probability.astype(np.float64)
    everyone, scored = np.ones(len(y), bool), scored._replace(weight=weight)
    loss = np.average(log_losses(y, probability), weights=weight)
    return (
        "<p>Weighted by the number that each row stands for:"
        f" ROC AUC {weighted_auc(y, probability)(weight):.4f}, log loss {loss:.4f},"
        f" calibration excess {in_words(excess(everyone, scored))}. The weights leave"
        f" {effective_rows(weight):,.0f} effective rows.</p>"
    )


def effective_rows(weight: np.ndarray) -> float:
    """Return the number of rows of equal weight that say as much.

    Source: Kish (1965), Survey Sampling, Wiley, section 11.7.
    """
    return float(weight.sum() ** 2 / (weight**2).sum())


def in_words(interval: Interval) -> str:
    """Return an estimate with its ends as text."""
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"
