"""The gunicorn worker: what clients on raw connections can and cannot do to it."""

import json
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import pytest
import requests
from gunicorn.config import Config
from gunicorn.http.errors import ParseException

from prediction_service.journal import journal_paths, read_after
from prediction_service.models.model_folder import ModelFolder
from prediction_service.settings import Settings
from prediction_service.worker import (
    MOST_CONNECTIONS,
    MOST_WAITING_BODIES,
    Connection,
    Exchange,
)
from tests.conftest import wait_until
from tests.prediction_service.conftest import Start, gunicorn

Record = dict[str, Any]


@pytest.fixture
def one_worker(settings: Settings, model_folder: ModelFolder, start: Start) -> Iterator[Settings]:
    """The service with a single worker, whom everybody meets, and who waits longer than a test."""
    assert model_folder.current()
    own = settings.model_copy(update={"workers": 1, "request_timeout_s": 60.0})
    with gunicorn(start, own):
        yield own


@pytest.fixture
def impatient(settings: Settings, model_folder: ModelFolder, start: Start) -> Iterator[Settings]:
    """The same, but for clients that take longer than a second."""
    assert model_folder.current()
    own = settings.model_copy(update={"workers": 1, "request_timeout_s": 1.0})
    with gunicorn(start, own):
        yield own


def connect(settings: Settings) -> socket.socket:
    """A connection to the service."""
    return socket.create_connection(("127.0.0.1", settings.prediction_port), timeout=10)


