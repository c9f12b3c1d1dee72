"""MongoDB as a sink and the log of record: one document per prediction, its label joined on.

    {_id: prediction_id, predicted_at: Date, model_version, features: {...}, probability,
     income_class, threshold, source?, label?, labelled_at?: Date, labelled_by?,
     conflicts?: [{label, labelled_at, labelled_by?}]}

The prediction of an id with the earliest `predicted_at` wins, in any order of arrival. The first
label of an id wins. A later label with another value goes to
`conflicts`. A label that arrives before its prediction creates a document without `predicted_at`,
which is "pending" until the prediction arrives. Every write may be repeated.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pymongo
from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    InvalidName,
    OperationFailure,
    PyMongoError,
)

from config.events import OF_PROGRAMS, Label, LabelledRecord, Prediction, earliest, labelled
from config.runtime.settings import MONGODB_ADDRESS_RULE, SettingsError
from prediction_service.journal import StoredEvent
from prediction_service.journal.export import ALL_TIME, Period
from prediction_service.settings import Settings
from prediction_service.sinks.base import EventsRejected, SinkMisconfigured, SinkUnavailable

COLLECTION = "predictions"
READ_TIMEOUT_S = 120.0  # of one reply to an export, which may be 16 MB
PERMISSION_ERRORS = {13, 18}  # Unauthorized, AuthenticationFailed
INDEX_TIMEOUT_S, COUNT_TIMEOUT_S = 86_400.0, 3600.0  # the times grow with the collection
# Errors of one document that a retry cannot fix: it breaks the collection's validator, or it is too
# large, when inserted or when updated.
DOCUMENT_ERRORS = {121, 10334, 17419, 17420}


class MongoSink:
    """One collection that stores events and reads them back."""

    name = "mongodb"
    is_record = True
    share = 1.0

    def __init__(self, settings: Settings) -> None:
        """Prepare a client, which connects on first use.

        Raises SettingsError for an unusable address or database name.
        """
        database = settings.mongodb_database
        milliseconds = int(settings.sink_timeout_s * 1000)
        try:
            self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
                settings.mongodb_address,
                password=settings.mongodb_password.get_secret_value() or None,
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                # No timeoutMS: MongoDB applies it to all of the time that it spends on a cursor.
                socketTimeoutMS=int(READ_TIMEOUT_S * 1000),
                w="majority",
                retryWrites=False,  # the relay retries whole batches
                tz_aware=True,
                appname="income-relay",
            )
        except (ConfigurationError, ValueError) as err:
            raise SettingsError(MONGODB_ADDRESS_RULE) from err
        try:
            self.collection = self.client[database][COLLECTION]
        except InvalidName as err:
            self.client.close()
            raise SettingsError(
                f"MONGODB_DATABASE: {err}; got {database}, expected a name that MongoDB accepts."
            ) from err
        self.timeout_s = settings.sink_timeout_s
        self.ttl_s = settings.mongodb_ttl_s

    def send(self, events: list[StoredEvent]) -> None:
        """Store the events durably within `timeout_s`, all calls together.

        Raises SinkUnavailable or EventsRejected.
        """
        try:
            with pymongo.timeout(self.timeout_s):
                self._store_predictions(_decoded(events, "prediction", Prediction))
                self._store_labels(_decoded(events, "label", Label))
        except BulkWriteError as err:
            raise _translated(err) from err
        except (BSONError, msgspec.DecodeError, OverflowError) as err:
            raise EventsRejected(f"An event cannot be written as a document: {err}") from err
        except OperationFailure as err:
            kind = SinkMisconfigured if err.code in PERMISSION_ERRORS else SinkUnavailable
            raise kind(f"MONGODB_ADDRESS: MongoDB does not store: {err}") from err
        except PyMongoError as err:
            raise SinkUnavailable(f"MONGODB_ADDRESS: MongoDB does not store: {err}") from err

    def make_indexes(self) -> None:
        """Build the missing indexes, which may take hours. Raises SinkUnavailable.

        `send` needs none of them.
        """
        ttl: dict[str, Any] = {"expireAfterSeconds": self.ttl_s} if self.ttl_s else {}
        with _translated_errors(), pymongo.timeout(INDEX_TIMEOUT_S):
            self.collection.create_index([("predicted_at", 1), ("model_version", 1)])
            self.collection.create_index([("conflicts.label", 1)], sparse=True)
            self._drop_other_ttl("predicted_at_1", "labelled_at_1")
            self.collection.create_index([("labelled_at", 1)], sparse=True, **ttl)
            if ttl:
                self.collection.create_index([("predicted_at", 1)], **ttl)

    def label_states(self) -> dict[str, int]:
        """Return how many labels are matched, pending and conflicting. Raises SinkUnavailable.

        The time grows with the number of labels: `labelled` reads its whole index.
        """
        with _translated_errors(), pymongo.timeout(COUNT_TIMEOUT_S):
            labelled = self.collection.count_documents({"labelled_at": {"$exists": True}})
            pending = self.collection.count_documents({"predicted_at": {"$exists": False}})
            conflicting = self.collection.count_documents({"conflicts.label": {"$exists": True}})
        return {"matched": labelled - pending, "pending": pending, "conflicting": conflicting}

    def n_predictions(self) -> int:
        """Return how many predictions are stored. Raises SinkUnavailable."""
        with _translated_errors(), pymongo.timeout(self.timeout_s):
            return self.collection.count_documents({"predicted_at": {"$exists": True}})

    def predictions(self, period: Period = ALL_TIME) -> Iterator[Prediction]:
        """Yield the predictions of a period, oldest first. Raises SinkUnavailable."""
        between = {
            "$gte": datetime.fromtimestamp(period.since, UTC),
            "$lt": datetime.fromtimestamp(period.until, UTC),
        }
        found = self.collection.find({"predicted_at": between}).sort("predicted_at", 1)
        with _translated_errors():
            for document in found:
                yield prediction_of(document)

    def labelled(self, callers: Sequence[str] = ()) -> Iterator[LabelledRecord]:
        """Yield the programs' predictions with a label without a conflict, oldest label first.

        With `callers`, the names of API keys, only labels of these callers count. Raises
        SinkUnavailable.
        """
        query: dict[str, Any] = {
            "predicted_at": {"$exists": True},
            "labelled_at": {"$exists": True},  # so the sort may use its sparse index
            "conflicts": {"$exists": False},
            **OF_PROGRAMS,
        }
        if callers:
            query["labelled_by"] = {"$in": list(callers)}
        with _translated_errors():
            for found in self.collection.find(query).sort("labelled_at", 1):
                at = found["labelled_at"].timestamp()
                yield labelled(prediction_of(found), Label(found["_id"], at, found["label"]))

    def erase(self, prediction_id: str) -> int:
        """Remove a prediction and its labels; return the number of documents.

        Raises SinkUnavailable.
        """
        with _translated_errors(), pymongo.timeout(self.timeout_s):
            return self.collection.delete_one({"_id": prediction_id}).deleted_count

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _drop_other_ttl(self, *names: str) -> None:
        """Drop indexes with an earlier MONGODB_TTL_S: they would still delete documents."""
        present = self.collection.index_information()
        for name in names:
            if present.get(name, {}).get("expireAfterSeconds", 0) != self.ttl_s:
                if name in present:
                    self.collection.drop_index(name)

    def _store_predictions(self, predictions: list[Prediction]) -> None:
        """Insert new ids; complete documents that have only a label or a later prediction."""
        documents = {one.prediction_id: document_of(one) for one in earliest(predictions)}
        if not documents:
            return
        inserts = [
            pymongo.UpdateOne({"_id": key}, {"$setOnInsert": document}, upsert=True)
            for key, document in documents.items()
        ]
        inserted = set((self._write(inserts).upserted_ids or {}).values())
        self._write(
            pymongo.UpdateOne(
                # Matches a missing field too.
                {"_id": key, "predicted_at": {"$not": {"$lte": document["predicted_at"]}}},
                {"$set": document},
            )
            for key, document in documents.items()
            if key not in inserted
        )

    def _store_labels(self, labels: list[Label]) -> None:
        """Label new ids, then known ids without a label, then append conflicting labels.

        Each pass may be repeated.
        """
        first = {label.prediction_id: label_of(label) for label in reversed(labels)}
        self._write(
            pymongo.UpdateOne({"_id": key}, {"$setOnInsert": label}, upsert=True)
            for key, label in first.items()
        )
        self._write(
            pymongo.UpdateOne({"_id": key, "label": {"$exists": False}}, {"$set": label})
            for key, label in first.items()
        )
        self._write(
            pymongo.UpdateOne(
                {
                    "_id": label.prediction_id,
                    "label": {"$ne": label.label},
                    "conflicts.label": {"$ne": label.label},
                },
                {"$push": {"conflicts": label_of(label)}},
            )
            for label in labels
        )

    def _write(self, operations: Iterable[pymongo.UpdateOne]) -> Any:
        """Write one unordered bulk; None without operations."""
        batch = list(operations)
        return self.collection.bulk_write(batch, ordered=False) if batch else None


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise SinkUnavailable for an error of MongoDB."""
    try:
        yield
    except PyMongoError as err:
        raise SinkUnavailable(f"MONGODB_ADDRESS: MongoDB does not respond: {err}") from err


