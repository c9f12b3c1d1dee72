"""The scores of a shadow version and the state of its test, in the window's file.

A score belongs to the row of `outputs` with the same arrival. Equal records count once: the first
one is scored. `pair` numbers the scored rows with a label, in the order in which the test has seen
them, so that a restart continues the same test.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from evidently_service.shadow.sequential import Evidence
from evidently_service.store.window import Profile, Window

Verdict = Literal["promote", "reject", "undo", "keep"]
MAX_SCORED = 1_000_000  # predictions that a label can still join, about 100 bytes each

ADD_SCORE = """
INSERT INTO shadow (arrival, record, probability) VALUES (?, ?, ?) ON CONFLICT DO NOTHING
"""
NEW_PAIRS = """
SELECT shadow.arrival FROM labels
JOIN outputs ON outputs.key = id_key(labels.prediction_id)
JOIN shadow ON shadow.arrival = outputs.arrival
WHERE labels.matched = 1 AND labels.arrival > ? AND labels.arrival <= ? AND shadow.pair IS NULL
    AND (labels.labelled_by IS NOT NULL OR ?)
ORDER BY labels.arrival
"""
PAIRS = """
SELECT outputs.label, outputs.probability, shadow.probability, outputs.profile
FROM shadow JOIN outputs ON outputs.arrival = shadow.arrival
WHERE shadow.pair IS NOT NULL ORDER BY shadow.pair LIMIT ?
"""
NEWEST = """
SELECT outputs.probability, outputs.income_class, shadow.probability
FROM shadow JOIN outputs ON outputs.arrival = shadow.arrival
ORDER BY shadow.arrival DESC LIMIT ?
"""
REPLACE_TEST = "REPLACE INTO shadow_test VALUES (0, ?)"
PRUNE = """
DELETE FROM shadow WHERE pair IS NULL AND arrival <= (SELECT max(arrival) FROM shadow) - ?
"""


class Ended(msgspec.Struct, frozen=True):
    """The end of a test. Times are Unix times."""

    kind: str
    version: str
    production: str
    verdict: Verdict
    why: str
    labels: int
    started_at: float
    decided_at: float


class ShadowTest(msgspec.Struct, frozen=True, kw_only=True):
    """The test of a shadow version beside a production version. Times are Unix times.

    A field that a later release adds needs a default: a stored test outlives an upgrade.
    """

    kind: str | None = None  # its alias; None: no version is the shadow
    version: str = ""
    production: str = ""
    started_at: float = 0.0
    arrival: int = 0  # of the last prediction that was scored or skipped
    label_arrival: int = 0  # of the last label that was paired or skipped
    rows: int = 0  # scored, equal records once
    labels: int = 0  # of these rows
    evidence: Evidence | None = None
    segments: dict[str, Evidence] = {}
    agreement: float | None = None  # share of rows with the same class, in [0, 1]
    mean_probability: tuple[float, float] | None = None  # of production and of the shadow
    score_shares: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # in ten equal bins
    output_drift: float | None = None  # of the shadow's probabilities, in its reference's std
    verdict: Verdict | None = None
    why: str = ""
    decided_at: float | None = None
    run_at: float | None = None  # end of the last run without an error
    error: str | None = None  # of the last run
    last: Ended | None = None  # the last test with a verdict, before this one

    @property
    def ended(self) -> Ended | None:
        """This test's end if it has a verdict, else that of an earlier one."""
        if self.kind is None or self.verdict is None:
            return self.last
        return msgspec.convert(self, Ended, from_attributes=True)


class Pairs(NamedTuple):
    """Scored rows with a label, in the order of the test."""

    y: np.ndarray  # (n_labels,), 0 or 1
    production: np.ndarray  # (n_labels,), probability
    shadow: np.ndarray  # (n_labels,), probability
    segments: dict[str, np.ndarray]  # indices of the rows of each group, as `sex: Female`


class ShadowStore:
    """The shadow's tables in the file of a window."""

    def __init__(self, window: Window) -> None:
        self.window = window

    def test(self) -> ShadowTest:
        """Return the stored test; an empty one before the first."""
        return self.window.load("SELECT body FROM shadow_test", ShadowTest) or ShadowTest()

    def store(self, test: ShadowTest) -> None:
        """Store a test, in place of the previous one."""
        with self.window.transaction() as connection:
            connection.execute(REPLACE_TEST, (msgspec.json.encode(test),))

    def start(self, test: ShadowTest) -> None:
        """Store a new test, and delete the scores of the previous one."""
        with self.window.transaction() as connection:
            connection.execute("DELETE FROM shadow")
            connection.execute(REPLACE_TEST, (msgspec.json.encode(test),))

    def last_label(self) -> int:
        """Return the arrival of the newest label, 0 before the first."""
        return self.window.read("SELECT max(arrival) FROM labels")[0][0] or 0

    def add_scores(
        self, scores: Sequence[tuple[int, bytes, float]], test: ShadowTest
    ) -> ShadowTest:
        """Store (arrival, record, probability) with the test; return the test with its rows."""
        with self.window.transaction() as connection:
            added = connection.executemany(ADD_SCORE, scores).rowcount if scores else 0
            connection.execute(PRUNE, (MAX_SCORED,))
            test = msgspec.structs.replace(test, rows=test.rows + added)
            connection.execute(REPLACE_TEST, (msgspec.json.encode(test),))
        return test

    def pair(self, test: ShadowTest, last_label: int, anonymous: bool) -> ShadowTest:
        """Number the scored rows whose labels came until `last_label`; return the test.

        anonymous: count labels of callers without an API key too.
        """
        with self.window.transaction() as connection:
            found = connection.execute(
                NEW_PAIRS, (test.label_arrival, last_label, anonymous)
            ).fetchall()
            (pairs,) = connection.execute("SELECT coalesce(max(pair), 0) FROM shadow").fetchone()
            rows = [(number, arrival) for number, (arrival,) in enumerate(found, pairs + 1)]
            connection.executemany("UPDATE shadow SET pair = ? WHERE arrival = ?", rows)
            labels = pairs + len(rows)
            test = msgspec.structs.replace(test, label_arrival=last_label, labels=labels)
            connection.execute(REPLACE_TEST, (msgspec.json.encode(test),))
        return test

    def pairs(self, limit: int) -> Pairs:
        """Return the first pairs of the test."""
        rows = self.window.read(PAIRS, (limit,))
        columns = list(zip(*rows)) or [(), (), (), ()]
        y, production, shadow = (np.array(column, float) for column in columns[:3])
        return Pairs(y, production, shadow, self._segments(columns[3]))

    def newest(self, rows: int) -> np.ndarray:
        """Return production's probability and class and the shadow's probability (n_rows, 3)."""
        return np.array(self.window.read(NEWEST, (rows,)), float).reshape(-1, 3)

    def _segments(self, profiles: Sequence[int]) -> dict[str, np.ndarray]:
        groups = {
            number: msgspec.json.decode(body, type=Profile).groups
            for number, body in self.window.read("SELECT id, body FROM profiles")
        }
        rows: dict[str, list[int]] = {}
        for index, profile in enumerate(profiles):
            for segment, group in groups[profile].items():
                rows.setdefault(f"{segment}: {group}", []).append(index)
        return {name: np.array(indices) for name, indices in sorted(rows.items())}
