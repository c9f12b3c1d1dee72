"""What gunicorn itself says: its log lines in the service's format, and answers to no request.

Whoever sends what is no HTTP request is answered before the application sees it. Neither that
answer nor the log repeats what was sent: after a wrong Content-Length it is the rest of a record.
"""

import os
from http import HTTPStatus
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    ParseException,
    UnsupportedTransferCoding,
)

from config.runtime.logs import make_formatter, where
from config.runtime.settings import read_settings
from prediction_service.errors import error_body
from prediction_service.settings import Settings

STATUSES: dict[type[Exception], HTTPStatus] = {
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    ParseException: HTTPStatus.BAD_REQUEST,
}


class ServerLog(Logger):
    """gunicorn's logger, with LOG_FORMAT."""

    def setup(self, cfg: Any) -> None:
        """Called by gunicorn, in the arbiter too."""
        super().setup(cfg)
        formatter = make_formatter(read_settings(Settings).log_format)
        for handler in self.error_log.handlers:
            handler.setFormatter(formatter)


def refuse(err: Exception, log: Logger) -> bytes:
    """The whole answer to what is no request, or to a failure outside of the application."""
    request_id = os.urandom(16).hex()  # the caller's own may be what could not be read
    status = next((s for kind, s in STATUSES.items() if isinstance(err, kind)), None)
    if status is None:
        log.error("request failed request_id=%s error=%s", request_id, where(err))
        status, code = HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error"
        message = "The service failed; its log says why."
    else:
        kind, code = type(err).__name__, "bad_request"
        log.warning("no request request_id=%s error=%s status=%d", request_id, kind, status)
        message = f"This is no HTTP request that can be read: {kind}."
    body = error_body(code, message, [])
    # Nothing after it can be read either.
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
    head += f"X-Request-ID: {request_id}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
