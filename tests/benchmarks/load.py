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


class Client:
    """The process that the load comes from; made once, for it takes a second."""

    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def drive(
        self, target: Target, n_connections: int, seconds: float, rate: float | None = None
    ) -> LoadResult:
        """Loads a server; `rate` in requests a second, None for as many as it takes."""
        return self._process.submit(drive, target, n_connections, seconds, rate).result()


def drive(target: Target, n_connections: int, seconds: float, rate: float | None) -> LoadResult:
    """The load itself. Raises UnexpectedAnswer for anything but 200."""
    connections = [Connection(target.port) for _ in range(n_connections)]
    requests, idle = itertools.cycle(target.requests()), deque(connections)
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
    """Those that an answer has come to. Raises UnexpectedAnswer if TIMEOUT_S pass without one."""
    ready: list[Connection] = select.select(connections, [], [], wait_s)[0]
    if not ready and wait_s == TIMEOUT_S:
        raise UnexpectedAnswer(f"nothing within {TIMEOUT_S} s")
    return ready
