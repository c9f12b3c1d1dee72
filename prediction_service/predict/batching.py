"""Batch the concurrent `/predict` requests of one worker: one score, one journal append.

The route reads a body and calls `Batcher`, which calls `Predictor`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from prediction_service.predict.predictor import PredictionRequest

MAX_BATCHED_BYTES = 1 << 14  # of a body; a longer list is handled alone


class Batcher:
    """Group commit: the first request that gets the mutex handles every waiting request."""

    def __init__(self, predict: Callable[[list[PredictionRequest]], None]) -> None:
        """`predict` sets the outcome of every request, also when it fails."""
        self._predict = predict
        self._waiting: deque[PredictionRequest] = deque()
        self._mutex = threading.Lock()

    def predict(self, request: PredictionRequest) -> None:
        """Set the request's outcome. Safe to call from several threads or greenlets."""
        if request.explain or len(request.body) > MAX_BATCHED_BYTES:
            self._predict([request])
            return
        self._waiting.append(request)
        # Under gevent, every request that has already arrived joins before this one continues.
        time.sleep(0)
        with self._mutex:
            if request.outcome is None:
                self._predict([self._waiting.popleft() for _ in range(len(self._waiting))])
