"""Calculate the scores of Evidently's drift tests from counts, for many windows at once.

Why the verdict does not call Evidently: the thresholds need the score of 48,000 resampled windows
of each column. Evidently takes 2 ms for each of them, numpy takes seconds for all. The judge uses
the same functions, so its scores match its thresholds. A test holds every function equal to
Evidently 0.7 (`evidently.legacy.calculations.stattests`).

Only the tests of `config/monitoring.yaml` are here. Throughout: `values` (n_values,), the distinct
values of a column in ascending order; `reference` (n_values,), the number of rows of the reference
data with each value; `windows` (n_windows, n_values), the same for each window. All windows have
the same number of rows.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial import distance

MIN_STD = 0.001  # of the reference data, in the Wasserstein test


class Counts(NamedTuple):
    """A column of reference data and windows, counted by its distinct values."""

    values: np.ndarray
    reference: np.ndarray
    windows: np.ndarray

    @property
    def rows(self) -> tuple[int, int]:
        """The rows of one window and of the reference data."""
        return int(self.windows[0].sum()), int(self.reference.sum())


def count(reference: pd.Series, window: pd.Series) -> Counts:
    """Return the counts of one window: `windows` has one row. Missing numbers do not count."""
    reference, window = reference.dropna(), window.dropna()
    codes, values = pd.factorize(pd.concat([reference, window]), sort=True)
    of_reference, of_window = (
        np.bincount(part, minlength=len(values)) for part in np.split(codes, [len(reference)])
    )
    return Counts(np.asarray(values), of_reference, of_window[np.newaxis])


def score(reference: pd.Series, window: pd.Series, test: str) -> float:
    """Return Evidently's score of one window of a column."""
    return float(scores(test, count(reference, window))[0])


def scores(test: str, counts: Counts) -> np.ndarray:
    """Return Evidently's score of each window (n_windows,): a distance, or a p-value for ks."""
    found = distances(test, counts)
    return np.array([ks_p_value(gap, *counts.rows) for gap in found]) if test == "ks" else found


def distances(test: str, counts: Counts) -> np.ndarray:
    """Return the distance of each window (n_windows,); for ks the largest gap, in [0, 1]."""
    if test == "wasserstein":
        return wasserstein(counts)
    if test == "jensenshannon":
        reference = np.broadcast_to(counts.reference, counts.windows.shape)
        return distance.jensenshannon(reference, counts.windows, axis=1)
    return np.abs(_cumulated(counts.windows) - _cumulated(counts.reference)).max(axis=1)


def wasserstein(counts: Counts) -> np.ndarray:
    """Return the area between the distribution functions, in reference standard deviations."""
    gap = np.abs(_cumulated(counts.windows) - _cumulated(counts.reference))
    values = counts.values.astype(float)
    shares = counts.reference / counts.reference.sum()
    std = np.sqrt(shares @ (values - shares @ values) ** 2)
    return gap[:, :-1] @ np.diff(values) / max(std, MIN_STD)


def ks_p_value(gap: float, rows: int, reference_rows: int) -> float:
    """Return the p-value of the largest gap between two distribution functions.

    It depends on the gap and both numbers of rows alone. So SciPy gets two samples of zeros and
    ones with this gap.
    """
    scale = int(np.lcm(rows, reference_rows))
    step = round(gap * scale)
    for ones in range(rows + 1):
        others, rest = divmod(ones * (scale // rows) - step, scale // reference_rows)
        if not rest and 0 <= others <= reference_rows:
            zeros_and_ones = np.arange(reference_rows) < others, np.arange(rows) < ones
            return float(stats.ks_2samp(*map(np.ndarray.astype, zeros_and_ones, (int, int))).pvalue)
    raise ValueError(f"no samples of {rows} and {reference_rows} rows have a gap of {gap}")


def _cumulated(counts: np.ndarray) -> np.ndarray:
    cumulated = np.cumsum(counts, axis=-1)
    return cumulated / cumulated[..., -1:]
