"""Labels that become known some time after the prediction, as people's true income does.

Answered predictions come in with their labels; when these are due they leave for `/feedback`, in
batches and in no particular order.
"""

import random
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import requests

from stream_generator.client.retries import Delivery, GaveUp, describe
from stream_generator.client.pace import Clock
from stream_generator.client.summary import Tally

BATCH_LABELS = 100
POLL_S = 0.05


class LateLabel(NamedTuple):
    """The true class, 0 or 1, of a prediction, and when it becomes known."""

    due_at: float
    prediction_id: str
    label: int


class LateLabels:
    """Holds labels until they are due, and sends them from a thread of its own."""

    def __init__(
        self, delay_s: float, seed: int, *, delivery: Delivery, tally: Tally, clock: Clock
    ) -> None:
        self._delay_s = delay_s
        self._rng = random.Random(f"label order {seed}")
        self._delivery = delivery
        self._tally = tally
        self._clock = clock
        self._waiting: deque[LateLabel] = deque()
        self._complete = threading.Event()

    def add(self, labels: Sequence[tuple[str, int]]) -> None:
        """Takes (prediction_id, label) pairs of predictions answered now; from any thread."""
        due_at = self._clock.now() + self._delay_s
        self._tally.labels_due(len(labels))
        self._waiting.extend(LateLabel(due_at, *label) for label in labels)

    def complete(self) -> None:
        """No more labels will be added: `work` ends once all have been sent."""
        self._complete.set()

    def take_due(self) -> list[LateLabel]:
        """Up to a batch of labels that are due, shuffled."""
        now = self._clock.now()
        batch: list[LateLabel] = []
        while self._waiting and self._waiting[0].due_at <= now and len(batch) < BATCH_LABELS:
            batch.append(self._waiting.popleft())
        self._rng.shuffle(batch)
        return batch

    def work(self) -> None:
        """Sends what is due until all is sent, or the clock is stopped."""
        with requests.Session() as session:
            while not self._clock.stopped:
                if batch := self.take_due():
                    self._send(session, batch)
                elif self._complete.is_set() and not self._waiting:
                    return
                else:
                    self._clock.pause(POLL_S)

    def _send(self, session: requests.Session, batch: list[LateLabel]) -> None:
        labels = [{"prediction_id": one.prediction_id, "label": one.label} for one in batch]
        body = msgspec.json.encode(labels)
        try:
            # No key is needed: the first label of a prediction wins.
            answer = self._delivery.post(
                session, "/feedback", body, headers={}, on_retry=self._tally.retried
            )
        except GaveUp as err:
            self._tally.labels_failed(len(batch), f"/feedback: {err}")
            return
        if answer.ok:
            self._tally.labels_sent(len(batch))
        else:
            self._tally.labels_failed(len(batch), f"/feedback: {describe(answer)}")
