"""Sends a scenario's rows to the prediction service and tells what came of them.

Rows -> scenario -> batches -> threads, at one common pace -> `/predict` -> tally; the labels of a
share of the answered ones -> late labels -> `/feedback`.
"""

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import requests
from tqdm import tqdm

from config.contract import load_contract
from stream_generator.client.retries import Delivery, GaveUp, describe
from stream_generator.client.labels import LateLabels
from stream_generator.client.pace import Clock, Pacer
from stream_generator.traffic.scenarios import SCENARIOS
from stream_generator.client.summary import AnsweredRow, Ended, Summary, Tally
from stream_generator.traffic.rows import Row

POLL_S = 0.05
STOP_GRACE_S = 2.0  # for the answers under way when the run is stopped


class Unreachable(Exception):
    """Nothing answers at the prediction service's address."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to send and how; the command's flags explain them."""

    address: str
    rows: int = 1000
    batch: int = 1  # records per request
    rate: float = 0.0  # requests per second; 0: as fast as possible
    concurrency: int = 1
    scenario: str = "none"
    labels: float = 0.0  # share of the answered records, 0-1
    label_delay_s: float = 1.0
    timeout_s: float = 10.0  # of one attempt
    attempts: int = 6
    seed: int = 1
    api_key: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What the service says of one record, as far as it is kept."""

    prediction_id: str
    probability: float
    income_class: int
    model_version: str

    def with_label(self, label: int) -> AnsweredRow:
        """The answer beside the true class."""
        return AnsweredRow(
            prediction_id=self.prediction_id,
            label=label,
            probability=self.probability,
            income_class=self.income_class,
            model_version=self.model_version,
        )


class Question(NamedTuple):
    """A row to ask about, and whether its label will be told afterwards."""

    row: Row
    tells_label: bool


class Batches:
    """Deals questions out to several threads, one request's worth at a time."""

    def __init__(self, questions: Iterator[Question], n_records: int) -> None:
        self.as_list = n_records > 1  # a single record travels as an object
        self._questions = questions
        self._n_records = n_records
        self._lock = threading.Lock()

    def take(self) -> list[Question]:
        """The next batch; empty when all have been dealt."""
        with self._lock:
            return list(islice(self._questions, self._n_records))


class Sender:
    """Asks for predictions; `work` is what each of its threads does."""

    def __init__(
        self,
        batches: Batches,
        pacer: Pacer,
        *,
        delivery: Delivery,
        tally: Tally,
        late_labels: LateLabels,
        clock: Clock,
    ) -> None:
        self._batches = batches
        self._pacer = pacer
        self._delivery = delivery
        self._tally = tally
        self._late_labels = late_labels
        self._clock = clock

    def work(self) -> None:
        """Sends batch after batch on one connection until there are none, or the clock stops."""
        with requests.Session() as session:
            while batch := self._batches.take():
                self._pacer.wait()
                if self._clock.stopped:
                    return
                self._ask(session, batch)

    def _ask(self, session: requests.Session, batch: list[Question]) -> None:
        records = [question.row.record for question in batch]
        body = msgspec.json.encode(records if self._batches.as_list else records[0])
        # Not from the seed: the same command again asks anew.
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        self._tally.handed_over(len(batch))
        start = self._clock.now()
        try:
            answer = self._delivery.post(
                session, "/predict", body, headers=headers, on_retry=self._tally.retried
            )
        except GaveUp as err:
            self._tally.failed(len(batch), f"/predict: {err}")
        else:
            self._sort(answer, batch, self._clock.now() - start)

    def _sort(self, answer: requests.Response, batch: list[Question], latency_s: float) -> None:
        if answer.status_code == 422:
            self._tally.refused(len(batch), f"/predict: {describe(answer)}")
            return
        if answer.status_code != 200:
            self._tally.failed(len(batch), f"/predict: {describe(answer)}")
            return
        try:
            rows = answered_rows(answer.content, [question.row for question in batch])
        except ValueError:
            self._tally.failed(len(batch), "/predict: 200, but no answer for each record")
            return
        self._tally.answered(rows, latency_s)
        asked = zip(rows, batch, strict=True)
        self._late_labels.add(
            [(row.prediction_id, row.label) for row, question in asked if question.tells_label]
        )


