"""Read predictions and labels back from the journals."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from config.events import API, Label, LabelledRecord, Prediction, labelled
from prediction_service.journal.line import StoredEvent
from prediction_service.journal.reader import read_all

BATCH_ROWS = 5000
LAST_SECOND = 253_402_300_799.0  # of the year 9999, the last that a date can represent


class Period(NamedTuple):
    """From `since` up to, but not including, `until`; Unix time in seconds. By default all time."""

    since: float = 0.0
    until: float = LAST_SECOND

    def __contains__(self, at: object) -> bool:
        return isinstance(at, float) and self.since <= at < self.until


ALL_TIME = Period()


def journalled_ids(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield kind and ids, batch by batch, over all journals."""
    for events in read_all(root, BATCH_ROWS):
        for kind in ("prediction", "label"):
            yield kind, [one.prediction_id for one in events if one.kind == kind]


def journalled_predictions(root: Path, period: Period = ALL_TIME) -> Iterator[Prediction]:
    """Yield the predictions of a period, each id once: its prediction with the earliest time.

    Reads the journals twice, because the earliest may come last.
    """
    decode = msgspec.json.Decoder(Prediction).decode
    earliest_at: dict[bytes, float] = {}
    for events in read_all(root, BATCH_ROWS):
        for key, event in _keyed_predictions(events):
            earliest_at[key] = min(event.at, earliest_at.get(key, event.at))
    for events in read_all(root, BATCH_ROWS):
        for key, event in _keyed_predictions(events):
            if event.at == earliest_at.get(key):
                del earliest_at[key]
                if event.at in period:
                    yield decode(event.body)


def _keyed_predictions(events: list[StoredEvent]) -> Iterator[tuple[bytes, StoredEvent]]:
    for event in events:
        if event.kind == "prediction":
            yield bytes.fromhex(event.prediction_id), event


def journalled_labels(root: Path, callers: Sequence[str] = ()) -> dict[str, Label]:
    """Return the first label of each prediction, without predictions whose labels conflict.

    With `callers`, the names of API keys, labels of other callers are ignored.
    """
    decode = msgspec.json.Decoder(Label).decode
    first: dict[str, Label] = {}
    conflicting = set()
    for events in read_all(root, BATCH_ROWS):
        for label in (decode(event.body) for event in events if event.kind == "label"):
            if callers and label.labelled_by not in callers:
                continue
            known = first.setdefault(label.prediction_id, label)
            if label.label != known.label:
                conflicting.add(label.prediction_id)
            elif label.labelled_at < known.labelled_at:
                first[label.prediction_id] = label
    return {key: label for key, label in first.items() if key not in conflicting}


def journalled_labelled(root: Path, callers: Sequence[str] = ()) -> Iterator[LabelledRecord]:
    """Yield the programs' predictions that have a label without a conflict."""
    labels = journalled_labels(root, callers)
    for prediction in journalled_predictions(root):
        label = labels.get(prediction.prediction_id)
        if label and prediction.source == API:
            yield labelled(prediction, label)
