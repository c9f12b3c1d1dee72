"""Learn from the first windows of a version how much the windows of its traffic differ: phase I.

The thresholds hold for rows that are independent of each other. Real rows are not: a day has its
hours, and a client sends a batch of one kind. Then undrifted windows differ more from each other
than chance explains, and thresholds for independent rows give many false alarms. So each column
gets a factor for its ratios. It follows from the overdispersion of the column's shares over the
windows (Wedderburn 1974, doi:10.1093/biomet/61.3.439).

The shares of a window are compared with their mean over the windows, not with the reference data.
So a version whose first windows have drifted already learns no drift as normal: an equal drift of
all windows moves only their mean. A drift that begins later is in one of two blocks of windows
only, and the smaller factor of both blocks counts. Windows with dataset drift never count.
"""

from collections.abc import Mapping
from math import inf, sqrt
from typing import NamedTuple

import msgspec
import numpy as np

from evidently_service.reference.monitoring_config import P_VALUE_TESTS
from evidently_service.store.records import Judgement, Spread
from evidently_service.verdict.scores import Counts

BINS = 20  # of a number, with equal shares of the reference data where its values allow that
MIN_SHARE = 0.01  # a rarer category weighs as if it had this share


class Compared(NamedTuple):
    """A column of one window, compared with the reference data."""

    ratio: float  # of its score to its threshold
    test: str
    counts: Counts


def calibrate(judgement: Judgement, compared: Mapping[str, Compared], windows: int) -> Judgement:
    """Return the judgement with one more of `windows` calm windows, and the factors after half."""
    if judgement.calm_windows >= windows:
        return judgement
    calm = judgement.calm_windows + 1
    spreads = {
        name: spread_with(judgement.spreads.get(name, Spread()), one)
        for name, one in compared.items()
    }
    judgement = msgspec.structs.replace(
        judgement, calm_windows=calm, spreads=judgement.spreads | spreads
    )
    if calm not in (windows // 2, windows):
        return judgement
    factors = {
        name: min(factor_of(judgement.spreads[name], one.test), judgement.factors.get(name, inf))
        for name, one in compared.items()
    }
    return msgspec.structs.replace(judgement, factors=judgement.factors | factors, spreads={})


def spread_with(spread: Spread, compared: Compared) -> Spread:
    """Return the spread with one more window of a column (Welford 1962, doi:10.2307/1266577)."""
    expected, share, weight = shares(compared.test, compared.counts)
    unit = float(weight @ (expected * (1 - expected))) / compared.counts.rows[0]
    before = np.array(spread.mean) if spread.windows else share
    mean = before + (share - before) / (spread.windows + 1)
    added = float(weight @ ((share - before) * (share - mean))) / unit if unit else 0.0
    return Spread(spread.windows + 1, tuple(mean.tolist()), spread.excess + added)


def shares(test: str, counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shares of reference data and window, and the weight of each, all (n_shares,).

    The shares of the reference data's categories, or those up to the edges of its bins.
    """
    expected, share = (one / one.sum() for one in (counts.reference, counts.windows[0]))
    if test == "jensenshannon":
        kept = np.flatnonzero(expected)
        return expected[kept], share[kept], 1 / np.maximum(expected[kept], MIN_SHARE)
    expected, share = np.cumsum(expected), np.cumsum(share)
    edges = np.unique(np.searchsorted(expected, np.arange(1, BINS) / BINS))
    return expected[edges], share[edges], np.ones(len(edges))


def factor_of(spread: Spread, test: str) -> float:
    """Return the factor of a column's ratios, at least 1.

    Distances grow with the standard deviation, logarithms of p-values with the variance.
    """
    excess = max(1.0, spread.excess / max(1, spread.windows - 1))
    return excess if test in P_VALUE_TESTS else sqrt(excess)
