"""gunicorn's worker for this service: one thread, kept connections, no client that delays others.

gunicorn's sync worker closes every connection, and its gthread worker hands each request from one
thread to another, which costs more than an empty Flask route does. Here one thread waits for all
connections at once and reads what has come. The application is called for every request that is
here as a whole before the first of them is answered, so that it may do their work together; each
connection has one request in such a turn. A slow sender or reader takes memory, which is bounded,
never the thread, and has until a deadline. Heads are parsed, and answers framed, by gunicorn.
"""

import math
import mmap
import os
import re
import selectors
import socket
import time
from collections.abc import Iterable
from datetime import datetime
from io import BytesIO
from typing import Any
from wsgiref.types import WSGIApplication, WSGIEnvironment

from gunicorn.config import Config
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import InvalidHeader, LimitRequestHeaders, UnsupportedTransferCoding
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import Response, create
from gunicorn.workers.base import Worker

from config.runtime.settings import read_settings
from prediction_service.server_log import refuse
from prediction_service.settings import Settings

READ_BYTES = 1 << 16
MOST_HEAD_BYTES = 1 << 16  # of a request's line and headers
MOST_CONNECTIONS = 500  # beyond it, the idle one nearest to its deadline is closed
MOST_WAITING_BODIES = 32  # as much as these may have, all connections may have in memory
CHECK_PERIOD_S = 1.0  # of deadlines, and of telling the arbiter that the worker lives
GIVE_WAY_S = 0.0005  # in which a worker that has nothing to do takes a connection
SLOTS = 64  # for the workers that are there at the same time
LONGEST_CHUNK_LINE = 1024
CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(;[^\r\n]*)?")
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class InvalidChunk(InvalidHeader):
    """A chunked body that is none."""

    def __str__(self) -> str:
        return f"Invalid chunk: {self.hdr}"


class SizedBody:
    """A body whose length the head tells."""

    def __init__(self, length: int, most_bytes: int) -> None:
        self.length = length
        self.is_too_long = length > most_bytes
        self.content = b""

    def take(self, received: bytearray) -> bool:
        """Takes the body out of what has been received; False if more of it has to come."""
        if self.is_too_long:
            return True
        if len(received) < self.length:
            return False
        self.content = bytes(received[: self.length])
        del received[: self.length]
        return True


class ChunkedBody:
    """A body in chunks (RFC 9112, 7.1)."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.length = 0
        self.is_too_long = False
        self.content = bytearray()

    def take(self, received: bytearray) -> bool:
        """Takes what has come out of what has been received; False if more has to come.

        Raises InvalidChunk.
        """
        while 0 <= (line_end := received.find(b"\r\n")) <= LONGEST_CHUNK_LINE:
            if not (found := CHUNK_LINE.fullmatch(received[:line_end])):
                raise InvalidChunk("no size")
            size, start = int(found[1], 16), line_end + 2
            if size == 0:
                return self._is_end(received, line_end)
            if self.length + size > self.most_bytes:
                self.length += size
                self.is_too_long = True
                return True
            if len(received) < start + size + 2:
                return False
            if received[start + size : start + size + 2] != b"\r\n":
                raise InvalidChunk("it is longer than its size")
            self.length += size
            self.content += received[start : start + size]
            del received[: start + size + 2]
        if len(received) > LONGEST_CHUNK_LINE:
            raise InvalidChunk("no size")
        return False

    def _is_end(self, received: bytearray, line_end: int) -> bool:
        """True if the trailer, which nobody reads, is here."""
        if received.find(b"\r\n\r\n", line_end) >= 0:
            return True
        if len(received) > MOST_HEAD_BYTES:
            raise InvalidChunk(f"a trailer of more than {MOST_HEAD_BYTES} bytes")
        return False


class Connection:
    """A client's socket, what has come from it, and what it has still to take."""

    def __init__(self, client: socket.socket, address: tuple[str, int], deadline: float) -> None:
        self.socket = client
        self.address = address
        self.server = client.getsockname()
        self.deadline = deadline  # by the monotonic clock: then it is closed
        self.received = bytearray()
        self.has_ended = False  # the client sends no more, but may wait for answers
        self.exchange: Exchange | None = None  # from its head on until it is answered
        self.unsent = memoryview(b"")
        self.is_last = False  # it is closed after the answer
        self.is_ending = False  # all is sent, and the client has still to hang up

    @property
    def is_idle(self) -> bool:
        """True between two requests."""
        return not (self.received or self.exchange or self.unsent or self.is_ending)

    @property
    def held_bytes(self) -> int:
        """The memory that its client makes it take."""
        content = self.exchange.body.content if self.exchange else b""
        return len(self.received) + len(content) + len(self.unsent)


