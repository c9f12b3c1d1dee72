"""Sending to a service that answers, refuses, fails and comes back."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from stream_generator.client.pace import Clock, Pacer
from stream_generator.client.sender import Options, Summary, Unreachable, check_reachable, send
from stream_generator.client.summary import AnsweredRow
from stream_generator.traffic.rows import Row
from tests.conftest import free_port, wait_until
from tests.stream_generator.stand_in import StandIn


class FakeClock(Clock):
    """Time that passes in pauses only."""

    def __init__(self) -> None:
        self.seconds = 0.0
        super().__init__()

    def now(self) -> float:
        return self.seconds

    def pause(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def send_rows(stand_in: StandIn, rows: list[Row]) -> Callable[..., Summary]:
    """Sends to the stand-in; a fake clock makes the pauses before retries short."""

    def call(clock: Clock | None = None, keep: Any = lambda rows: None, **options: Any) -> Summary:
        wanted = Options(address=stand_in.address, **options)
        summary = send(rows, wanted, clock=clock or FakeClock(), keep=keep)
        assert summary.sent == summary.answered + summary.refused + summary.failed
        return summary

    return call


def test_every_row_is_asked_about_and_answered(
    stand_in: StandIn, rows: list[Row], send_rows: Callable[..., Summary]
) -> None:
    summary = send_rows(rows=200, concurrency=4)
    assert (summary.sent, summary.answered, summary.requests) == (200, 200, 200)
    assert (summary.refused, summary.failed, summary.retries) == (0, 0, 0)
    assert summary.ended == "done"
    assert summary.all_well
    received = sorted(str(record) for record in stand_in.predictions.values())
    assert received == sorted(str(row.record) for row in rows)


def test_more_rows_than_there_are_come_again_as_predictions_of_their_own(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    assert send_rows(rows=450, concurrency=2).answered == 450
    assert len(stand_in.predictions) == 450


def test_each_thread_keeps_its_connection(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    send_rows(rows=100, concurrency=3)
    assert stand_in.connections == 3


def test_batches_travel_as_lists_and_the_last_takes_what_is_left(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    summary = send_rows(rows=7, batch=3)
    assert (summary.requests, summary.answered) == (3, 7)
    bodies = [msgspec.json.decode(body) for _, body in stand_in.attempts]
    assert [len(body) for body in bodies] == [3, 3, 1]
    assert all(isinstance(body, list) for body in bodies)


def test_answers_are_kept_beside_the_true_labels_of_their_records(
    stand_in: StandIn, rows: list[Row], send_rows: Callable[..., Summary]
) -> None:
    kept: list[AnsweredRow] = []
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


@pytest.mark.parametrize("fault", ["drop", "503", "429", "502"])
def test_a_retry_carries_the_same_key_and_body_and_makes_no_second_prediction(
    fault: str, stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.extend([fault, fault, "", fault])
    summary = send_rows(rows=20)
    assert (summary.answered, summary.failed, summary.retries) == (20, 0, 3)
    assert len(stand_in.predictions) == 20
    assert sorted(stand_in.attempts_per_key.values()) == [1] * 18 + [2, 3]
    assert len(set(stand_in.attempts)) == 20  # one body to a key


def test_a_hanging_answer_times_out_and_is_asked_for_again(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.append("hang")
    summary = send_rows(rows=3, timeout_s=2)  # others are answered well before that
    assert (summary.answered, summary.retries) == (3, 1)
    assert len(stand_in.predictions) == 3


def test_attempts_are_bounded_and_the_rest_goes_on(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.extend(["503"] * 3 + ["drop"] * 3)
    summary = send_rows(rows=5, attempts=3)
    assert (summary.answered, summary.failed, summary.retries) == (3, 2, 4)
    assert summary.reasons == {
        "/predict: 503 on_purpose: Not now.": 1,
        "/predict: ConnectionError": 1,
    }
    assert not summary.all_well


def test_a_fault_of_the_service_that_does_not_pass_is_not_retried(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.append("500")
    summary = send_rows(rows=2, batch=2)
    assert (summary.failed, summary.retries) == (2, 0)
    assert len(stand_in.attempts) == 1


def test_refused_records_are_counted_with_the_field_and_what_was_expected(
    stand_in: StandIn, rows: list[Row]
) -> None:
    old = Row(rows[0].record | {"age": 140}, 1)
    summary = send([old], Options(address=stand_in.address, rows=6, batch=2))
    assert (summary.sent, summary.refused, summary.retries) == (6, 6, 0)
    reason = "/predict: 422 invalid_records: age: expected a whole number from 17 to 90"
    assert summary.reasons == {reason: 6}
    assert summary.latency_p50_ms is None
    assert summary.all_well  # the service did its part


@pytest.mark.parametrize(
    "wrong", [[], {}, [{"prediction_id": "a"}], "<html>", {"prediction_id": 3}]
)
def test_an_answer_of_another_shape_is_a_failure(
    wrong: Any, stand_in: StandIn, send_rows: Callable[..., Summary], monkeypatch: Any
) -> None:
    monkeypatch.setattr(stand_in, "predict", lambda key, body: (200, wrong))
    summary = send_rows(rows=1)
    assert summary.failed == 1
    assert summary.reasons == {"/predict: 200, but no answer for each record": 1}


def test_a_rate_is_kept(stand_in: StandIn, send_rows: Callable[..., Summary]) -> None:
    clock = FakeClock()
    summary = send_rows(rows=101, rate=20, clock=clock)
    assert clock.seconds == pytest.approx(100 / 20)  # the first leaves at once
    assert summary.requests_per_s == pytest.approx(20, abs=0.3)
    assert len(stand_in.attempts) == 101


def test_a_rate_holds_over_all_threads_and_makes_up_for_no_delay() -> None:
    clock = FakeClock()
    pacer = Pacer(10, clock)
    sent_at = []
    for _ in range(3):
        pacer.wait()
        sent_at.append(clock.seconds)
    clock.seconds = 5  # the service was slow
    for _ in range(3):
        pacer.wait()
        sent_at.append(clock.seconds)
    assert sent_at == pytest.approx([0, 0.1, 0.2, 5, 5.1, 5.2])


def test_all_labels_arrive_and_are_those_of_their_rows(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    kept: list[AnsweredRow] = []
    stand_in.faults.extend(["", "503", "", "drop"])
    options = {"rows": 150, "batch": 50, "labels": 1.0, "label_delay_s": 0.0}
    summary = send_rows(clock=Clock(60), keep=kept.extend, **options)
    assert (summary.answered, summary.labels_sent, summary.labels_failed) == (150, 150, 0)
    assert stand_in.labels == {row.prediction_id: row.label for row in kept}
    assert summary.retries == 2


def test_a_share_of_the_labels_is_told_and_the_seed_says_which(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    told = []
    for seed in (4, 4, 5):
        stand_in.labels.clear()
        options = {"rows": 200, "labels": 0.3, "label_delay_s": 0, "seed": seed}
        summary = send_rows(clock=Clock(60), **options)
        assert summary.labels_sent == len(stand_in.labels)
        assert 34 <= summary.labels_sent <= 86  # four standard deviations around 60
        told.append(sorted(str(stand_in.predictions[key]) for key in stand_in.labels))
    assert told[0] == told[1] != told[2]


def test_labels_wait_for_their_time(stand_in: StandIn, send_rows: Callable[..., Summary]) -> None:
    clock = Clock(60)
    answered_at: list[float] = []
    begun = clock.now()
    summary = send_rows(
        clock=clock,
        keep=lambda rows: answered_at.append(clock.now()),
        rows=5,
        labels=1.0,
        label_delay_s=0.5,
    )
    ended = clock.now()
    assert ended - answered_at[-1] >= 0.5
    assert summary.labels_sent == len(stand_in.labels) == 5
    # Waiting for labels is no part of the throughput; the summary is rounded to milliseconds.
    assert summary.seconds < ended - begun - 0.499


def test_labels_that_cannot_be_delivered_are_failures(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    stand_in.faults.extend(["", "400"])
    summary = send_rows(clock=Clock(60), rows=2, batch=2, labels=1.0, label_delay_s=0)
    assert (summary.answered, summary.labels_sent, summary.labels_failed) == (2, 0, 2)
    assert not summary.all_well


def test_the_deadline_ends_a_run_and_holds_labels_back(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    summary = send_rows(clock=Clock(2.0), rows=200, rate=20, labels=1.0, label_delay_s=60)
    assert summary.ended == "deadline"
    assert 1 <= summary.answered <= 41
    assert summary.labels_unsent == summary.answered == len(stand_in.predictions)
    assert summary.failed == 0


def test_stopping_lets_the_answer_under_way_arrive(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    clock = Clock(60)
    stand_in.before_answer = clock.stop
    summary = send_rows(clock=clock, rows=200)
    assert (summary.sent, summary.answered) == (1, 1)
    assert summary.ended == "interrupted"


def test_stopping_does_not_wait_long_for_a_service_that_hangs(
    stand_in: StandIn, send_rows: Callable[..., Summary]
) -> None:
    clock = Clock(60)
    stand_in.faults.extend(["hang"] * 2)
    summaries: list[Summary] = []
    options = {"rows": 200, "batch": 5, "concurrency": 2, "timeout_s": 30}
    run = threading.Thread(target=lambda: summaries.append(send_rows(clock=clock, **options)))
    run.start()
    wait_until(lambda: len(stand_in.attempts) == 2, 10, "both requests to arrive")
    clock.stop()
    wait_until(lambda: summaries, 5, "the summary")
    run.join(5)
    assert (summaries[0].sent, summaries[0].failed) == (10, 10)
    assert summaries[0].reasons == {"no answer before the end": 10}


def test_a_service_that_is_not_there_is_an_error_with_its_remedy() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=f"PREDICTION_ADDRESS={address}: no answer .*make demo"):
        check_reachable(Options(address=address, attempts=2), FakeClock())
