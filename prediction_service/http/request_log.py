"""The request log: one structlog event for each request, on standard error.

A line bypasses `logging`, which takes three times longer, and is written together with others: a
system call for each line costs a fifth of the rate, since all workers write to one file.
"""

import atexit
import io
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO, cast

import structlog

from config.runtime.logs import LogFormat, renderer

LOGGER = "prediction_service.requests"
STDERR = 2
ATOMIC_BYTES = 4096  # the largest write to a pipe that other workers' lines cannot split

LogRequest = Callable[..., object]


class DelayedLines(io.TextIOBase):
    """Standard error, where each line is written at most `delay_s` later."""

    def __init__(self, delay_s: float) -> None:
        """Write each line at once if `delay_s` is 0."""
        self._delay_s = delay_s
        self._waiting = bytearray()
        self._mutex = threading.Lock()
        atexit.register(self._write_late)

    def write(self, line: str) -> int:
        """Add a line. Raises OSError if earlier lines cannot be written."""
        encoded = line.encode()
        with self._mutex:
            if len(self._waiting) + len(encoded) > ATOMIC_BYTES:
                self._write()
            is_first = not self._waiting
            self._waiting += encoded
            if not self._delay_s:
                self._write()
            elif is_first:
                threading.Timer(self._delay_s, self._write_late).start()
        return len(line)

    def _write_late(self) -> None:
        """Write the lines that wait. They are lost if standard error is full or closed."""
        with self._mutex, suppress(OSError):
            self._write()

    def _write(self) -> None:
        lines, self._waiting = self._waiting, bytearray()
        if lines:
            os.write(STDERR, lines)


def make_request_log(log_format: LogFormat, delay_s: float) -> LogRequest:
    """Return what logs one request: `log_request("request", request_id=..., route=..., ...)`."""
    logger = structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, DelayedLines(delay_s))),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            renderer(log_format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        context_class=dict,
    )
    log_request: LogRequest = logger.bind(logger=LOGGER).info
    return log_request
