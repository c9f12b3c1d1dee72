"""gunicorn's worker for this service: one thread, kept connections, no client that delays others.

gunicorn's sync worker closes every connection, and its gthread worker hands each request from one
thread to another, which costs more than an empty Flask route does. Here one thread waits for all
connections at once and reads what has come. The application is called for every request that is
here as a whole before the first of them is answered, so that it may do their work together. A slow
sender or reader takes memory, never the thread, and has until a deadline. Parsing, the WSGI
environment and the answer's framing are gunicorn's own.
"""

import os
import re
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from typing import Any
from wsgiref.types import WSGIEnvironment

from gunicorn.config import Config
from gunicorn.http.errors import LimitRequestHeaders, NoMoreData
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import Response, create
from gunicorn.workers.base import Worker

from config.settings import read_settings
from prediction_service.settings import Settings

READ_BYTES = 1 << 16
PIECE_BYTES = 1024  # `gunicorn.http.body.Body.read`
MOST_HEAD_BYTES = 1 << 16  # of a request's line and headers
CHECK_PERIOD_S = 1.0  # of deadlines, and of telling the arbiter that the worker lives
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})")
CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}[ \t]*")
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Extent(Enum):
    """How much of a request has come."""

    PART = 1
    WHOLE = 2
    BEYOND = 3  # not all, but no more of it will be taken


class Connection:
    """A client's socket, what has come from it, and what it has still to take."""

    def __init__(self, client: socket.socket, address: tuple[str, int], deadline: float) -> None:
        self.socket = client
        self.address = address
        self.deadline = deadline  # by the monotonic clock: then it is closed
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.is_last = False  # it is closed after the answer
        self.is_ending = False  # all is sent, and the client has still to hang up
        self.continued = False  # it has been told to send its body

    @property
    def is_idle(self) -> bool:
        """True between two requests."""
        return not (self.received or self.unsent or self.is_ending)


class Exchange:
    """One request and its answer. To gunicorn it is the socket: nothing is sent before the end."""

    def __init__(self, cfg: Config, connection: Connection) -> None:
        self.connection = connection
        self._pieces = pieces(bytes(connection.received))
        self.parser = RequestParser(cfg, self._pieces, connection.address)
        self.request: Request | None = None
        self.response: Response | None = None
        self.environ: WSGIEnvironment = {}
        self.parts: Iterable[bytes] = ()
        self.content = bytearray()
        self.started = datetime.now()

    def is_read(self) -> bool:
        """True if the request's body was all here, so that what follows is the next request."""
        try:
            return self.parser.finish_body()
        except Exception:  # pylint: disable=broad-exception-caught  # cut off, or no chunk
            return False

    def rest(self) -> bytes:
        """What follows the request."""
        return self.parser.unreader.take_buffered() + b"".join(self._pieces)

    def sendall(self, data: bytes) -> None:
        """Adds to the answer."""
        self.content += data

    def send(self, _: bytes) -> None:
        """`100 Continue`, which has been sent when it was due."""

    def gettimeout(self) -> float:
        """Never waits."""
        return 0.0


