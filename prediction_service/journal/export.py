"""Reads back what was answered: from MongoDB if it is configured, else from the journals."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from config.runtime import api_keys
from config.events import Label, LabelledRecord, Prediction, labelled
from prediction_service.journal import journal_paths, read_after
from prediction_service.sinks.mongodb import LATEST, MongoSink
from prediction_service.settings import Settings

READ_ROWS = 5000


class Period(NamedTuple):
    """From `since` up to, but not including, `until`; Unix time in seconds. By default all time."""

    since: float = 0.0
    until: float = LATEST

    def __contains__(self, at: object) -> bool:
        return isinstance(at, float) and self.since <= at < self.until


def journalled_ids(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The kind and the ids of one batch of events after the other, over all journals."""
    for path in journal_paths(root):
        seq = 0
        while events := read_after(path, seq, READ_ROWS):
            seq = events[-1].seq
            for kind in ("prediction", "label"):
                yield kind, [one.prediction_id for one in events if one.kind == kind]


def journalled_predictions(root: Path, period: Period = Period()) -> Iterator[Prediction]:
    """Every prediction of a period in the journals, each id once."""
    decode = msgspec.json.Decoder(Prediction).decode
    seen: set[bytes] = set()
    for path in journal_paths(root):
        seq = 0
        while events := read_after(path, seq, READ_ROWS):
            seq = events[-1].seq
            for event in events:
                key = bytes.fromhex(event.prediction_id)
                if event.kind == "prediction" and event.at in period and key not in seen:
                    seen.add(key)
                    yield decode(event.body)


def journalled_labels(root: Path, callers: Sequence[str] = ()) -> dict[str, Label]:
    """The first label of each prediction, but for those that another label disputes.

    With `callers`, the names of API keys, labels of anyone else count for nothing.
    """
    decode = msgspec.json.Decoder(Label).decode
    first: dict[str, Label] = {}
    disputed = set()
    for path in journal_paths(root):
        seq = 0
        while events := read_after(path, seq, READ_ROWS):
            seq = events[-1].seq
            for label in (decode(event.body) for event in events if event.kind == "label"):
                if callers and label.labelled_by not in callers:
                    continue
                known = first.setdefault(label.prediction_id, label)
                if label.label != known.label:
                    disputed.add(label.prediction_id)
                elif label.labelled_at < known.labelled_at:
                    first[label.prediction_id] = label
    return {key: label for key, label in first.items() if key not in disputed}


def journalled_labelled(root: Path, callers: Sequence[str] = ()) -> Iterator[LabelledRecord]:
    """Every prediction in the journals whose true class is known and undisputed."""
    labels = journalled_labels(root, callers)
    for prediction in journalled_predictions(root):
        if label := labels.get(prediction.prediction_id):
            yield labelled(prediction, label)


def open_mongodb(settings: Settings) -> MongoSink | None:
    """MongoDB if it is configured; None where the journals themselves are the log of record."""
    return MongoSink.of(settings) if settings.mongodb_address else None


def stored_predictions(settings: Settings, period: Period = Period()) -> Iterator[Prediction]:
    """Every prediction of a period. Raises SinkUnavailable."""
    if mongodb := open_mongodb(settings):
        with closing(mongodb):
            yield from mongodb.predictions(period.since, period.until)
    else:
        yield from journalled_predictions(settings.journal_path, period)


def stored_labelled(settings: Settings) -> Iterator[LabelledRecord]:
    """Every prediction whose true class is known and undisputed. Raises SinkUnavailable.

    Where API keys are on, those whose class a caller with one has told.
    """
    callers = api_keys.names(settings.api_key_hashes)
    if mongodb := open_mongodb(settings):
        with closing(mongodb):
            yield from mongodb.labelled(callers)
    else:
        yield from journalled_labelled(settings.journal_path, callers)
