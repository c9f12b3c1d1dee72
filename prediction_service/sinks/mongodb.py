"""MongoDB as a sink and the log of record: one document per prediction, its label joined on.

    {_id: prediction_id, predicted_at: Date, model_version, features: {...}, probability,
     income_class, threshold, label?, labelled_at?: Date, labelled_by?,
     conflicts?: [{label, labelled_at, labelled_by?}]}

The first prediction and the first label of an id win; a label that says otherwise is kept in
`conflicts`. A label that comes before its prediction makes a document without `predicted_at`,
which is "pending" until the prediction fills it in. Every write may be repeated.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pymongo
from bson.errors import BSONError
from pymongo.errors import BulkWriteError, ConfigurationError, InvalidName, PyMongoError

from config.events import Label, LabelledRecord, Prediction, labelled
from config.runtime.settings import MONGODB_ADDRESS_RULE, SettingsError
from prediction_service.journal import StoredEvent
from prediction_service.settings import Settings
from prediction_service.sinks.base import EventsRefused, SinkUnavailable

COLLECTION = "predictions"
LATEST = 253_402_300_799.0  # the last second that a date can tell, in Unix time
# Errors of one document, which repeating cannot mend: it breaks the collection's validator, or
# is too large (of itself, or once updated).
DOCUMENT_ERRORS = {121, 10334, 17419, 17420}


class MongoSink:
    """Stores events in one collection; also reads them back."""

    name = "mongodb"

    def __init__(
        self, address: str, database: str, timeout_s: float, *, ttl_s: int = 0, password: str = ""
    ) -> None:
        """Connects on first use. `ttl_s` above 0 lets MongoDB remove documents of that age.

        `password` is that of the user in the address. Raises SettingsError for an address or a
        name of a database that cannot be used.
        """
        milliseconds = int(timeout_s * 1000)
        try:
            self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
                address,
                password=password or None,
                serverSelectionTimeoutMS=milliseconds,
                timeoutMS=milliseconds,
                w="majority",
                retryWrites=False,  # every write here may be repeated, and the relay does so
                tz_aware=True,
                appname="income-relay",
            )
        except (ConfigurationError, ValueError) as err:
            raise SettingsError(MONGODB_ADDRESS_RULE) from err
        try:
            self.collection = self.client[database][COLLECTION]
        except InvalidName as err:
            self.client.close()
            raise SettingsError(f"MONGODB_DATABASE={database}: {err}") from err
        self.timeout_s = timeout_s
        self.ttl_s = ttl_s
        self._has_indexes = False

    @classmethod
    def of(cls, settings: Settings) -> "MongoSink":
        """The sink that the settings describe."""
        return cls(
            settings.mongodb_address,
            settings.mongodb_database,
            settings.sink_timeout_s,
            ttl_s=settings.mongodb_ttl_s,
            password=settings.mongodb_password.get_secret_value(),
        )

    def send(self, events: list[StoredEvent]) -> None:
        """Stores the events durably, or gives up in `timeout_s` altogether.

        Raises SinkUnavailable or EventsRefused.
        """
        try:
            with pymongo.timeout(self.timeout_s):
                self._make_indexes()
                self._store_predictions(_decoded(events, "prediction", Prediction))
                self._store_labels(_decoded(events, "label", Label))
        except BulkWriteError as err:
            raise _translated(err) from err
        except (BSONError, msgspec.DecodeError, OverflowError) as err:
            raise EventsRefused(f"an event cannot be written as a document: {err}") from err
        except PyMongoError as err:
            raise SinkUnavailable(f"MongoDB does not store (MONGODB_ADDRESS): {err}") from err

    def label_states(self) -> dict[str, int]:
        """How many labels are matched, pending and conflicting. Raises SinkUnavailable."""
        with _answering():
            labelled = self.collection.count_documents({"labelled_at": {"$exists": True}})
            pending = self.collection.count_documents({"predicted_at": {"$exists": False}})
            conflicting = self.collection.count_documents({"conflicts.label": {"$exists": True}})
        return {"matched": labelled - pending, "pending": pending, "conflicting": conflicting}

    def n_predictions(self) -> int:
        """How many predictions are stored. Raises SinkUnavailable."""
        with _answering():
            return self.collection.count_documents({"predicted_at": {"$exists": True}})

    def predictions(self, since: float = 0.0, until: float = LATEST) -> Iterator[Prediction]:
        """Every prediction of a period in Unix time, oldest first. Raises SinkUnavailable.

        `until` is not in it.
        """
        period = {
            "$gte": datetime.fromtimestamp(since, UTC),
            "$lt": datetime.fromtimestamp(until, UTC),
        }
        found = self.collection.find({"predicted_at": period}).sort("predicted_at", 1)
        with _answering():
            for document in found:
                yield prediction_of(document)

    def labelled(self, callers: Sequence[str] = ()) -> Iterator[LabelledRecord]:
        """Every prediction with an undisputed label, oldest label first. Raises SinkUnavailable.

        With `callers`, the names of API keys, only labels that one of them has told.
        """
        query: dict[str, Any] = {
            "predicted_at": {"$exists": True},
            "label": {"$exists": True},
            "conflicts": {"$exists": False},
        }
        if callers:
            query["labelled_by"] = {"$in": list(callers)}
        with _answering():
            for found in self.collection.find(query).sort("labelled_at", 1):
                at = found["labelled_at"].timestamp()
                yield labelled(prediction_of(found), Label(found["_id"], at, found["label"]))

    def erase(self, prediction_id: str) -> int:
        """Removes a prediction with its labels; how many documents. Raises SinkUnavailable."""
        with _answering():
            return self.collection.delete_one({"_id": prediction_id}).deleted_count

    def close(self) -> None:
        """Closes the connections."""
        self.client.close()

    def _make_indexes(self) -> None:
        if self._has_indexes:
            return
        self.collection.create_index([("predicted_at", 1), ("model_version", 1)])
        self.collection.create_index([("conflicts.label", 1)], sparse=True)
        self._drop_other_ttl("predicted_at_1", "labelled_at_1")
        ttl: dict[str, Any] = {"expireAfterSeconds": self.ttl_s} if self.ttl_s else {}
        self.collection.create_index([("labelled_at", 1)], sparse=True, **ttl)
        if ttl:
            self.collection.create_index([("predicted_at", 1)], **ttl)
        self._has_indexes = True

    def _drop_other_ttl(self, *names: str) -> None:
        """Drops indexes that would still expire documents by an earlier MONGODB_TTL_S."""
        present = self.collection.index_information()
        for name in names:
            if present.get(name, {}).get("expireAfterSeconds", 0) != self.ttl_s:
                if name in present:
                    self.collection.drop_index(name)

    def _store_predictions(self, predictions: list[Prediction]) -> None:
        """New ids are inserted; where only a label waits, the prediction is filled in."""
        documents = {one.prediction_id: document_of(one) for one in predictions}
        if not documents:
            return
        inserts = [
            pymongo.UpdateOne({"_id": key}, {"$setOnInsert": document}, upsert=True)
            for key, document in documents.items()
        ]
        inserted = set((self._write(inserts).upserted_ids or {}).values())
        self._write(
            pymongo.UpdateOne({"_id": key, "predicted_at": {"$exists": False}}, {"$set": document})
            for key, document in documents.items()
            if key not in inserted
        )

    def _store_labels(self, labels: list[Label]) -> None:
        """Three passes, each of which may be repeated: label new ids, label known ones that
        have none, keep what says otherwise.
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
        """One unordered bulk; nothing for no operations."""
        batch = list(operations)
        return self.collection.bulk_write(batch, ordered=False) if batch else None


