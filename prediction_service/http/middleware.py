"""WSGI middleware around every route and error: request id, access, security headers, count, log.

It makes predictions without parameters itself: within Flask the rate is 20 to 45 % lower, measured
under the same worker (docs/performance.md).

A rejected request continues with its error, which `raise_rejection` raises inside Flask. The error
handlers then make its response, as for every other error.
"""

import os
import re
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Request, request

from config.runtime.cross_site import JSON, UNTRUSTED_HOST, is_cross_site, is_trusted_host
from prediction_service.errors import CrossSite, UntrustedHost
from prediction_service.http.auth import Keys
from prediction_service.http.request_log import RequestLog
from prediction_service.metrics import FinishedRequest

Predict = Callable[[WSGIEnvironment], bytes]  # returns the body of a response, or raises

# Keys of the WSGI environment.
REQUEST_ID = "prediction_service.request_id"
CALLER = "prediction_service.caller"  # name of the API key; absent if no key is required
REJECTION = "prediction_service.rejection"
LOGGED = "prediction_service.logged"  # further fields of the request's log line
FLASK_REQUEST = "werkzeug.request"  # set by Flask

CROSS_SITE = "Cross-site request: a page of another site sent it. Use the page at / or a program."
PREDICT = "predict", "POST /predict"  # names in the metrics and in the log
MAX_PATH = 100  # characters of an unknown path in the log
is_request_id = re.compile(r"[A-Za-z0-9._:-]{1,100}").fullmatch
POLICY = "Content-Security-Policy"
DEFAULT_POLICY = (POLICY, "default-src 'none'; frame-ancestors 'none'")
SECURITY_HEADERS = [("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")]


class RequestMiddleware:
    """Runs before and after the application, and makes predictions without parameters."""

    def __init__(
        self,
        app: WSGIApplication,
        predict: Predict,
        keys: Keys,
        open_paths: Collection[str],
        request_log: RequestLog,
        *,
        trusted_hosts: str = "",
        arrived_at: Callable[[], float] = time.time,
    ) -> None:
        """`predict` makes predictions without parameters.

        `open_paths` need no key; every other path needs one, also an unknown path.

        `arrived_at` returns the Unix time at which the current request arrived.
        """
        self.app = app
        self.predict = predict
        self.keys = keys
        self.open_paths = frozenset(open_paths)
        self.request_log = request_log
        self.trusted_hosts = trusted_hosts
        self.arrived_at = arrived_at

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        arrived_at = self.arrived_at()
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        if not is_request_id(request_id):
            request_id = os.urandom(16).hex()
        environ[REQUEST_ID] = request_id

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # The whole response exists by now.
            name = PREDICT if content is not None else name_of(environ[FLASK_REQUEST])
            now = time.time()
            logged = environ.get(LOGGED, {})
            self.request_log.add(
                FinishedRequest(now, now - arrived_at, request_id, *name, int(status[:3]), logged)
            )
            headers = [*headers, *SECURITY_HEADERS, ("X-Request-ID", request_id)]
            if POLICY not in dict(headers):  # a page may have its own policy
                headers.append(DEFAULT_POLICY)
            return start_response(status, headers, *rest)

        try:
            self._check_access(environ)
            content = self.predict(environ) if is_plain_prediction(environ) else None
        except Exception as err:  # pylint: disable=broad-exception-caught  # raised in Flask
            environ[REJECTION], content = err, None
        if content is None:
            return self.app(environ, start)
        start("200 OK", [("Content-Type", JSON), ("Content-Length", str(len(content)))])
        return [content]

    def _check_access(self, environ: WSGIEnvironment) -> None:
        if not is_trusted_host(environ.get("HTTP_HOST", ""), self.trusted_hosts):
            raise UntrustedHost(UNTRUSTED_HOST)
        if is_cross_site(environ):
            raise CrossSite(CROSS_SITE)
        if self.keys and environ["PATH_INFO"] not in self.open_paths:
            environ[CALLER] = self.keys.caller(environ.get("HTTP_AUTHORIZATION"))


def name_of(flask_request: Request) -> tuple[str, str]:
    """Return the name of the request's route in the metrics and in the log."""
    rule = flask_request.url_rule
    if rule is None:
        return "unknown", f"{flask_request.method} {ascii(flask_request.path[:MAX_PATH])[1:-1]}"
    return rule.endpoint, f"{flask_request.method} {rule.rule}"


def is_plain_prediction(environ: WSGIEnvironment) -> bool:
    """Return True for a request to predict without parameters."""
    called = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
    return called == ("POST", "/predict", "")


def raise_rejection() -> None:
    """Raise the error of a request that failed in the middleware, as a hook of Flask."""
    if rejection := request.environ.get(REJECTION):
        raise rejection
