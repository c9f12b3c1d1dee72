"""Concurrent requests: each request gets its own outcome, and the journal stays whole."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from prediction_service.journal import Journal, read_after
from prediction_service.predict.batching import MAX_BATCHED_BYTES, Batcher
from prediction_service.predict.predictor import PredictionRequest
from tests.prediction_service.conftest import made_predictions

N_THREADS = 8


class Echo:
    """Set each request's outcome to its body."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, requests: list[PredictionRequest]) -> None:
        self.sizes.append(len(requests))
        for request in requests:
            request.outcome = request.body


def start(batcher: Batcher, request: PredictionRequest) -> threading.Thread:
    """Predict in a thread."""
    thread = threading.Thread(target=batcher.predict, args=[request])
    thread.start()
    return thread


class OpenBatch:
    """A batcher whose first batch stays open until the test closes it."""

    def __init__(self, ends_with: type[BaseException] | None = None) -> None:
        """`ends_with` is raised in the first request when the batch is closed."""
        self.echo = Echo()
        self.batcher = Batcher(self.echo, self._pause)
        self._ends_with = ends_with
        self._opened, self._closed = threading.Event(), threading.Event()

    def _pause(self) -> None:
        self._opened.set()
        assert self._closed.wait(10)
        if self._ends_with:
            raise self._ends_with

    def fill(self, predict_first: Callable[[], object], others: list[PredictionRequest]) -> None:
        """Start a first request and the others that join its batch, then wait for all."""
        threads = [threading.Thread(target=predict_first)]
        threads[0].start()
        assert self._opened.wait(10)
        batch = self.batcher._batch.requests  # pylint: disable=protected-access  # no other sign
        threads += [start(self.batcher, request) for request in others]
        while len(batch) < 1 + len(others):
            threads[-1].join(0.01)
        self._closed.set()
        for thread in threads:
            thread.join(10)


def test_requests_that_arrive_together_are_handled_together() -> None:
    batch = OpenBatch()
    requests = [PredictionRequest(b"%d" % number, None) for number in range(5)]
    batch.fill(lambda: batch.batcher.predict(requests[0]), requests[1:])
    assert [one.outcome for one in requests] == [b"0", b"1", b"2", b"3", b"4"]
    assert batch.echo.sizes == [5]


def test_a_batch_is_handled_although_its_first_request_ends_early() -> None:
    """The first request may reach its deadline. The others once waited for ever."""

    class Deadline(BaseException):
        """Ends the first request while its batch is open."""

    batch, ended = OpenBatch(Deadline), []
    request = PredictionRequest(b"second", None)

    def first() -> None:
        try:
            batch.batcher.predict(PredictionRequest(b"first", None))
        except Deadline:
            ended.append(True)

    batch.fill(first, [request])
    assert ended and request.outcome == b"second"


def test_long_bodies_and_explanations_are_not_batched() -> None:
    echo = Echo()
    batcher = Batcher(echo, pause=lambda: pytest.fail("a batch was opened"))
    for request in (
        PredictionRequest(b" " * (MAX_BATCHED_BYTES + 1), None),
        PredictionRequest(b"", None, explain=True),
    ):
        batcher.predict(request)
        assert request.outcome == request.body
    assert echo.sizes == [1, 1]


def test_every_request_of_many_threads_gets_its_own_outcome() -> None:
    echo = Echo()
    batcher = Batcher(echo)

    def predict(number: int) -> bool:
        request = PredictionRequest(b"%d" % number, None)
        batcher.predict(request)
        return request.outcome == request.body

    assert all_in_threads(predict, 5000)
    assert sum(echo.sizes) == 5000


def test_events_appended_by_many_threads_are_complete_and_have_unique_numbers(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/feedback`, long lists and explanations append beside batches. The disk is slow."""
    pwrite = os.pwrite

    def slow_pwrite(*arguments: Any) -> int:
        time.sleep(0.001)  # so that the other threads run
        return pwrite(*arguments)

    def append(number: int) -> bool:
        journal.append(made_predictions(1 + number % 3))
        return True

    monkeypatch.setattr(os, "pwrite", slow_pwrite)
    assert all_in_threads(append, 150)
    stored = read_after(journal.path, 0, 10_000)
    assert [event.seq for event in stored] == list(range(1, 301))
    assert len({event.prediction_id for event in stored}) == 300


def all_in_threads(call: Callable[[int], bool], n_calls: int) -> bool:
    """Call a function with 0, 1, ... from several threads; return True if every call does."""
    numbers = count()
    with ThreadPoolExecutor(N_THREADS) as threads:
        return all(threads.map(lambda _: call(next(numbers)), range(n_calls)))
