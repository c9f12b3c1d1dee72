"""From which score on a column is drift: found from the reference, for a budget of false alarms.

The reference and `config/monitoring.yaml` -> a threshold for each column and size of window ->
`drift` and `judgement`. In the measure process, in seconds, and kept beside the reference.

The method. A column's false alarm is: nothing has drifted, and yet its score exceeds its threshold
in k = `persistent_windows` windows in a row, which share no rows. A month has MONTH_S /
`judge_period_s` windows at most. Expectations add up whatever depends on what, so the columns share
the budget equally, and the expected number of false alarms of all of them is the budget: control of
the per-family error rate (Spjotvoll 1972, doi:10.1214/aoms/1177692621). Alarms of several columns
at once count as several.

How far chance moves a score is found by the bootstrap (Efron 1979, doi:10.1214/aos/1176344552). The
reference is a sample too, and all windows of a month are compared with the same one: an unlucky one
gives many false alarms. So references are drawn as well as windows, each reference has many
windows, and p^k, the chance of an alarm, is averaged over the references.

Where a column has many rare categories, a sample of it has fewer of them than the world, and scores
are too small by a few per cent. The bootstrap of the bootstrap says by how much (Hall and Martin
1988, doi:10.1093/biomet/75.4.661).
"""

import hashlib
import os
from bisect import bisect_left
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
from scipy.special import comb

from evidently_service.verdict import scores
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.reference.registry import Version
from evidently_service.verdict.scores import Counts

METHOD = 1  # of this file; another one makes other thresholds of the same reference
REFERENCES, WINDOWS = 400, 100  # drawn for each column: references, and windows of each
# Of the correction: samples of the reference, references of each, windows of those.
SAMPLES, SAMPLE_REFERENCES, SAMPLE_WINDOWS = 40, 10, 20
CORRECTED = ("jensenshannon", "psi")
SMALLEST_DISTANCE = 1e-9  # the threshold of a column that never changes: every change is drift
LARGEST_P_VALUE = 1 - 1e-9
# More distinct values than this are taken together by rank: a score moves by less than 0.1 %.
MOST_VALUES = 1000


class Reference(NamedTuple):
    """The production version's reference."""

    version: Version
    frame: pd.DataFrame  # as `drift.monitored_frame` gives it
    digest: str  # of its file, in hexadecimal


class Thresholds:
    """The thresholds of a reference, kept in a folder; those of another reference go."""

    def __init__(self, folder: Path, monitoring: Monitoring) -> None:
        self.folder = folder
        self.monitoring = monitoring

    def apply(self, reference: Reference, rows: int) -> Monitoring:
        """The monitoring with every threshold for a window of so many rows."""
        size = window_size(self.monitoring, rows)
        settings = msgspec.json.encode((METHOD, REFERENCES, WINDOWS, self.monitoring))
        key = hashlib.sha256(settings).hexdigest()[:16]
        path = self.folder / f"thresholds-{reference.digest[:16]}-{size}-{key}.json"
        try:
            found = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
        except (FileNotFoundError, msgspec.DecodeError):  # a power cut may leave an empty file
            found = find_thresholds(reference.frame, self.monitoring, size)
            self._keep(path, reference.digest, found)
        return self.monitoring.with_thresholds(found)

    def _keep(self, path: Path, digest: str, found: dict[str, float]) -> None:
        fresh = path.with_suffix(".tmp")
        fresh.write_bytes(msgspec.json.encode(found))
        os.replace(fresh, path)
        for old in self.folder.glob("thresholds-*.json"):
            if not old.name.startswith(f"thresholds-{digest[:16]}-"):
                old.unlink()


