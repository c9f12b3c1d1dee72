"""The verdict: which columns have drifted, by windows that share no rows.

The window's file -> `Judge`, in the measure process -> the window's file, and so /drift. The
sliding window of `measure` shows scores as fresh as can be, but its neighbours share most rows, and
who looks every few seconds sees everything that chance can do. So a verdict needs several windows
in a row, each of rows of its own, at most one window each `judge_period_s`: that many false alarms
are what the thresholds were made for (`thresholds`).

Which rows make a window follows from their arrival and event time alone, and never from the clock:
a process that was killed judges the same windows later.

After a promotion the windows begin anew, with rows that arrive from then on. Features are compared
whoever answered; the outputs only of rows that the reference's own version answered, for another
model's answers are no evidence. A verdict of drift stays until a window clears it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd

from config.contract import Contract
from config.events import Prediction
from evidently_service.measure.drift import as_row, monitored_frame
from evidently_service.store.records import Judgement
from evidently_service.reference.monitoring_config import OUTPUTS, Monitoring
from evidently_service.verdict.scores import score
from evidently_service.verdict.thresholds import Reference, Thresholds
from evidently_service.store.window import Window


class Turned(NamedTuple):
    """A window with which columns were first called drifted."""

    rows: list[Prediction]
    columns: list[str]


class Judge:
    """Judges the windows that have closed since the last time."""

    def __init__(
        self,
        window: Window,
        thresholds: Thresholds,
        contract: Contract,
        judge_period_s: float | None = None,
    ) -> None:
        self.window = window
        self.thresholds = thresholds
        self.contract = contract
        self.monitoring = thresholds.monitoring
        self.turned: list[Turned] = []  # in the last run
        self.period_s = self.monitoring.judge_period_s if judge_period_s is None else judge_period_s

    def run(self, reference: Reference) -> Judgement:
        """The verdict after every window that has closed; each is kept before the next."""
        self.turned = []
        judgement = self.window.judgement()
        if judgement.reference != reference.version.number:
            judgement = begin_anew(judgement, reference.version.number, self.window.last_arrival())
            self.window.keep_judgement(judgement)
        while closed := self._next(judgement):
            before = judgement.persistent
            judgement = self._judge(judgement, closed, reference)
            self.window.keep_judgement(judgement)
            if new := [name for name in judgement.persistent if name not in before]:
                self.turned.append(Turned([row for _, row in closed], new))
        return judgement

    def _next(self, judgement: Judgement) -> Sequence[tuple[int, Prediction]]:
        """The rows of the next window, or none while it is open."""
        rows = self.window.next_predictions(
            judgement.arrival, judgement.not_before, self.monitoring.window_rows
        )
        return rows[: closed_at(rows, self.monitoring)]

    def _judge(
        self, judgement: Judgement, closed: Sequence[tuple[int, Prediction]], reference: Reference
    ) -> Judgement:
        arrival = closed[-1][0]
        rows = [prediction for _, prediction in closed]
        if len(rows) < self.monitoring.min_rows:
            too_small = judgement.too_small + 1
            return msgspec.structs.replace(judgement, arrival=arrival, too_small=too_small)
        beyond = self.ratios(rows, reference)
        times = [row.predicted_at for row in rows]
        judgement = msgspec.structs.replace(
            judgement, arrival=arrival, not_before=min(times) + self.period_s
        )
        return judged(judgement, beyond, max(times), self.monitoring)

    def ratios(self, rows: Sequence[Prediction], reference: Reference) -> dict[str, float]:
        """Each column's score over its threshold; no outputs unless enough rows have them."""
        frame = monitored_frame(map(as_row, rows), self.contract)
        own = np.array([row.model_version == reference.version.number for row in rows])
        found = self._ratios(frame, reference, tuple(self.monitoring.features))
        if own.sum() >= self.monitoring.min_rows:
            found |= self._ratios(frame[own], reference, OUTPUTS)
        return found

    def _ratios(
        self, frame: pd.DataFrame, reference: Reference, columns: Sequence[str]
    ) -> dict[str, float]:
        tests = self.thresholds.apply(reference, len(frame)).tests
        return {
            name: tests[name].ratio(score(reference.frame[name], frame[name], tests[name].test))
            for name in columns
        }


def closed_at(rows: Sequence[tuple[int, Prediction]], monitoring: Monitoring) -> int:
    """How many of the first rows make a closed window; 0 while it is open.

    It closes when it is full and, where `window_s` is set, when a row comes that is too new for it.
    """
    if monitoring.window_s is not None:
        for number, (_, row) in enumerate(rows):
            if row.predicted_at - rows[0][1].predicted_at > monitoring.window_s:
                return number
    return len(rows) if len(rows) == monitoring.window_rows else 0


def begin_anew(judgement: Judgement, reference: str, last_arrival: int) -> Judgement:
    """What is left of a judgement when the reference changes: the verdict, and no evidence.

    The first reference of all is compared with every row that is here.
    """
    arrival = 0 if judgement.reference is None else last_arrival
    return msgspec.structs.replace(
        judgement,
        reference=reference,
        arrival=arrival,
        windows=0,
        too_small=0,
        streaks={},
        changed_by=None,
    )


def judged(
    judgement: Judgement, ratios: dict[str, float], at: float, monitoring: Monitoring
) -> Judgement:
    """A judgement with one more window, whose last row is of the time `at`."""
    streaks, persistent = dict(judgement.streaks), set(judgement.persistent)
    beyond = [name for name, ratio in ratios.items() if ratio > 1]
    for name, ratio in ratios.items():
        streaks[name] = streaks.get(name, 0) + 1 if ratio > 1 else 0
        if streaks[name] >= monitoring.persistent_windows:
            persistent.add(name)
        elif not streaks[name]:
            persistent.discard(name)
    kept = tuple(name for name in monitoring.tests if name in persistent)
    changed_by = at if judgement.changed_by is None else judgement.changed_by
    more = msgspec.structs.replace(
        judgement,
        windows=judgement.windows + 1,
        streaks=streaks,
        persistent=kept,
        changed_by=changed_by if are_enough(beyond, monitoring) else None,
    )
    before = are_enough(judgement.persistent, monitoring)
    # A verdict that is left of another reference is drift from this one once its windows say so.
    seen_here = [name for name in kept if streaks.get(name, 0) >= monitoring.persistent_windows]
    is_known = before and judgement.drifted_from == judgement.reference
    if are_enough(seen_here, monitoring) and not is_known:
        return msgspec.structs.replace(
            more, drifted_since=at, drifted_from=judgement.reference, resolved_at=None
        )
    if before and not is_known and not are_enough(kept, monitoring):
        return msgspec.structs.replace(more, resolved_at=at)
    return more


def share_drifted(columns: Iterable[str], monitoring: Monitoring) -> float:
    """Features among these columns over all features, in [0, 1]."""
    return sum(name in monitoring.features for name in columns) / len(monitoring.features)


def are_enough(columns: Iterable[str], monitoring: Monitoring) -> bool:
    """Whether drift of these columns is drift of the dataset."""
    return share_drifted(columns, monitoring) >= monitoring.share_drifted