def answered_rows(content: bytes, rows: Sequence[Row]) -> list[AnsweredRow]:
    """An answer's body beside the rows that were asked about.

    Raises ValueError if it does not hold one answer for each.
    """
    decoded = msgspec.json.decode(content, type=Answer | list[Answer])
    answers = decoded if isinstance(decoded, list) else [decoded]
    return [answer.with_label(row.label) for answer, row in zip(answers, rows, strict=True)]


def questions(rows: Iterator[Row], label_share: float, seed: int) -> Iterator[Question]:
    """The rows, of which a random share will tell their labels."""
    rng = random.Random(f"labels {seed}")
    return (Question(row, rng.random() < label_share) for row in rows)


def send(
    rows: Sequence[Row],
    options: Options,
    *,
    clock: Clock | None = None,
    keep: Callable[[Sequence[AnsweredRow]], None] = lambda rows: None,
    show_progress: bool = False,
) -> Summary:
    """Sends what the options say; returns when every record and label has its outcome.

    The clock's deadline or `clock.stop()` ends it earlier, with a summary all the same. `keep`
    gets the answered rows as they come. Raises TrafficError if the scenario cannot be made of
    the rows.
    """
    clock = clock or Clock()
    scenario = SCENARIOS[options.scenario](rows, options.rows, options.seed, load_contract())
    batches = Batches(questions(scenario, options.labels, options.seed), options.batch)
    delivery = delivery_of(options, clock)
    tally = Tally(clock.now, keep)
    late_labels = LateLabels(
        options.label_delay_s, options.seed, delivery=delivery, tally=tally, clock=clock
    )
    sender = Sender(
        batches,
        Pacer(options.rate, clock),
        delivery=delivery,
        tally=tally,
        late_labels=late_labels,
        clock=clock,
    )
    with tqdm(total=options.rows, unit="row", disable=None if show_progress else True) as progress:
        askers = start(sender.work, options.concurrency)
        tellers = start(late_labels.work, 1 if options.labels else 0)
        watch(askers, clock, lambda: progress.update(tally.done - progress.n))
        late_labels.complete()
        watch(tellers, clock, progress.refresh)
        give_grace(askers + tellers)
        progress.update(tally.done - progress.n)
    return tally.close(options.scenario, how_ended(clock))


def check_reachable(options: Options, clock: Clock) -> None:
    """Raises Unreachable if nothing answers at the address, whatever its state."""
    delivery = delivery_of(options, clock)
    with requests.Session() as session:
        try:
            delivery.get(session, "/health/live")
        except GaveUp as err:
            raise Unreachable(
                f"PREDICTION_ADDRESS={options.address}: no answer ({err}), expected the prediction"
                " service; start it (make demo KEEP=1) or set the address"
            ) from err


def delivery_of(options: Options, clock: Clock) -> Delivery:
    """How requests are sent."""
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    return Delivery(options.address, options.timeout_s, options.attempts, clock, headers)


def start(work: Callable[[], None], n_threads: int) -> list[threading.Thread]:
    """Threads doing the work. They end with the process, so that a hanging one holds up nobody."""
    threads = [threading.Thread(target=work, daemon=True) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    return threads


def watch(threads: list[threading.Thread], clock: Clock, on_poll: Callable[[], object]) -> None:
    """Returns when the threads have ended or the clock has stopped."""
    for thread in threads:
        while thread.is_alive() and not clock.stopped:
            thread.join(POLL_S)
            on_poll()


def give_grace(threads: list[threading.Thread]) -> None:
    """Waits for what is under way in threads that were told to end, but not for long."""
    until = time.monotonic() + STOP_GRACE_S
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))


def how_ended(clock: Clock) -> Ended:
    """Why the run is over."""
    if clock.interrupted:
        return "interrupted"
    return "deadline" if clock.stopped else "done"
