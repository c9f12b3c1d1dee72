"""Send a scenario's rows to the prediction service, and the labels of some predictions later.

One thread starts all requests and counts their outcomes. A pool of threads waits for the responses.
"""

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from queue import Empty, SimpleQueue
from typing import Any

import msgspec
from tqdm import tqdm

from stream_generator.client.options import Options
from stream_generator.client.queues import NEVER, DelayedLabels, PacedBatches, PlannedRow
from stream_generator.client.retries import RETRIED_STATUSES, RetryingClient
from stream_generator.client.summary import Ended, LabelledPrediction, Outcome, Summary, Tally
from stream_generator.traffic.changes import load_changes
from stream_generator.traffic.rows import Row
from stream_generator.traffic.scenarios import SCENARIOS

PREDICT, FEEDBACK = "/predict", "/feedback"
POLL_S = 0.05  # between two checks of the stop event and the deadline
STOP_GRACE_S = 2.0  # for the responses in flight when the run is stopped


class Unreachable(Exception):
    """The prediction service does not respond at its address."""


class Prediction(msgspec.Struct, frozen=True):
    """The fields of a prediction that are kept."""

    prediction_id: str
    probability: float
    income_class: int
    model_version: str


@dataclass
class Lane:
    """Requests to one path: their queue, the call that sends one, and how many may start now."""

    path: str
    queue: PacedBatches | DelayedLabels
    send: Callable[[list[Any]], Outcome]
    free: int


class Sender:
    """One run. `keep` receives the predictions as they arrive."""

    def __init__(
        self,
        options: Options,
        rows: Iterator[PlannedRow],
        tally: Tally,
        keep: Callable[[Sequence[LabelledPrediction]], object],
    ) -> None:
        now = time.monotonic()
        self._as_list = options.batch > 1  # a single record is sent as an object
        self._tally = tally
        self._keep = keep
        self._labels = DelayedLabels(options.label_delay_s, options.seed)
        batches = PacedBatches(rows, options.batch, options.rate, now)
        # Labels have a lane of their own: slow feedback does not delay predictions.
        self._lanes = [
            Lane(PREDICT, batches, self._predict, options.concurrency),
            Lane(FEEDBACK, self._labels, self._send_labels, 1),
        ]
        self._n_threads = options.concurrency + 1
        self._client = RetryingClient(options, self._n_threads)
        self._n_in_flight = 0
        self._done: SimpleQueue[tuple[Lane, Outcome] | BaseException] = SimpleQueue()

    @property
    def has_work(self) -> bool:
        """True until every record and every label has its outcome."""
        return self._n_in_flight > 0 or any(one.queue.next_due_at < NEVER for one in self._lanes)

    def run(self, is_stopped: Callable[[], bool], on_progress: Callable[[], object]) -> None:
        """Send until there is no more work or the run is stopped."""
        # Not a ThreadPoolExecutor: the process would not exit before the last response.
        with ThreadPool(self._n_threads) as pool:
            while self.has_work and not is_stopped():
                self._start_due(pool)
                self._collect(self._idle_s())
                on_progress()
            grace_ends_at = time.monotonic() + STOP_GRACE_S
            while self._n_in_flight and time.monotonic() < grace_ends_at:
                self._collect(POLL_S)
            on_progress()

    def _start_due(self, pool: ThreadPool) -> None:
        for lane in self._lanes:
            while lane.free and (content := lane.queue.take_due(time.monotonic())):
                if lane.path == PREDICT:
                    self._tally.add_request(len(content))
                lane.free -= 1
                self._n_in_flight += 1
                pool.apply_async(
                    lambda lane, content: (lane, lane.send(content)),
                    (lane, content),
                    callback=self._done.put,
                    error_callback=self._done.put,
                )

    def _idle_s(self) -> float:
        """Return the time until a request can start, at most POLL_S."""
        due_at = min(lane.queue.next_due_at if lane.free else NEVER for lane in self._lanes)
        return max(min(due_at - time.monotonic(), POLL_S), 0)

    def _collect(self, timeout_s: float) -> None:
        """Wait for an outcome and count it."""
        try:
            done = self._done.get(timeout=timeout_s)
        except Empty:
            return
        if isinstance(done, BaseException):
            raise done
        lane, outcome = done
        lane.free += 1
        self._n_in_flight -= 1
        self._tally.add(outcome)
        if outcome.predictions:
            self._keep(outcome.predictions)
            self._labels.add(outcome.known_later, time.monotonic())

    # The pool's threads run these two; they change no state.

    def _predict(self, batch: list[PlannedRow]) -> Outcome:
        records = [planned.row.record for planned in batch]
        body = msgspec.json.encode(records if self._as_list else records[0])
        started_at = time.monotonic()
        # A random key: the same command, run again, makes new predictions.
        response = self._client.post(PREDICT, body, idempotency_key=uuid.uuid4().hex)
        latency_s = time.monotonic() - started_at
        if response.status != 200:
            kind = "rejected" if response.status == 422 else "failed"
            error = f"{PREDICT}: {response.error or response.status}"
            return Outcome(kind, len(batch), error, response.retries)
        try:
            predictions = parse_predictions(response.content, [planned.row for planned in batch])
        except ValueError:
            error = f"{PREDICT}: 200, but not one prediction for each record"
            return Outcome("failed", len(batch), error, response.retries)
        pairs = zip(predictions, batch, strict=True)
        later = [prediction for prediction, planned in pairs if planned.sends_label]
        return Outcome("answered", len(batch), "", response.retries, latency_s, predictions, later)

    def _send_labels(self, predictions: list[LabelledPrediction]) -> Outcome:
        items = [{"prediction_id": one.prediction_id, "label": one.label} for one in predictions]
        # Without a key: the service keeps the first label of a prediction and ignores duplicates.
        response = self._client.post(FEEDBACK, msgspec.json.encode(items))
        kind = "labels_failed" if response.error else "labels_sent"
        error = response.error and f"{FEEDBACK}: {response.error}"
        return Outcome(kind, len(predictions), error, response.retries)


