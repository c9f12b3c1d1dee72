"""What goes wrong in a request, by what the caller can do, and the one JSON body that says so."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from config.contract import Problem

INTERNAL_ERROR = "Internal error. The service's log has the cause."
LONGEST_SHOWN = 100  # characters of a caller's own value in an answer


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
        """A contract problem, made safe to send back whatever the caller sent."""
        value = shown(problem.value)
        return cls(shown(problem.field), value, problem.expected, problem.nearest, record)


class ServiceError(Exception):
    """Ends a request with a status and the one error body."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, problems: list[ReportedProblem] | None = None) -> None:
        super().__init__(message)
        self.problems = problems or []


class NotJson(ServiceError):
    """The body is not JSON: the caller mends its encoder."""

    status, code = 400, "not_json"


class InvalidHeader(ServiceError):
    """A header cannot be used: the caller mends it."""

    status, code = 400, "invalid_header"


class NotAuthorized(ServiceError):
    """The caller has no API key, or one that is not known: whoever runs the service makes one."""

    status, code = 401, "not_authorized"


class CrossSite(ServiceError):
    """A page of another site asks, through a browser: whoever wants to asks from a program."""

    status, code = 403, "cross_site"


class InvalidRecords(ServiceError):
    """Records break the contract: the caller mends each problem listed."""

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
    """The list is too long: the caller splits it."""

    status, code = 413, "too_many_records"


class InvalidQuery(ServiceError):
    """The address asks for something that there is not: the caller mends it."""

    status, code = 400, "invalid_query"


class NotExplained(ServiceError):
    """The version that is served cannot explain its answers: the caller does without."""

    status, code = 501, "not_explained"


class ModelUnavailable(ServiceError):
    """There is no model yet: the caller waits and retries."""

    status, code = 503, "model_unavailable"


class NotReady(ServiceError):
    """Something the service needs is missing: the balancer looks elsewhere."""

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
    """A caller's value as it can be sent back: short, and always valid JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (list, dict)):
        return f"a list of {len(value)}" if isinstance(value, list) else "an object"
    if isinstance(value, (int, float)) and abs(value) < 2**53:
        return value
    text = str(value)
    text = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
