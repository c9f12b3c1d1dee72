"""MongoDB as a sink and log of record, on a real server. The relay may repeat every write."""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pymongo
import pytest
from pymongo.collection import Collection
from pymongo.errors import OperationFailure
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from config.events import Label, LabelledRecord
from config.runtime.settings import SettingsError
from evidently_service.store.records import Counters
from evidently_service.store.window import Window
from prediction_service.journal import Journal, StoredEvent, read_after
from prediction_service.journal.export import journalled_labelled, journalled_predictions
from prediction_service.sinks.mongodb import MongoSink
from prediction_service.settings import Settings
from prediction_service.sinks.base import EventsRejected, SinkMisconfigured, SinkUnavailable
from tests.prediction_service.conftest import made_predictions

Write = Callable[..., list[StoredEvent]]


@pytest.fixture
def write(journal: Journal) -> Write:
    """Return a function that journals events and reads them as the relay does."""

    def write_events(*events: object) -> list[StoredEvent]:
        written = read_after(journal.path, 0, 10_000)
        journal.append(events)  # type: ignore[arg-type]
        return read_after(journal.path, len(written), 10_000)

    return write_events


@pytest.mark.parametrize(
    "address", ["mongodb://income:p@sesame@host", "mongodb://income:sesame/1@host", "host:p"]
)
def test_an_unusable_address_is_reported_with_the_remedy_and_not_shown(
    address: str,
) -> None:
    with pytest.raises(SettingsError, match="MONGODB_ADDRESS: .*percent-encode it") as caught:
        MongoSink(Settings(mongodb_address=address))
    assert "sesame" not in str(caught.value)
    with pytest.raises(SettingsError, match="MONGODB_DATABASE: .*got a b, expected"):
        MongoSink(Settings(mongodb_address="mongodb://127.0.0.1:1", mongodb_database="a b"))


def test_a_prediction_is_stored_as_one_document_and_read_back(
    sink: MongoSink, write: Write
) -> None:
    predictions = made_predictions(3)
    events = write(*predictions)
    sink.send(events)
    sink.send(events)
    assert list(sink.predictions()) == predictions
    assert sink.n_predictions() == 3
    document = sink.collection.find_one({"_id": predictions[0].prediction_id})
    assert document == {
        "_id": predictions[0].prediction_id,
        "predicted_at": datetime.fromtimestamp(1.7e9, UTC),
        "model_version": "1",
        "features": {"age": 40, "workclass": None, "sex": "Male"},
        "probability": 0.25,
        "income_class": 0,
        "threshold": 0.5,
        "source": "api",
    }


