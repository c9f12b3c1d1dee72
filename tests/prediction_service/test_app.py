"""The HTTP contract, through the Flask client on a real model and a real journal."""

import gzip
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, generate_latest

from config.contract import Contract
from config.feature import Feature
from config.runtime.cross_site import JSON
from prediction_service.errors import InvalidRecords
from prediction_service.journal import (
    Event,
    Journal,
    JournalUnavailable,
    StoredEvent,
    read_after,
)
from prediction_service.journal.export import journalled_predictions
from prediction_service.metrics import FinishedRequest, Metrics
from prediction_service.models.model_folder import REACHED, Status
from prediction_service.predict.parsing import RecordReader
from prediction_service.predict.predictor import prediction_ids
from prediction_service.models.live_model import LiveModel
from prediction_service.settings import Settings
from tests.prediction_service.conftest import install

Record = dict[str, Any]
SOME_ID = "0123456789abcdef" * 2


def error_of(response: Any, status: int, code: str) -> list[Record]:
    """Return the problems of an error response, after checking its body."""
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert list(response.get_json()) == ["error"]
    error = response.get_json()["error"]
    assert list(error) == ["code", "message", "problems"]
    assert error["code"] == code
    assert error["message"]
    return error["problems"]


def events_of(journal: Journal) -> list[StoredEvent]:
    """Return all events of a journal."""
    return read_after(journal.path, 0, 10_000)


def test_the_response_to_one_record_has_all_fields_of_a_prediction(
    client: FlaskClient, record: Record
) -> None:
    predicted = client.post("/predict", json=record | {"age": 70}).get_json()
    assert list(predicted) == [
        "prediction_id",
        "income_class",
        "label",
        "probability",
        "threshold",
        "message",
        "model_version",
    ]
    assert (predicted["income_class"], predicted["label"]) == (1, ">50K")
    assert 0.5 <= predicted["probability"] <= 1
    assert (predicted["threshold"], predicted["model_version"]) == (0.5, "1")
    assert "The model calls this person >50K" in predicted["message"]


def test_the_service_predicts_the_golden_probabilities_of_the_package(
    client: FlaskClient, package: Any
) -> None:
    golden = json.loads((package / "golden.json").read_text())
    predictions = client.post("/predict", json=golden["rows"][:50]).get_json()
    probabilities = [one["probability"] for one in predictions]
    assert probabilities == pytest.approx(golden["probabilities"][:50], abs=golden["tolerance"])


def test_the_prediction_is_journalled_with_the_raw_values_of_the_used_columns(
    client: FlaskClient, journal: Journal, record: Record, contract: Contract
) -> None:
    sent = record | {"native_country": "Atlantis", "workclass": None, "fnlwgt": 1000}
    predicted = client.post("/predict", json=sent).get_json()
    (event,) = events_of(journal)
    stored = json.loads(event.body)
    assert (event.kind, event.prediction_id) == ("prediction", predicted["prediction_id"])
    assert list(stored["features"]) == [feature.name for feature in contract.inputs]
    assert stored["features"]["native_country"] == "Atlantis"
    assert stored["features"]["workclass"] is None
    assert stored["probability"] == predicted["probability"]


def test_a_dry_run_returns_the_same_prediction_and_stores_and_counts_nothing(
    client: FlaskClient, journal: Journal, record: Record
) -> None:
    path = "/predict?record=false&explain=true"
    dry = client.post(path, json=record, headers={"Idempotency-Key": "k"}).get_json()
    assert not events_of(journal)
    metrics = client.get("/metrics").text
    assert all(f'income_predictions_total{{income_class="{one}"}} 0.0' in metrics for one in (0, 1))
    real = client.post("/predict?explain=true", json=record).get_json()
    assert real.pop("prediction_id") and real == dry