def predict_request(body: bytes, *headers: str) -> bytes:
    """A request as it travels."""
    lines = ["POST /predict HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_answer(client: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    return read_next(client.makefile("rb"))


def ask(client: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to a request."""
    client.sendall(request)
    return read_answer(client)


def read_next(file: BinaryIO) -> tuple[int, bytes]:
    """Status and body of the next of several answers."""
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return status, file.read(length)


def is_closed(client: socket.socket, within_s: float) -> bool:
    """True if the service hangs up in time."""
    client.settimeout(within_s)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False


def test_a_client_that_does_not_finish_its_request_delays_nobody(
    one_worker: Settings, record: Record
) -> None:
    body = json.dumps(record).encode()
    request = predict_request(body)
    with connect(one_worker) as slow, connect(one_worker) as half, connect(one_worker):
        half.sendall(request[:40])
        slow.sendall(request[:-5])
        url = f"http://127.0.0.1:{one_worker.prediction_port}/predict"
        assert requests.post(url, json=record, timeout=20).ok  # the others have a minute
        slow.sendall(request[-5:])
        assert read_answer(slow)[0] == 200


def test_who_does_not_finish_a_request_in_time_is_hung_up_on(
    impatient: Settings, record: Record
) -> None:
    request = predict_request(json.dumps(record).encode())
    with connect(impatient) as silent, connect(impatient) as half:
        half.sendall(request[:40])
        for client in (silent, half):
            assert is_closed(client, 10)


def test_a_trickle_of_bytes_does_not_move_the_deadline(impatient: Settings) -> None:
    with connect(impatient) as client:
        deadline = time.monotonic() + 20
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                client.sendall(b"G")
                time.sleep(0.1)


def predictions(answers: list[tuple[int, bytes]]) -> list[Record]:
    """The decoded bodies of answers that are all 200."""
    assert {status for status, _ in answers} == {200}
    return [json.loads(body) for _, body in answers]


def test_requests_that_arrive_together_are_each_answered_as_if_alone(
    one_worker: Settings, record: Record
) -> None:
    """Behind each other on one connection, and at once on several: scored and stored together."""
    ages = [20, 70, 30, 80]
    requested = [predict_request(json.dumps(record | {"age": age}).encode()) for age in ages]
    with connect(one_worker) as client:
        alone = predictions([ask(client, request) for request in requested])
        client.sendall(b"".join(requested))
        with client.makefile("rb") as file:
            behind = predictions([read_next(file) for _ in ages])
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(one_worker)) for _ in requested * 3]
        for client, request in zip(clients, requested * 3):
            client.sendall(request)
        at_once = predictions([read_answer(client) for client in clients])
    expected = [one["probability"] for one in alone]
    assert [one["probability"] for one in behind + at_once] == expected * 4
    answered = [one["prediction_id"] for one in alone + behind + at_once]
    (path,) = journal_paths(one_worker.journal_path)
    assert sorted(answered) == sorted(one.prediction_id for one in read_after(path, 0, 100))


def test_one_bad_request_among_others_is_the_only_one_refused(
    one_worker: Settings, record: Record
) -> None:
    bodies = [json.dumps(record | {"age": age}).encode() for age in (20, 500, 30)]
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(one_worker)) for _ in bodies]
        for client, body in zip(clients, bodies):
            client.sendall(predict_request(body))
        assert [read_answer(client)[0] for client in clients] == [200, 422, 200]


def test_a_reader_that_takes_its_time_gets_the_whole_answer(
    settings: Settings, model_folder: ModelFolder, start: Start, record: Record
) -> None:
    assert model_folder.current()
    limits = {"workers": 1, "max_records": 5000, "max_body_bytes": 10**7}
    big = settings.model_copy(update={**limits})
    with gunicorn(start, big), connect(big) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        slow.sendall(predict_request(json.dumps([record] * 5000).encode()))
        assert select.select([slow], [], [], 20)[0]  # the answer is on its way
        url = f"http://127.0.0.1:{big.prediction_port}/predict"
        assert requests.post(url, json=record, timeout=10).ok
        status, body = read_answer(slow)
        assert (status, len(json.loads(body))) == (200, 5000)


def test_a_client_that_asks_first_is_told_to_send_its_body(
    one_worker: Settings, record: Record
) -> None:
    body = json.dumps(record).encode()
    request = predict_request(body, "Expect: 100-continue")
    with connect(one_worker) as client:
        client.sendall(request[: -len(body)])
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert read_answer(client)[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: morse\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", 417),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\nzz\r\n", 400),
        (
            b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
            b"Host: a\r\n\r\n0\r\n\r\n",
            400,
        ),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(
    one_worker: Settings, sent: bytes, status: int
) -> None:
    with connect(one_worker) as client:
        client.sendall(sent)
        answered, body = read_answer(client)
        assert answered == status
        assert b"Traceback" not in body
        assert is_closed(client, 4)


def test_a_refusal_can_be_found_in_the_log(
    settings: Settings, model_folder: ModelFolder, start: Start, tmp_path: Path
) -> None:
    assert model_folder.current()
    with gunicorn(start, settings), connect(settings) as client:
        client.sendall(b"nonsense\r\n\r\n")
        answer = client.makefile("rb").read()
    (request_id,) = re.findall(rb"\r\nX-Request-ID: ([0-9a-f]{32})\r\n", answer)
    logs = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.log"))
    assert (
        f"no request request_id={request_id.decode()} error=InvalidRequestLine status=400" in logs
    )


def test_idle_connections_do_not_delay_the_end(
    settings: Settings, model_folder: ModelFolder, start: Start, record: Record
) -> None:
    assert model_folder.current()
    patient = settings.model_copy(update={"graceful_timeout_s": 20})
    session = requests.Session()
    with gunicorn(start, patient) as address:
        assert session.post(f"{address}/predict", json=record, timeout=10).ok
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    session.close()


HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A connection that nobody sends on: what came on it, the test says."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours, ("127.0.0.1", 1), 0.0)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (HEAD + b"1234", b"1234"),
        (HEAD.replace(b"4", b"0" * 30 + b"4") + b"1234", b"1234"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        (CHUNKED + b"4\r\n0\r\n\r\r\n0\r\n\r\n", b"0\r\n\r"),
        (
            CHUNKED + b"2;note=1\r\nab\r\nA \r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n",
            b"ab0123456789",
        ),
        (CHUNKED + b"1\r\na\r\n" * 100 + b"0\r\n\r\n", b"a" * 100),
    ],
)
def test_a_request_is_here_with_its_last_byte_however_it_is_cut(
    connection: Connection, request_: bytes, body: bytes
) -> None:
    for size in (1, 2, 7, 1000):
        exchange = Exchange(connection)
        for start in range(0, len(request_), size):
            assert not (start and exchange.take(Config(), 100))
            connection.received += request_[start : start + size]
        connection.received += b"" if b"chunked" in request_ else b"GET"
        assert exchange.take(Config(), 100)
        assert (exchange.body.length, exchange.body.content) == (len(body), body)
        if b"chunked" not in request_:
            assert connection.received == b"GET"  # the next one's
        connection.received.clear()


@pytest.mark.parametrize("sent", [HEAD.replace(b"4", b"101"), CHUNKED + b"65\r\nabc"])
def test_no_more_is_awaited_of_a_body_beyond_the_limit(connection: Connection, sent: bytes) -> None:
    connection.received += sent
    exchange = Exchange(connection)
    assert exchange.take(Config(), 100)
    assert exchange.body.is_too_long
    assert exchange.body.length == 101


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\n",
        b"-1\r\n\r\n",
        b"\r\n",
        b"0x1\r\na\r\n",
        b"1\r\nab\r\n",
        b"1;\ra\r\na\r\n",
        b"1" * 2000,
        b"0\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_chunks_that_make_no_sense_are_refused(connection: Connection, chunks: bytes) -> None:
    connection.received += CHUNKED + chunks
    with pytest.raises(ParseException):
        Exchange(connection).take(Config(), 100)


def test_the_rest_of_a_body_that_was_refused_is_no_request(one_worker: Settings) -> None:
    """The body of a refused request is the caller's data: read as a request, it would be theirs."""
    hidden = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"
    length = one_worker.max_body_bytes + 1
    with connect(one_worker) as client:
        client.sendall(HEAD.replace(b"4", b"%d" % length))
        assert read_answer(client)[0] == 413
        client.sendall(hidden)
        assert is_closed(client, 4)


def test_a_client_that_hangs_up_half_gets_all_its_answers(
    one_worker: Settings, record: Record
) -> None:
    """It sends no more, but it still reads: several answers, and one that needs time to take."""
    request = predict_request(json.dumps(record).encode())
    with connect(one_worker) as client:
        client.sendall(request * 3 + request[:-1])  # of the last, the end never comes
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            assert [read_next(file)[0] for _ in range(3)] == [200] * 3
            assert file.read() == b""


def test_chunks_are_a_body_like_any_other(one_worker: Settings, record: Record) -> None:
    """Also with a trailer that would be refused as a header: nobody reads it."""
    body = json.dumps(record).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    for end in (b"0\r\n\r\n", b"0\r\nHost: there\r\n\r\n"):
        with connect(one_worker) as client:
            status, answer = ask(client, CHUNKED + chunks + end)
            assert (status, json.loads(answer)["model_version"]) == (200, "1")


def test_one_client_with_many_requests_behind_each_other_delays_no_other(
    one_worker: Settings, record: Record
) -> None:
    """Its requests are answered one a turn, and others' in between."""
    many = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n" * 1000
    with connect(one_worker) as greedy, connect(one_worker) as other:
        greedy.sendall(many)
        assert ask(other, predict_request(json.dumps(record).encode()))[0] == 200
        greedy.setblocking(False)
        seen = b""
        with suppress(BlockingIOError):
            while part := greedy.recv(1 << 20):
                seen += part
        assert seen.count(b"HTTP/1.1 200 OK") < 900


def test_idle_connections_give_way_to_new_ones_and_a_request_on_its_way_does_not(
    one_worker: Settings, record: Record
) -> None:
    request = predict_request(json.dumps(record).encode())
    with ExitStack() as stack:
        busy = stack.enter_context(connect(one_worker))
        busy.sendall(request[:-1])
        for _ in range(MOST_CONNECTIONS + 20):
            client = stack.enter_context(connect(one_worker))
        assert ask(client, request)[0] == 200
        assert ask(busy, request[-1:])[0] == 200


def test_bodies_on_their_way_have_a_bound_together(
    settings: Settings, model_folder: ModelFolder, start: Start, record: Record, tmp_path: Path
) -> None:
    """Else as many clients as there may be, each short of a byte, would fill the memory."""
    assert model_folder.current()
    own = settings.model_copy(update={"workers": 1, "max_body_bytes": 200_000})
    request = predict_request(json.dumps(record).encode().rjust(200_000))
    with gunicorn(start, own), ExitStack() as stack:
        clients = [stack.enter_context(connect(own)) for _ in range(2 * MOST_WAITING_BODIES)]
        for client in clients:
            with suppress(OSError):
                client.sendall(request[:-1])
        log = tmp_path / "gunicorn-0.log"
        wait_until(lambda: "sent too much" in log.read_text(), 20, "connections to be closed")
        outcomes = [outcome(client, request[-1:]) for client in clients]
        assert set(outcomes) == {200, None}
        with connect(own) as another:
            assert ask(another, request)[0] == 200


def outcome(client: socket.socket, request: bytes) -> int | None:
    """The status of the answer; None if the service has hung up."""
    try:
        return ask(client, request)[0]
    except (OSError, IndexError):
        return None


def test_an_answer_on_its_way_is_finished_when_the_service_stops(
    settings: Settings, model_folder: ModelFolder, start: Start, record: Record
) -> None:
    assert model_folder.current()
    patient = settings.model_copy(update={"graceful_timeout_s": 10})
    request = predict_request(json.dumps(record).encode(), "Expect: 100-continue")
    with ExitStack() as stack:
        with gunicorn(start, patient):
            late = stack.enter_context(connect(patient))
            late.sendall(request[:-1])
            assert b"100 Continue" in late.recv(1000)  # the service has begun with it
            Timer(0.5, late.sendall, [request[-1:]]).start()
        status, body = read_answer(late)  # the service has ended
        assert (status, json.loads(body)["model_version"]) == (200, "1")


def test_no_header_moves_the_application(one_worker: Settings) -> None:
    with connect(one_worker) as client:
        moved = b"GET /health/live HTTP/1.1\r\nHost: a\r\nSCRIPT_NAME: /x\r\nPATH_INFO: /y\r\n\r\n"
        assert ask(client, moved)[0] == 200
