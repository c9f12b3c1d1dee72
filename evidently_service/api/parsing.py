"""Decode and check the events that the relay posts, before they reach the window.

Each value must have its column's type, but may be out of the column's range: the prediction service
checks ranges, and monitoring shows what passed.
"""

from datetime import date
from typing import Annotated, Any, TypeVar

import msgspec

from config.contract import Contract
from config.events import BACKLOG_HEADER, SAMPLE_HEADER, Label, Prediction
from config.feature import Feature

MAX_PROBLEMS = 20  # in a response
MAX_VALUE_LENGTH = 100  # characters of a rejected value in a response

Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # fits into a frame's column
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
T = TypeVar("T", Prediction, Label)


class RequestError(Exception):
    """A rejected request; becomes the JSON error body."""

    def __init__(
        self, status: int, code: str, message: str, problems: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.problems = problems or []


def decode_predictions(body: bytes, contract: Contract) -> list[Prediction]:
    """Decode a JSON list. Raises RequestError: 400 if not JSON, 422 listing the problems."""
    predictions, problems = _decode(body, Prediction)
    types = features_type(contract)
    for record, prediction in predictions.items():
        try:
            msgspec.convert(prediction.features, types)
        except msgspec.ValidationError as err:
            problems.append(_conversion_problem(record, prediction.features, err))
        if not 0 <= prediction.probability <= 1:
            expected = "a number from 0 to 1"
            problems.append(_problem(record, "probability", prediction.probability, expected))
        problems += _class_problems(record, "income_class", prediction.income_class)
    return _accepted(predictions, problems)


def decode_labels(body: bytes) -> list[Label]:
    """Decode a JSON list. Raises RequestError: 400 if not JSON, 422 listing the problems."""
    labels, problems = _decode(body, Label)
    for record, label in labels.items():
        problems += _class_problems(record, "label", label.label)
    return _accepted(labels, problems)


def decode_backlog(header: str) -> dict[str, int | None]:
    """Decode the undelivered events of each instance. Raises RequestError (422)."""
    try:
        return msgspec.json.decode(header, type=dict[str, Whole | None])
    except msgspec.MsgspecError as err:
        raise RequestError(422, "invalid_backlog", f"{BACKLOG_HEADER}: {err}.") from err


def decode_sample(header: str) -> float:
    """Decode the share of predictions that a relay sends. Raises RequestError (422)."""
    try:
        return msgspec.json.decode(header, type=Share)
    except msgspec.MsgspecError as err:
        raise RequestError(422, "invalid_sample", f"{SAMPLE_HEADER}: {err}.") from err


def features_type(contract: Contract) -> type[msgspec.Struct]:
    """Return a struct of the monitored columns with their types; other columns pass."""
    return msgspec.defstruct("Features", [(f.name, value_type(f)) for f in contract.inputs])


def value_type(feature: Feature) -> Any:
    """Return the type of a column's values, with None if a value may be missing."""
    if feature.kind in ("nominal", "ordinal"):
        return str | None
    kind: Any = {"integer": Whole, "number": float, "date": date}.get(feature.kind)
    kind = kind or type(feature.values[0])  # of a boolean: text, 0 and 1, or false and true
    return kind | None if feature.missing == "allow" else kind


def _decode(body: bytes, kind: type[T]) -> tuple[dict[int, T], list[dict[str, Any]]]:
    """Return the valid events of a list by their index, and the problems of the others."""
    try:
        return dict(enumerate(msgspec.json.decode(body, type=list[kind]))), []  # type: ignore
    except msgspec.ValidationError:
        pass  # decode each event alone, to list every invalid one
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise RequestError(400, "not_json", f"The body is not JSON: {err}") from err
    records = msgspec.json.decode(body)
    if not isinstance(records, list):
        raise RequestError(422, "invalid_events", f"Expected a JSON list of {kind.__name__}s.")
    events, problems = {}, []
    for index, record in enumerate(records):
        try:
            events[index] = msgspec.convert(record, kind)
        except msgspec.ValidationError as err:
            problems.append(_conversion_problem(index, record, err))
    return events, problems


def _class_problems(record: int, field: str, value: int) -> list[dict[str, Any]]:
    return [] if value in (0, 1) else [_problem(record, field, value, "0 or 1")]


def _conversion_problem(index: int, record: Any, err: msgspec.ValidationError) -> dict[str, Any]:
    """Translate msgspec's message, such as 'Expected `int`, got `str` - at `$.age`'.

    For a missing field the message is 'Object missing required field `age`'.
    """
    message, _, path = str(err).partition(" - at `$.")
    field = path.rstrip("`") or (message.split("`")[1] if "missing" in message else "event")
    value = record.get(field.split(".")[0].split("[")[0]) if isinstance(record, dict) else record
    return _problem(index, field, value, message)


def _problem(record: int, field: str, value: Any, expected: str) -> dict[str, Any]:
    if not isinstance(value, (int, float, type(None))):
        value = str(value)[:MAX_VALUE_LENGTH]
    return {"record": record, "field": field, "value": value, "expected": expected}


def _accepted(events: dict[int, T], problems: list[dict[str, Any]]) -> list[T]:
    if problems:
        message = f"{len(problems)} problems. Nothing of this list was stored."
        raise RequestError(422, "invalid_events", message, problems[:MAX_PROBLEMS])
    return list(events.values())