@pytest.mark.parametrize("are_together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize("order", ["first, retry", "retry, first"])
def test_every_store_keeps_the_earliest_prediction_of_an_id_in_any_order_of_arrival(
    sink: MongoSink, write: Write, journal: Journal, order: str, are_together: bool
) -> None:
    """A retry may reach another worker after a change of the live version.

    Then one id has two predictions. A sink that lagged once kept another one than the other sinks.
    """
    (first,) = made_predictions(1)
    retry = msgspec.structs.replace(
        first, predicted_at=first.predicted_at + 0.5, model_version="2", probability=0.75
    )
    arriving = [first, retry] if order == "first, retry" else [retry, first]
    label = Label(first.prediction_id, first.predicted_at + 1, 1)
    batches = [arriving] if are_together else [[one] for one in arriving]
    with closing(Window(journal.root / "window.db")) as window:
        for batch in batches:
            sink.send(write(*batch))
            window.add_predictions(batch)
        sink.send(write(label))
        window.add_labels([label])
        in_window, (labelled,) = window.last_predictions(2), window.last_labelled(2)
        assert window.counters().duplicates == 1
    exported = list(journalled_predictions(journal.root))
    assert list(sink.predictions()) == in_window == exported == [first]
    assert (labelled.model_version, labelled.probability) == ("1", 0.25)
    assert [one.record for one in sink.labelled()] == [first.features]


def test_monitoring_and_training_leave_out_predictions_of_the_page(
    sink: MongoSink, write: Write, journal: Journal
) -> None:
    """5,000 uploaded rows once replaced all rows of the monitoring window."""
    page, older, api = made_predictions(3)
    page = msgspec.structs.replace(page, source="page")
    labels = [Label(one.prediction_id, 1.8e9, 1) for one in (page, older, api)]
    sink.send(write(page, older, api, *labels))
    sink.collection.update_one({"_id": older.prediction_id}, {"$unset": {"source": 1}})
    assert list(sink.predictions()) == [page, older, api]
    with closing(Window(journal.root / "window.db")) as window:
        window.add_labels(labels[:1])
        window.add_predictions([page, older, api])
        window.add_labels(labels)
        assert window.last_predictions(10) == [older, api]
        assert len(window.last_labelled(10)) == 2
        assert window.counters() == Counters(ingested=2, labels_matched=2)
        assert window.label_counts().pending == 0
        assert window.erase(page.prediction_id) == 1
    for labelled in (sink.labelled(), journalled_labelled(journal.root)):
        ids = {one.prediction_id for one in labelled}
        assert ids == {older.prediction_id, api.prediction_id}


def test_the_first_label_counts_and_a_conflict_is_stored_once(
    sink: MongoSink, write: Write
) -> None:
    agreed, disputed = (one.prediction_id for one in made_predictions(2))
    labels = write(
        Label(agreed, 10.0, 1), Label(disputed, 10.0, 1), Label(agreed, 11.0, 1)
    ) + write(Label(disputed, 12.0, 0), Label(disputed, 13.0, 0))
    sink.send(labels)
    sink.send(labels)
    first = {"label": 1, "labelled_at": datetime.fromtimestamp(10, UTC)}
    conflict = {"label": 0, "labelled_at": datetime.fromtimestamp(12, UTC)}
    assert sink.collection.find_one({"_id": agreed}) == {"_id": agreed} | first
    found = sink.collection.find_one({"_id": disputed})
    assert found == {"_id": disputed} | first | {"conflicts": [conflict]}


def test_a_label_is_stored_until_its_prediction_arrives(sink: MongoSink, write: Write) -> None:
    early, late, unlabelled = made_predictions(3)
    sink.send(write(Label(early.prediction_id, 10.0, 1)))
    assert sink.label_states() == {"matched": 0, "pending": 1, "conflicting": 0}
    assert not list(sink.predictions())
    sink.send(write(early, late, unlabelled))
    sink.send(write(Label(late.prediction_id, 11.0, 0), Label(late.prediction_id, 12.0, 1)))
    assert sink.label_states() == {"matched": 2, "pending": 0, "conflicting": 1}
    assert {one.prediction_id for one in sink.predictions()} == {
        one.prediction_id for one in (early, late, unlabelled)
    }
    document = sink.collection.find_one({"_id": early.prediction_id})
    assert document and (document["label"], document["model_version"]) == (1, "1")
    (exported,) = sink.labelled()  # without the conflicting label
    assert exported == LabelledRecord({**early.features}, 1, early.prediction_id, 1.7e9)


class Commands(CommandListener):
    """A listener that keeps the commands of a client."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, Any]]] = []

    def started(self, event: CommandStartedEvent) -> None:
        """Keep a command."""
        self.sent.append((event.command_name, event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Ignore it."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Ignore it."""

    def limits_s(self, name: str) -> list[float]:
        """Return the time that each command of a name gives the server; infinity without one."""
        sent = [command for its_name, command in self.sent if its_name == name]
        return [command.get("maxTimeMS", math.inf) / 1000 for command in sent]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Listen to the clients that the test opens."""
    listener = Commands()
    listening = partial(pymongo.MongoClient, event_listeners=[listener])
    monkeypatch.setattr(pymongo, "MongoClient", listening)
    return listener


def test_indexes_are_built_outside_shipping_and_without_its_deadline(
    commands: Commands, sink: MongoSink, write: Write
) -> None:
    """The indexes of a large collection took longer than SINK_TIMEOUT_S, so nothing was shipped."""
    sink.send(write(*made_predictions(1)))
    assert not commands.limits_s("createIndexes")
    assert all(0 < limit <= sink.timeout_s for limit in commands.limits_s("update"))
    sink.make_indexes()
    assert min(commands.limits_s("createIndexes")) > 3600


def test_an_export_may_take_longer_than_the_timeout_of_the_sink(
    commands: Commands, sink: MongoSink, write: Write
) -> None:
    """MongoDB once ended an export when all its replies together took SINK_TIMEOUT_S."""
    predictions = made_predictions(300)  # more than a first reply of MongoDB has
    labels = [Label(one.prediction_id, 1.7e9, 1) for one in predictions]
    sink.send(write(*predictions, *labels))
    assert len(list(sink.predictions())) == len(list(sink.labelled())) == 300
    reads = commands.limits_s("find") + commands.limits_s("getMore")
    assert len(reads) >= 2 and min(reads) == math.inf
    sink.n_predictions()
    sink.erase(predictions[0].prediction_id)
    assert max(commands.limits_s("aggregate") + commands.limits_s("delete")) <= sink.timeout_s


def test_the_indexes_follow_the_ttl(sink: MongoSink, mongodb_uri: str) -> None:
    def ttls(ttl_s: int) -> dict[str, int | None]:
        name = sink.collection.database.name
        settings = Settings(mongodb_address=mongodb_uri, mongodb_database=name, mongodb_ttl_s=ttl_s)
        with closing(MongoSink(settings)) as opened:
            opened.make_indexes()
            found = opened.collection.index_information()
        assert "predicted_at_1_model_version_1" in found
        return {key: index.get("expireAfterSeconds") for key, index in found.items()}

    def of_both(seconds: int) -> dict[str, int]:
        return {"predicted_at_1": seconds, "labelled_at_1": seconds}

    assert not any(ttls(0).values())
    assert {key: value for key, value in ttls(60).items() if value} == of_both(60)
    assert {key: value for key, value in ttls(90).items() if value} == of_both(90)
    assert not any(ttls(0).values())


def test_an_invalid_prediction_is_rejected(sink: MongoSink) -> None:
    with pytest.raises(EventsRejected, match="cannot be written"):
        sink.send([StoredEvent(1, "prediction", "x", 0.0, b'{"prediction_id": 5}')])


def test_a_server_that_is_down_is_reported_within_the_timeout(write: Write) -> None:
    down = MongoSink(Settings(mongodb_address="mongodb://127.0.0.1:1", sink_timeout_s=0.3))
    with pytest.raises(SinkUnavailable, match="MONGODB_ADDRESS"):
        down.send(write(*made_predictions(1)))
    with pytest.raises(SinkUnavailable):
        list(down.predictions())
    down.close()


def test_a_missing_permission_is_reported_as_a_fault_of_the_configuration(
    sink: MongoSink, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is simulated: the server of the tests requires no password."""

    def bulk_write(*_: Any, **__: Any) -> None:
        raise OperationFailure("not authorized on income", code)

    monkeypatch.setattr(Collection, "bulk_write", bulk_write)
    for code, kind in ((13, SinkMisconfigured), (18, SinkMisconfigured), (91, SinkUnavailable)):
        with pytest.raises(SinkUnavailable) as caught:
            sink.send(write(*made_predictions(1)))
        assert caught.type is kind


def test_a_label_is_stored_with_its_caller(sink: MongoSink, write: Write) -> None:
    anonymous, planning = made_predictions(2)
    sink.send(write(anonymous, planning))
    sink.send(write(Label(anonymous.prediction_id, 1.0, 1)))
    sink.send(write(Label(planning.prediction_id, 2.0, 1, "planning")))
    document = sink.collection.find_one({"_id": planning.prediction_id})
    assert document and document["labelled_by"] == "planning"
    assert "labelled_by" not in (sink.collection.find_one({"_id": anonymous.prediction_id}) or {})
    assert [one.prediction_id for one in sink.labelled(["planning"])] == [planning.prediction_id]
    assert len(list(sink.labelled())) == 2
