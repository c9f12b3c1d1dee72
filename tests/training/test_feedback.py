"""Labelled production rows from a real MongoDB server, where the prediction service wrote them."""

import time
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from config.events import Label, Prediction
from config.runtime.settings import SettingsError
from prediction_service.journal import StoredEvent
from prediction_service.sinks.mongodb import MongoSink
from training.data import feedback
from training.data.feedback import FeedbackUnavailable, count_labelled, read_feedback
from training.settings import Settings


@pytest.fixture
def settings(sink: MongoSink, mongodb_uri: str) -> Settings:
    """Training's settings for that database; labels without a caller count."""
    name = sink.collection.database.name
    return Settings(mongodb_address=mongodb_uri, mongodb_database=name, learn_anonymous_labels=True)


def send(sink: MongoSink, *events: Prediction | Label) -> None:
    """Store events as the relay does."""
    sink.send(
        [
            StoredEvent(
                number,
                "prediction" if isinstance(event, Prediction) else "label",
                event.prediction_id,
                0.0,
                msgspec.json.encode(event),
            )
            for number, event in enumerate(events, start=1)
        ]
    )


def predicted(key: str, record: dict[str, Any]) -> Prediction:
    """Return a prediction."""
    return Prediction(key, 1.7e9, "1", record, 0.25, 0, 0.5)


def test_labelled_predictions_are_ordered_by_label_time(sink, settings, record, contract):
    send(sink, *(predicted(key, record | {"age": age}) for key, age in (("a", 30), ("b", 40))))
    send(sink, Label("b", 10.0, 1), Label("a", 20.5, 0))
    found = read_feedback(settings, contract)
    assert (found.disputed, found.rejected) == (0, 0)
    more = ["income", "prediction_id", "predicted_at", "caller"]
    assert list(found.rows) == [*contract.input_names, *more]
    columns = ["prediction_id", "predicted_at", "age", "income"]
    assert found.rows[columns].values.tolist() == [["b", 1.7e9, 40, 1], ["a", 1.7e9, 30, 0]]


def test_only_matched_and_undisputed_labels_of_valid_records_are_read(
    sink, settings, record, contract
):
    null = record | {"workclass": None, "native_country": "Atlantis"}
    send(
        sink,
        predicted("good", null),
        predicted("unlabelled", record),
        msgspec.structs.replace(predicted("asked at the page", record), source="page"),
        predicted("disputed", record),
        predicted("older contract", record | {"age": 12}),
        predicted("lacks one", {name: record[name] for name in record if name != "sex"}),
        *(Label(key, 10.0, 1) for key in ("good", "pending", "disputed", "asked at the page")),
        *(Label(key, 10.0, 1) for key in ("older contract", "lacks one")),
        Label("disputed", 11.0, 0),
    )
    with capture_logs() as lines:
        found = read_feedback(settings, contract)
    assert found.rows["prediction_id"].tolist() == ["good"]
    assert found.rows[["workclass", "native_country"]].values.tolist() == [["?", "?"]]
    assert (found.disputed, found.rejected) == (1, 2)
    assert lines[0]["event"] == "feedback_rejected" and lines[0]["columns"] == ["age", "sex"]


def test_with_api_keys_only_labels_of_current_callers_are_used(sink, settings, record, contract):
    """Without API keys, anyone with access to the service could poison the next model."""
    send(sink, *(predicted(key, record) for key in ("anonymous", "planning", "taken back")))
    send(sink, Label("anonymous", 1.0, 1), Label("planning", 2.0, 1, "planning"))
    send(sink, Label("taken back", 3.0, 1, "gone"))
    on = settings.model_copy(update={"api_key_hashes": f"planning={'0' * 64}"})
    assert read_feedback(on, contract).rows["prediction_id"].tolist() == ["planning"]
    assert len(read_feedback(settings, contract).rows) == 3
    off = settings.model_copy(update={"learn_anonymous_labels": False})
    assert read_feedback(off, contract).rows.empty
    counted = [count_labelled(one, since=0.0, seen_until=0.0) for one in (on, settings, off)]
    assert counted == [1, 3, 0]


def test_a_caller_adds_a_limited_number_of_labels_a_day(sink, settings, record, contract):
    """One key could fill all recent rows in a day."""
    send(sink, *(predicted(key, record) for key in "abcde"))
    day = 24 * 3600.0
    by_a = (Label(key, at, 1, "a") for key, at in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("d", day)))
    send(sink, *by_a, Label("e", 4.0, 1, "b"))
    hashes = f"a={'0' * 64},b={'1' * 64}"
    limited = settings.model_copy(update={"api_key_hashes": hashes, "labels_per_caller_day": 2})
    found = read_feedback(limited, contract)
    assert found.capped == 1 and found.rows["prediction_id"].tolist() == ["a", "b", "e", "d"]
    assert found.rows["caller"].tolist() == ["a", "a", "b", "a"]


def test_without_labels_no_rows_are_returned(sink, settings, record, contract):
    send(sink, predicted("a", record))
    assert read_feedback(settings, contract).rows.empty


def test_only_the_newest_labels_are_read_from_a_long_log(
    sink, settings, record, contract, monkeypatch
):
    monkeypatch.setattr(feedback, "MAX_ROWS", 2)
    send(sink, *(predicted(key, record) for key in "abc"))
    send(sink, *(Label(key, at, 1) for key, at in (("a", 3.0), ("b", 1.0), ("c", 2.0))))
    found = read_feedback(settings, contract)
    assert found.rows["prediction_id"].tolist() == ["c", "a"]


def test_an_unavailable_server_is_named_with_its_setting_and_in_time(contract, monkeypatch):
    monkeypatch.setattr(feedback, "CONNECT_S", 0.3)
    started = time.monotonic()
    with pytest.raises(FeedbackUnavailable, match="MONGODB_ADDRESS.*without --with-feedback"):
        read_feedback(Settings(mongodb_address="mongodb://127.0.0.1:1"), contract)
    assert time.monotonic() - started < 10


def test_the_error_about_an_unusable_address_names_the_remedy_and_hides_the_address(contract):
    for address in ("mongodb://income:p@sesame@host", "mongodb://income@sesame:host"):
        with pytest.raises(SettingsError, match="MONGODB_ADDRESS: .*percent-encode") as caught:
            read_feedback(Settings(mongodb_address=address), contract)
        assert "sesame" not in str(caught.value)


def test_without_an_address_the_error_explains_the_export_of_the_journal(contract):
    with pytest.raises(SettingsError, match="journal export --labelled .*training ingest"):
        read_feedback(Settings(), contract)
