"""Every request's way in: its id, which page it is of, its API key, and its line in the log.

WSGI middleware around the application, `hot_route` included, so that each of these is written once.
A request that is refused here goes on with its error: Flask answers it like any other.
"""

import atexit
import os
import re
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from config.cross_site import is_cross_site
from config.logs import LogFormat, iso_time, local_time
from prediction_service.errors import CrossSite, NotAuthorized
from prediction_service.keys import Keys

# In the WSGI environment.
REQUEST_ID = "prediction_service.request_id"
CALLER = "prediction_service.caller"  # the name of the caller's key, if keys are on
ERROR = "prediction_service.error"  # what Flask is to raise

LOGGER = "prediction_service.requests"
STDERR = 2
ATOMIC_BYTES = 4096  # of a write to a pipe
MOST_WAITING = 20_000  # where nobody takes the lines, the oldest are let go of
CROSS_SITE = "A page of another site may not ask: ask from the page at / or from a program."
REQUEST_ID_RULE = "1 to 100 letters, digits, '.', '_', ':' and '-'"
is_request_id = re.compile(r"[A-Za-z0-9._:-]{1,100}").fullmatch


class Answered(NamedTuple):
    """What is logged of a request."""

    at: float  # Unix time
    request_id: str
    route: str
    status: str  # three digits
    seconds: float


class RequestLog:
    """A line for each request. It says nothing that the caller has sent but a valid request id."""

    def __init__(self, log_format: LogFormat, routes: Collection[str]) -> None:
        """`routes`: what there is, as `GET /model`; anything else is logged as `unknown`."""
        self._line = as_json if log_format == "json" else as_text
        self._routes = frozenset(routes)
        self._answered: deque[Answered] = deque(maxlen=MOST_WAITING)
        self._is_flushed_later = False

    def add(self, request_id: str, route: str, status: str, seconds: float) -> None:
        """Logs a request, past `logging`, which takes several times as long."""
        known = route if route in self._routes else "unknown"
        self._answered.append(Answered(time.time(), request_id, known, status, seconds))
        if not self._is_flushed_later:
            self.flush()

    def flush_every(self, period_s: float) -> threading.Thread:
        """Writes what has come together from a thread, and at the end of this process.

        Made and written one by one, lines would cost more than all else that is done here.
        """
        self._is_flushed_later = True
        atexit.register(self.flush)
        thread = threading.Thread(target=self._keep_flushing, args=[period_s], daemon=True)
        thread.start()
        return thread

    def flush(self) -> None:
        """Writes what is there, in pieces that do not mix with those of other workers."""
        piece = b""
        for line in self._take_lines():
            if len(piece) + len(line) > ATOMIC_BYTES:
                write_to_stderr(piece)
                piece = b""
            piece += line
        write_to_stderr(piece)

    def _take_lines(self) -> Iterator[bytes]:
        with suppress(IndexError):  # at the end: the requests go on adding meanwhile
            while True:
                yield self._line(self._answered.popleft()).encode()

    def _keep_flushing(self, period_s: float) -> None:
        while True:
            time.sleep(period_s)
            self.flush()


def as_text(one: Answered) -> str:
    """A line for people."""
    return (
        f"{local_time(one.at)} INFO {LOGGER} request request_id={one.request_id}"
        f" route={one.route} status={one.status} ms={one.seconds * 1000:.3f}\n"
    )


def as_json(one: Answered) -> str:
    """A line for programs. Nothing in it needs an escape: see `is_request_id`."""
    return (
        f'{{"at":"{iso_time(one.at)}","level":"INFO","logger":"{LOGGER}","event":"request",'
        f'"request_id":"{one.request_id}","route":"{one.route}","status":{one.status},'
        f'"ms":{one.seconds * 1000:.3f}}}\n'
    )


def write_to_stderr(lines: bytes) -> None:
    """Writes lines; where nobody takes them, that is no reason to fail a request."""
    with suppress(OSError):
        os.write(STDERR, lines)


class Entrance:
    """Gives each request an id, asks who it comes from, and logs what became of it."""

    def __init__(
        self,
        app: WSGIApplication,
        keys: Keys,
        open_paths: Collection[str],
        request_log: RequestLog | None,
    ) -> None:
        """`open_paths` need no key; every other path does, also one that is not there."""
        self.app = app
        self.keys = keys
        self.open_paths = frozenset(open_paths)
        self.request_log = request_log

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        begun = time.perf_counter()
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        if not is_request_id(request_id):
            request_id = os.urandom(16).hex()
        environ[REQUEST_ID] = request_id
        if self.keys and environ["PATH_INFO"] not in self.open_paths:
            try:
                environ[CALLER] = self.keys.caller(environ.get("HTTP_AUTHORIZATION"))
            except NotAuthorized as err:
                environ[ERROR] = err
        if is_cross_site(environ):
            environ[ERROR] = CrossSite(CROSS_SITE)
        answer = Answering(start, request_id)
        # Called at once: see `hot_route` on requests that are answered together.
        parts = self.app(environ, answer.start)
        if self.request_log is None:
            return parts
        return self._logged(parts, environ, answer, begun)

    def _logged(
        self, parts: Iterable[bytes], environ: WSGIEnvironment, answer: "Answering", begun: float
    ) -> Iterator[bytes]:
        assert self.request_log
        try:
            yield from parts
        finally:
            getattr(parts, "close", int)()
            route = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            seconds = time.perf_counter() - begun
            self.request_log.add(answer.request_id, route, answer.status, seconds)


class Answering:
    """WSGI's `start_response`, with the request's id among the headers."""

    def __init__(self, start: StartResponse, request_id: str) -> None:
        self._start = start
        self.request_id = request_id
        self.status = "500"  # until it is known

    def start(self, status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        """Starts the answer."""
        self.status = status[:3]
        return self._start(status, [*headers, ("X-Request-ID", self.request_id)], *rest)