class Exchange:
    """One request and its answer. To gunicorn it is the socket: nothing is sent before the end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.request: Request | None = None
        self.body: SizedBody | ChunkedBody = SizedBody(0, 0)
        self.is_awaited = False  # the client waits to be told that it may send the body
        self.response: Response | None = None
        self.environ: WSGIEnvironment = {}
        self.parts: Iterable[bytes] = ()
        self.content = bytearray()
        self.started = datetime.now()

    def take(self, cfg: Config, most_body_bytes: int) -> bool:
        """Takes the request out of what has been received; False if more of it has to come.

        Raises gunicorn's errors.
        """
        received = self.connection.received
        if self.request is None:
            end = received.find(b"\r\n\r\n") + 4
            if end < 4 and len(received) <= MOST_HEAD_BYTES:
                return False
            if not 4 <= end <= MOST_HEAD_BYTES:
                raise LimitRequestHeaders(f"more than {MOST_HEAD_BYTES} bytes")
            self._read_head(bytes(received[:end]), cfg, most_body_bytes)
            del received[:end]
        return self.body.take(received)

    def _read_head(self, head: bytes, cfg: Config, most_body_bytes: int) -> None:
        try:
            request = next(RequestParser(cfg, iter([head]), self.connection.address))
        except UnsupportedTransferCoding as err:  # to gunicorn a failure of the server
            raise InvalidHeader("TRANSFER-ENCODING") from err
        # What gunicorn takes the body to be: a second opinion could differ, and then the rest of
        # one request would be read as the next.
        reader = request.body.reader
        if isinstance(reader, ChunkedReader):
            self.body = ChunkedBody(most_body_bytes)
        else:
            self.body = SizedBody(reader.length, most_body_bytes)
        self.is_awaited = request.version >= (1, 1) and any(
            name == "EXPECT" for name, _ in request.headers
        )
        self.request = request

    def call(self, app: WSGIApplication, cfg: Config, keep: bool) -> None:
        """Calls the application. It sees a body with a length, in whatever pieces it came."""
        connection = self.connection
        self.response, self.environ = create(
            self.request, self, connection.address, connection.server, cfg
        )
        # After chunks, too: what ends them, not all readers agree on.
        if not keep or self.body.is_too_long or isinstance(self.body, ChunkedBody):
            self.response.force_close()
        if self.environ.pop("HTTP_TRANSFER_ENCODING", None):
            self.environ["CONTENT_LENGTH"] = str(self.body.length)
        self.environ["wsgi.input"] = BytesIO(self.body.content)
        self.parts = app(self.environ, self.response.start_response)

    def answer(self, response: Response) -> None:
        """Asks the application for its answer."""
        try:
            for part in self.parts:
                response.write(part)
            response.close()
        finally:
            getattr(self.parts, "close", int)()

    def sendall(self, data: bytes) -> None:
        """Adds to the answer."""
        self.content += data

    def send(self, _: bytes) -> None:
        """`100 Continue`, which has been sent when it was due."""

    def gettimeout(self) -> float:
        """Never waits."""
        return 0.0


class Shares:
    """How many connections each worker has, in memory that is shared by those forked later.

    The kernel gives a new connection to whoever asks first: of a client's sixteen, one worker often
    had all, and the others nothing to do.
    """

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, 2 * 8 * SLOTS)).cast("d")  # two doubles each
        self._told_at, self._counts = memory[:SLOTS], memory[SLOTS:]

    def tell(self, slot: int, count: float) -> None:
        """Says how many the worker has that tells so about once in `CHECK_PERIOD_S`."""
        self._told_at[slot], self._counts[slot] = time.monotonic(), count

    def fewest(self) -> float:
        """The least that a worker has of those that are there; infinity without any."""
        since = time.monotonic() - 2 * CHECK_PERIOD_S
        told = zip(self._told_at, self._counts)
        return min((count for at, count in told if at > since), default=math.inf)


class KeptWorker(Worker):
    """One thread, many kept connections."""

    shares = Shares()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        settings = read_settings(Settings)
        self.request_timeout_s = settings.request_timeout_s
        self.most_body_bytes = settings.max_body_bytes
        self.connections: set[Connection] = set()
        # Made before the fork, and the better one has a descriptor: see `init_process`.
        self.poller: selectors.BaseSelector = selectors.SelectSelector()
        self._ready: set[Connection] = set()  # something came that may complete a request
        self._gave_way = False  # a client that came was left to a worker that has fewer

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

    def _tell(self) -> None:
        """Says what this one has; one that ends takes no more."""
        self.shares.tell(self.age % SLOTS, len(self.connections) if self.alive else math.inf)

    def _check(self) -> None:
        self.notify()
        self._tell()
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
        """Waits for events, does what each asks for, and answers the requests that are here.

        One of each connection: the others are not delayed by those behind it.
        """
        events = self.poller.select(0 if self._ready else timeout_s)
        is_free = len(events) == 1 and not self._ready
        for key, _ in events:
            if key.fileobj == self.PIPE[0]:
                os.read(self.PIPE[0], READ_BYTES)
            elif key.data is None:
                if not self._gives_way(is_free):
                    self._accept(key.fileobj)
            else:
                self._advance(key.data)
        ready, self._ready = self._ready, set()
        # The application is called for all of them before the first is answered.
        exchanges = [self._called(one) for one in ready if one in self.connections]
        for exchange in exchanges:
            if exchange:
                self._answer(exchange)

    def _gives_way(self, is_free: bool) -> bool:
        """True if a client is left for one turn to a worker that has fewer, and not for the next.

        If there is nothing else to do, the turn would be over at once: then it lasts a moment.
        """
        if len(self.connections) <= self.shares.fewest() + 1:
            self._gave_way = False
        elif is_free:
            time.sleep(GIVE_WAY_S)
            self._gave_way = False
        else:
            self._gave_way = not self._gave_way
        return self._gave_way

    def _accept(self, listener: Any) -> None:  # gunicorn's own around a socket
        try:
            client, address = listener.accept()
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # another worker was faster, or the client has gone
            return
        if len(self.connections) >= self.cfg.worker_connections:
            # An idle one before one that is being answered.
            self._close(min(self.connections, key=lambda one: (not one.is_idle, one.deadline)))
        connection = Connection(client, address, time.monotonic() + self.request_timeout_s)
        self.connections.add(connection)
        self._tell()
        self.poller.register(client, READ, connection)

    def _close(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._tell()
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
        except BlockingIOError:  # it was not ready after all
            pass
        except OSError:  # the client has gone
            self._close(connection)

    def _receive(self, connection: Connection) -> None:
        part = connection.socket.recv(READ_BYTES)
        if connection.is_ending:
            if not part:
                self._close(connection)
            return
        if connection.is_idle:
            connection.deadline = time.monotonic() + self.request_timeout_s
        connection.has_ended = not part
        connection.received += part
        self._ready.add(connection)
        if len(connection.received) > READ_BYTES and self._holds_too_much():
            self.log.warning("connection closed, all together have sent too much: %s", self)
            self._close(connection)

    def _holds_too_much(self) -> bool:
        held = sum(connection.held_bytes for connection in self.connections)
        return held > MOST_WAITING_BODIES * self.most_body_bytes

    def _called(self, connection: Connection) -> Exchange | None:
        """The next request of a connection, given to the application; None if it is not here."""
        exchange = connection.exchange = connection.exchange or Exchange(connection)
        try:
            if not exchange.take(self.cfg, self.most_body_bytes):
                self._expect_more(exchange)
                return None
            exchange.call(self.wsgi, self.cfg, self.alive)
        except Exception as err:  # pylint: disable=broad-exception-caught
            self._fail(exchange, err)
        return exchange

    def _expect_more(self, exchange: Exchange) -> None:
        """Lets the client go on with its request."""
        connection = exchange.connection
        if connection.has_ended:
            self._close(connection)
        elif exchange.is_awaited:
            exchange.is_awaited = False
            try:
                connection.socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:  # the client has gone
                self._close(connection)

    def _answer(self, exchange: Exchange) -> None:
        """Asks the application for its answer and sends it."""
        connection, keep = exchange.connection, False
        if exchange.response:
            try:
                exchange.answer(exchange.response)
                self._log_access(exchange, exchange.response)
                keep = not exchange.response.should_close()
            except Exception as err:  # pylint: disable=broad-exception-caught
                self._fail(exchange, err)
        connection.exchange = None
        connection.is_last = not keep
        connection.unsent = memoryview(exchange.content)
        connection.deadline = time.monotonic() + self.request_timeout_s
        if connection in self.connections:  # not closed for another one meanwhile
            try:
                self._send(connection)
            except OSError:  # the client has gone
                self._close(connection)

    def _log_access(self, exchange: Exchange, response: Response) -> None:
        taken = datetime.now() - exchange.started
        self.log.access(response, exchange.request, exchange.environ, taken)

    def _fail(self, exchange: Exchange, err: Exception) -> None:
        """Makes the error the answer."""
        exchange.response = None
        exchange.content.clear()
        self.handle_error(exchange.request, exchange, exchange.connection.address, err)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """gunicorn's own repeats in its page and in the log what the client has sent."""
        client.sendall(refuse(exc, self.log))

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
        if not connection.unsent:
            self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Comes after an answer that was sent as a whole. Raises OSError."""
        if connection.is_last:
            # Closed at once, what the client has sent meanwhile would make the kernel take the
            # answer back (RFC 9112, 9.6).
            connection.is_ending = True
            connection.received.clear()
            connection.socket.shutdown(socket.SHUT_WR)
        elif connection.received or connection.has_ended:
            # The client did not wait for the answer before it asked again.
            connection.deadline = time.monotonic() + self.request_timeout_s
            self._ready.add(connection)
        else:
            connection.deadline = time.monotonic() + self.cfg.keepalive
