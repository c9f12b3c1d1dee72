"""WSGI middleware around every route and error: request id, access, security headers, count, log.

A rejected request continues with its error, which `raise_rejection` raises inside Flask. The error
handlers then make its response, as for every other error.
"""

import os
import re
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import request

from config.runtime.cross_site import UNTRUSTED_HOST, is_cross_site, is_trusted_host
from prediction_service.errors import CrossSite, ServiceError, UntrustedHost
from prediction_service.http.auth import Keys
from prediction_service.http.request_log import LogRequest
from prediction_service.metrics import Metrics

# Keys of the WSGI environment.
REQUEST_ID = "prediction_service.request_id"
CALLER = "prediction_service.caller"  # name of the API key; absent if no key is required
REJECTION = "prediction_service.rejection"
FLASK_REQUEST = "werkzeug.request"  # set by Flask

CROSS_SITE = "Cross-site request: a page of another site sent it. Use the page at / or a program."
is_request_id = re.compile(r"[A-Za-z0-9._:-]{1,100}").fullmatch
POLICY = "Content-Security-Policy"
DEFAULT_POLICY = (POLICY, "default-src 'none'; frame-ancestors 'none'")
SECURITY_HEADERS = [("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")]


class RequestMiddleware:
    """Runs before and after the application."""

    def __init__(
        self,
        app: WSGIApplication,
        keys: Keys,
        open_paths: Collection[str],
        metrics: Metrics,
        log_request: LogRequest | None,
        *,
        trusted_hosts: str = "",
        arrived_at: Callable[[], float] = time.time,
    ) -> None:
        """`open_paths` need no key; every other path needs one, also an unknown path.

        `arrived_at` returns the Unix time at which the current request arrived.
        """
        self.app = app
        self.keys = keys
        self.open_paths = frozenset(open_paths)
        self.metrics = metrics
        self.log_request = log_request
        self.trusted_hosts = trusted_hosts
        self.arrived_at = arrived_at

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        arrived_at = self.arrived_at()
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        if not is_request_id(request_id):
            request_id = os.urandom(16).hex()
        environ[REQUEST_ID] = request_id
        try:
            self._check_access(environ)
        except ServiceError as err:
            environ[REJECTION] = err

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # Flask has made the whole response by now.
            self._record(environ, int(status[:3]), time.time() - arrived_at)
            headers = [*headers, *SECURITY_HEADERS, ("X-Request-ID", request_id)]
            if all(name != POLICY for name, _ in headers):  # a page may have its own policy
                headers.append(DEFAULT_POLICY)
            return start_response(status, headers, *rest)

        return self.app(environ, start)

    def _check_access(self, environ: WSGIEnvironment) -> None:
        if not is_trusted_host(environ.get("HTTP_HOST", ""), self.trusted_hosts):
            raise UntrustedHost(UNTRUSTED_HOST)
        if is_cross_site(environ):
            raise CrossSite(CROSS_SITE)
        if self.keys and environ["PATH_INFO"] not in self.open_paths:
            environ[CALLER] = self.keys.caller(environ.get("HTTP_AUTHORIZATION"))

    def _record(self, environ: WSGIEnvironment, status: int, seconds: float) -> None:
        rule = environ[FLASK_REQUEST].url_rule
        self.metrics.count_request(rule.endpoint if rule else "unknown", status, seconds)
        if self.log_request:
            route = f"{environ['REQUEST_METHOD']} {rule.rule}" if rule else "unknown"
            ms = round(seconds * 1000, 3)
            with suppress(OSError):  # a full disk or a closed pipe fails no request
                self.log_request(
                    "request", request_id=environ[REQUEST_ID], route=route, status=status, ms=ms
                )


def raise_rejection() -> None:
    """Raise the error of a request that the middleware rejected, as a hook of Flask."""
    if rejection := request.environ.get(REJECTION):
        raise rejection