def test_the_source_is_stored_and_unknown_parameters_are_rejected(
    client: FlaskClient, journal: Journal, record: Record
) -> None:
    for path in ("/predict", "/predict?source=api", "/predict?source=page"):
        assert client.post(path, json=record).status_code == 200
    stored = [one.source for one in journalled_predictions(journal.root)]
    assert stored == ["api", "api", "page"]
    assert "source" not in json.loads(events_of(journal)[0].body)  # as in earlier releases
    misspelt = client.post("/predict?recrod=false", json=record)
    assert misspelt.status_code == 400 and misspelt.get_json()["error"]["message"] == (
        "recrod: no such parameter, expected explain, record, source; did you mean record?"
    )
    assert client.post("/feedback?record=false", json=[]).status_code == 400
    response = client.post("/predict?source=robot&record=false", json=record)
    assert response.status_code == 400
    assert "source: got 'robot', expected api or page." in response.text


def test_a_note_names_each_value_that_is_read_as_missing(
    client: FlaskClient, record: Record
) -> None:
    """An unlisted country changed the probability, and the response did not mention it."""
    note = "native_country: 'Atlantis' is not listed; the model reads it as missing"
    unlisted = record | {"native_country": "Atlantis"}
    assert client.post("/predict", json=unlisted).get_json()["notes"] == [note]
    records = [record, unlisted, record | {"native_country": None}, record | {"age": 20}]
    records.append({name: value for name, value in record.items() if name != "native_country"})
    records.append(unlisted | {"age": 38.0})
    predictions = client.post("/predict?explain=true", json=records).get_json()
    assert [one.get("notes") for one in predictions] == [None, [note], None, None, None, [note]]
    assert (
        len({one["probability"] for one in (predictions[1], predictions[2], predictions[4])}) == 1
    )
    assert all("notes" not in one for one in predictions if one.get("notes") is None)


def test_a_number_for_a_category_is_rejected_with_the_text_to_send(churn: Contract) -> None:
    """The error once was `got 0, expected one of 0, 1`."""
    codes = Feature("code", "nominal", "a code", categories=("0", "1"))
    with pytest.raises(InvalidRecords) as caught:
        RecordReader(Contract(churn.target, (codes,)), 10).read(b'{"code": 0}')
    assert msgspec.to_builtins(caught.value.problems[0]) == {
        "field": "code",
        "value": 0,
        "expected": "one of 0, 1, as text",
        "nearest": '"0"',
    }


def test_a_whole_number_may_have_a_decimal_point(
    client: FlaskClient, journal: Journal, record: Record
) -> None:
    """pandas writes the integers of a column with missing values as 38.0."""
    body = json.dumps([record, record]).replace('"age": 38', '"age": 38.0')
    predictions = client.post("/predict", data=body, content_type=JSON).get_json()
    assert (
        predictions[0]["probability"]
        == client.post("/predict", json=record).get_json()["probability"]
    )
    first, _, third = events_of(journal)
    assert json.loads(first.body)["features"] == json.loads(third.body)["features"]
    assert b'"age":38,' in first.body
    body = body.replace("38.0", "38.5")
    assert client.post("/predict", data=body, content_type=JSON).status_code == 422


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids are of three records in each of nine requests, a millisecond apart."""
    ids: list[str] = []
    for now_ns in range(1_700_000_000_000_000_000, 1_700_000_000_009_000_000, 1_000_000):
        monkeypatch.setattr(time, "time_ns", lambda now_ns=now_ns: now_ns)
        ids += prediction_ids(None, b"", 3)
    assert ids == sorted(set(ids)) and len(ids) == 27
    assert all(len(one) == 32 and int(one, 16) for one in ids)


def test_every_problem_of_every_record_is_listed(client: FlaskClient, record: Record) -> None:
    bad = record | {"age": -3, "education": "bachelor", "aeg": 1}
    partial = {name: value for name, value in record.items() if name != "sex"}
    response = client.post("/predict", json=[record, bad, 7, partial])
    problems = error_of(response, 422, "invalid_records")
    found = [(one["record"], one["field"], one["value"], one.get("nearest")) for one in problems]
    assert found == [
        (1, "aeg", 1, "age"),
        (1, "age", -3, None),
        (1, "education", "bachelor", "Bachelors"),
        (2, "record", 7, None),
        (3, "sex", None, None),
    ]
    assert "the field is missing" in problems[4]["expected"]
    assert problems[1]["expected"] == "a whole number from 17 to 90"


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["age"], "data": [[38]]}},
        {"instances": [{"age": 38}], "params": {}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_records_inside_another_object_are_reported_as_one_problem_with_the_remedy(
    client: FlaskClient, body: Record
) -> None:
    """MLflow's scoring server accepts such bodies. Once, each missing column was a problem."""
    response: Any = client.post("/predict", json=body)
    (problem,) = error_of(response, 422, "invalid_records")
    wanted = "a record or a list of records"
    assert (problem["field"], problem["expected"]) == ("record", wanted)
    assert next(iter(body)) in problem["value"]
    assert "Send the record itself" in response.get_json()["error"]["message"]