def window_size(monitoring: Monitoring, rows: int) -> int:
    """The size whose thresholds a window gets: of a full one, or of a half, a quarter...

    A window of more rows than its thresholds were made for alarms rather less often.
    """
    size = monitoring.window_rows
    while size > max(rows, monitoring.min_rows):
        size = max(size // 2, monitoring.min_rows)
    return size


def find_thresholds(
    reference: pd.DataFrame, monitoring: Monitoring, rows: int, seed: int = 0
) -> dict[str, float]:
    """The threshold of each column that has none of its own, for windows of so many rows."""
    chance = monitoring.false_alarm_chance
    found = {}
    for number, (name, test) in enumerate(monitoring.tests.items()):
        if test.threshold is None:
            rng = np.random.default_rng((seed, number))
            far = distances(reference[name], test.test, rows, rng)
            limit = threshold(far, monitoring.persistent_windows, chance)
            found[name] = as_score(limit, test.test, rows, len(reference))
    return found


def threshold(far: np.ndarray, persistent_windows: int, chance: float) -> float:
    """The least distance that k windows in a row exceed with at most this chance.

    `far` (n_references, n_windows). Of x windows beyond it among m, C(x, k) / C(m, k) is p^k
    without bias, where (x / m)^k would be too large.
    """
    ways = comb(far.shape[1], persistent_windows)

    def rare(limit: float) -> bool:
        beyond = (far > limit).sum(axis=1)
        return float(comb(beyond, persistent_windows).mean() / ways) <= chance

    candidates = np.unique(far)
    return float(candidates[bisect_left(candidates, True, key=rare)])


def distances(column: pd.Series, test: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    """How far undrifted windows are from their references (n_references, n_windows)."""
    world = make_world(column, test)
    far = world.draw(REFERENCES, WINDOWS, rows, rng)
    if test not in CORRECTED:
        return far
    seen_less = [
        world.sampled(rng).draw(SAMPLE_REFERENCES, SAMPLE_WINDOWS, rows, rng).mean()
        for _ in range(SAMPLES)
    ]
    return far * max(1.0, far.mean() / max(np.mean(seen_less), SMALLEST_DISTANCE))


def make_world(column: pd.Series, test: str) -> "World":
    """The world that has the values of a column, as often as the column."""
    codes, distinct = pd.factorize(column, sort=True)
    values, numeric = np.asarray(distinct), pd.api.types.is_numeric_dtype(column)
    if numeric and len(values) > MOST_VALUES:
        groups = np.arange(len(values)) * MOST_VALUES // len(values)
        codes = groups[codes]
        values = np.bincount(groups, values) / np.bincount(groups)
    return World(codes, values, test, numeric)


class World:
    """The values of a column, from which references and windows are drawn."""

    def __init__(self, codes: np.ndarray, values: np.ndarray, test: str, numeric: bool) -> None:
        self.codes = codes
        self.values = values
        self.test = test
        self.numeric = numeric

    def sampled(self, rng: np.random.Generator) -> "World":
        """A world that is a sample of this one, as large."""
        codes = self.codes[rng.integers(0, len(self.codes), len(self.codes))]
        return World(codes, self.values, self.test, self.numeric)

    def draw(
        self, references: int, windows: int, rows: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Distances (references, windows) of windows from references as large as this world."""
        far = np.empty((references, windows))
        for each in far:
            reference = self._counts(1, len(self.codes), rng)[0]
            counts = Counts(self.values, reference, self._counts(windows, rows, rng))
            each[:] = distance(self.test, counts, self.numeric)
        return far

    def _counts(self, samples: int, rows: int, rng: np.random.Generator) -> np.ndarray:
        """How often each value is in each sample (samples, n_values)."""
        kinds = len(self.values)
        drawn = self.codes[rng.integers(0, len(self.codes), (samples, rows))]
        places = drawn + kinds * np.arange(samples)[:, np.newaxis]
        return np.bincount(places.ravel(), minlength=samples * kinds).reshape(samples, kinds)


def distance(test: str, counts: Counts, numeric: bool) -> np.ndarray:
    """How far each window is, in the test's own way: larger is farther, also for p-values."""
    if test == "ks":
        return scores.ks_gaps(counts)
    found = scores.scores(test, counts, numeric)
    return -found if test == "chisquare" else found


def as_score(far: float, test: str, rows: int, reference_rows: int) -> float:
    """The score that Evidently gives to such a distance, within what a threshold may be."""
    if test == "ks":
        return min(scores.ks_p_value(far, rows, reference_rows), LARGEST_P_VALUE)
    if test == "chisquare":
        return min(-far, LARGEST_P_VALUE)
    return max(far, SMALLEST_DISTANCE)
