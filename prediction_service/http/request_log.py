"""The request log: one structlog event for each request, on standard error.

Lines have the form of every other line of the service. They do not pass through `logging`, which
would cost more than the rest of a request's log. Under load, several lines share a system call.
"""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

import structlog
from structlog.typing import EventDict, WrappedLogger

from config.runtime.logs import LogFormat

LOGGER = "prediction_service.requests"
STDERR = 2
ATOMIC_BYTES = 4096  # the largest write to a pipe that other workers' lines cannot split

LogRequest = Callable[..., None]


class LineBuffer:
    """A logger for structlog that writes its lines together, at most `delay_s` later."""

    def __init__(self, delay_s: float) -> None:
        """Write each line at once if `delay_s` is 0."""
        self._delay_s = delay_s
        self._lines = bytearray()
        self._mutex = threading.Lock()
        atexit.register(self.flush)

    def info(self, line: bytes) -> None:
        """Add a line. Raises OSError if earlier lines cannot be written."""
        with self._mutex:
            if len(self._lines) + len(line) > ATOMIC_BYTES:
                self._write()
            is_first = not self._lines
            self._lines += line
            if not self._delay_s:
                self._write()
            elif is_first:
                threading.Timer(self._delay_s, self.flush).start()

    def flush(self) -> None:
        """Write the lines that wait. They are lost if standard error is full or closed."""
        with self._mutex, suppress(OSError):
            self._write()

    def _write(self) -> None:
        lines, self._lines = self._lines, bytearray()
        if lines:
            os.write(STDERR, lines)


def make_request_log(log_format: LogFormat, delay_s: float) -> LogRequest:
    """Return what logs one request: `log_request("request", request_id=..., route=..., ...)`."""
    logger = structlog.wrap_logger(
        LineBuffer(delay_s),
        processors=[to_json if log_format == "json" else to_text],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    log_request: LogRequest = logger.bind().info
    return log_request


def to_json(_: WrappedLogger, level: str, event: EventDict) -> bytes:
    """Return a line for programs. No value needs an escape: ids and routes have no quotes."""
    return (
        f'{{"at":"{now()}","level":"{level}","logger":"{LOGGER}","event":"{event["event"]}"'
        f',"request_id":"{event["request_id"]}","route":"{event["route"]}"'
        f',"status":{event["status"]},"ms":{event["ms"]:.3f}}}\n'
    ).encode()


def to_text(_: WrappedLogger, level: str, event: EventDict) -> bytes:
    """Return a line for people."""
    return (
        f"{now()} [{level}] {event['event']} [{LOGGER}] request_id={event['request_id']}"
        f" route={event['route']} status={event['status']} ms={event['ms']:.3f}\n"
    ).encode()


def now() -> str:
    """Return the time in UTC, ISO 8601 with microseconds."""
    second, microseconds = divmod(time.time_ns() // 1000, 10**6)
    return f"{second_text(second)}.{microseconds:06d}Z"


@lru_cache(1)
def second_text(second: int) -> str:
    """Return a Unix time in whole seconds as ISO 8601, without the zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
