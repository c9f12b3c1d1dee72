"""A prediction service for the tests: real HTTP, the real contract, faults on demand."""

import hashlib
import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from config.contract import Contract

LONGEST_HANG_S = 20.0


class StandIn:
    """Answers like the prediction service, makes one prediction per key and remembers all of it.

    Each word in `faults` befalls one POST: `drop` processes it and breaks the connection, `hang`
    processes it and keeps quiet, a number is the status to answer without processing.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.faults: deque[str] = deque()
        self.attempts: list[tuple[str, bytes]] = []  # (Idempotency-Key, body) of each /predict
        self.authorizations: list[str | None] = []  # of each POST
        self.predictions: dict[str, dict[str, Any]] = {}  # record by prediction_id, once each
        self.labels: dict[str, int] = {}
        self.connections = 0
        self.released = threading.Event()
        self.before_answer: Callable[[], object] = lambda: None  # to a POST
        self.before_get: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def attempts_per_key(self) -> Counter[str]:
        """How often each key arrived."""
        return Counter(key for key, _ in self.attempts)

    def run(self) -> None:
        """Serves until closed."""
        self.server.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        """Ends the service and whoever hangs in it."""
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def next_fault(self) -> str:
        """The fault that befalls this request; empty for none."""
        with self._lock:
            return self.faults.popleft() if self.faults else ""

    def predict(self, key: str, body: bytes) -> tuple[int, Any]:
        """Status and body of an answer to POST /predict."""
        data = json.loads(body)
        records = data if isinstance(data, list) else [data]
        problems = [
            {"record": index, "field": found.field, "expected": found.expected}
            for index, record in enumerate(records)
            for found in self.contract.check(record)
        ]
        if problems:
            message = f"{len(problems)} problems."
            return 422, error("invalid_records", message, problems)
        ids = [hashlib.md5(f"{key} {index}".encode()).hexdigest() for index in range(len(records))]
        with self._lock:
            self.predictions.update(zip(ids, records, strict=True))
        answers = [answer(prediction_id) for prediction_id in ids]
        return 200, answers if isinstance(data, list) else answers[0]

    def feedback(self, body: bytes) -> tuple[int, Any]:
        """Status and body of an answer to POST /feedback."""
        data = json.loads(body)
        with self._lock:
            for item in data if isinstance(data, list) else [data]:
                self.labels.setdefault(item["prediction_id"], item["label"])
        return 202, {"accepted": len(data)}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """A handler class whose requests reach this object."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            """Reads a request, lets a fault befall it, answers."""

            protocol_version = "HTTP/1.1"  # keep-alive
            wbufsize = -1  # head and body in one packet; in two, each answer takes 40 ms

            def setup(self) -> None:
                super().setup()
                stand_in.connections += 1

            def log_message(
                self, format: str, *args: Any
            ) -> None:  # pylint: disable=redefined-builtin
                """Says nothing."""

            def do_GET(self) -> None:  # pylint: disable=invalid-name
                """Any page: alive."""
                stand_in.before_get()
                self.reply(200, {"live": True})

            def do_POST(self) -> None:  # pylint: disable=invalid-name
                """Predictions and labels, or a fault."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                key = self.headers.get("Idempotency-Key", "")
                stand_in.authorizations.append(self.headers.get("Authorization"))
                if self.path == "/predict":
                    stand_in.attempts.append((key, body))
                fault = stand_in.next_fault()
                if fault.isdigit():
                    self.reply(int(fault), error("on_purpose", "Not now.", []))
                    return
                if self.path == "/predict":
                    status, data = stand_in.predict(key, body)
                else:
                    status, data = stand_in.feedback(body)
                stand_in.before_answer()
                if fault == "hang":
                    stand_in.released.wait(LONGEST_HANG_S)
                if fault:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.reply(status, data)

            def reply(self, status: int, data: Any) -> None:
                """One JSON answer."""
                content = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler


def answer(prediction_id: str) -> dict[str, Any]:
    """What the service says of a record."""
    return {
        "prediction_id": prediction_id,
        "income_class": 0,
        "label": "<=50K",
        "probability": 0.25,
        "threshold": 0.5,
        "message": "This person probably earns no more than 50,000 US dollars a year.",
        "model_version": "7",
    }


def error(code: str, message: str, problems: list[dict[str, Any]]) -> dict[str, Any]:
    """The one error body."""
    return {"error": {"code": code, "message": message, "problems": problems}}
