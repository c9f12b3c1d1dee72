"""Compare the gaps between groups in production with those of the reference data.

A gap is the difference of a rate between two groups of a column with `segment` in the contract. Its
bound is the gap of the same two groups in the reference data, plus what chance adds to it. So a
version is compared with itself: the gaps that it had from the start are on its model card. A gap
that shrinks raises no alarm.

The chance: rows are independent of each other, and all gaps together exceed their bound
`false_alarms_per_month` times a month, however often they are looked at. How often a whole window
of rows is renewed follows from the rows' times. So few labels a day give narrow bounds, and many
labels a second do not give more alarms.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from evidently_service.measure.performance import z_limit
from evidently_service.measure.segments import ClassifiedRows
from evidently_service.reference.monitoring_config import MONTH_S
from evidently_service.store.records import FairnessGap

MAX_LABELS = 10_000  # the newest, for tpr and fpr: the smaller group has few rows with a label of 1
MIN_SPAN_S = 1.0  # of rows that all came at once

# By segment and rate. DataFrame (n_groups, 2), indexed by group: `positives`, predicted class 1,
# among the `rows` below the rate's line.
Counts = dict[tuple[str, str], pd.DataFrame]


class Counted(NamedTuple):
    """Counts of production's rows, and the seconds in which all these rows came."""

    counts: Counts
    span_s: float


class Rate(NamedTuple):
    """A group's rate, with the ends of its interval."""

    value: float
    lower: float
    upper: float
    group: str


def fairness_gaps(
    production: Sequence[Counted], reference: Counts, false_alarms: float
) -> tuple[FairnessGap, ...]:
    """Return for each segment and rate the two groups whose gap is farthest beyond its bound.

    Only groups that production and reference data both have. `false_alarms` a month are expected
    of all gaps together.
    """
    compared = {
        key: (counts.loc[both], reference[key].loc[both], span_s)
        for counted, span_s in production
        for key, counts in counted.items()
        if key in reference and len(both := counts.index.intersection(reference[key].index)) > 1
    }
    pairs = sum(math.comb(len(now), 2) for now, _, _ in compared.values())
    gaps = []
    for (segment, rate), (now, known, span_s) in compared.items():
        # Two ends for each pair: a small gap of the reference data may also turn round and grow.
        z = z_limit(false_alarms, MONTH_S / max(MIN_SPAN_S, span_s), ends=2 * pairs)
        rates = zip(rates_of(now, z), rates_of(known, z))
        found = (growth(*zip(*pair)) for pair in combinations(rates, 2))
        gaps.append(FairnessGap(segment, rate, *max(found)))
    return tuple(gaps)


def growth(
    production: Sequence[Rate], reference: Sequence[Rate]
) -> tuple[float, float, float, str, str]:
    """Return score, gap, gap of the reference data, and the higher and the lower group.

    Of two groups' rates. A score above 1: the interval of the gaps' difference is above 0.

    Source: the square-and-add method of Newcombe (1998), as in `training.evaluation.fairness`, for
    four shares; Zou and Donner (2008), doi:10.1002/sim.3095.
    """
    (low, high), (known_low, known_high) = sorted(production), sorted(reference)
    gap, known_gap = high.value - low.value, known_high.value - known_low.value
    margin = math.hypot(
        high.value - high.lower,
        low.upper - low.value,
        known_high.upper - known_high.value,
        known_low.value - known_low.lower,
    )
    return (gap - known_gap) / margin, gap, known_gap, high.group, low.group


def rates_of(counts: pd.DataFrame, z: float) -> list[Rate]:
    """Return the groups' rates, each with its exact interval of `z` standard deviations.

    Far from the middle of its distribution a share of few rows is not normal at all: with Wilson's
    interval a rare event would come a hundred times as often as `z` says.

    Source: Clopper and Pearson (1934), doi:10.1093/biomet/26.4.404.
    """
    k, n, tail = counts["positives"].to_numpy(), counts["rows"].to_numpy(), stats.norm.sf(z)
    lower = np.where(k == 0, 0.0, stats.beta.ppf(tail, k, n - k + 1))
    upper = np.where(k == n, 1.0, stats.beta.isf(tail, k + 1, n - k))
    columns = ((k / n).tolist(), lower.tolist(), upper.tolist(), counts.index)
    return [Rate(*one) for one in zip(*columns)]


def count_rates(rows: ClassifiedRows, min_rows: int, label: np.ndarray | None = None) -> Counts:
    """Return the counts of the selection rate or, with the rows' labels, of tpr and fpr.

    Of groups with at least `min_rows` rows below the rate's line. label: (n_rows,), 0 or 1.
    """
    below = {"selection_rate": np.ones(len(rows.income_class), bool)}
    if label is not None:
        below = {"tpr": label == 1, "fpr": label == 0}
    counts = {}
    for segment, groups in rows.groups.items():
        for rate, line in below.items():
            classes = pd.Series(rows.income_class[line])
            found = classes.groupby(groups[line]).agg(positives="sum", rows="size")
            counts[segment, rate] = found[found["rows"] >= min_rows]
    return counts
