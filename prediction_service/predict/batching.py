"""Batch the concurrent `/predict` requests of one worker: one score, one journal append.

The route reads a body and calls `Batcher`, which calls `Predictor`.
"""

import threading
import time
from collections.abc import Callable

from prediction_service.predict.predictor import PredictionRequest

MAX_BATCHED_BYTES = 1 << 14  # of a body; a longer list is handled alone


def yield_to_others() -> None:
    """Let every request that has already arrived join, under gevent."""
    time.sleep(0)


class Batch:
    """Requests that arrived together."""

    def __init__(self) -> None:
        self.requests: list[PredictionRequest] = []
        self.is_done = threading.Event()


class Batcher:
    """The first request of a batch handles all of it; the others wait for their outcome."""

    def __init__(
        self,
        predict: Callable[[list[PredictionRequest]], None],
        pause: Callable[[], object] = yield_to_others,
    ) -> None:
        """`predict` sets the outcome of every request, also when it fails.

        A batch is open for requests during `pause`.
        """
        self._predict = predict
        self._pause = pause
        self._batch = Batch()
        self._mutex = threading.Lock()

    def predict(self, request: PredictionRequest) -> None:
        """Set the request's outcome. Safe to call from several threads or greenlets."""
        if request.explain or len(request.body) > MAX_BATCHED_BYTES:
            self._predict([request])
            return
        with self._mutex:
            batch, is_first = self._batch, not self._batch.requests
            batch.requests.append(request)
        if is_first:
            self._lead(batch)
        else:
            batch.is_done.wait()
        if request.outcome is None:  # the first request ended before the batch
            self._predict([request])

    def _lead(self, batch: Batch) -> None:
        try:
            try:
                self._pause()
            finally:
                with self._mutex:
                    self._batch = Batch()
            self._predict(batch.requests)
        finally:
            batch.is_done.set()
