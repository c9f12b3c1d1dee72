"""What every request meets around its route: id, access check, security headers, counts and log.

Flask hooks, so that each of these is written once for every route and every error.
"""

import os
import re
import time
from collections.abc import Collection
from contextlib import suppress

from flask import Flask, Response, g, request

from config.runtime.cross_site import is_cross_site
from prediction_service.errors import CrossSite
from prediction_service.http.request_log import LogRequest
from prediction_service.http.auth import Keys
from prediction_service.metrics import Metrics

CROSS_SITE = "A page of another site may not ask: ask from the page at / or from a program."
REQUEST_ID_RULE = "1 to 100 letters, digits, '.', '_', ':' and '-'"
is_request_id = re.compile(r"[A-Za-z0-9._:-]{1,100}").fullmatch
# Of every response; a page may loosen the policy for what it needs.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class RequestMiddleware:
    """Flask hooks that run before and after every request."""

    def __init__(
        self,
        keys: Keys,
        open_paths: Collection[str],
        metrics: Metrics,
        log_request: LogRequest | None,
    ) -> None:
        """`open_paths` need no key; every other path needs one, also an unknown path."""
        self.keys = keys
        self.open_paths = frozenset(open_paths)
        self.metrics = metrics
        self.log_request = log_request

    def register(self, app: Flask) -> None:
        """Run the hooks around every request of the application."""
        app.before_request(self.before)
        app.after_request(self.after)

    def before(self) -> None:
        """Give the request an id and check who sends it. Raises CrossSite or NotAuthorized."""
        environ = request.environ
        g.started = time.perf_counter()
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        g.request_id = request_id if is_request_id(request_id) else os.urandom(16).hex()
        if is_cross_site(environ):
            raise CrossSite(CROSS_SITE)
        if self.keys and environ["PATH_INFO"] not in self.open_paths:
            g.caller = self.keys.caller(environ.get("HTTP_AUTHORIZATION"))

    def after(self, response: Response) -> Response:
        """Add the headers of every response, count the request and log it."""
        headers = response.headers
        for name, value in SECURITY_HEADERS.items():
            if name not in headers:
                headers.add(name, value)
        headers.add("X-Request-ID", g.request_id)
        self.metrics.count_request(request.endpoint or "unknown", response.status_code)
        if self.log_request:
            rule = request.url_rule
            route = f"{request.method} {rule.rule}" if rule else "unknown"
            ms = round((time.perf_counter() - g.started) * 1000, 3)
            with suppress(OSError):  # a full disk or a closed pipe fails no request
                self.log_request(
                    "request",
                    request_id=g.request_id,
                    route=route,
                    status=response.status_code,
                    ms=ms,
                )
        return response
