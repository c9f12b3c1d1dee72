"""Load on one HTTP server, from a process of its own: closed loop, or at a rate.

Plain sockets and requests made beforehand, so that the client costs a fraction of the cheapest
server; `LoadResult.client_cpu_s` says what it did cost. Connections are kept alive, as those of
services that call each other are.
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
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


class Target(NamedTuple):
    """Where requests go, and the bodies to send in turn."""

    port: int
    path: str
    bodies: list[bytes]

    def requests(self) -> list[bytes]:
        """Whole requests, headers included."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: "
        return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in self.bodies]


class LoadResult(NamedTuple):
    """What one stretch of load showed."""

    answered: int
    seconds: float
    latencies_s: np.ndarray  # (answered,); at a rate, counted from when a request was due
    client_cpu_s: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the latency, in milliseconds."""
        return float(np.quantile(self.latencies_s, 0.99)) * 1000


class UnexpectedAnswer(Exception):
    """The server answered something else than 200, or closed the connection."""


class Connection:
    """One kept connection with at most one request on its way."""

    def __init__(self, port: int) -> None:
        self.since = 0.0  # when the request was due
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self.fileno = self._socket.fileno  # for select
        self.close = self._socket.close

    def send(self, request: bytes, since: float) -> None:
        """Sends a request that was due at `since`."""
        self.since = since
        self._socket.sendall(request)

    def receive(self) -> bool:
        """True once the whole answer is here. Raises UnexpectedAnswer."""
        part = self._socket.recv(1 << 18)
        self._received += part
        end = self._received.find(b"\r\n\r\n")
        if end < 0 and part:
            return False
        length = CONTENT_LENGTH.search(self._received, 0, end)
        if not part or not length or not self._received.startswith(b"HTTP/1.1 200 "):
            raise UnexpectedAnswer(self._received[:1000].decode(errors="replace"))
        if len(self._received) < end + 4 + int(length[1]):
            return False
        self._received = b""
        return True


def drive(target: Target, n_connections: int, seconds: float, rate: float | None) -> LoadResult:
    """Loads a server for some seconds; `rate` in requests a second, None for as many as it takes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_drive, target, n_connections, seconds, rate).result()


def _drive(target: Target, n_connections: int, seconds: float, rate: float | None) -> LoadResult:
    requests = itertools.cycle(target.requests())
    connections = [Connection(target.port) for _ in range(n_connections)]
    idle = deque(connections)
    latencies_s: list[float] = []
    n_sent, cpu_s, begun = 0, time.process_time(), time.perf_counter()
    last = begun + seconds
    while (now := time.perf_counter()) < last or len(idle) < n_connections:
        due = now if rate is None else begun + n_sent / rate
        if idle and due <= now < last:
            idle.popleft().send(next(requests), due)
            n_sent += 1
            continue
        wait_s = due - now if idle and now < last else TIMEOUT_S
        ready: list[Connection] = select.select(connections, [], [], wait_s)[0]
        if not ready and wait_s == TIMEOUT_S:
            raise UnexpectedAnswer(f"nothing within {TIMEOUT_S} s")
        for one in ready:
            if one.receive():
                latencies_s.append(time.perf_counter() - one.since)
                idle.append(one)
    ended, cpu_s = time.perf_counter(), time.process_time() - cpu_s
    for one in connections:
        one.close()
    return LoadResult(len(latencies_s), ended - begun, np.array(latencies_s), cpu_s)
