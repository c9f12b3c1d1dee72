"""Decide what is due when: batches of rows at a rate, labels after a delay.

Both queues have the same interface: `next_due_at` is infinite if the queue is empty, and
`take_due(now)` removes and returns the content of one request, or nothing if none is due.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from stream_generator.client.summary import LabelledPrediction
from stream_generator.traffic.rows import Row

MAX_LABELS = 100  # per request
MAX_CATCH_UP_S = 0.05  # more than a busy machine delays a thread
NEVER = float("inf")


class PlannedRow(NamedTuple):
    """A row to send, and whether its label is sent later."""

    row: Row
    sends_label: bool


class PacedBatches:
    """Deals out batches of rows, evenly spaced. A delay beyond MAX_CATCH_UP_S causes no burst."""

    def __init__(self, rows: Iterator[PlannedRow], size: int, rate: float, now: float) -> None:
        self._batches = iter(lambda: list(islice(rows, size)), [])
        self._batch = next(self._batches, [])
        self._period_s = 1 / rate if rate else 0.0
        self.next_due_at = now if self._batch else NEVER

    def take_due(self, now: float) -> list[PlannedRow]:
        """Remove and return a batch; empty if none is due."""
        if now < self.next_due_at:
            return []
        batch, self._batch = self._batch, next(self._batches, [])
        if now > self.next_due_at + MAX_CATCH_UP_S:
            self.next_due_at = now
        self.next_due_at += self._period_s
        if not self._batch:
            self.next_due_at = NEVER
        return batch


class DelayedLabels:
    """Holds labels back. The delay is the same for all, so the queue is ordered by due time."""

    def __init__(self, delay_s: float, seed: int) -> None:
        self._delay_s = delay_s
        self._rng = random.Random(f"label order {seed}")
        self._queue: deque[tuple[float, LabelledPrediction]] = deque()

    @property
    def next_due_at(self) -> float:
        """The time at which the next label is due."""
        return self._queue[0][0] if self._queue else NEVER

    def add(self, predictions: Iterable[LabelledPrediction], now: float) -> None:
        """Queue the labels of predictions that arrived now."""
        due_at = now + self._delay_s
        self._queue.extend((due_at, prediction) for prediction in predictions)

    def take_due(self, now: float) -> list[LabelledPrediction]:
        """Remove and return predictions with due labels, shuffled: labels arrive in any order."""
        batch: list[LabelledPrediction] = []
        while self.next_due_at <= now and len(batch) < MAX_LABELS:
            batch.append(self._queue.popleft()[1])
        self._rng.shuffle(batch)
        return batch
