"""One column of the contract: its kind, the rules for its values, and its value in three forms.

    file text     "59.0", "No", "2026-11-28"
    JSON value    59, "No", "2026-11-28"; null if missing (requests, events, MongoDB)
    frame value   59, "No", 20785.0 (days); "?" or NaN if missing (training, graph, monitoring)

`Feature.parse` converts a file's text to the JSON value, `known` the JSON value to the frame value,
and `show` the frame value back.
"""

import difflib
import math
import re
from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, Union

import msgspec

MISSING = "?"  # a missing category in the UCI files, the encoder and the graph
# Texts of a missing value in files. A listed category is never missing.
MISSING_MARKS = ("", MISSING, "NA", "N/A", "nan", "NaN", "null", "None")
MAX_LENGTH = 100  # characters of an unlisted category
MAX_NUMBER = 3e38  # of a column: float32 ends at 3.4e38
NEAR = 0.9  # an unlisted category with a higher ratio of difflib counts as misspelt
NEAR_MARKS = 0.88  # the same among categories that differ in marks alone
EPOCH = date(1970, 1, 1)
INTEGER_TEXT = re.compile(r"[-+]?[0-9]{1,18}(\.0*)?")
NUMBER_TEXT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
DATE_TEXT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"

Value = str | int | float | bool | None
Limit = int | float | date
DatePart = Literal["days", "year", "month", "day", "weekday"]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One invalid field of one record."""

    field: str
    value: Any
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{self.field}: got {self.value!r}, expected {self.expected}{hint}"


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One raw column and its rules; `features.yaml` explains the keys."""

    name: str
    kind: Literal["integer", "number", "boolean", "nominal", "ordinal", "date"]
    description: str
    unit: str | None = None
    used: bool = True
    minimum: Limit | None = None
    maximum: Limit | None = None
    categories: tuple[str, ...] = ()  # of a boolean: the texts of its values
    values: tuple[str | int | bool, str | int | bool] = (False, True)
    missing: Literal["reject", "allow"] = "reject"
    unseen: Literal["reject", "missing"] = "reject"
    rank_of: str | None = None
    reference: date = EPOCH
    parts: tuple[DatePart, ...] = ("days",)
    default: Value = None
    aliases: tuple[str, ...] = ()
    segment: bool | tuple[Limit, ...] = False
    weight: bool = False

    def __post_init__(self) -> None:
        if self.kind == "boolean" and not self.categories:
            msgspec.structs.force_setattr(self, "categories", tuple(map(json_text, self.values)))

    @property
    def is_categorical(self) -> bool:
        """True for nominal, ordinal and boolean columns, which are text in frames."""
        return self.kind in ("nominal", "ordinal", "boolean")

    @property
    def is_number(self) -> bool:
        """True for the kinds whose values are numbers in a request and a file."""
        return self.kind in ("integer", "number")

    @property
    def optional(self) -> bool:
        """True if a request may leave the field out."""
        return not self.used or self.missing == "allow"

    @property
    def has_missing(self) -> bool:
        """True if a value may be missing for the model."""
        return self.missing == "allow" or self.unseen == "missing"

    @property
    def bounds(self) -> tuple[float, float]:
        """Minimum and maximum, as frame values. Only for columns that are not categorical."""
        assert self.minimum is not None and self.maximum is not None
        return self.number(self.minimum), self.number(self.maximum)

    @property
    def rules(self) -> dict[str, Any]:
        """Everything that a model depends on: no texts, default, aliases, segment and weight."""
        other = ("description", "unit", "default", "aliases", "segment", "weight")
        return {k: v for k, v in msgspec.structs.asdict(self).items() if k not in other}

    @property
    def expected(self) -> str:
        """The rule for a value in words, for error messages."""
        if self.kind == "boolean":
            words = " or ".join(map(json_text, self.values))
        elif self.is_categorical:
            words = f"one of {', '.join(self.categories)}"
        elif self.kind == "date":
            words = f"a date from {self.minimum} to {self.maximum}, as YYYY-MM-DD"
        else:
            kind = "whole number" if self.kind == "integer" else "number"
            words = f"a {kind} from {self.minimum} to {self.maximum}"
        return f"{words}, or null" if self.missing == "allow" else words

    @property
    def json_type(self) -> Any:
        """The type with which msgspec decodes and validates this column."""
        base: Any
        if self.kind == "boolean":
            base = bool if isinstance(self.values[0], bool) else Literal[self.values]
        elif self.kind == "date":
            meta = msgspec.Meta(pattern=DATE_TEXT, extra_json_schema={"format": "date"})
            base = Annotated[str, meta]
        elif not self.is_categorical:
            low, high = self.bounds
            number = int if self.kind == "integer" else float
            base = Annotated[number, msgspec.Meta(ge=low, le=high)]
        elif self.unseen == "missing":
            base = Annotated[str, msgspec.Meta(max_length=MAX_LENGTH)]
        else:
            base = Literal[self.categories]
        return Union[base, None] if self.optional else base

    @property
    def exact_check(self) -> Callable[[Any], bool] | None:
        """A check of decoded numbers and dates for what `json_type` cannot express, or None."""
        if self.kind == "date":
            return lambda value: self.check(value) is None
        if self.kind == "number":
            return lambda value: not is_negative_zero(value)
        return None

    @property
    def example(self) -> Value:
        """Return a valid value: the default, the first category or the middle of the range."""
        if self.default is not None:
            return self.default
        if self.kind == "boolean":
            return self.values[0]
        if self.is_categorical:
            return self.categories[0]
        low, high = self.bounds
        if self.kind != "number":
            return self.show((low + high) // 2)
        return min(max(float(f"{(low + high) / 2:.6g}"), low), high)

    @property
    def documentation(self) -> str:
        """Return what the API document says about this column."""
        sentences = [f"{self.description[0].upper()}{self.description[1:]}."]
        if self.unit:
            sentences.append(f"Unit: {self.unit}.")
        if self.kind == "date":
            sentences.append(f"A date from {self.minimum} to {self.maximum}.")
        if not self.used:
            sentences.append("The model does not use it.")
        elif self.missing == "allow":
            sentences.append("If it is unknown, send null or omit it.")
        if self.rank_of:
            sentences.append(f"If present, it must match {self.rank_of}.")
        if self.unseen == "missing":
            known = ", ".join(self.categories)
            sentences.append(
                "Any other value counts as unknown, unless it is nearly a known one. Known values:"
                f" {known}."
            )
        return " ".join(sentences)

    def check(self, value: Any) -> Problem | None:
        """Return the problem with a JSON value, or None. A value of None is a missing one."""
        if value is None:
            return None if self.optional else Problem(self.name, None, self.expected)
        if self.is_categorical:
            return self._check_category(value)
        if self.kind == "date":
            valid = is_date(value) and self._is_within(value)
        else:
            valid = isinstance(value, (int, float)) and not isinstance(value, bool)
            valid = valid and self._is_within(value) and not is_negative_zero(value)
            valid = valid and (self.kind == "number" or value == value // 1)
        return None if valid else Problem(self.name, value, self.expected)

    def _check_category(self, value: Any) -> Problem | None:
        if self.kind == "boolean":
            # In Python True == 1, so the types must be equal too. A client may write 1 as 1.0.
            kind = type(self.values[0])
            is_kind = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
            if (is_kind or (kind is int and isinstance(value, float))) and value in self.values:
                return None
            return Problem(self.name, value, self.expected)
        if not isinstance(value, str):
            got = json_text(value)
            quoted = f'"{got}"' if got in self.categories else None
            return Problem(self.name, value, f"{self.expected}, as text", quoted)
        if value in self.categories:
            return None
        if self.unseen == "reject" or len(value) > MAX_LENGTH:
            near = nearest(value, self.categories)
            return Problem(self.name, value, self.expected, near)
        near = near_miss(value, self.categories)
        return Problem(self.name, value, self.expected, near) if near else None

    def _is_within(self, value: Any) -> bool:
        low, high = self.bounds
        return low <= self.number(value) <= high

    def number(self, value: Any) -> float:
        """Return a number, or a date as days since the reference date."""
        if isinstance(value, str):
            value = date.fromisoformat(value)
        return (value - self.reference).days if isinstance(value, date) else value

    def parse(self, text: str) -> Value:
        """Return the JSON value of a file's text. Text that does not fit the kind stays as it is.

        `check` then reports it.
        """
        if self.kind == "integer" and INTEGER_TEXT.fullmatch(text):
            return int(text.partition(".")[0])
        if self.kind == "number" and NUMBER_TEXT.fullmatch(text):
            return float(text)
        if self.kind == "boolean" and not isinstance(self.values[0], str):
            whole = text.partition(".")[0] if INTEGER_TEXT.fullmatch(text) else text.lower()
            return dict(zip(self.categories, self.values)).get(whole, text)
        return text

    def known(self, value: Value) -> str | int | float:
        """Return the frame value of a valid JSON value.

        A missing or unseen category becomes '?', a missing number or date NaN.
        """
        if self.kind == "boolean" and value is not None and not isinstance(value, str):
            value = json_text(value)
        if self.is_categorical:
            return value if isinstance(value, str) and value in self.categories else MISSING
        return math.nan if value is None else self.number(value)

    def show(self, value: Any) -> Value:
        """Return the JSON value of a frame value: None if it is missing."""
        if value is None or value == MISSING or (isinstance(value, float) and math.isnan(value)):
            return None
        if self.kind == "boolean":
            return dict(zip(self.categories, self.values)).get(value, value)
        if self.kind == "date":
            return str(self.reference + timedelta(days=int(value)))
        if self.kind == "integer":
            return int(value)
        return float(value) if self.kind == "number" else value

    def words(self, value: Value) -> str:
        """Return a valid JSON value as people read it, with its unit."""
        if value is None:
            return "not given"
        if self.is_categorical and json_text(value) not in self.categories:
            return f"{value} (read as not given)"
        text = f"{value:.10g}" if isinstance(value, float) else json_text(value)
        return f"{text} {self.unit}" if self.unit else text

    def date_part(self, days: float, part: str) -> float:
        """Return a part of a date in days since the reference date; weekday 0 is Monday."""
        if part == "days" or math.isnan(days):
            return days
        found = self.reference + timedelta(days=int(days))
        return found.weekday() if part == "weekday" else getattr(found, part)


def json_text(value: Any) -> str:
    """Return a value's text as JSON has it, without quotes: false, 0, No."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value % 1 == 0 else str(value)


def is_date(value: Any) -> bool:
    """Return True for the text of a date in ISO 8601: YYYY-MM-DD."""
    if not isinstance(value, str) or not re.match(DATE_TEXT, value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def is_negative_zero(value: float) -> bool:
    """Return True for -0.0: a rounded or damaged number, and another text than 0 in a digest."""
    return value == 0 and math.copysign(1, value) < 0


def nearest(word: str, candidates: tuple[str, ...], cutoff: float = 0.6) -> str | None:
    """Return the candidate most like a word, ignoring case; None if none is close."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


@lru_cache(maxsize=4096)
def near_miss(word: str, candidates: tuple[str, ...]) -> str | None:
    """Return the candidate that a word misspells, or None.

    Both have the same letters and digits, or difflib's ratio is above NEAR.
    """
    same = by_letters(candidates).get(letters(word), ())
    if len(same) > 1:  # `<=50K` and `>50K`: marks tell them apart
        return nearest(word, same, NEAR_MARKS)
    return same[0] if same else nearest(word, candidates, NEAR)


@lru_cache(maxsize=256)
def by_letters(candidates: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the candidates by their letters and digits, without those that have none."""
    found: dict[str, tuple[str, ...]] = {}
    for one in candidates:
        if key := letters(one):
            found[key] = (*found.get(key, ()), one)
    return found


def letters(word: str) -> str:
    """Return the letters and digits of a word in lower case."""
    return "".join(filter(str.isalnum, word.casefold()))
