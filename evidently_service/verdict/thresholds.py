"""Find the thresholds of the drift tests, for a budget of false alarms.

Reference data and `config/monitoring.yaml` -> a threshold for each column and window size ->
`judge` and `measure.drift`. This takes about five seconds for each window size.

The method, for rows that are independent of each other; `calibration` widens the thresholds for
real traffic. A false alarm of a column: nothing has drifted, yet its score exceeds its threshold in
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

Missing numbers are left out of the score and of the samples. A window with fewer values than the
reference data lets expect gets the threshold for about its own number of values.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping

import msgspec
import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import comb

from evidently_service.reference.monitoring_config import ColumnTest, Monitoring
from evidently_service.reference.reference_data import Reference
from evidently_service.reference.registry import Version
from evidently_service.verdict import scores
from evidently_service.verdict.scores import Counts

REFERENCES, WINDOWS = 400, 100  # drawn for each column: references, and windows for each
# For the correction: samples of the reference data, references for each, windows for each of those.
SAMPLES, SAMPLE_REFERENCES, SAMPLE_WINDOWS = 40, 10, 20
MIN_DISTANCE = 1e-9  # of a threshold, which must be above 0
MIN_VALUES = 30  # of a column, in the window and in the reference data
MIN_OTHER_VALUES = 10  # beside the commonest: with fewer, their standard deviation is chance
MAX_P_VALUE = 0.9  # of a threshold: nearer to 1, a ratio of logarithms is without bound
FULL_SHARE = 0.95  # of a size from which a window has its thresholds: a score changes by 3 %
FEW_VALUES = 10  # of a column, up to which counts are drawn in place of rows
MAX_VALUES = 1000  # more distinct values are grouped by rank: a score changes by less than 0.1 %


class Thresholds:
    """The thresholds for the current reference data, found once for each column and size."""

    def __init__(self, monitoring: Monitoring) -> None:
        self.monitoring = monitoring
        self._version: Version | None = None
        self._found: dict[tuple[str, int], ColumnTest] = {}

    def apply(
        self, reference: Reference, window: pd.DataFrame, factors: Mapping[str, float]
    ) -> Monitoring:
        """Return the monitoring with all thresholds for a window, widened by the columns' factors.

        Features with too few values in the window or in the reference data are left out. Both
        frames as `monitored_frame` returns them.
        """
        if reference.version != self._version:
            self._version, self._found = reference.version, {}
        rows, tests = window_size(self.monitoring, len(window)), {}
        for name, test in self.monitoring.tests.items():
            before, after = reference.frame[name].dropna(), window[name].dropna()
            if min(len(before), len(after)) < min(MIN_VALUES, self.monitoring.min_rows):
                continue
            expected = round(rows * len(before) / len(reference.frame))
            key = name, values_size(expected, len(after))
            if test.threshold is None and key not in self._found:
                self._found[key] = find_threshold(name, before, self.monitoring, key[1])
            found = self._found.get(key)
            tests[name] = found.widened(factors.get(name, 1)) if found else test
        features = {name: tests[name] for name in self.monitoring.features if name in tests}
        return msgspec.structs.replace(self.monitoring.with_tests(tests), features=features)


def window_size(monitoring: Monitoring, rows: int) -> int:
    """Return the size whose thresholds a window gets: a full window, a half, a quarter...

    A window with more rows than that gives fewer false alarms.
    """
    size = monitoring.window_rows
    while size > monitoring.min_rows and FULL_SHARE * size > rows:
        size = max(size // 2, monitoring.min_rows)
    return size


def values_size(expected: int, values: int) -> int:
    """Return the number of values whose threshold a column gets: as expected, a half, a quarter...

    `expected` values follow from the missing values of the reference data. A window may have fewer
    by chance, but not by more than three standard errors.
    """
    size = expected
    while size > values + 3 * math.sqrt(values):
        size //= 2
    return size


def find_thresholds(
    reference: pd.DataFrame, monitoring: Monitoring, rows: int, seed: int = 0
) -> dict[str, ColumnTest]:
    """Return each column's test with its threshold for windows of this many rows.

    Columns with a threshold of their own are left out. Every column has values.
    """
    found = {}
    for name, test in monitoring.tests.items():
        if test.threshold is None:
            values = reference[name].dropna()
            size = round(rows * len(values) / len(reference))
            found[name] = find_threshold(name, values, monitoring, size, seed)
    return found


def find_threshold(
    name: str, values: pd.Series, monitoring: Monitoring, size: int, seed: int = 0
) -> ColumnTest:
    """Return a column's test with its threshold for windows with this many values.

    `values` (n_values,) are those of the reference data, without missing ones.
    """
    test = usable_test(monitoring.tests[name].test, values)
    rng = np.random.default_rng((seed, list(monitoring.tests).index(name)))
    distances = draw_distances(values, test, size, rng)
    k, chance = monitoring.persistent_windows, monitoring.false_alarm_chance
    limit = limit_of(distances, k, chance) or unshown_distance(test, size, len(values), chance, k)
    return ColumnTest(test, as_score(limit, test, size, len(values)))


def usable_test(test: str, values: pd.Series) -> str:
    """Return ks in place of wasserstein for a column that is constant or nearly so.

    Its standard deviation, the unit of wasserstein, is 0 or that of a few rows.
    """
    few = test == "wasserstein" and len(values) - values.value_counts().max() < MIN_OTHER_VALUES
    return "ks" if few else test


def unshown_distance(test: str, rows: int, reference_rows: int, chance: float, k: int) -> float:
    """Return the distance that a value absent from a constant column can have without drift.

    The reference data cannot exclude a share of 3 / reference_rows: at such a share, one sample in
    20 lacks the value (rule of three; Hanley and Lippman-Hand 1983, doi:10.1001/jama.249.13.1743).
    So many rows have it that more of them come in k windows in a row with at most this chance.
    """
    share = min(1.0, 3 / reference_rows)
    others = int(stats.binom.isf(chance ** (1 / k), rows, share))
    windows = np.array([[rows - others, others]])
    counts = Counts(np.array([0, 1]), np.array([reference_rows, 0]), windows)
    return float(scores.distances(test, counts)[0])


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
        self.shares = np.bincount(codes, minlength=len(values)) / len(codes)
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
        if kinds <= FEW_VALUES:  # the same distribution in a tenth of the time
            return rng.multinomial(rows, self.shares, samples)
        drawn = self.codes[rng.integers(0, len(self.codes), (samples, rows))]
        places = drawn + kinds * np.arange(samples)[:, np.newaxis]
        return np.bincount(places.ravel(), minlength=samples * kinds).reshape(samples, kinds)


def as_score(distance: float, test: str, rows: int, reference_rows: int) -> float:
    """Return Evidently's score of a distance, within the range of a threshold."""
    if test == "ks":
        return min(scores.ks_p_value(distance, rows, reference_rows), MAX_P_VALUE)
    return max(distance, MIN_DISTANCE)
