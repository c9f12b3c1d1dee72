"""Load on one HTTP server, from a process of its own: closed loop, or at a rate.

The client has plain sockets and prepared requests, so it costs a fraction of the cheapest server;
`LoadResult.client_cpu_s` is its cost. Connections are kept alive, as between services. Each sends
one request before the measurement, so the time to accept it is not measured.
"""

import itertools
import multiprocessing
import re
import select
import socket
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

TIMEOUT_S = 20
EXPECTED = b"HTTP/1.1 200 ", b"HTTP/1.1 202 "  # of predictions, of labels
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


class Target(NamedTuple):
    """The address of requests, and their bodies in the order of sending."""

    port: int
    path: str
    bodies: list[bytes]

    def requests(self) -> list[bytes]:
        """Return whole requests with their headers."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: "
        return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in self.bodies]


class LoadResult(NamedTuple):
    """Figures of one stretch of load."""

    answered: int
    seconds: float
    latencies_s: np.ndarray  # (answered,); at a rate, counted from when a request was due
    client_cpu_s: float

    @property
    def rate(self) -> float:
        """Return the responses a second."""
        return self.answered / self.seconds

    def percentile_ms(self, q: float) -> float:
        """Return a percentile of the latency in milliseconds; `q` in [0, 100]."""
        return float(np.percentile(self.latencies_s, q)) * 1000


class UnexpectedResponse(Exception):
    """The status was not 200 or 202, or the server closed the connection."""


class Connection:
    """One kept connection with at most one open request."""

    def __init__(self, port: int) -> None:
        self.since = 0.0  # when the request was due
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self.fileno = self._socket.fileno  # for select
        self.close = self._socket.close

    def send(self, request: bytes, since: float) -> None:
        """Send a request that was due at `since`."""
        self.since = since
        self._socket.sendall(request)

    def receive(self) -> bool:
        """Return True once the whole response has arrived. Raises UnexpectedResponse."""
        part = self._socket.recv(1 << 18)
        self._received += part
        end = self._received.find(b"\r\n\r\n")
        if end < 0 and part:
            return False
        length = CONTENT_LENGTH.search(self._received, 0, end)
        if not part or not length or not self._received.startswith(EXPECTED):
            raise UnexpectedResponse(self._received[:1000].decode(errors="replace"))
        if len(self._received) < end + 4 + int(length[1]):
            return False
        self._received = b""
        return True


class Client:
    """The process that sends the load. Its start takes a second, so one serves all rounds."""

    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def drive(
        self, target: Target, n_connections: int, seconds: float, rate: float | None = None
    ) -> LoadResult:
        """Load a server; `rate` is in requests a second, None is a closed loop."""
        return self._process.submit(drive, target, n_connections, seconds, rate).result()


def drive(target: Target, n_connections: int, seconds: float, rate: float | None) -> LoadResult:
    """Send the load. Raises UnexpectedResponse for any status but 200 and 202."""
    connections = [Connection(target.port) for _ in range(n_connections)]
    requests, idle = itertools.cycle(target.requests()), deque(connections)
    for one in connections:
        one.send(next(requests), 0.0)
    for one in connections:
        while not one.receive():
            pass
    latencies_s: list[float] = []
    n_sent, cpu_s, begun = 0, time.process_time(), time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds or len(idle) < len(connections):
        may_send = idle and now < begun + seconds
        due = now if rate is None else begun + n_sent / rate
        if may_send and due <= now:
            idle.popleft().send(next(requests), due)
            n_sent += 1
            continue
        for one in wait_for(connections, due - now if may_send else TIMEOUT_S):
            if one.receive():
                latencies_s.append(time.perf_counter() - one.since)
                idle.append(one)
    cpu_s = time.process_time() - cpu_s
    for one in connections:
        one.close()
    return LoadResult(len(latencies_s), now - begun, np.array(latencies_s), cpu_s)


def wait_for(connections: list[Connection], wait_s: float) -> list[Connection]:
    """Return connections with data. Raises UnexpectedResponse after TIMEOUT_S without any."""
    ready: list[Connection] = select.select(connections, [], [], wait_s)[0]
    if not ready and wait_s == TIMEOUT_S:
        raise UnexpectedResponse(f"no response within {TIMEOUT_S} s")
    return ready
