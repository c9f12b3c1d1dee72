"""The running server: what clients on raw connections can and cannot do to it."""

import json
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread, Timer
from typing import Any, BinaryIO

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from prediction_service.models.model_folder import ModelFolder
from prediction_service.settings import Settings
from prediction_service.journal import journal_paths
from tests.prediction_service.conftest import (
    Start,
    arbiter,
    gunicorn,
    journalled_ids,
    shared_service,
)

Record = dict[str, Any]
CHUNKED = (
    b"POST /predict HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\n"
)


@pytest.fixture(scope="module")
def one_worker(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The service with a single worker and a deadline beyond every test's; most tests share it."""
    folder = tmp_path_factory.mktemp("one_worker")
    yield from shared_service(package, folder, request_timeout_s=60.0)


@pytest.fixture
def impatient(
    settings: Settings,
    model_folder: ModelFolder,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Settings]:
    """The same with deadlines of a second."""
    assert model_folder.current()
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--keep-alive 1")
    own = settings.model_copy(update={"workers": 1, "request_timeout_s": 1.0})
    with gunicorn(start, own):
        yield own


def connect(settings: Settings) -> socket.socket:
    """A connection to the service."""
    return socket.create_connection(("127.0.0.1", settings.prediction_port), timeout=10)


def predict_request(body: bytes, *headers: str) -> bytes:
    """A request as it travels."""
    lines = ["POST /predict HTTP/1.1", "Host: here", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *headers]
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


@pytest.mark.parametrize("n_sent", [0, 40, -5])
def test_a_hundred_slow_clients_delay_nobody(
    one_worker: Settings, record: Record, n_sent: int
) -> None:
    """They send nothing, half of the head, or all but the end of the body."""
    request = predict_request(json.dumps(record).encode())
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(one_worker)) for _ in range(100)]
        for client in clients:
            client.sendall(request[:n_sent])
        url = f"http://127.0.0.1:{one_worker.prediction_port}/predict"
        assert requests.post(url, json=record, timeout=20).ok  # the others have a minute
        clients[0].sendall(request[n_sent:] if n_sent else request)
        assert read_answer(clients[0])[0] == 200


@pytest.mark.parametrize("n_sent", [0, 40, -5])
def test_a_client_that_does_not_finish_its_request_in_time_is_disconnected(
    impatient: Settings, record: Record, n_sent: int
) -> None:
    request = predict_request(json.dumps(record).encode())
    with connect(impatient) as client:
        client.sendall(request[:n_sent])
        assert is_closed(client, 10)


@pytest.mark.parametrize("sent", [b"", CHUNKED])
def test_a_trickle_of_bytes_does_not_move_the_deadline(impatient: Settings, sent: bytes) -> None:
    """Neither in the head nor in the body."""
    with connect(impatient) as client:
        client.sendall(sent)
        deadline = time.monotonic() + 20
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                client.sendall(b"0")
                time.sleep(0.1)


def test_an_explanation_delays_no_other_request(one_worker: Settings, record: Record) -> None:
    """A hundred records at once, and the first explanation, which imports XGBoost.

    Explanations in the loop that serves requests leave time for one other request between two.
    """
    address = f"http://127.0.0.1:{one_worker.prediction_port}"
    statuses: list[int] = []

    def explain() -> None:
        body = [record] * one_worker.max_records
        answer = requests.post(f"{address}/predict?explain=true", json=body, timeout=30)
        statuses.append(answer.status_code)

    threads = [Thread(target=explain) for _ in range(4)]
    for thread in threads:
        thread.start()
    n_others = 0
    while any(thread.is_alive() for thread in threads):
        assert requests.get(f"{address}/health/live", timeout=30).ok
        n_others += 1
    assert statuses == [200] * 4
    assert n_others > 20


def predictions(answers: list[tuple[int, bytes]]) -> list[Record]:
    """The decoded bodies of answers that are all 200."""
    assert {status for status, _ in answers} == {200}
    return [json.loads(body) for _, body in answers]