class KeptWorker(Worker):
    """One thread, many kept connections."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        settings = read_settings(Settings, os.environ)
        self.request_timeout_s = settings.request_timeout_s
        self.most_body_bytes = settings.max_body_bytes
        self.connections: set[Connection] = set()
        # Made before the fork, and the better one has a descriptor: see `init_process`.
        self.poller: selectors.BaseSelector = selectors.SelectSelector()
        self._waiting: list[Exchange] = []

    def init_process(self) -> None:
        """Comes after the fork; gunicorn calls `run` from it."""
        self.poller = selectors.DefaultSelector()
        super().init_process()

    def run(self) -> None:
        """Serves until gunicorn says stop, and then what has begun."""
        self.poller.register(self.PIPE[0], READ)  # a signal writes to it
        for listener in self.sockets:
            listener.setblocking(False)
            self.poller.register(listener, READ)
        check_at = 0.0
        while self.alive:
            self._turn(CHECK_PERIOD_S)
            if time.monotonic() >= check_at:
                check_at = time.monotonic() + CHECK_PERIOD_S
                self._check()
        self._finish()

    def _check(self) -> None:
        self.notify()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive = False
        now = time.monotonic()
        for connection in [one for one in self.connections if one.deadline < now]:
            self._close(connection)

    def _finish(self) -> None:
        """Answers what has arrived and ends what is idle, for at most the graceful timeout."""
        for listener in self.sockets:
            self.poller.unregister(listener)
            listener.close()
        give_up_at = time.monotonic() + self.cfg.graceful_timeout
        while self.connections and time.monotonic() < give_up_at:
            self._turn(0.05)
            self._check()
            for connection in [one for one in self.connections if one.is_idle]:
                self._close(connection)

    def _turn(self, timeout_s: float) -> None:
        """Waits for events, does what each asks for, and answers all requests that have arrived."""
        for key, _ in self.poller.select(timeout_s):
            if key.fileobj == self.PIPE[0]:
                os.read(self.PIPE[0], READ_BYTES)
            elif key.data is None:
                self._accept(key.fileobj)
            else:
                self._advance(key.data)
        while waiting := self._waiting:
            # The application has been called for all of them before the first is answered.
            self._waiting = []
            for exchange in waiting:
                self._answer(exchange)

    def _accept(self, listener: Any) -> None:  # gunicorn's own around a socket
        try:
            client, address = listener.accept()
        except OSError:  # another worker was faster, or the client has gone
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) >= self.cfg.worker_connections:
            self._close(min(self.connections, key=lambda one: one.deadline))
        connection = Connection(client, address, time.monotonic() + self.request_timeout_s)
        self.connections.add(connection)
        self.poller.register(client, READ, connection)

    def _close(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.poller.unregister(connection.socket)
        connection.socket.close()

    def _advance(self, connection: Connection) -> None:
        """Takes or gives what the socket is ready for."""
        if connection not in self.connections:  # closed for another one meanwhile
            return
        try:
            if connection.unsent:
                self._send(connection)
            else:
                self._receive(connection)
        except OSError:  # the client has gone
            self._close(connection)

    def _receive(self, connection: Connection) -> None:
        part = connection.socket.recv(READ_BYTES)
        if not part:
            self._close(connection)
        elif not connection.is_ending:
            if not connection.received:
                connection.deadline = time.monotonic() + self.request_timeout_s
            connection.received += part
            self._call_if_complete(connection)

    def _call_if_complete(self, connection: Connection) -> None:
        """Calls the application once a request is here, or as much of it as will be taken."""
        extent = extent_of(connection.received, self.most_body_bytes)
        if extent is not Extent.PART:
            self._waiting.append(self._call(connection, extent))
        elif not connection.continued and b"100-continue" in head_of(connection.received):
            connection.continued = True
            connection.socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _call(self, connection: Connection, extent: Extent) -> Exchange:
        """Calls the application for the first request of what has been received."""
        exchange = Exchange(self.cfg, connection)
        try:
            if b"\r\n\r\n" not in connection.received:
                raise LimitRequestHeaders(f"more than {MOST_HEAD_BYTES} bytes")
            exchange.request = next(exchange.parser)
            server = connection.socket.getsockname()
            exchange.response, exchange.environ = create(
                exchange.request, exchange, connection.address, server, self.cfg
            )
            if extent is Extent.BEYOND or not self.alive:  # what follows may be its rest
                exchange.response.force_close()
            exchange.parts = self.wsgi(exchange.environ, exchange.response.start_response)
        except Exception as err:  # pylint: disable=broad-exception-caught
            self._fail(exchange, err)
        return exchange

    def _answer(self, exchange: Exchange) -> None:
        """Asks the application for its answer and sends it."""
        connection, keep = exchange.connection, False
        if exchange.response:
            try:
                keep = self._write(exchange, exchange.response)
            except Exception as err:  # pylint: disable=broad-exception-caught
                self._fail(exchange, err)
        connection.received[:] = exchange.rest() if keep else b""
        connection.continued = False
        connection.is_last = not keep
        connection.unsent = memoryview(exchange.content)
        connection.deadline = time.monotonic() + self.request_timeout_s
        if connection in self.connections:  # not closed for another one meanwhile
            try:
                self._send(connection)
            except OSError:  # the client has gone
                self._close(connection)

    def _write(self, exchange: Exchange, response: Response) -> bool:
        """The answer into the exchange; True if the connection may be kept."""
        try:
            for part in exchange.parts:
                response.write(part)
            response.close()
        finally:
            getattr(exchange.parts, "close", int)()
        taken = datetime.now() - exchange.started
        self.log.access(response, exchange.request, exchange.environ, taken)
        return not response.should_close() and exchange.is_read()

    def _fail(self, exchange: Exchange, err: Exception) -> None:
        """Makes gunicorn's error page the answer; nothing, if the client has gone."""
        exchange.response = None
        exchange.content.clear()
        if not isinstance(err, (NoMoreData, StopIteration)):
            self.handle_error(exchange.request, exchange, exchange.connection.address, err)

    def _send(self, connection: Connection) -> None:
        """Sends what the client takes now; the rest when it takes more. Raises OSError."""
        had_to_wait = self.poller.get_key(connection.socket).events == WRITE
        try:
            n_sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            n_sent = 0
        connection.unsent = connection.unsent[n_sent:]
        if bool(connection.unsent) != had_to_wait:
            event = WRITE if connection.unsent else READ
            self.poller.modify(connection.socket, event, connection)
        if connection.unsent:
            return
        if connection.is_last:
            # Closed at once, what the client has sent meanwhile would make the kernel take the
            # answer back (RFC 9112, 9.6).
            connection.is_ending = True
            connection.socket.shutdown(socket.SHUT_WR)
            return
        connection.deadline = time.monotonic() + self.cfg.keepalive
        if connection.received:  # the client did not wait for the answer before it asked again
            self._call_if_complete(connection)


