"""Judge which columns have drifted, by windows that share no rows.

Predictions in `store.window` -> `DriftJudge`, in the measure process -> the judgement in
`store.window`, and so /drift. The sliding window of `measure` has fresh scores, but consecutive
sliding windows share most rows. A window that is checked every few seconds gives many false alarms.
So a drift verdict needs several judged windows in a row, without common rows, and at most one each
`judge_period_s`. The thresholds are found for exactly that.

Arrival and event time alone decide which rows make a window, not the clock. So a process that was
killed judges the same windows later.

After a promotion, windows restart with the rows that arrive from then on. Features are compared
whichever version predicted. Outputs are compared only if the reference's own version predicted: the
outputs of another model are no evidence. A verdict of drift stays until a window clears it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd

from config.contract import Contract
from config.events import Prediction
from evidently_service.reference.monitoring_config import OUTPUTS, Monitoring
from evidently_service.reference.reference_data import Reference, prediction_frame
from evidently_service.store.records import Judgement
from evidently_service.store.window import Window
from evidently_service.verdict.scores import score
from evidently_service.verdict.thresholds import Thresholds

Arrived = tuple[int, Prediction]  # with its arrival number


class NewlyDriftedWindow(NamedTuple):
    """A window with which columns became drifted."""

    rows: list[Prediction]
    columns: list[str]


class DriftJudge:
    """Judges the windows that have closed since the last run."""

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
        self.newly_drifted: list[NewlyDriftedWindow] = []  # in the last run
        self.open_rows = 0  # of the next window, after the last run
        self.period_s = self.monitoring.judge_period_s if judge_period_s is None else judge_period_s

    def run(self, reference: Reference) -> Judgement:
        """Judge every closed window, and store the judgement after each."""
        self.newly_drifted = []
        judgement = self.window.judgement()
        if judgement.reference != reference.version.number:
            last_arrival = self.window.last_arrival()
            judgement = reset_for_reference(judgement, reference.version.number, last_arrival)
            self.window.store_judgement(judgement)
        while closed := self._next_window(judgement):
            before = judgement.persistent
            judgement = self._judge(judgement, closed, reference)
            self.window.store_judgement(judgement)
            if new := [name for name in judgement.persistent if name not in before]:
                self.newly_drifted.append(NewlyDriftedWindow([row for _, row in closed], new))
        return judgement

    def _next_window(self, judgement: Judgement) -> Sequence[Arrived]:
        """Return the rows of the next window; none while it is open."""
        rows = self.window.next_predictions(
            judgement.arrival, judgement.not_before, self.monitoring.window_rows
        )
        self.open_rows = len(rows)
        return rows[: closed_rows(rows, self.monitoring)]

    def _judge(
        self, judgement: Judgement, closed: Sequence[Arrived], reference: Reference
    ) -> Judgement:
        arrival = closed[-1][0]
        rows = [prediction for _, prediction in closed]
        if len(rows) < self.monitoring.min_rows:
            too_small = judgement.too_small + 1
            return msgspec.structs.replace(judgement, arrival=arrival, too_small=too_small)
        ratios = self.ratios(rows, reference)
        times = [row.predicted_at for row in rows]
        judgement = msgspec.structs.replace(
            judgement, arrival=arrival, not_before=min(times) + self.period_s
        )
        return judge_window(judgement, ratios, max(times), self.monitoring)

    def ratios(self, rows: Sequence[Prediction], reference: Reference) -> dict[str, float]:
        """Return each column's score over its threshold.

        Features with too few values are absent. Outputs are absent unless the reference's version
        predicted at least `min_rows` rows.
        """
        frame = prediction_frame(rows, self.contract)
        own = np.array([row.model_version == reference.version.number for row in rows])
        ratios = self._ratios(frame, reference, tuple(self.monitoring.features))
        if own.sum() >= self.monitoring.min_rows:
            ratios |= self._ratios(frame[own], reference, OUTPUTS)
        return ratios

    def _ratios(
        self, frame: pd.DataFrame, reference: Reference, columns: Sequence[str]
    ) -> dict[str, float]:
        tests = self.thresholds.apply(reference, frame).tests
        return {
            name: tests[name].ratio(score(reference.frame[name], frame[name], tests[name].test))
            for name in columns
            if name in tests
        }


def closed_rows(rows: Sequence[Arrived], monitoring: Monitoring) -> int:
    """Return how many of the first rows make a closed window; 0 while it is open.

    A window closes when it is full. With `window_s` it also closes when a row is too new for it.
    """
    if monitoring.window_s is not None:
        for number, (_, row) in enumerate(rows):
            if row.predicted_at - rows[0][1].predicted_at > monitoring.window_s:
                return number
    return len(rows) if len(rows) == monitoring.window_rows else 0


def reset_for_reference(judgement: Judgement, reference: str, last_arrival: int) -> Judgement:
    """Return a judgement for new reference data: keep the verdict, drop the evidence.

    The first reference data are compared with all stored rows.
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


def judge_window(
    judgement: Judgement, ratios: dict[str, float], at: float, monitoring: Monitoring
) -> Judgement:
    """Return the judgement after one more window, whose last row has the event time `at`."""
    streaks, persistent = dict(judgement.streaks), set(judgement.persistent)
    beyond = [name for name, ratio in ratios.items() if ratio > 1]
    for name, ratio in ratios.items():
        streaks[name] = streaks.get(name, 0) + 1 if ratio > 1 else 0
        if streaks[name] >= monitoring.persistent_windows:
            persistent.add(name)
        elif not streaks[name]:
            persistent.discard(name)
    drifted = tuple(name for name in monitoring.tests if name in persistent)
    changed_by = at if judgement.changed_by is None else judgement.changed_by
    after = msgspec.structs.replace(
        judgement,
        windows=judgement.windows + 1,
        streaks=streaks,
        persistent=drifted,
        changed_by=changed_by if is_dataset_drift(beyond, monitoring) else None,
    )
    was_drift = is_dataset_drift(judgement.persistent, monitoring)
    # A verdict from earlier reference data counts for these once their own windows confirm it.
    confirmed = [name for name in drifted if streaks.get(name, 0) >= monitoring.persistent_windows]
    is_known = was_drift and judgement.drifted_from == judgement.reference
    if is_dataset_drift(confirmed, monitoring) and not is_known:
        return msgspec.structs.replace(
            after, drifted_since=at, drifted_from=judgement.reference, resolved_at=None
        )
    if was_drift and not is_known and not is_dataset_drift(drifted, monitoring):
        return msgspec.structs.replace(after, resolved_at=at)
    return after


def share_drifted(columns: Iterable[str], monitoring: Monitoring) -> float:
    """Return the share of features that are among these columns, in [0, 1]."""
    return sum(name in monitoring.features for name in columns) / len(monitoring.features)


def is_dataset_drift(columns: Iterable[str], monitoring: Monitoring) -> bool:
    """Return whether drift of these columns is drift of the dataset."""
    return share_drifted(columns, monitoring) >= monitoring.share_drifted