def test_a_compressed_body_is_rejected_with_the_header_and_the_remedy(
    client: FlaskClient, record: Record
) -> None:
    body = json.dumps(record).encode()
    headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    response: Any = client.post("/predict", data=gzip.compress(body), headers=headers)
    error_of(response, 415, "unsupported_media_type")
    message = response.get_json()["error"]["message"]
    assert message.startswith("Content-Encoding: ") and "Send the body uncompressed" in message
    plain = client.post("/predict", data=body, headers=headers | {"Content-Encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize("second", ["41", '"x"'])
def test_a_repeated_field_is_rejected(client: FlaskClient, record: Record, second: str) -> None:
    """The fast decoder takes the last value silently, so the reader counts what was sent."""
    body = json.dumps(record)
    expected = "one value, but the field is present more than once"
    for name in ("hours_per_week", "workclass"):
        again = f'"{name}": {second}'
        for sent in (f"{body[:-1]}, {again}}}", f"{{{again}, {body[1:]}"):
            response = client.post("/predict", data=sent, content_type=JSON)
            problem = error_of(response, 422, "invalid_records")[0]
            assert (problem["field"], problem["expected"]) == (name, expected)


def test_a_colon_in_a_value_is_not_taken_for_a_repeated_field(
    client: FlaskClient, record: Record
) -> None:
    sent = record | {"native_country": "a:b null"}
    assert client.post("/predict", json=[sent, record | {"occupation": None}]).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 15_000, b"nul", b'{"age": NaN}', b"[Infinity]"]
)
@pytest.mark.parametrize("path", ["/predict", "/feedback"])
def test_invalid_json_gets_status_400(client: FlaskClient, path: str, body: bytes) -> None:
    assert not error_of(client.post(path, data=body, content_type=JSON), 400, "not_json")


@pytest.mark.parametrize(
    "value",
    [
        "1e999",
        "-1e999",
        "1" * 400,
        '"\\ud800"',
        '"' + "a" * 5000 + '"',
        "[[1]]",
        "{}",
        "true",
        "38.5",
    ],
)
def test_a_hostile_value_gets_status_422_and_a_short_response(
    client: FlaskClient, record: Record, value: str
) -> None:
    for name in ("age", "native_country", "sex"):
        body = json.dumps(record | {name: "HERE"}).replace('"HERE"', value)
        response = client.post("/predict", data=body, content_type=JSON)
        error_of(response, 422, "invalid_records")
        assert len(response.data) < 2000


def test_empty_lists_and_too_long_lists_are_rejected(client: FlaskClient) -> None:
    error_of(client.post("/predict", json=[]), 422, "invalid_records")
    error_of(client.post("/feedback", json=[]), 422, "invalid_records")
    small = {"age": 1}
    error_of(client.post("/predict", json=[small] * 51), 413, "too_many_records")
    error_of(client.post("/feedback", json=[small] * 51), 413, "too_many_records")


def test_a_too_long_body_gets_status_413(client: FlaskClient) -> None:
    error_of(client.post("/predict", data=b" " * 20_001), 413, "request_entity_too_large")


