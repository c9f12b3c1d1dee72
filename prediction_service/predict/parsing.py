"""Parse request bodies into checked records.

msgspec's decoder, made from the contract, reads valid bodies fast. A body that it rejects is read a
second time to list every problem of every record.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import UNSET

from config.contract import Contract
from config.feature import MISSING, Feature, Problem, near_miss
from config.model.package import Row
from prediction_service.errors import InvalidRecords, NotJson, ReportedProblem, TooManyRecords
from prediction_service.predict.responses import PREDICTION_ID, BinaryClass, PredictionId

MAX_PROBLEMS = 1000  # in one response; finding the nearest category of each takes time
is_prediction_id = re.compile(PREDICTION_ID).fullmatch
ID_RULE = "the 32 hexadecimal digits from the response of /predict"
LABEL_RULE = "0 or 1"
WRAPPER_RULE = "a record or a list of records"
UNWRAP = (
    "The body is not a record. Send the record itself, as an object with the columns as fields, or"
    " a JSON list of records."
)

Notes = dict[int, list[str]]  # texts by the record's place in the list
Unseen = list[tuple[int, Feature, str]]  # place of the record, column and unlisted category


class Feedback(msgspec.Struct, forbid_unknown_fields=True):
    """The true class of one prediction."""

    prediction_id: PredictionId
    label: Annotated[BinaryClass, msgspec.Meta(description="True class, 0 or 1.")]


class JsonObject(dict[str, Any]):
    """A decoded object with the names of the fields that it holds more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs) if len(pairs) > len(self) else {}
        self.repeated = [name for name, count in counts.items() if count > 1]

    def problems(self) -> list[Problem]:
        """Return a problem for each repeated field."""
        expected = "one value, but the field is present more than once"
        return [Problem(name, self[name], expected) for name in self.repeated]


class RecordReader:
    """Parser of `/predict` bodies by a contract."""

    def __init__(self, contract: Contract, max_records: int) -> None:
        self.contract = contract
        self.max_records = max_records
        self._decode = contract.decoder.decode
        self._encode = msgspec.json.Encoder().encode
        self._inputs = attrgetter(*contract.input_names)
        self._optional = [index for index, f in enumerate(contract.inputs) if f.optional]
        # Most categories are listed: `_find_unseen` checks the others alone.
        self._open = [
            (f, attrgetter(f.name), frozenset({*f.categories, MISSING, None, UNSET}))
            for f in contract.features
            if f.unseen == "missing"
        ]
        checks = [(attrgetter(f.name), f.exact_check) for f in contract.features]
        self._decimals = {f.name for f in contract.features if f.kind == "number"}
        self._exact_checks = [(get, check) for get, check in checks if check]
        self._ranks = [feature.name.encode() for feature in contract.features if feature.rank_of]

    def read(self, body: bytes) -> tuple[list[Row], bool, Notes]:
        """Return the rows, whether the body was a list, and notes about values read as missing.

        Rows have the input columns in contract order.

        Raises NotJson, InvalidRecords with every problem, or TooManyRecords.
        """
        try:
            decoded = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
            decoded = self._read_again(body, str(err))
        is_list = isinstance(decoded, list)
        records = decoded if is_list else [decoded]
        check_count(len(records), self.max_records)
        unseen = self._find_unseen(records)
        if self._needs_exact_check(body, decoded) or not self._is_exact(records, unseen):
            self._find_problems(body)
        rows: list[Row] = [self._inputs(record) for record in records]
        if any(row[index] is UNSET for row in rows for index in self._optional):
            rows = [tuple(None if value is UNSET else value for value in row) for row in rows]
        return rows, is_list, make_notes(unseen) if unseen else {}

    def _needs_exact_check(self, body: bytes, decoded: Any) -> bool:
        """Return True if a field may be repeated or a rank wrong, which msgspec cannot detect.

        A repeated field has two colons in the body and one in the encoded record. An escape or the
        name of a rank column also needs the exact check.
        """
        if b"\\" in body or any(name in body for name in self._ranks):
            return True
        return body.count(b":") != self._encode(decoded).count(b":")

    def _find_unseen(self, records: list[Any]) -> Unseen:
        """Return the values of columns with `unseen: missing` that are not listed."""
        return [
            (index, feature, value)
            for feature, get, known in self._open
            for index, record in enumerate(records)
            if (value := get(record)) not in known
        ]

    def _is_exact(self, records: list[Any], unseen: Unseen) -> bool:
        """Return True if all values pass the checks that msgspec lacks."""
        if unseen and any(near_miss(value, feature.categories) for _, feature, value in unseen):
            return False
        for get, check in self._exact_checks:
            for record in records:
                value = get(record)
                if value is not None and value is not UNSET and not check(value):
                    return False
        return True

    def _find_problems(self, body: bytes) -> Any:
        """Return the decoded body. Raises NotJson, or InvalidRecords with every problem."""
        data = load_json(body)
        self._reject_wrapper(data)
        read_list(data, self.max_records, self._check)
        return data

    def _reject_wrapper(self, data: Any) -> None:
        """Raise InvalidRecords if a field holds the records, as in MLflow's and KServe's formats.

        Such an object has no column of the contract.
        """
        if not isinstance(data, JsonObject) or any(f.name in data for f in self.contract.features):
            return
        for name, value in data.items():
            if isinstance(value, (list, dict)):
                problem = Problem("record", f"an object with {name!r}", WRAPPER_RULE)
                raise InvalidRecords(UNWRAP, [ReportedProblem.of(problem)])

    def _check(self, record: Any) -> list[Problem]:
        if not isinstance(record, JsonObject):
            return self.contract.check(record)
        n_known = len(self.contract.features)
        if len(record) > 2 * n_known:  # finding the nearest name of each would take long
            return [Problem("record", f"{len(record)} fields", f"at most {n_known} fields")]
        return record.problems() + self.contract.check(record)

    def _read_again(self, body: bytes, reason: str) -> Any:
        """Return records that only msgspec rejects: with integers written 38.0, as by pandas."""
        data = self._find_problems(body)
        try:
            return self._decode(self._encode(self._with_integers(data)))
        except (msgspec.DecodeError, UnicodeEncodeError) as err:
            raise InvalidRecords(
                f"The body does not hold a record or a list of them: {reason}"
            ) from err

    def _with_integers(self, data: Any) -> Any:
        """Return valid records with whole numbers as integers, except in decimal columns."""
        if isinstance(data, list):
            return [self._with_integers(record) for record in data]
        decimals = self._decimals
        return {
            name: int(value) if isinstance(value, float) and name not in decimals else value
            for name, value in data.items()
        }