def parse_predictions(content: bytes, rows: Sequence[Row]) -> list[LabelledPrediction]:
    """Return the predictions of a response with the labels of their rows.

    Raises ValueError unless there is one prediction for each row.
    """
    decoded = msgspec.json.decode(content, type=Prediction | list[Prediction])
    predictions = decoded if isinstance(decoded, list) else [decoded]
    return [
        LabelledPrediction(label=row.label, **msgspec.structs.asdict(prediction))
        for prediction, row in zip(predictions, rows, strict=True)
    ]


def send(
    rows: Sequence[Row],
    options: Options,
    *,
    stop: threading.Event | None = None,
    keep: Callable[[Sequence[LabelledPrediction]], object] = lambda predictions: None,
    show_progress: bool = False,
) -> Summary:
    """Send what the options say; return when every record and label has its outcome.

    `stop` or the deadline ends the run early; its summary is exact too. `keep` receives the
    predictions as they arrive. Raises TrafficError if the rows do not fit the scenario, and
    SettingsError for an unusable file of scenarios.
    """
    stop = stop or threading.Event()
    deadline = time.monotonic() + (options.deadline_s or NEVER)
    changes = load_changes(rows)
    change = changes.text(options.scenario)  # raises errors before the first request
    scenario = SCENARIOS[options.scenario](changes, options.rows, options.seed)
    rng = random.Random(f"labels {options.seed}")
    planned = (PlannedRow(row, rng.random() < options.labels) for row in scenario)
    tally = Tally()
    sender = Sender(options, planned, tally, keep)
    with tqdm(total=options.rows, unit="row", disable=None if show_progress else True) as progress:
        sender.run(
            lambda: stop.is_set() or time.monotonic() >= deadline,
            lambda: progress.update(tally.finished - progress.n),
        )
    ended: Ended = "done"
    if sender.has_work:
        ended = "interrupted" if stop.is_set() else "deadline"
    return tally.summary(options.scenario, ended, change)


def check_reachable(options: Options) -> None:
    """Raise Unreachable if the prediction service does not respond."""
    response = RetryingClient(options, connections=1).get("/health/live")
    if response.status in (0, *RETRIED_STATUSES):
        raise Unreachable(
            f"PREDICTION_ADDRESS: the prediction service cannot be reached ({response.error});"
            f" got {options.address}, expected its address. Start the service"
            " (make demo KEEP=1) or set the address."
        )