def test_unknown_paths_and_methods_get_a_json_error_body(client: FlaskClient) -> None:
    error_of(client.get("/nowhere"), 404, "not_found")
    response = client.get("/predict")
    error_of(response, 405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


def test_the_same_key_and_body_have_the_same_ids(client: FlaskClient, record: Record) -> None:
    def ids(key: str, body: Any) -> list[str]:
        predictions = client.post(
            "/predict", json=body, headers={"Idempotency-Key": key}
        ).get_json()
        return [one["prediction_id"] for one in predictions]

    first = ids("a", [record, record])
    assert first == ids("a", [record, record])
    assert len(set(first)) == 2
    assert not set(first) & set(ids("b", [record, record]))
    assert not set(first) & set(ids("a", [record | {"age": 20}, record]))


def test_a_retry_after_a_change_of_the_live_model_has_the_same_id(
    client: FlaskClient, record: Record, live_model: LiveModel, journal: Journal, package: Path
) -> None:
    """The response has the new model's prediction. The journal keeps the id's first one."""

    def predict() -> Record:
        found: Record = client.post(
            "/predict", json=record, headers={"Idempotency-Key": "a"}
        ).get_json()
        return found

    first = predict()
    install(live_model.folder, package, "2")
    live_model.refresh()
    again = predict()
    assert again == first | {"model_version": "2"}
    (stored,) = journalled_predictions(journal.root)
    assert (stored.prediction_id, stored.model_version) == (first["prediction_id"], "1")


def test_labels_are_accepted_and_journalled(client: FlaskClient, journal: Journal) -> None:
    one = {"prediction_id": SOME_ID, "label": 1}
    response = client.post("/feedback", json=one)
    assert (response.status_code, response.get_json()) == (202, {"accepted": 1})
    assert client.post("/feedback", json=[one, one | {"label": 0}]).status_code == 202
    stored = [json.loads(event.body) for event in events_of(journal)]
    assert [label["label"] for label in stored] == [1, 1, 0]
    assert {event.kind for event in events_of(journal)} == {"label"}


def test_every_problem_of_a_label_is_listed(client: FlaskClient) -> None:
    items = [{"prediction_id": "x", "label": True, "note": ""}, 3, {"label": 2}]
    problems = error_of(client.post("/feedback", json=items), 422, "invalid_records")
    assert [(one["record"], one["field"]) for one in problems] == [
        (0, "note"),
        (0, "prediction_id"),
        (0, "label"),
        (1, "record"),
        (2, "prediction_id"),
        (2, "label"),
    ]


def test_the_model_page_has_the_origin_and_the_metrics_of_the_live_model(
    client: FlaskClient, contract: Contract
) -> None:
    assert client.get("/model").get_json() == {
        "model_version": "1",
        "run_id": "0" * 32,
        "data_source": "synthetic",
        "trained_at": "2026-11-01T00:00:00+00:00",
        "threshold": 0.5,
        "contract_digest": contract.digest,
        "metrics": {"roc_auc": 0.99, "precision": 0.714, "recall": 0.6},
    }


def test_without_a_model_predictions_get_status_503_and_labels_are_accepted(
    client: FlaskClient, live_model: LiveModel, record: Record
) -> None:
    live_model.model = None
    live_model.folder.report(Status("MLflow does not respond at http://nowhere"))
    error_of(client.post("/predict", json=record), 503, "model_unavailable")
    error_of(client.get("/model"), 503, "model_unavailable")
    (problem,) = error_of(client.get("/health/ready"), 503, "not_ready")
    assert problem["field"] == "model"
    assert "http://nowhere" in problem["expected"]
    assert client.get("/health/live").status_code == 200
    assert client.post("/feedback", json={"prediction_id": SOME_ID, "label": 1}).status_code == 202


def test_a_dead_follower_and_an_unavailable_registry_are_reported(
    client: FlaskClient, live_model: LiveModel
) -> None:
    """A promotion was announced as live within seconds although the follower was dead."""
    for registry, reached in (("MLflow does not respond", 0), (REACHED, 1), (REACHED, 1)):
        live_model.folder.report(Status(registry))
        assert client.get("/health/ready").get_json()["follower_age_s"] < 60
        assert f"income_registry_reached {reached}.0" in client.get("/metrics").text
    os.utime(live_model.folder.path / "status.json", (1.7e9, 1.7e9))
    assert client.get("/health/ready").get_json()["follower_age_s"] > 1e6
    assert "income_follower_report_timestamp_seconds 1.7e+09" in client.get("/metrics").text
    live_model.folder.report(Status(REACHED))
    assert client.get("/health/ready").get_json()["follower_age_s"] < 60


def test_a_full_journal_rejects_predictions_and_labels(
    client: FlaskClient, journal: Journal, record: Record
) -> None:
    journal.max_bytes = 0
    error_of(client.post("/predict", json=record), 503, "journal_full")
    error_of(
        client.post("/feedback", json={"prediction_id": SOME_ID, "label": 1}), 503, "journal_full"
    )
    (problem,) = error_of(client.get("/health/ready"), 503, "not_ready")
    assert (problem["field"], problem["value"]) == ("journal", "full")
    assert not events_of(journal)


def test_a_journal_that_cannot_be_written_rejects_predictions_and_labels(
    client: FlaskClient, journal: Journal, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(_: Sequence[Event]) -> None:
        raise JournalUnavailable("the journal 1.db cannot be written: disk I/O error")

    monkeypatch.setattr(journal, "append", append)
    label = {"prediction_id": SOME_ID, "label": 1}
    for path, body in (("/predict", record), ("/predict", [record] * 2), ("/feedback", label)):
        response = client.post(path, json=body)
        assert not error_of(response, 503, "journal_unavailable")
        assert "disk I/O error" in response.get_json()["error"]["message"]


def test_ready_reports_the_live_version_and_a_rejected_one(
    client: FlaskClient, settings: Settings, live_model: LiveModel
) -> None:
    assert client.get("/health/ready").get_json() == {
        "ready": True,
        "model_version": "1",
        "rejected": None,
        "registry": "not followed",
        "follower_age_s": None,
    }
    assert "income_follower_report" not in client.get("/metrics").text
    damaged = settings.model_path / "1" / "model.onnx"
    current = live_model.folder.current()
    assert current
    live_model.folder.switch(type(current)("2", "", "1", "0" * 64))
    live_model.refresh()
    response = client.get("/health/ready")
    assert (response.status_code, response.get_json()["model_version"]) == (200, "1")
    assert response.get_json()["rejected"]["version"] == "2"
    assert "sha256" in response.get_json()["rejected"]["reason"]
    assert damaged.exists()
    assert 'income_model_version_rejected{version="2"} 1.0' in client.get("/metrics").text


def test_metrics_count_predictions_requests_and_invalid_records(
    client: FlaskClient, record: Record
) -> None:
    client.post("/predict", json=[record | {"age": age} for age in (70, 20, 71)])
    client.post("/predict", json=[{}, record])
    text = client.get("/metrics").text
    for line in (
        'income_predictions_total{income_class="1"} 2.0',
        'income_predictions_total{income_class="0"} 1.0',
        'income_prediction_latency_seconds_count{version="none"} 1.0',
        "income_invalid_records_total 1.0",
        'income_requests_total{endpoint="predict",status="200",version="none"} 1.0',
        'income_requests_total{endpoint="predict",status="422",version="none"} 1.0',
        'income_model_info{data_source="synthetic",run_id="' + "0" * 32 + '",version="1"} 1.0',
    ):
        assert line in text
    assert "income_journal_bytes" in text


def test_requests_count_for_the_version_that_was_live() -> None:
    """`watch` compares the error rates and latencies of two versions."""
    metrics = Metrics(CollectorRegistry())
    for version, status in ((None, 503), ("1", 200), ("2", 500), ("2", 200)):
        if version:
            metrics.set_live_version(version)
        request = FinishedRequest(0.0, 0.25, "r", "predict", "POST /predict", status, {})
        metrics.count_requests([request])
    text = generate_latest(metrics.registry).decode()
    counted = re.findall(r'requests_total.*status="(.*)",version="(.*)"} 1.0', text)
    assert sorted(counted) == [("200", "1"), ("200", "2"), ("500", "2"), ("503", "none")]
    sums = dict(re.findall(r'latency_seconds_sum{version="(.*)"} (.*)', text))
    assert sums == {"none": "0.0", "1": "0.25", "2": "0.25"}
