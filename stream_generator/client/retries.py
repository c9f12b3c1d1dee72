"""Send requests that survive a short outage of the service: urllib3 retries them.

A retry repeats the bytes and headers of the first attempt. The Idempotency-Key header makes this
safe for a POST request: the service may have processed an attempt whose response was lost.
"""

from typing import NamedTuple

import msgspec
from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.util import Retry

from stream_generator.client.options import Options

# Overloaded or unavailable for now. A reverse proxy sends 502 and 504 while the service restarts.
RETRIED_STATUSES = (429, 502, 503, 504)
BACKOFF_S = 0.2  # the first retry is immediate; the next pauses are 0.4 s, 0.8 s, ...
BACKOFF_JITTER_S = 0.2  # so that clients do not retry all at once
MAX_BACKOFF_S = 5.0
MAX_RETRY_AFTER_S = 30  # of the service's Retry-After header
MAX_REASON = 120  # characters


class Response(NamedTuple):
    """The response to a request after its retries; without one, the status is 0."""

    status: int
    content: bytes
    error: str  # empty for a status from 200 to 299
    retries: int


class RetryingClient:
    """Sends requests to one service on a pool of connections; safe to use from several threads."""

    def __init__(self, options: Options, connections: int) -> None:
        self._address = options.address.rstrip("/")
        self._attempts = options.attempts
        self._headers = {"Content-Type": "application/json"}
        if options.api_key:
            self._headers["Authorization"] = f"Bearer {options.api_key}"
        retry = Retry(
            total=options.attempts - 1,
            allowed_methods=None,  # every method: see the module's docstring
            status_forcelist=RETRIED_STATUSES,
            raise_on_status=False,  # return the last response instead: it holds the reason
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_JITTER_S,
            backoff_max=MAX_BACKOFF_S,
            retry_after_max=MAX_RETRY_AFTER_S,
        )
        self._pool = PoolManager(
            maxsize=connections, block=True, retries=retry, timeout=options.timeout_s
        )

    def get(self, path: str) -> Response:
        """Send a GET request without credentials."""
        return self._send("GET", path, None, {})

    def post(self, path: str, body: bytes, idempotency_key: str = "") -> Response:
        """Send a JSON body."""
        key = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._send("POST", path, body, self._headers | key)

    def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Response:
        url = self._address + path
        try:
            response = self._pool.request(method, url, body=body, headers=headers, redirect=False)
        except MaxRetryError as err:
            return Response(0, b"", type(err.reason).__name__, self._attempts - 1)
        except HTTPError as err:  # not retried, such as an address that cannot be parsed
            return Response(0, b"", type(err).__name__, 0)
        retries = len(response.retries.history) if response.retries else 0
        error = "" if 200 <= response.status < 300 else describe_error(response)
        return Response(response.status, response.data, error, retries)


def describe_error(response: BaseHTTPResponse) -> str:
    """Return status, code and first problem of an error response, without values of a record."""
    try:
        error = msgspec.json.decode(response.data)["error"]
        problems = error["problems"]
        first = "{field}: expected {expected}".format_map(problems[0]) if problems else ""
        text = f"{response.status} {error['code']}: {first or error['message']}"
        return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return f"{response.status} {response.reason}"  # from a proxy or another server
