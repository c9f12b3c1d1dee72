"""Concurrent `/predict` requests of one worker, answered together: one score, one journal append.

Comes after the route has read a body, and before `Predictor`. Scoring eight records at once costs
a quarter of scoring them one by one.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from prediction_service.predictor import Question

MAX_BATCHED_BYTES = 1 << 14  # of a body; a longer list is answered alone


class Batcher:
    """Group commit: the first request that gets the mutex answers every waiting request."""

    def __init__(self, answer: Callable[[list[Question]], None]) -> None:
        """`answer` sets the outcome of every question, also when it fails."""
        self._answer = answer
        self._waiting: deque[Question] = deque()
        self._mutex = threading.Lock()

    def answer(self, question: Question) -> None:
        """Set the question's outcome. Safe to call from several threads or greenlets."""
        if question.explain or len(question.body) > MAX_BATCHED_BYTES:
            self._answer([question])
            return
        self._waiting.append(question)
        # Under gevent, every request that has already arrived joins before this one goes on.
        time.sleep(0)
        with self._mutex:
            if question.outcome is None:
                together = [self._waiting.popleft() for _ in range(len(self._waiting))]
                self._answer(together)
