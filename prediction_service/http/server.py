"""What the service adds to gunicorn's gevent worker and logger.

gevent: each connection has a greenlet, so a slow or silent client delays nobody. Under threads, as
many slow clients as there are threads stop a worker.
"""

import os
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from ssl import SSLError
from typing import Any

import gevent
import structlog
from gevent.server import StreamServer
from gunicorn.glogging import Logger
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, ParseException
from gunicorn.http.message import Request
from gunicorn.util import close_graceful
from gunicorn.workers.ggevent import GeventWorker

from config.runtime.logs import set_up, where
from config.runtime.settings import read_settings
from prediction_service.errors import INTERNAL_ERROR, error_body
from prediction_service.http.arrival import note_response
from prediction_service.settings import Settings

log = structlog.get_logger(__name__)

READ_BYTES = 1 << 16
PAUSE_PER_CONNECTION_S = 0.0002
MAX_PAUSE_S = 0.002  # a worker can still accept 500 connections a second
# Status of a malformed request by gunicorn's error, the first that matches.
STATUSES: dict[type[Exception], HTTPStatus] = {
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    ParseException: HTTPStatus.BAD_REQUEST,
    SSLError: HTTPStatus.BAD_REQUEST,
}


class ServerLog(Logger):
    """gunicorn's logger, in the format of LOG_FORMAT, from LOG_LEVEL on."""

    def setup(self, cfg: Any) -> None:
        """Send gunicorn's lines through the service's own logging."""
        super().setup(cfg)
        settings = read_settings(Settings)
        set_up(settings.log_format, settings.log_level)
        self.error_log.handlers.clear()
        self.error_log.setLevel(settings.log_level)
        self.error_log.propagate = True


class SharingServer(StreamServer):
    """Accepts connections so that all workers get about the same number.

    The kernel gives a burst of connections to whichever worker is awake. After each connection this
    worker pauses, longer the more connections it has, and another worker accepts the next one.
    """

    max_accept = 1

    def do_handle(self, *args: Any) -> None:
        """Serve a connection, then pause."""
        super().do_handle(*args)
        n_open = self.pool.size - self.pool.free_count()
        self.stop_accepting()
        gevent.spawn_later(min(n_open * PAUSE_PER_CONNECTION_S, MAX_PAUSE_S), self.resume)

    def resume(self) -> None:
        """Accept again, unless the worker is stopping."""
        if self.started:
            self.start_accepting()


class ServiceWorker(GeventWorker):
    """gunicorn's gevent worker with a deadline for each request, and JSON error responses."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.request_timeout_s = read_settings(Settings).request_timeout_s

    def server_class(self, listener: Any, *, spawn: Any, **options: Any) -> SharingServer:
        """Return the server of a listening socket, in place of gevent's own WSGI server."""
        ssl = {name: value for name, value in options.items() if name == "ssl_context"}
        return SharingServer(listener, partial(self.handle, listener), spawn=spawn, **ssl)

    def handle_request(self, listener_name: Any, req: Request, sock: Any, addr: Any) -> None:
        """Handle one request. Raises StopIteration, which closes the connection.

        The client has REQUEST_TIMEOUT_S to send the body and to take the response: gunicorn has
        no such limit, and the connection of a vanished client would stay open.
        """
        if isinstance(req.body.reader, ChunkedReader):
            req.force_close()  # after malformed chunks, the rest of the body would be a request
        with gevent.Timeout(self.request_timeout_s, False):
            try:
                super().handle_request(listener_name, req, sock, addr)
            except StopIteration:  # the response was the connection's last
                discard_rest(req)
                raise
            discard_rest(req)
            note_response()
            if self.alive:  # a stopping worker would wait for the client's next request
                gevent.sleep(0)  # else a client's pipelined requests would all come before others'
                return
        raise StopIteration

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Send the error response. gunicorn's own page and log line quote the client's data."""
        if isinstance(exc, Exception):  # GreenletExit is the end of this worker
            with suppress(OSError):
                client.sendall(error_response(exc))
                close_graceful(client)


def discard_rest(req: Request) -> None:
    """Read what the application left of a body.

    A client that is still sending could not read its response from a closed connection.
    """
    with suppress(OSError, ParseException):  # malformed chunks
        while req.body.read(READ_BYTES):
            pass


def error_response(err: Exception) -> bytes:
    """Return the response to a malformed request, or to a failure outside of the application."""
    request_id = os.urandom(16).hex()  # the client's own may be the malformed part
    status = next((s for kind, s in STATUSES.items() if isinstance(err, kind)), None)
    if status is None:
        log.error("request_failed", request_id=request_id, error=where(err))
        status, code = HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error"
        message = INTERNAL_ERROR
    else:
        kind, code = type(err).__name__, "bad_request"
        log.warning("malformed_request", request_id=request_id, error=kind, status=status.value)
        message = f"Malformed HTTP request: {kind}."
    body = error_body(code, message, [])
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
    head += f"X-Request-ID: {request_id}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