def make_notes(unseen: Unseen) -> Notes:
    """Return a text for each unlisted category of a column that the model uses."""
    notes: Notes = {}
    for index, feature, value in unseen:
        if feature.used:
            text = f"{feature.name}: {value!r} is not listed; the model reads it as missing"
            notes.setdefault(index, []).append(text)
    return notes


def read_feedback(body: bytes, max_records: int) -> list[Feedback]:
    """Return the labels of a `/feedback` body.

    Raises NotJson, InvalidRecords or TooManyRecords.
    """
    items = read_list(load_json(body), max_records, check_feedback)
    return [Feedback(**item) for item in items]


def check_feedback(item: Any) -> list[Problem]:
    """Return every problem of one decoded label."""
    if not isinstance(item, JsonObject):
        return [Problem("record", item, "an object with prediction_id and label")]
    problems = item.problems()
    problems += [
        Problem(name, value, "no such field")
        for name, value in item.items()
        if name not in ("prediction_id", "label")
    ]
    prediction_id, label = item.get("prediction_id"), item.get("label")
    if not (isinstance(prediction_id, str) and is_prediction_id(prediction_id)):
        problems.append(Problem("prediction_id", prediction_id, ID_RULE))
    if not isinstance(label, int) or isinstance(label, bool) or label not in (0, 1):
        problems.append(Problem("label", label, LABEL_RULE))
    return problems


def check_count(n_records: int, max_records: int) -> None:
    """Raise InvalidRecords for an empty list and TooManyRecords for one that is too long."""
    if n_records == 0:
        raise InvalidRecords("The list is empty. Send at least one record.")
    if n_records > max_records:
        raise TooManyRecords(
            f"The list has {n_records} records, expected at most {max_records} (MAX_RECORDS)."
            " Split it."
        )


def read_list(data: Any, max_records: int, check: Callable[[Any], list[Problem]]) -> list[Any]:
    """Return the records of a decoded body: one record, or a list of them.

    Raises TooManyRecords, or InvalidRecords with every problem of every record.
    """
    is_list = isinstance(data, list)
    records = data if is_list else [data]
    check_count(len(records), max_records)
    problems: list[ReportedProblem] = []
    n_invalid = 0
    for index, record in enumerate(records):
        found = check(record)
        problems += [ReportedProblem.of(one, index if is_list else None) for one in found]
        n_invalid += bool(found)
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise InvalidRecords(describe(n_invalid, len(problems)), problems[:MAX_PROBLEMS], n_invalid)
    return records


def describe(n_invalid: int, n_problems: int) -> str:
    """Return the sentence above a list of problems."""
    records = "1 record is" if n_invalid == 1 else f"{n_invalid} records are"
    if n_problems >= MAX_PROBLEMS:
        return f"At least {records} invalid: the first {MAX_PROBLEMS} problems are listed."
    problems = "1 problem" if n_problems == 1 else f"{n_problems} problems"
    return f"{records} invalid: {problems}."


def load_json(body: bytes) -> Any:
    """Return the decoded body, with objects as JsonObject. Raises NotJson."""
    try:
        return json.loads(body, object_pairs_hook=JsonObject, parse_constant=reject_constant)
    except (ValueError, RecursionError) as err:
        raise NotJson(f"The body is not JSON: {err}") from err


def reject_constant(name: str) -> NoReturn:
    """Raise ValueError for NaN and Infinity, which Python's parser accepts and JSON lacks."""
    raise ValueError(f"{name} is not a JSON number")
