"""Requests that are tried again: what it takes to arrive although the service is away a while.

A retry carries the very bytes and headers of the first attempt. The Idempotency-Key among them is
what makes that safe: the service may have processed an attempt whose answer was lost.
"""

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import requests

from stream_generator.client.pace import Clock

# Away or overloaded for now; and what a proxy in front of a restarting service answers.
PASSING_STATUSES = (429, 502, 503, 504)
PASSING_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,  # the connection broke within the answer
)
BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 5.0
LONGEST_REASON = 120  # characters


class GaveUp(Exception):
    """A request has no answer after all attempts; the message is the last reason."""


class Delivery:
    """Sends requests to one service, each at most `attempts` times, with a growing pause."""

    def __init__(
        self,
        address: str,
        timeout_s: float,
        attempts: int,
        clock: Clock,
        headers: Mapping[str, str],
    ) -> None:
        """`headers` go with every request."""
        self._address = address.rstrip("/")
        self._options: dict[str, Any] = {"timeout": timeout_s, "allow_redirects": False}
        self._attempts = attempts
        self._clock = clock
        self._headers = headers

    def post(
        self,
        session: requests.Session,
        path: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        on_retry: Callable[[], None],
    ) -> requests.Response:
        """The first answer to a JSON body that is no passing failure. Raises GaveUp."""
        sent = {"Content-Type": "application/json", **self._headers, **headers}
        url = self._address + path
        attempt = partial(session.post, url, data=body, headers=sent, **self._options)
        return self._deliver(attempt, on_retry)

    def get(self, session: requests.Session, path: str) -> requests.Response:
        """The first answer to a GET that is no passing failure. Raises GaveUp."""
        attempt = partial(session.get, self._address + path, **self._options)
        return self._deliver(attempt, on_retry=lambda: None)

    def _deliver(
        self, attempt: Callable[[], requests.Response], on_retry: Callable[[], None]
    ) -> requests.Response:
        reason = ""
        for number in range(self._attempts):
            if number:
                self._clock.pause(backoff_s(number))
                if self._clock.stopped:
                    break
                on_retry()
            try:
                answer = attempt()
            except requests.RequestException as err:
                reason = type(err).__name__
                if not isinstance(err, PASSING_ERRORS):
                    break
            else:
                if answer.status_code not in PASSING_STATUSES:
                    return answer
                reason = describe(answer)
        raise GaveUp(reason)


def backoff_s(retry: int) -> float:
    """The pause before the n-th retry: doubled each time, and spread so that clients disperse."""
    longest = min(BACKOFF_S * 2 ** (retry - 1), LONGEST_BACKOFF_S)
    return longest * random.uniform(0.5, 1)


def describe(answer: requests.Response) -> str:
    """Why an answer is an error: status, code and first problem, without a record's values."""
    try:
        error = msgspec.json.decode(answer.content)["error"]
        problems = error["problems"]
        first = "{field}: expected {expected}".format_map(problems[0]) if problems else ""
        text = f"{answer.status_code} {error['code']}: {first or error['message']}"
        return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason}"  # a proxy's answer, or another server's
