"""Read the log of record: MongoDB if it is configured, otherwise the journals."""

from collections.abc import Iterator
from contextlib import closing

from config.events import LabelledRecord, Prediction
from config.runtime import api_keys
from config.runtime.settings import SettingsError
from prediction_service.journal.export import (
    ALL_TIME,
    Period,
    journalled_labelled,
    journalled_predictions,
)
from prediction_service.settings import Settings
from prediction_service.sinks.mongodb import MongoSink

NO_KEYS = (
    "API_KEY_HASHES: not set; expected the callers whose labels may train a model (python -m"
    " prediction_service.keys new NAME). To train on labels that anyone may have sent, set"
    " LEARN_ANONYMOUS_LABELS=true."
)


def open_mongodb(settings: Settings) -> MongoSink | None:
    """Return MongoDB, or None if the journals themselves are the log of record."""
    return MongoSink(settings) if settings.mongodb_address else None


def stored_predictions(settings: Settings, period: Period = ALL_TIME) -> Iterator[Prediction]:
    """Yield the predictions of a period. Raises SinkUnavailable or JournalUnavailable."""
    if mongodb := open_mongodb(settings):
        with closing(mongodb):
            yield from mongodb.predictions(period)
    else:
        yield from journalled_predictions(settings.journal_path, period)


def stored_labelled(settings: Settings) -> Iterator[LabelledRecord]:
    """Yield the programs' predictions that have a label without a conflict.

    Only labels of callers with a key count. Raises SinkUnavailable, JournalUnavailable, or
    SettingsError without keys: the rows are for a training.
    """
    callers = api_keys.names(settings.api_key_hashes)
    if not callers and not settings.learn_anonymous_labels:
        raise SettingsError(NO_KEYS)
    if mongodb := open_mongodb(settings):
        with closing(mongodb):
            yield from mongodb.labelled(callers)
    else:
        yield from journalled_labelled(settings.journal_path, callers)
