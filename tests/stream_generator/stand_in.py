"""A stand-in for the prediction service: real HTTP, the real contract, faults on demand."""

import hashlib
import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from config.contract import Contract

MAX_HANG_S = 20.0


class StandIn:
    """Responds like the prediction service, with one prediction per key, and keeps everything.

    Each word in `faults` applies to one POST request. `drop` processes the request and closes the
    connection without a response, `cut` in the middle of the response. `hang` processes the request
    and does not respond. A number is the status of an error response; the request is not processed.
    """

    retry_after = ""  # the header of error responses

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.faults: deque[str] = deque()
        self.attempts: list[tuple[str, bytes]] = []  # (Idempotency-Key, body) of each /predict
        self.authorizations: list[str | None] = []  # of each POST
        self.predictions: dict[str, dict[str, Any]] = {}  # record by prediction_id, once each
        self.labels: dict[str, int] = {}
        self.connections = 0
        self.released = threading.Event()
        self.before_response: Callable[[], object] = lambda: None  # to a POST request
        self.before_get: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True

    @property
    def address(self) -> str:
        """Return its base URL."""
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def attempts_per_key(self) -> Counter[str]:
        """Return the number of attempts by key."""
        return Counter(key for key, _ in self.attempts)

    def run(self) -> None:
        """Serve until closed."""
        self.server.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        """End the service and every request that hangs."""
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def next_fault(self) -> str:
        """Return the fault of this request; empty for none."""
        with self._lock:
            return self.faults.popleft() if self.faults else ""

    def predict(self, key: str, body: bytes) -> tuple[int, Any]:
        """Return status and body of the response to POST /predict."""
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
        predictions = [prediction(prediction_id) for prediction_id in ids]
        return 200, predictions if isinstance(data, list) else predictions[0]

    def feedback(self, body: bytes) -> tuple[int, Any]:
        """Return status and body of the response to POST /feedback."""
        data = json.loads(body)
        with self._lock:
            for item in data if isinstance(data, list) else [data]:
                self.labels.setdefault(item["prediction_id"], item["label"])
        return 202, {"accepted": len(data)}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Return a handler class whose requests reach this object."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            """Reads a request, applies a fault to it, and responds."""

            protocol_version = "HTTP/1.1"  # keep-alive
            wbufsize = -1  # head and body in one packet; two take 40 ms a response

            def setup(self) -> None:
                super().setup()
                stand_in.connections += 1

            def log_message(
                self, format: str, *args: Any
            ) -> None:  # pylint: disable=redefined-builtin
                """Log nothing."""

            def do_GET(self) -> None:  # pylint: disable=invalid-name
                """Respond to every path: alive."""
                stand_in.before_get()
                self.reply(200, {"live": True})

            def do_POST(self) -> None:  # pylint: disable=invalid-name
                """Respond with predictions, with accepted labels, or with a fault."""
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
                stand_in.before_response()
                if fault == "cut":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n[{")
                    self.wfile.flush()
                if fault == "hang":
                    stand_in.released.wait(MAX_HANG_S)
                if fault:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.reply(status, data)

            def reply(self, status: int, data: Any) -> None:
                """Send a JSON response."""
                content = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                if status >= 400 and stand_in.retry_after:
                    self.send_header("Retry-After", stand_in.retry_after)
                self.end_headers()
                self.wfile.write(content)

        return Handler


def prediction(prediction_id: str) -> dict[str, Any]:
    """Return the service's prediction for a record."""
    return {
        "prediction_id": prediction_id,
        "income_class": 0,
        "label": "<=50K",
        "probability": 0.25,
        "threshold": 0.5,
        "message": "The model calls this person <=50K.",
        "model_version": "7",
    }


def error(code: str, message: str, problems: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"error": {"code": code, "message": message, "problems": problems}}
