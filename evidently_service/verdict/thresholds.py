"""Find the thresholds of the drift tests, for a budget of false alarms.

Reference data and `config/monitoring.yaml` -> a threshold for each column and window size ->
`judge` and `measure.drift`. This takes about five seconds for each window size.

The method. A false alarm of a column: nothing has drifted, yet its score exceeds its threshold in
k = `persistent_windows` windows in a row, which share no rows. A month has at most
MONTH_S / `judge_period_s` windows. Expected values add up even for dependent columns. So all
columns get equal shares of the budget, which then is the expected number of all false alarms:
control of the per-family error rate (Spjotvoll 1972, doi:10.1214/aoms/1177692621). An alarm of
several columns at once counts several times.

The bootstrap (Efron 1979, doi:10.1214/aos/1176344552) gives the scores without drift. The reference
data are a sample too, and all windows of a month are compared with the same one: an unlucky sample
gives many false alarms. So the bootstrap draws references, and windows for each reference. The
chance of an alarm, p^k, is averaged over the references.

A sample of a column with many rare categories lacks some of them, so its scores are a few per cent
too small. The bootstrap of the bootstrap estimates and corrects this (Hall and Martin 1988,
doi:10.1093/biomet/75.4.661).
"""

from bisect import bisect_left

import numpy as np
import pandas as pd
from scipy.special import comb

from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.reference.reference_data import Reference
from evidently_service.reference.registry import Version
from evidently_service.verdict import scores
from evidently_service.verdict.scores import Counts

REFERENCES, WINDOWS = 400, 100  # drawn for each column: references, and windows for each
# For the correction: samples of the reference data, references for each, windows for each of those.
SAMPLES, SAMPLE_REFERENCES, SAMPLE_WINDOWS = 40, 10, 20
MIN_DISTANCE = 1e-9  # the threshold of a constant column: every change is drift
MAX_P_VALUE = 1 - 1e-9
MAX_VALUES = 1000  # more distinct values are grouped by rank: a score changes by less than 0.1 %


class Thresholds:
    """The thresholds for the current reference data, found once for each window size."""

    def __init__(self, monitoring: Monitoring) -> None:
        self.monitoring = monitoring
        self._version: Version | None = None
        self._by_size: dict[int, Monitoring] = {}

    def apply(self, reference: Reference, rows: int) -> Monitoring:
        """Return the monitoring with all thresholds for a window of this many rows."""
        if reference.version != self._version:
            self._version, self._by_size = reference.version, {}
        size = window_size(self.monitoring, rows)
        if size not in self._by_size:
            found = find_thresholds(reference.frame, self.monitoring, size)
            self._by_size[size] = self.monitoring.with_thresholds(found)
        return self._by_size[size]


def window_size(monitoring: Monitoring, rows: int) -> int:
    """Return the size whose thresholds a window gets: a full window, a half, a quarter...

    A window with more rows than that gives fewer false alarms.
    """
    size = monitoring.window_rows
    while size > max(rows, monitoring.min_rows):
        size = max(size // 2, monitoring.min_rows)
    return size


def find_thresholds(
    reference: pd.DataFrame, monitoring: Monitoring, rows: int, seed: int = 0
) -> dict[str, float]:
    """Return the threshold of each column without its own, for windows of this many rows."""
    chance = monitoring.false_alarm_chance
    found = {}
    for number, (name, test) in enumerate(monitoring.tests.items()):
        if test.threshold is None:
            rng = np.random.default_rng((seed, number))
            distances = draw_distances(reference[name], test.test, rows, rng)
            limit = limit_of(distances, monitoring.persistent_windows, chance)
            found[name] = as_score(limit, test.test, rows, len(reference))
    return found


def limit_of(distances: np.ndarray, persistent_windows: int, chance: float) -> float:
    """Return the minimum distance that k windows in a row exceed with at most this chance.

    `distances` (n_references, n_windows). If x of m windows exceed it, C(x, k) / C(m, k) is an
    unbiased estimate of p^k; (x / m)^k would be too large.
    """
    combinations = comb(distances.shape[1], persistent_windows)

    def is_rare(limit: float) -> bool:
        beyond = (distances > limit).sum(axis=1)
        return float(comb(beyond, persistent_windows).mean() / combinations) <= chance

    candidates = np.unique(distances)
    return float(candidates[bisect_left(candidates, True, key=is_rare)])


def draw_distances(column: pd.Series, test: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return the distances of undrifted windows from their references (n_references, n_windows)."""
    population = population_of(column, test)
    distances = population.draw(REFERENCES, WINDOWS, rows, rng)
    if test != "jensenshannon":
        return distances
    of_samples = [
        population.resampled(rng).draw(SAMPLE_REFERENCES, SAMPLE_WINDOWS, rows, rng).mean()
        for _ in range(SAMPLES)
    ]
    return distances * max(1.0, distances.mean() / max(np.mean(of_samples), MIN_DISTANCE))


def population_of(column: pd.Series, test: str) -> "Population":
    """Return a population with the values of a column, as frequent as in the column."""
    codes, distinct = pd.factorize(column, sort=True)
    values = np.asarray(distinct)
    if pd.api.types.is_numeric_dtype(column) and len(values) > MAX_VALUES:
        groups = np.arange(len(values)) * MAX_VALUES // len(values)
        codes = groups[codes]
        values = np.bincount(groups, values) / np.bincount(groups)
    return Population(codes, values, test)


class Population:
    """The values of a column, from which references and windows are drawn."""

    def __init__(self, codes: np.ndarray, values: np.ndarray, test: str) -> None:
        self.codes = codes  # (n_rows,), indices of `values`
        self.values = values
        self.test = test

    def resampled(self, rng: np.random.Generator) -> "Population":
        """Return a sample of this population, with the same number of rows."""
        codes = self.codes[rng.integers(0, len(self.codes), len(self.codes))]
        return Population(codes, self.values, self.test)

    def draw(
        self, references: int, windows: int, rows: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Return distances (references, windows); a reference is as large as the population."""
        distances = np.empty((references, windows))
        for each in distances:
            reference = self._counts(1, len(self.codes), rng)[0]
            counts = Counts(self.values, reference, self._counts(windows, rows, rng))
            each[:] = scores.distances(self.test, counts)
        return distances

    def _counts(self, samples: int, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Return how often each value is in each sample (samples, n_values)."""
        kinds = len(self.values)
        drawn = self.codes[rng.integers(0, len(self.codes), (samples, rows))]
        places = drawn + kinds * np.arange(samples)[:, np.newaxis]
        return np.bincount(places.ravel(), minlength=samples * kinds).reshape(samples, kinds)


def as_score(distance: float, test: str, rows: int, reference_rows: int) -> float:
    """Return Evidently's score of a distance, within the range of a threshold."""
    if test == "ks":
        return min(scores.ks_p_value(distance, rows, reference_rows), MAX_P_VALUE)
    return max(distance, MIN_DISTANCE)
