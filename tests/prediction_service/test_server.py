"""The running server with clients on raw connections: slow, hostile and malformed requests."""

import json
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from prediction_service.models.model_folder import ModelFolder
from prediction_service.settings import Settings
from prediction_service.journal import journal_paths
from tests.conftest import accepts_connections, wait_until
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
    """Run the service with one worker and a request deadline that no test reaches."""
    limits: dict[str, Any] = {
        "request_timeout_s": 60.0,
        "max_records": 5000,
        "max_body_bytes": 2_000_000,
    }
    yield from shared_service(package, tmp_path_factory.mktemp("one_worker"), **limits)


@pytest.fixture(scope="module")
def impatient(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Run the service with deadlines of one second for a request's head and for its body."""
    folder = tmp_path_factory.mktemp("impatient")
    yield from shared_service(package, folder, "--keep-alive 1", request_timeout_s=1.0)


def connect(settings: Settings) -> socket.socket:
    """Return a connection to the service."""
    return socket.create_connection(("127.0.0.1", settings.prediction_port), timeout=10)


def predict_request(body: bytes, *headers: str) -> bytes:
    """Return the bytes of a prediction request."""
    lines = ["POST /predict HTTP/1.1", "Host: here", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_response(client: socket.socket) -> tuple[int, bytes]:
    """Return status and body of a connection's only pending response."""
    return read_next(client.makefile("rb"))


def exchange(client: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Send a request; return status and body of its response."""
    client.sendall(request)
    return read_response(client)


def read_next(file: BinaryIO) -> tuple[int, bytes]:
    """Return status and body of the next of several responses."""
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return status, file.read(length)


def is_closed(client: socket.socket, within_s: float) -> bool:
    """Return True if the service closes the connection in time."""
    client.settimeout(within_s)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False


@pytest.mark.parametrize("n_sent", [0, 40, -5])
def test_a_hundred_slow_clients_delay_no_other_client(
    one_worker: Settings, record: Record, n_sent: int
) -> None:
    """They send nothing, half of the head, or everything except the end of the body."""
    request = predict_request(json.dumps(record).encode())
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(one_worker)) for _ in range(100)]
        for client in clients:
            client.sendall(request[:n_sent])
        url = f"http://127.0.0.1:{one_worker.prediction_port}/predict"
        assert requests.post(
            url, json=record, timeout=20
        ).ok  # before the deadline of the slow ones
        clients[0].sendall(request[n_sent:] if n_sent else request)
        assert read_response(clients[0])[0] == 200


@pytest.mark.parametrize("n_sent", [0, 40, -5])
def test_a_client_that_misses_the_request_deadline_is_disconnected(
    impatient: Settings, record: Record, n_sent: int
) -> None:
    request = predict_request(json.dumps(record).encode())
    with connect(impatient) as client:
        client.sendall(request[:n_sent])
        assert is_closed(client, 10)


@pytest.mark.parametrize("sent", [b"", CHUNKED])
def test_a_trickle_of_bytes_does_not_extend_the_deadline(impatient: Settings, sent: bytes) -> None:
    """The bytes belong to the head, or to the body after CHUNKED."""
    with connect(impatient) as client:
        client.sendall(sent)
        deadline = time.monotonic() + 20
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                client.sendall(b"0")
                time.sleep(0.1)


def test_an_explanation_delays_no_other_request(one_worker: Settings, record: Record) -> None:
    """The first explanation also imports XGBoost.

    If explanations ran in the loop that serves requests, only one other request would be served
    between two explanations.
    """
    address = f"http://127.0.0.1:{one_worker.prediction_port}"
    statuses: list[int] = []

    def explain() -> None:
        body = [record] * 50
        response = requests.post(f"{address}/predict?explain=true", json=body, timeout=30)
        statuses.append(response.status_code)

    threads = [Thread(target=explain) for _ in range(2)]
    for thread in threads:
        thread.start()
    n_others = 0
    while any(thread.is_alive() for thread in threads):
        assert requests.get(f"{address}/health/live", timeout=30).ok
        n_others += 1
    assert statuses == [200] * 2
    assert n_others > 20


def predictions(responses: list[tuple[int, bytes]]) -> list[Record]:
    """Return the decoded bodies of responses, which must all have status 200."""
    assert {status for status, _ in responses} == {200}
    return [json.loads(body) for _, body in responses]


def test_requests_that_arrive_together_get_the_same_predictions_as_alone(
    one_worker: Settings, record: Record
) -> None:
    """They are pipelined on one connection, or sent at once on several ones with an invalid one.

    The service scores and stores them together.
    """
    before = len(journalled_ids(one_worker))
    records = [record | {"age": age} for age in (20, 70, 30, 80)]
    requested = [predict_request(json.dumps(one).encode()) for one in records]
    with connect(one_worker) as client:
        alone = predictions([exchange(client, request) for request in requested])
        client.sendall(b"".join(requested))
        with client.makefile("rb") as file:
            pipelined = predictions([read_next(file) for _ in requested])
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(one_worker)) for _ in requested * 3]
        for client, request in zip(clients, requested * 3):
            client.sendall(request)
        clients.append(stack.enter_context(connect(one_worker)))
        clients[-1].sendall(predict_request(b'{"age": 500}'))
        at_once = predictions([read_response(client) for client in clients[:-1]])
        assert read_response(clients[-1])[0] == 422
    expected = [one["probability"] for one in alone]
    assert [one["probability"] for one in pipelined + at_once] == expected * 4
    received = [one["prediction_id"] for one in alone + pipelined + at_once]
    assert sorted(received) == sorted(journalled_ids(one_worker)[before:])


def test_a_slow_reader_gets_its_whole_response_and_delays_no_other_client(
    one_worker: Settings, record: Record
) -> None:
    with connect(one_worker) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        slow.sendall(predict_request(json.dumps([record] * 5000).encode()))
        assert select.select([slow], [], [], 20)[0]  # the first part of the response has arrived
        url = f"http://127.0.0.1:{one_worker.prediction_port}/predict"
        assert requests.post(url, json=record, timeout=10).ok
        status, body = read_response(slow)
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
def test_a_malformed_request_is_rejected_and_its_connection_is_closed(
    one_worker: Settings, sent: bytes, status: int
) -> None:
    with connect(one_worker) as client:
        client.sendall(sent)
        received, body = read_response(client)
        assert received == status
        assert json.loads(body)["error"]["code"] == "bad_request"
        assert is_closed(client, 4)


def test_a_malformed_request_is_logged_with_the_id_in_its_response(one_worker: Settings) -> None:
    with connect(one_worker) as client:
        client.sendall(b"nonsense\r\n\r\n")
        response = client.makefile("rb").read()
    (request_id,) = re.findall(rb"\r\nX-Request-ID: ([0-9a-f]{32})\r\n", response)
    log = (one_worker.journal_path.parent / "gunicorn-0.log").read_text("utf-8")
    [line] = [one for one in log.splitlines() if f"request_id={request_id.decode()}" in one]
    assert "malformed_request" in line
    assert "error=InvalidRequestLine" in line and "status=400" in line


def test_idle_connections_leave_room_for_new_ones(one_worker: Settings, record: Record) -> None:
    request = predict_request(json.dumps(record).encode())
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(one_worker)) for _ in range(400)]
        assert {exchange(client, request)[0] for client in clients} == {200}
        another = stack.enter_context(connect(one_worker))
        assert exchange(another, request)[0] == 200


def test_the_rest_of_a_rejected_body_is_not_read_as_a_request(impatient: Settings) -> None:
    """The body of a rejected request may contain the text of another request."""
    hidden = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"
    length = impatient.max_body_bytes + 1
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n\r\n"
    with connect(impatient) as client:
        client.sendall(head.encode())
        assert read_response(client)[0] == 413
        client.sendall(hidden)
        assert is_closed(client, 10)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_that_sends_a_too_long_body_can_read_the_error_response(
    one_worker: Settings, framing: str
) -> None:
    """The service reads the whole body first.

    Otherwise the connection would be reset before the client reads the response.
    """
    body: Any = b" " * (2 * one_worker.max_body_bytes)
    address = f"http://127.0.0.1:{one_worker.prediction_port}/predict"
    data = body if framing == "length" else iter([body])
    response = requests.post(address, data=data, timeout=20)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_entity_too_large"


def test_a_client_that_closes_only_its_sending_side_gets_all_responses(
    one_worker: Settings, record: Record
) -> None:
    before = len(journalled_ids(one_worker))
    request = predict_request(json.dumps(record).encode())
    with connect(one_worker) as client:
        client.sendall(request * 3 + request[:-1])  # the last one is never complete
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            assert [read_next(file)[0] for _ in range(3)] == [200] * 3
            assert b"200 OK" not in file.read()
    assert len(journalled_ids(one_worker)) == before + 3


def test_a_chunked_body_is_accepted(one_worker: Settings, record: Record) -> None:
    body = json.dumps(record).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    for end in (b"0\r\n\r\n", b"0\r\nNote: 1\r\n\r\n"):
        with connect(one_worker) as client:
            status, response = exchange(client, CHUNKED + chunks + end)
            assert (status, json.loads(response)["model_version"]) == (200, "1")


def test_a_client_that_pipelines_many_requests_delays_no_other_client(
    one_worker: Settings, record: Record
) -> None:
    """The service handles one pipelined request, then waiting requests of other clients."""
    many = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n" * 1000
    with connect(one_worker) as greedy, connect(one_worker) as other:
        greedy.sendall(many)
        assert exchange(other, predict_request(json.dumps(record).encode()))[0] == 200
        greedy.setblocking(False)
        seen = b""
        with suppress(BlockingIOError):
            while part := greedy.recv(1 << 20):
                seen += part
        assert seen.count(b"HTTP/1.1 200 OK") < 900


def test_a_request_in_progress_gets_its_response_although_the_service_stops(
    settings: Settings, model_folder: ModelFolder, start: Start, record: Record
) -> None:
    """The service already accepts no connection when it gets the rest of the request.

    It once waited for the client's next request for the whole GRACEFUL_TIMEOUT_S.
    """
    assert model_folder.current()
    patient = settings.model_copy(update={"workers": 1, "graceful_timeout_s": 30})
    request = predict_request(json.dumps(record).encode(), "Expect: 100-continue")
    with arbiter(start, patient) as process, connect(patient) as client:
        client.sendall(request[:-1])
        assert b"100 Continue" in client.recv(1000)  # the service handles the request
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_connections(patient.prediction_port), "no new connection")
        status, body = exchange(client, request[-1:])
        assert (status, json.loads(body)["model_version"]) == (200, "1")
        assert client.recv(1) == b""
        assert process.wait(patient.graceful_timeout_s / 2) == 0


def test_no_header_of_a_client_changes_the_path_of_the_application(one_worker: Settings) -> None:
    with connect(one_worker) as client:
        moved = b"GET /health/live HTTP/1.1\r\nHost: a\r\nSCRIPT_NAME: /x\r\nPATH_INFO: /y\r\n\r\n"
        assert exchange(client, moved)[0] == 200


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a certificate of `localhost`, which gunicorn starts with."""
    path = make_certificate(tmp_path)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--certfile {path} --keyfile {path}")
    return path


def test_the_service_uses_tls_if_it_has_a_certificate(
    certificate: Path, settings: Settings, model_folder: ModelFolder, start: Start, record: Record
) -> None:
    assert model_folder.current()
    with gunicorn(start, settings.model_copy(update={"workers": 1})):
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


def test_a_client_that_expects_100_continue_gets_it_before_it_sends_the_body(
    one_worker: Settings, record: Record
) -> None:
    body = json.dumps(record).encode()
    request = predict_request(body, "Expect: 100-continue")
    with connect(one_worker) as client:
        client.sendall(request[: -len(body)])
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert exchange(client, body)[0] == 200


def test_a_worker_is_replaced_after_max_requests_without_a_failed_request(
    settings: Settings,
    model_folder: ModelFolder,
    start: Start,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service has a single worker. Each worker opens a journal."""
    assert model_folder.current()
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--max-requests 20")
    with arbiter(start, settings.model_copy(update={"workers": 1})):
        url = f"http://127.0.0.1:{settings.prediction_port}/predict"
        deadline = time.monotonic() + 30
        while len(journal_paths(settings.journal_path)) < 2 and time.monotonic() < deadline:
            assert requests.post(url, json=record, timeout=20).ok
            time.sleep(0.02)  # a full load would slow down the start of the next worker
        assert len(journal_paths(settings.journal_path)) == 2
        assert requests.post(url, json=record, timeout=20).ok  # by the second worker
