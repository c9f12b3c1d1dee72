"""Sending to a service that responds, rejects, fails and recovers."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from stream_generator.client.options import Options
from stream_generator.client.queues import PacedBatches, PlannedRow
from stream_generator.client.sender import send
from stream_generator.client.summary import LabelledPrediction, Summary
from stream_generator.traffic.rows import Row
from tests.stream_generator.stand_in import StandIn


@pytest.fixture
def send_rows(stand_in: StandIn, rows: list[Row]) -> Callable[..., Summary]:
    """Return a function that sends to the stand-in and checks the sum of the outcomes."""

    def call(keep: Any = lambda predictions: None, **options: Any) -> Summary:
        summary = send(rows, Options(address=stand_in.address, **options), keep=keep)
        assert summary.sent == summary.answered + summary.rejected + summary.failed
        return summary

    return call


def test_every_row_is_sent_once_on_kept_connections_and_gets_a_prediction(
    stand_in: StandIn, rows: list[Row], send_rows: Callable[..., Summary]
) -> None:
    summary = send_rows(rows=200, concurrency=4)
    assert (summary.sent, summary.answered, summary.requests) == (200, 200, 200)
    assert (summary.rejected, summary.failed, summary.retries) == (0, 0, 0)
    assert summary.ended == "done"
    assert summary.all_delivered
    received = sorted(str(record) for record in stand_in.predictions.values())
    assert received == sorted(str(row.record) for row in rows)
    assert 1 <= stand_in.connections <= 4


def test_batches_are_sent_as_lists_and_the_last_is_shorter(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    summary = send_rows(rows=7, batch=3)
    assert (summary.requests, summary.answered) == (3, 7)
    bodies = [msgspec.json.decode(body) for _, body in stand_in.attempts]
    assert [len(body) for body in bodies] == [3, 3, 1]
    assert all(isinstance(body, list) for body in bodies)


def test_predictions_are_kept_with_the_true_labels_of_their_records(
    stand_in: StandIn, rows: list[Row], send_rows: Callable[..., Summary]
) -> None:
    kept: list[LabelledPrediction] = []
    send_rows(rows=200, batch=8, concurrency=2, keep=kept.extend)
    truth = {str(row.record): row.label for row in rows}
    assert len({row.prediction_id for row in kept}) == 200
    for row in kept:
        assert row.label == truth[str(stand_in.predictions[row.prediction_id])]
        assert (row.probability, row.income_class, row.model_version) == (0.25, 0, "7")


def test_one_seed_sends_one_sequence_under_new_keys(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    for seed in (1, 1, 2):
        send_rows(rows=50, seed=seed, scenario="sudden")
    keys, bodies = zip(*stand_in.attempts, strict=True)
    assert bodies[:50] == bodies[50:100] != bodies[100:]
    assert len(set(keys)) == 150


@pytest.mark.parametrize("fault", ["drop", "cut", "503"])
def test_a_retry_carries_the_same_key_and_body_and_makes_no_second_prediction(
    fault: str, stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.extend([fault, fault, "", fault])
    summary = send_rows(rows=20)
    assert (summary.answered, summary.failed, summary.retries) == (20, 0, 3)
    assert len(stand_in.predictions) == 20
    assert sorted(stand_in.attempts_per_key.values()) == [1] * 18 + [2, 3]
    assert len(set(stand_in.attempts)) == 20  # one body to a key


def test_a_retry_waits_for_as_long_as_the_service_asks(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.append("503")
    stand_in.retry_after = "1"
    summary = send_rows(rows=1)
    assert (summary.answered, summary.retries) == (1, 1)
    assert summary.seconds >= 1  # the first retry is immediate otherwise


def test_a_hanging_response_times_out_and_the_request_is_retried(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.append("hang")
    summary = send_rows(rows=3, timeout_s=1)  # the other responses take milliseconds
    assert (summary.answered, summary.retries) == (3, 1)
    assert len(stand_in.predictions) == 3


def test_attempts_are_bounded_and_the_other_rows_are_sent(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.extend(["503"] * 3 + ["drop"] * 3)
    summary = send_rows(rows=5, attempts=3)
    assert (summary.answered, summary.failed, summary.retries) == (3, 2, 4)
    assert summary.reasons == {
        "/predict: 503 on_purpose: Not now.": 1,
        "/predict: ProtocolError": 1,
    }
    assert not summary.all_delivered


def test_rejected_records_are_counted_with_the_field_and_its_rule(
    stand_in: StandIn, rows: list[Row]
) -> None:
    old = Row(rows[0].record | {"age": 140}, 1)
    summary = send([old], Options(address=stand_in.address, rows=6, batch=2))
    assert (summary.sent, summary.rejected, summary.retries) == (6, 6, 0)
    reason = "/predict: 422 invalid_records: age: expected a whole number from 17 to 90"
    assert summary.reasons == {reason: 6}
    assert summary.latency_p50_ms is None
    assert summary.all_delivered  # a rejection is the service's correct response


@pytest.mark.parametrize("wrong", [[], "<html>", {"prediction_id": 3}])
def test_an_invalid_response_is_a_failure(
    wrong: Any, stand_in: StandIn, send_rows: Callable[..., Summary], monkeypatch: Any
) -> None:
    monkeypatch.setattr(stand_in, "predict", lambda key, body: (200, wrong))
    summary = send_rows(rows=1)
    assert summary.failed == 1
    assert summary.reasons == {"/predict: 200, but not one prediction for each record": 1}


def test_a_rate_is_kept(stand_in: StandIn, send_rows: Callable[..., Summary]) -> None:
    begun = time.monotonic()
    summary = send_rows(rows=41, rate=40, concurrency=2)
    assert time.monotonic() - begun >= 1  # the first request is sent at once
    assert 20 <= summary.requests_per_s <= 42.5
    assert len(stand_in.attempts) == 41


def test_a_short_delay_shifts_no_later_request_and_a_long_one_causes_no_burst() -> None:
    planned = [PlannedRow(Row({"age": 17 + n}, 0), False) for n in range(6)]
    batches = PacedBatches(iter(planned), size=1, rate=10, now=0)
    due_at = []
    for now in (0, 0.14, 0.2, 5, 5.1, 5.2):
        due_at.append(batches.next_due_at)
        assert not batches.take_due(due_at[-1] - 0.01)
        assert batches.take_due(now) == [planned[len(due_at) - 1]]
    assert due_at == pytest.approx([0, 0.1, 0.2, 0.3, 5.1, 5.2])
    assert batches.next_due_at == float("inf")
    assert not batches.take_due(1e9)


def test_every_label_arrives_with_the_value_of_its_row(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    kept: list[LabelledPrediction] = []
    stand_in.faults.extend(["", "503", "", "drop"])
    options = {"rows": 150, "batch": 50, "labels": 1.0, "label_delay_s": 0.0}
    summary = send_rows(keep=kept.extend, **options)
    assert (summary.answered, summary.labels_sent, summary.labels_failed) == (150, 150, 0)
    assert stand_in.labels == {row.prediction_id: row.label for row in kept}
    assert summary.retries == 2


def test_a_share_of_the_labels_is_sent_and_the_seed_chooses_them(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    sent = []
    for seed in (4, 4, 5):
        stand_in.labels.clear()
        options = {"rows": 200, "labels": 0.3, "label_delay_s": 0, "seed": seed}
        summary = send_rows(**options)
        assert summary.labels_sent == len(stand_in.labels)
        assert 34 <= summary.labels_sent <= 86  # four standard deviations around 60
        sent.append(sorted(str(stand_in.predictions[key]) for key in stand_in.labels))
    assert sent[0] == sent[1] != sent[2]


def test_labels_are_sent_after_their_delay(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    arrived_at: list[float] = []
    begun = time.monotonic()
    summary = send_rows(
        keep=lambda predictions: arrived_at.append(time.monotonic()),
        rows=5,
        labels=1.0,
        label_delay_s=0.5,
    )
    ended = time.monotonic()
    assert ended - arrived_at[-1] >= 0.5
    assert summary.labels_sent == len(stand_in.labels) == 5
    # The wait for labels does not count for the throughput. The summary is rounded to milliseconds.
    assert summary.seconds < ended - begun - 0.499


def test_labels_that_cannot_be_delivered_are_failures(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.extend(["", "400"])
    summary = send_rows(rows=2, batch=2, labels=1.0, label_delay_s=0)
    assert (summary.answered, summary.labels_sent, summary.labels_failed) == (2, 0, 2)
    assert not summary.all_delivered


def test_a_run_at_its_deadline_does_not_wait_long_for_a_service_that_hangs(
    stand_in: StandIn, send_rows: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_generator.client.sender.STOP_GRACE_S", 0.2)
    stand_in.faults.extend(["hang"] * 2)
    summary = send_rows(rows=200, batch=5, concurrency=2, timeout_s=30, deadline_s=1.0)
    assert (summary.ended, summary.sent, summary.failed) == ("deadline", 10, 10)
    assert summary.reasons == {"no response before the end": 10}


def test_an_invalid_retry_after_header_is_a_failure_with_its_reason(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.append("503")
    stand_in.retry_after = "soon"
    assert send_rows(rows=2).reasons == {"/predict: InvalidHeader": 1}


def test_an_unexpected_error_in_a_thread_ends_the_run(
    send_rows: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_generator.client.sender.parse_predictions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        send_rows(rows=2)
