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


def test_requests_that_arrive_together_are_handled_together() -> None:
    echo, opened, closed = Echo(), threading.Event(), threading.Event()

    def pause() -> None:
        opened.set()
        assert closed.wait(10)

    batcher = Batcher(echo, pause)
    requests = [PredictionRequest(b"%d" % number, None) for number in range(5)]
    threads = [start(batcher, requests[0])]
    assert opened.wait(10)
    batch = batcher._batch.requests  # pylint: disable=protected-access  # no other sign of arrival
    threads += [start(batcher, request) for request in requests[1:]]
    while len(batch) < 5:
        threads[-1].join(0.01)
    closed.set()
    for thread in threads:
        thread.join(10)
    assert [one.outcome for one in requests] == [b"0", b"1", b"2", b"3", b"4"]
    assert echo.sizes == [5]


def test_a_batch_whose_first_request_ends_early_is_handled_all_the_same() -> None:
    """As at the deadline of a request: the others waited for ever, or had an empty response."""
    echo, opened, closed = Echo(), threading.Event(), threading.Event()

    class Deadline(BaseException):
        """Ends the first request while its batch is open."""

    def pause() -> None:
        opened.set()
        assert closed.wait(10)
        raise Deadline

    batcher, ended = Batcher(echo, pause), []

    def first() -> None:
        try:
            batcher.predict(PredictionRequest(b"first", None))
        except Deadline:
            ended.append(True)

    leader = threading.Thread(target=first)
    leader.start()
    assert opened.wait(10)
    batch = batcher._batch.requests  # pylint: disable=protected-access
    request = PredictionRequest(b"second", None)
    follower = start(batcher, request)
    while len(batch) < 2:
        follower.join(0.01)
    closed.set()
    leader.join(10)
    follower.join(10)
    assert ended and request.outcome == b"second"


def test_long_bodies_and_explanations_wait_for_no_batch() -> None:
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

    def ask(number: int) -> bool:
        request = PredictionRequest(b"%d" % number, None)
        batcher.predict(request)
        return request.outcome == request.body

    assert all_in_threads(ask, 5000)
    assert sum(echo.sizes) == 5000


def test_appends_of_many_threads_are_each_whole_and_numbered_once(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/feedback`, long lists and explanations append beside the batches, here on a slow disk."""
    pwrite = os.pwrite

    def slow_pwrite(*arguments: Any) -> int:
        time.sleep(0.001)  # in which the other threads run
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
    """Call a function with 0, 1, ... from several threads; true if every call returns true."""
    numbers = count()
    with ThreadPoolExecutor(N_THREADS) as threads:
        return all(threads.map(lambda _: call(next(numbers)), range(n_calls)))
