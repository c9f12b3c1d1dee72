"""Judge which columns have drifted, by windows that share no rows.

Predictions in `store.window` -> `DriftJudge`, in the measure process -> the judgement in
`store.window`, and so /drift. The sliding window of `measure` has fresh scores, but consecutive
sliding windows share most rows. A window that is checked every few seconds gives many false alarms.
So a drift verdict needs several judged windows in a row, without common rows, and at most one each
`judge_period_s`. The thresholds are found for exactly that.

People whose features are all alike count once in a window: one person who is asked three times is
no evidence about three people. Their first row counts. Such rows close no window either: it waits
for others, up to MAX_REPEATS times its rows. A window that is still short of distinct rows gets the
thresholds of their number. Where the rows of the reference data are often alike, as in a table with
few columns, being alike says nothing, and all rows count.

Arrival and event time alone decide which rows make a window, not the clock. So a process that was
killed judges the same windows later.

After a promotion, windows restart with the rows that arrive from then on. Features are compared
whichever version predicted. Outputs are compared only if the reference's own version predicted: the
outputs of another model are no evidence. A verdict of drift stays until a window clears it.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from config.contract import Contract
from config.events import Prediction
from evidently_service.reference.monitoring_config import OUTPUTS, Monitoring
from evidently_service.reference.reference_data import Reference, prediction_frame
from evidently_service.store.records import JointDrift, Judgement
from evidently_service.store.window import Window
from evidently_service.verdict.calibration import Compared, calibrate
from evidently_service.verdict.joint import JointTest
from evidently_service.verdict.scores import count, scores
from evidently_service.verdict.thresholds import FULL_SHARE, Thresholds

MAX_REPEATS = 5  # a window closes with that many times its rows, however many of them are alike

Arrived = tuple[int, Prediction]  # with its arrival number


class NewlyDriftedWindow(NamedTuple):
    """A window with which columns became drifted: its distinct rows."""

    rows: list[Prediction]
    columns: list[str]


class DriftJudge:
    """Judges the windows that have closed since the last run."""

    def __init__(
        self,
        window: Window,
        monitoring: Monitoring,
        contract: Contract,
        judge_period_s: float | None = None,
        joint: JointTest | None = None,
    ) -> None:
        """`joint` also compares all features together."""
        self.window = window
        self.joint = joint
        self.thresholds = Thresholds(monitoring)
        self.contract = contract
        self.monitoring = monitoring
        self.newly_drifted: list[NewlyDriftedWindow] = []  # in the last run
        self.open_rows = 0  # distinct rows of the next window, after the last run
        self.period_s = self.monitoring.judge_period_s if judge_period_s is None else judge_period_s

    def run(self, reference: Reference) -> Judgement:
        """Judge every closed window, and store the judgement after each."""
        self.newly_drifted = []
        judgement = self.window.judgement()
        if judgement.reference != reference.version.number:
            last_arrival = self.window.last_arrival()
            judgement = reset_for_reference(judgement, reference.version.number, last_arrival)
            self.window.store_judgement(judgement)
        while closed := self._next_window(judgement, reference):
            before = judgement.persistent
            rows = distinct_rows(closed, self._keys(closed, reference))
            judgement = self._judge(judgement, closed, rows, reference)
            self.window.store_judgement(judgement)
            if new := [name for name in judgement.persistent if name not in before]:
                self.newly_drifted.append(NewlyDriftedWindow(rows, new))
        return judgement

    def _next_window(self, judgement: Judgement, reference: Reference) -> Sequence[Arrived]:
        """Return the rows of the next window; none while it is open."""
        rows = self.window.next_predictions(
            judgement.arrival, max_rows(self.monitoring), judgement.not_before
        )
        keys = self._keys(rows, reference)
        self.open_rows = len(set(keys))
        return rows[: closed_rows(rows, keys, self.monitoring)]

    def _keys(self, rows: Sequence[Arrived], reference: Reference) -> list[Hashable]:
        """Return a key for each row: its features, or its arrival where all rows count."""
        names = self.contract.input_names
        sample = reference.frame.head(self.monitoring.window_rows)  # in random order
        if sample.duplicated(list(names)).mean() > 1 - FULL_SHARE:
            return [arrival for arrival, _ in rows]
        return [tuple(map(row.features.get, names)) for _, row in rows]

    def _judge(
        self,
        judgement: Judgement,
        closed: Sequence[Arrived],
        rows: Sequence[Prediction],
        reference: Reference,
    ) -> Judgement:
        """Return the judgement after a closed window with these distinct rows."""
        arrival = closed[-1][0]
        if len(rows) < self.monitoring.min_rows:
            too_small = judgement.too_small + 1
            return msgspec.structs.replace(judgement, arrival=arrival, too_small=too_small)
        compared = self.compare(rows, reference, factors_of(judgement, self.monitoring))
        ratios = {name: one.ratio for name, one in compared.items()}
        times = [row.predicted_at for _, row in closed]
        judgement = msgspec.structs.replace(
            judgement, arrival=arrival, not_before=min(times) + self.period_s
        )
        if self.joint:
            joint = self.joint.compare(reference, prediction_frame(rows, self.contract))
            joint = joint_after(judgement.joint, joint, self.monitoring.persistent_windows)
            judgement = msgspec.structs.replace(judgement, joint=joint)
        if not is_dataset_drift(beyond_of(ratios), self.monitoring):
            judgement = calibrate(judgement, compared, self.monitoring.calibration_windows)
        return judge_window(judgement, ratios, max(times), self.monitoring)

    def compare(
        self, rows: Sequence[Prediction], reference: Reference, factors: Mapping[str, float]
    ) -> dict[str, Compared]:
        """Return each column's comparison.

        Features with too few values are absent. Outputs are absent unless the reference's version
        predicted at least `min_rows` rows.
        """
        frame = prediction_frame(rows, self.contract)
        own = np.array([row.model_version == reference.version.number for row in rows])
        parts = [(frame, tuple(self.monitoring.features))]
        if own.sum() >= self.monitoring.min_rows:
            parts.append((frame[own], OUTPUTS))
        compared = {}
        for part, columns in parts:
            tests = self.thresholds.apply(reference, part, factors).tests
            for name in columns:
                if name in tests:
                    counts, test = count(reference.frame[name], part[name]), tests[name]
                    ratio = test.ratio(float(scores(test.test, counts)[0]))
                    compared[name] = Compared(ratio, test.test, counts)
        return compared


def factors_of(judgement: Judgement, monitoring: Monitoring) -> Mapping[str, float]:
    """Return the factors of the columns, none until they are calibrated."""
    return {} if judgement.calm_windows < monitoring.calibration_windows else judgement.factors


def max_rows(monitoring: Monitoring) -> int:
    """Return how many rows close a window, however many of them are alike."""
    return min(MAX_REPEATS * monitoring.window_rows, monitoring.retention_rows)


def closed_rows(rows: Sequence[Arrived], keys: Sequence[Hashable], monitoring: Monitoring) -> int:
    """Return how many of the first rows make a closed window; 0 while it is open.

    A window closes when it is full. With `window_s` it also closes when a row is too new for it.
    """
    for number, ((_, row), is_full) in enumerate(zip(rows, are_full(keys, monitoring))):
        age_s = row.predicted_at - rows[0][1].predicted_at
        if monitoring.window_s is not None and age_s > monitoring.window_s:
            return number
        if is_full:
            return number + 1
    return 0


def are_full(keys: Iterable[Hashable], monitoring: Monitoring) -> Iterator[bool]:
    """Yield for each row, given by its key, whether the rows up to it make a full window."""
    distinct, needed = set(), FULL_SHARE * monitoring.window_rows
    for number, key in enumerate(keys, start=1):
        distinct.add(key)
        is_varied = number >= monitoring.window_rows and len(distinct) >= needed
        yield is_varied or number == max_rows(monitoring)


def distinct_rows(rows: Sequence[Arrived], keys: Sequence[Hashable]) -> list[Prediction]:
    """Return the first row of each key."""
    first: dict[Hashable, Prediction] = {}
    for (_, row), key in zip(rows, keys):  # `keys` may go on after the window
        first.setdefault(key, row)
    return list(first.values())


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
        calm_windows=0,
        factors={},
        spreads={},
        streaks={},
        joint=None,
        changed_by=None,
    )


def judge_window(
    judgement: Judgement, ratios: dict[str, float], at: float, monitoring: Monitoring
) -> Judgement:
    """Return the judgement after one more window, whose last row has the event time `at`."""
    streaks, persistent = dict(judgement.streaks), set(judgement.persistent)
    beyond = beyond_of(ratios)
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


def joint_after(last: JointDrift | None, new: JointDrift, windows: int) -> JointDrift:
    """Return the joint drift of a window; `windows` in a row beyond the threshold make it last."""
    if new.ratio <= 1:
        return new
    streak = last.streak + 1 if last else 1
    persistent = streak >= windows or bool(last and last.persistent)
    return msgspec.structs.replace(new, streak=streak, persistent=persistent)


def beyond_of(ratios: Mapping[str, float]) -> list[str]:
    """Return the columns beyond their threshold."""
    return [name for name, ratio in ratios.items() if ratio > 1]


def share_drifted(columns: Iterable[str], monitoring: Monitoring) -> float:
    """Return the share of features that are among these columns, in [0, 1]."""
    return sum(name in monitoring.features for name in columns) / len(monitoring.features)


def is_dataset_drift(columns: Iterable[str], monitoring: Monitoring) -> bool:
    """Return whether drift of these columns is drift of the dataset."""
    return share_drifted(columns, monitoring) >= monitoring.share_drifted
