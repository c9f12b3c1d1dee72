"""Count finished requests and log them, one line each on standard error.

Requests of some milliseconds are counted and logged together, which costs a quarter of the time. A
system call for each line would be slow too: all workers write to one file. A killed worker loses
the counts of these milliseconds, never a prediction.
"""

import atexit
import os
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime

import structlog
from structlog.typing import EventDict

from config.runtime.logs import LogFormat, renderer, where
from prediction_service.metrics import FinishedRequest, Metrics

log = structlog.get_logger(__name__)

LOGGER = "prediction_service.requests"
STDERR = 2
ATOMIC_BYTES = 4096  # the largest write to a pipe that other workers' lines cannot split


class RequestLog:
    """Counts and logs each request at most `delay_s` after its response, or at once for 0."""

    def __init__(self, metrics: Metrics, log_format: LogFormat | None, delay_s: float) -> None:
        """Write no lines if `log_format` is None."""
        self._metrics = metrics
        self._render = renderer(log_format) if log_format else None
        self._delay_s = delay_s
        self._waiting: deque[FinishedRequest] = deque()
        self._has_some = threading.Event()
        if delay_s:
            threading.Thread(target=self._run, name="request log", daemon=True).start()
            atexit.register(self.flush)

    def add(self, request: FinishedRequest) -> None:
        """Add a request."""
        self._waiting.append(request)
        if not self._delay_s:
            self.flush()
        elif not self._has_some.is_set():
            self._has_some.set()

    def flush(self) -> None:
        """Count and log the requests that wait. Lines are lost if standard error is full."""
        requests = []
        with suppress(IndexError):  # empty: `popleft` takes each request once, in any thread
            while True:
                requests.append(self._waiting.popleft())
        self._metrics.count_requests(requests)
        if self._render:
            with suppress(OSError):  # a full disk or a closed pipe fails no request
                write([f"{self._render(None, '', fields(one))!s}\n" for one in requests])

    def _run(self) -> None:
        while self._has_some.wait():
            time.sleep(self._delay_s)
            self._has_some.clear()
            try:
                self.flush()
            except Exception as err:  # pylint: disable=broad-exception-caught
                # The thread must live: without it no request is counted.
                log.error("request_log_failed", error=where(err))


def fields(request: FinishedRequest) -> EventDict:
    """Return the fields of a request's line."""
    finished_at = datetime.fromtimestamp(request.finished_at, UTC).replace(tzinfo=None)
    return {
        "at": f"{finished_at.isoformat(timespec='microseconds')}Z",
        "level": "info",
        "logger": LOGGER,
        "event": "request",
        "request_id": request.request_id,
        "route": request.route,
        "status": request.status,
        "ms": round(request.seconds * 1000, 3),
        **request.logged,
    }


def write(lines: list[str]) -> None:
    """Write whole lines to standard error. Raises OSError."""
    content = b""
    for line in map(str.encode, lines):
        if len(content) + len(line) > ATOMIC_BYTES:
            os.write(STDERR, content)
            content = b""
        content += line
    os.write(STDERR, content)
