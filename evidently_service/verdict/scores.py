"""The scores of Evidently's tests from counts alone: thousands of windows at once, in numpy.

`thresholds` and `judgement` need a score for each of many windows, and a report takes a second.
Here a column is counted by its distinct values, and each function gives for every window what
Evidently 0.7 gives for it (`evidently.legacy.calculations.stattests`; a test holds them equal).

Throughout: `values` (n_values,), the distinct values in ascending order; `reference` (n_values,),
how often each is in the reference; `windows` (n_windows, n_values), how often in each window. All
windows have the same number of rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial import distance

MOST_CATEGORIES = 20  # numbers with more distinct values than this in the reference are binned
SMALLEST_STD = 0.001  # of the reference, in the Wasserstein test


class Counts(NamedTuple):
    """A column of reference and windows, counted by its distinct values."""

    values: np.ndarray
    reference: np.ndarray
    windows: np.ndarray


def count(reference: pd.Series, window: pd.Series) -> Counts:
    """The counts of one window: `windows` has one row."""
    codes, values = pd.factorize(pd.concat([reference, window]), sort=True)
    split = np.split(codes, [len(reference)])
    counted = [np.bincount(part, minlength=len(values)) for part in split]
    return Counts(np.asarray(values), counted[0], counted[1][np.newaxis])


def score(reference: pd.Series, window: pd.Series, test: str) -> float:
    """Evidently's score of one window of a column."""
    numeric = pd.api.types.is_numeric_dtype(reference)
    return float(scores(test, count(reference, window), numeric)[0])


def scores(test: str, counts: Counts, numeric: bool) -> np.ndarray:
    """The score of each window (n_windows,), as Evidently gives it: a distance or a p-value."""
    if test == "wasserstein":
        return wasserstein(counts)
    if test == "ks":
        return ks(counts)
    if test == "chisquare":
        return chisquare(counts)
    compare = psi if test == "psi" else jensenshannon
    if numeric and np.count_nonzero(counts.reference) > MOST_CATEGORIES:
        found = np.empty(len(counts.windows))
        for chosen, binned in histograms(counts):
            found[chosen] = compare(binned, np.ones_like(binned.windows, bool))
        return found
    return compare(counts, (counts.reference > 0) | (counts.windows > 0))


def wasserstein(counts: Counts) -> np.ndarray:
    """The area between the two distribution functions, in standard deviations of the reference."""
    gap = np.abs(_cumulated(counts.windows) - _cumulated(counts.reference))
    values = counts.values.astype(float)
    shares = counts.reference / counts.reference.sum()
    std = np.sqrt(shares @ (values - shares @ values) ** 2)
    return gap[:, :-1] @ np.diff(values) / max(std, SMALLEST_STD)


def ks(counts: Counts) -> np.ndarray:
    """The p-values of the two-sample Kolmogorov-Smirnov test."""
    sizes = int(counts.windows[0].sum()), int(counts.reference.sum())
    return np.array([ks_p_value(gap, *sizes) for gap in ks_gaps(counts)])


def ks_gaps(counts: Counts) -> np.ndarray:
    """The largest gaps between the two distribution functions, in [0, 1]."""
    return np.abs(_cumulated(counts.windows) - _cumulated(counts.reference)).max(axis=1)


def ks_p_value(gap: float, rows: int, reference_rows: int) -> float:
    """The p-value of a gap, which depends on nothing else but the two numbers of rows.

    So SciPy is asked about two samples of zeros and ones that have this gap.
    """
    scale = int(np.lcm(rows, reference_rows))
    step = round(gap * scale)
    for ones in range(rows + 1):
        others, rest = divmod(ones * (scale // rows) - step, scale // reference_rows)
        if not rest and 0 <= others <= reference_rows:
            zeros_and_ones = np.arange(reference_rows) < others, np.arange(rows) < ones
            return float(stats.ks_2samp(*map(np.ndarray.astype, zeros_and_ones, (int, int))).pvalue)
    raise ValueError(f"no samples of {rows} and {reference_rows} rows have a gap of {gap}")


def chisquare(counts: Counts) -> np.ndarray:
    """The p-values of the chi-square test of the window against the reference's shares."""
    expected = counts.reference * (counts.windows[0].sum() / counts.reference.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (counts.windows - expected) ** 2 / expected
    terms[np.isnan(terms)] = 0.0  # a category that is in neither
    kinds = ((counts.reference > 0) | (counts.windows > 0)).sum(axis=1)
    return np.where(kinds > 1, stats.chi2.sf(terms.sum(axis=1), np.maximum(kinds - 1, 1)), 1.0)


def jensenshannon(counts: Counts, _present: np.ndarray) -> np.ndarray:
    """The Jensen-Shannon distances, with natural logarithms."""
    reference = np.broadcast_to(counts.reference, counts.windows.shape)
    return distance.jensenshannon(reference, counts.windows, axis=1)


def psi(counts: Counts, present: np.ndarray) -> np.ndarray:
    """The population stability indices over the values that are `present`, as `windows` shaped.

    A share of zero is replaced by Evidently's small number.
    """
    reference = _filled(np.broadcast_to(counts.reference, counts.windows.shape))
    window = _filled(counts.windows)
    return np.sum((reference - window) * np.log(reference / window), axis=1, where=present)


def histograms(counts: Counts) -> Iterator[tuple[np.ndarray, Counts]]:
    """Which windows, and their counts in Evidently's bins; the bins depend on a window's range.

    Sturges' number of bins over the range of reference and window together.
    """
    rows = int(counts.reference.sum() + counts.windows[0].sum())
    occupied = (counts.windows > 0) | (counts.reference > 0)
    ends = np.stack([occupied.argmax(axis=1), occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)])
    ranges, places = np.unique(ends, axis=1, return_inverse=True)
    for place, (first, stop) in enumerate(ranges.T):
        combined = np.full(rows, counts.values[first], counts.values.dtype)
        combined[-1] = counts.values[stop - 1]  # size and range are all that the rule looks at
        edges = np.histogram_bin_edges(combined, bins="sturges")
        bins = np.searchsorted(edges[1:-1], counts.values, side="right")
        starts = np.searchsorted(bins, np.arange(len(edges) - 1))
        chosen = np.flatnonzero(places.ravel() == place)
        yield chosen, Counts(
            edges[:-1],
            _summed(counts.reference[np.newaxis], starts)[0],
            _summed(counts.windows[chosen], starts),
        )


def _summed(counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Counts by bin from counts by value; a bin runs to the start of the next and may be empty."""
    before = np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0)))
    return np.diff(before[:, [*starts, counts.shape[1]]], axis=1)


def _cumulated(counts: np.ndarray) -> np.ndarray:
    cumulated = np.cumsum(counts, axis=-1)
    return cumulated / cumulated[..., -1:]


def _filled(counts: np.ndarray) -> np.ndarray:
    shares = counts / counts.sum(axis=1, keepdims=True)
    least = np.where(shares > 0, shares, np.inf).min(axis=1, keepdims=True)
    return np.where(shares == 0, np.where(least <= 0.0001, least / 10**6, 0.0001), shares)