def document_of(prediction: Prediction) -> dict[str, Any]:
    """Return the fields of a prediction's document, without `_id`."""
    document = msgspec.structs.asdict(prediction)
    del document["prediction_id"]
    document["predicted_at"] = datetime.fromtimestamp(prediction.predicted_at, UTC)
    return document


def prediction_of(document: dict[str, Any]) -> Prediction:
    """Return the prediction in a document. MongoDB keeps its time in milliseconds."""
    fields = {**document, "prediction_id": document["_id"]}
    fields["predicted_at"] = document["predicted_at"].timestamp()
    return msgspec.convert(fields, Prediction)


def label_of(label: Label) -> dict[str, Any]:
    """Return the fields of a label."""
    fields = {"label": label.label, "labelled_at": datetime.fromtimestamp(label.labelled_at, UTC)}
    return fields | ({"labelled_by": label.labelled_by} if label.labelled_by else {})


def _decoded(events: list[StoredEvent], kind: str, shape: type[Any]) -> list[Any]:
    decoder = msgspec.json.Decoder(shape)
    return [decoder.decode(event.body) for event in events if event.kind == kind]


def _translated(err: BulkWriteError) -> Exception:
    """Return EventsRejected if every error is of a document itself, otherwise SinkUnavailable."""
    errors = err.details.get("writeErrors", [])
    reasons = "; ".join(str(error.get("errmsg")) for error in errors[:3]) or str(err)
    if errors and all(error.get("code") in DOCUMENT_ERRORS for error in errors):
        return EventsRejected(f"MongoDB rejects a document: {reasons}")
    return SinkUnavailable(f"MongoDB stored only a part of the batch: {reasons}")