def pieces(received: bytes) -> Iterator[bytes]:
    """The head, and what follows in the pieces that gunicorn reads a body in.

    Given more at once it copies all of that for each piece, which for a long list takes longer
    than to score it.
    """
    end = received.find(b"\r\n\r\n") + 4
    yield received[:end]
    for start in range(end, len(received), PIECE_BYTES):
        yield received[start : start + PIECE_BYTES]


def head_of(received: bytearray) -> bytes:
    """The line and the headers, in lower case; empty if they are not here."""
    return bytes(received[: received.find(b"\r\n\r\n") + 1]).lower()


def extent_of(received: bytearray, most_body_bytes: int) -> Extent:
    """How much of the next request is here.

    What a request is, gunicorn's parser decides: a connection is kept only if both agree.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return Extent.BEYOND if len(received) > MOST_HEAD_BYTES else Extent.PART
    head, n_body_bytes = bytes(received[:end]).lower(), len(received) - end - 4
    if b"\r\ntransfer-encoding:" in head:
        return extent_of_chunks(received, end + 4, most_body_bytes + READ_BYTES)
    found = CONTENT_LENGTH.search(head)
    length = int(found[1]) if found else 0
    if length > most_body_bytes:
        return Extent.BEYOND
    return Extent.WHOLE if n_body_bytes >= length else Extent.PART


def extent_of_chunks(received: bytearray, position: int, most_bytes: int) -> Extent:
    """How much of the chunks that begin at `position` is here; BEYOND if they make no sense."""
    if len(received) - position > most_bytes:
        return Extent.BEYOND
    while (line_ends := received.find(b"\r\n", position)) >= 0:
        size_digits = bytes(received[position:line_ends].partition(b";")[0])
        if not CHUNK_SIZE.fullmatch(size_digits):
            return Extent.BEYOND
        if int(size_digits, 16) == 0:
            return Extent.WHOLE if received.find(b"\r\n\r\n", line_ends) >= 0 else Extent.PART
        position = line_ends + 2 + int(size_digits, 16) + 2
    return Extent.PART
