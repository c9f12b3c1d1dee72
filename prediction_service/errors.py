"""The errors of a request, grouped by what the caller can do, and their JSON body."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from config.contract import Problem

INTERNAL_ERROR = "Internal error. The service's log has the cause."
MAX_SHOWN = 100  # characters of a caller's value in a response


class ReportedProblem(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One problem of one field."""

    field: Annotated[str, Meta(description="Field name, or `record` for the whole record.")]
    value: Annotated[
        str | float | bool | None, Meta(description="Received value, shortened to 100 characters.")
    ]
    expected: Annotated[str, Meta(description="Valid values, in words.")]
    nearest: Annotated[
        str | None, Meta(description="Most similar valid category or field name.")
    ] = None
    record: Annotated[int | None, Meta(description="Index in the list, from 0.")] = None

    @classmethod
    def of(cls, problem: Problem, record: int | None = None) -> "ReportedProblem":
        """Return a contract problem whose values are short and valid JSON."""
        value = shown(problem.value)
        return cls(shown(problem.field), value, problem.expected, problem.nearest, record)


class ServiceError(Exception):
    """Base of all errors: a status and a code."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, problems: list[ReportedProblem] | None = None) -> None:
        super().__init__(message)
        self.problems = problems or []


class NotJson(ServiceError):
    """The body is not JSON. The caller must fix its encoder."""

    status, code = 400, "not_json"


class InvalidHeader(ServiceError):
    """A header is invalid. The caller must fix it."""

    status, code = 400, "invalid_header"


class NotAuthorized(ServiceError):
    """The request has no valid API key. The operator can create one."""

    status, code = 401, "not_authorized"


class CrossSite(ServiceError):
    """A browser sent the request for a page of another site. A program may send it."""

    status, code = 403, "cross_site"


class UntrustedHost(ServiceError):
    """The request names an unknown host. The operator can add it to TRUSTED_HOSTS."""

    status, code = 403, "untrusted_host"


class UnsupportedMediaType(ServiceError):
    """The headers do not declare uncompressed JSON. The caller must fix them."""

    status, code = 415, "unsupported_media_type"


class InvalidRecords(ServiceError):
    """Records break the contract. The caller must fix each listed problem."""

    status, code = 422, "invalid_records"

    def __init__(
        self,
        message: str,
        problems: list[ReportedProblem] | None = None,
        n_invalid: int = 1,
    ) -> None:
        super().__init__(message, problems)
        self.n_invalid = n_invalid


class TooManyRecords(ServiceError):
    """The list is too long. The caller must split it."""

    status, code = 413, "too_many_records"


class InvalidQuery(ServiceError):
    """A query parameter is invalid. The caller must fix it."""

    status, code = 400, "invalid_query"


class NotExplained(ServiceError):
    """The live version cannot explain its predictions. The caller can omit `explain`."""

    status, code = 501, "not_explained"


class ModelUnavailable(ServiceError):
    """No model is loaded. The caller can retry later."""

    status, code = 503, "model_unavailable"


class NotReady(ServiceError):
    """The service cannot predict now. A load balancer should use another instance."""

    status, code = 503, "not_ready"


class Error(msgspec.Struct, forbid_unknown_fields=True):
    """What went wrong, and what to do."""

    code: Annotated[str, Meta(description="Stable name of the error, for programs.")]
    message: Annotated[str, Meta(description="Cause and remedy, for people.")]
    problems: Annotated[
        list[ReportedProblem], Meta(description="Every problem of every record; may be empty.")
    ]


class ErrorResponse(msgspec.Struct, forbid_unknown_fields=True):
    """The body of every error."""

    error: Error


def error_body(code: str, message: str, problems: list[ReportedProblem]) -> bytes:
    """Return the JSON body of an error."""
    return msgspec.json.encode(ErrorResponse(Error(code, message, problems)))


def shown(value: Any) -> Any:
    """Return a caller's value in a form for a response: short and valid JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (list, dict)):
        return f"a list of {len(value)}" if isinstance(value, list) else "an object"
    if isinstance(value, (int, float)) and abs(value) < 2**53:
        return value
    text = str(value)
    text = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