@contextmanager
def _answering() -> Iterator[None]:
    """Raises SinkUnavailable where MongoDB does not answer."""
    try:
        yield
    except PyMongoError as err:
        raise SinkUnavailable(f"MongoDB does not answer (MONGODB_ADDRESS): {err}") from err


def document_of(prediction: Prediction) -> dict[str, Any]:
    """A prediction as its document's fields, but for `_id`."""
    document = msgspec.structs.asdict(prediction)
    del document["prediction_id"]
    document["predicted_at"] = datetime.fromtimestamp(prediction.predicted_at, UTC)
    return document


def prediction_of(document: dict[str, Any]) -> Prediction:
    """The prediction in a document; its time is to the millisecond, as MongoDB keeps it."""
    fields = {**document, "prediction_id": document["_id"]}
    fields["predicted_at"] = document["predicted_at"].timestamp()
    return msgspec.convert(fields, Prediction)


def label_of(label: Label) -> dict[str, Any]:
    """A label as its document's fields."""
    told = {"label": label.label, "labelled_at": datetime.fromtimestamp(label.labelled_at, UTC)}
    return told | ({"labelled_by": label.labelled_by} if label.labelled_by else {})


def _decoded(events: list[StoredEvent], kind: str, shape: type[Any]) -> list[Any]:
    decoder = msgspec.json.Decoder(shape)
    return [decoder.decode(event.body) for event in events if event.kind == kind]


def _translated(err: BulkWriteError) -> Exception:
    """Refused if the errors are the documents' own; else worth another try."""
    errors = err.details.get("writeErrors", [])
    reasons = "; ".join(str(error.get("errmsg")) for error in errors[:3]) or str(err)
    if errors and all(error.get("code") in DOCUMENT_ERRORS for error in errors):
        return EventsRefused(f"MongoDB refuses a document: {reasons}")
    return SinkUnavailable(f"MongoDB stored a part of the batch: {reasons}")