def test_requests_that_arrive_together_are_each_answered_as_if_alone(
    one_worker: Settings, record: Record
) -> None:
    """Behind each other on one connection, and at once on several, with an invalid one: scored and
    stored together.
    """
    before = len(journalled_ids(one_worker))
    records = [record | {"age": age} for age in (20, 70, 30, 80)]
    requested = [predict_request(json.dumps(one).encode()) for one in records]
    with connect(one_worker) as client:
        alone = predictions([ask(client, request) for request in requested])
        client.sendall(b"".join(requested))
        with client.makefile("rb") as file:
            behind = predictions([read_next(file) for _ in requested])
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(one_worker)) for _ in requested * 3]
        for client, request in zip(clients, requested * 3):
            client.sendall(request)
        clients.append(stack.enter_context(connect(one_worker)))
        clients[-1].sendall(predict_request(b'{"age": 500}'))
        at_once = predictions([read_answer(client) for client in clients[:-1]])
        assert read_answer(clients[-1])[0] == 422
    expected = [one["probability"] for one in alone]
    assert [one["probability"] for one in behind + at_once] == expected * 4
    answered = [one["prediction_id"] for one in alone + behind + at_once]
    assert sorted(answered) == sorted(journalled_ids(one_worker)[before:])


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


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
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
def test_a_malformed_request_is_rejected_and_the_connection_closed(
    one_worker: Settings, sent: bytes, status: int
) -> None:
    with connect(one_worker) as client:
        client.sendall(sent)
        answered, body = read_answer(client)
        assert answered == status
        assert json.loads(body)["error"]["code"] == "bad_request"
        assert is_closed(client, 4)


def test_a_malformed_request_can_be_found_in_the_log(
    settings: Settings, model_folder: ModelFolder, start: Start, tmp_path: Path
) -> None:
    assert model_folder.current()
    with gunicorn(start, settings), connect(settings) as client:
        client.sendall(b"nonsense\r\n\r\n")
        answer = client.makefile("rb").read()
    (request_id,) = re.findall(rb"\r\nX-Request-ID: ([0-9a-f]{32})\r\n", answer)
    logs = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.log"))
    [line] = [one for one in logs.splitlines() if "malformed_request" in one]
    assert f"request_id={request_id.decode()}" in line
    assert "error=InvalidRequestLine" in line and "status=400" in line


def test_idle_connections_leave_room_for_new_ones(one_worker: Settings, record: Record) -> None:
    request = predict_request(json.dumps(record).encode())
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(one_worker)) for _ in range(400)]
        assert {ask(client, request)[0] for client in clients} == {200}
        another = stack.enter_context(connect(one_worker))
        assert ask(another, request)[0] == 200


def test_the_rest_of_a_rejected_body_is_not_read_as_a_request(impatient: Settings) -> None:
    """The body of a rejected request is the client's data."""
    hidden = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"
    length = impatient.max_body_bytes + 1
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n\r\n"
    with connect(impatient) as client:
        client.sendall(head.encode())
        assert read_answer(client)[0] == 413
        client.sendall(hidden)
        assert is_closed(client, 10)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_with_a_body_that_is_too_long_can_read_why(
    one_worker: Settings, framing: str
) -> None:
    """Closed with unread data, the connection would be reset before the response is read."""
    body: Any = b" " * 2_000_000
    address = f"http://127.0.0.1:{one_worker.prediction_port}/predict"
    answer = requests.post(address, data=body if framing == "length" else iter([body]), timeout=20)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_entity_too_large"


def test_a_client_that_hangs_up_half_gets_all_its_answers(
    one_worker: Settings, record: Record
) -> None:
    """It sends no more, but it still reads."""
    before = len(journalled_ids(one_worker))
    request = predict_request(json.dumps(record).encode())
    with connect(one_worker) as client:
        client.sendall(request * 3 + request[:-1])  # the last one is never complete
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            assert [read_next(file)[0] for _ in range(3)] == [200] * 3
            assert b"200 OK" not in file.read()
    assert len(journalled_ids(one_worker)) == before + 3


def test_chunks_are_a_body_like_any_other(one_worker: Settings, record: Record) -> None:
    body = json.dumps(record).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    for end in (b"0\r\n\r\n", b"0\r\nNote: 1\r\n\r\n"):
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


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate of `localhost` that gunicorn is started with."""
    path = make_certificate(tmp_path)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--certfile {path} --keyfile {path}")
    return path


def test_the_service_speaks_tls_where_it_has_a_certificate(
    certificate: Path, settings: Settings, model_folder: ModelFolder, start: Start, record: Record
) -> None:
    assert model_folder.current()
    with gunicorn(start, settings):
        url = f"https://localhost:{settings.prediction_port}/predict"
        assert requests.post(url, json=record, verify=str(certificate), timeout=20).ok


def make_certificate(folder: Path) -> Path:
    """Return a file with the key and the certificate of `localhost`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


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


def test_a_worker_that_has_answered_max_requests_is_replaced_without_a_failure(
    settings: Settings,
    model_folder: ModelFolder,
    start: Start,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert model_folder.current()
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--max-requests 20")
    with arbiter(start, settings):
        url = f"http://127.0.0.1:{settings.prediction_port}/predict"
        deadline = time.monotonic() + 30
        while len(journal_paths(settings.journal_path)) < 4 and time.monotonic() < deadline:
            assert requests.post(url, json=record, timeout=20).ok
        assert len(journal_paths(settings.journal_path)) >= 4
