"""Files with one table, as people have them: CSV, JSON lines or Parquet, also compressed by gzip.

`source`, `batches` and the proposal of a contract read their files here; `columns` matches names
and values with the contract, and `validation` checks the rows. A file that cannot be understood is
one TableError: file, line, column, what was found and the remedy. Nothing is guessed silently: each
decision is a note. No message and no note contains a value of a row.
"""

import codecs
import csv
import gzip
import io
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import msgspec
import pandas as pd
import pyarrow
import pyarrow.parquet

from config.contract import Contract, Target, column_name
from config.feature import MISSING_MARKS, NUMBER_TEXT, Feature, Problem, nearest
from config.events import LabelledRecord
from training.data.columns import (
    check_repeated,
    find_places,
    folder_values,
    ignored_columns,
    label_text,
    match_columns,
    to_json_value,
    to_text,
    names_of,
    words_of,
)
from training.data.errors import EmptyTable, TableError
from training.data.rows import counted

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel's first line
MARKED_NUMBER = re.compile(r"[+-]?\d[\d.,' ]*")  # with decimal or thousands marks
DATE_WITH_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[T ]\d{2}:\d{2}.*")
IDENTITY = ["prediction_id", "predicted_at"]  # of a labelled record
RECORD_RULE = 'an object {"record": {column: value, ...}, "label": 0 or 1}'
LINE_RULE = f"an object {{column: value, ...}} or {RECORD_RULE}"
CLOCK_SKEW_S = 300  # of the machine that predicted
MAX_SHOWN = 200  # characters of an invalid line in the quarantine

Scalar = str | int | float | bool | None
Misshapen = tuple[int, Any, list[Problem]]  # line number, row and problems


class TableFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a file writes its table."""

    kind: Literal["csv", "jsonl", "parquet"] | None = None  # unset: by the file's name
    separator: str | None = None  # unset: found in the first line
    header: tuple[str, ...] = ()  # names of the columns, if the file has no header line
    quote: str = '"'  # empty: none
    encoding: str = "utf-8"  # a byte-order mark overrides it
    missing: tuple[str, ...] = MISSING_MARKS  # a listed category is never missing
    missing_in: Mapping[str, tuple[str, ...]] = {}  # more marks, by column
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", "'", " "] = ""
    skip: str = ""  # lines before the table that start with this text
    label_suffix: str = ""  # removed from labels
    labels: Mapping[str, str] = {}  # the contract's label for each label of the file

    def __post_init__(self) -> None:
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"separator: got {self.separator!r}, expected one character")
        if len(self.quote) > 1:
            raise ValueError(f"quote: got {self.quote!r}, expected one character, or '' for none")
        if self.thousands == self.decimal:
            raise ValueError(f"thousands: got {self.thousands!r}, expected another than `decimal`")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            rule = "expected an encoding, such as utf-8 or latin-1"
            raise ValueError(f"encoding: got {self.encoding!r}, {rule}") from None


class Table(NamedTuple):
    """The rows of one file."""

    raw: pd.DataFrame  # JSON values by line number (in Parquet: row number); None if missing
    misshapen: pd.DataFrame  # `line`, `row` and `problems`, as `quarantine` takes them
    notes: list[str]  # decisions and ignored columns, in sentences


@dataclass
class Lines:
    """The rows of a file before its columns are matched."""

    header: list[str]
    numbers: list[int]  # of the lines
    columns: Sequence[Sequence[Any]]  # values by column of the header
    misshapen: list[Misshapen] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    identity: dict[str, list[Any]] = field(default_factory=dict)  # of labelled records


def read_table(
    name: str,
    content: bytes,
    contract: Contract | None,
    table_format: TableFormat = TableFormat(),
) -> Table:
    """Return the rows of a file, given by its path or address and its content.

    `raw` has the contract's columns and the target; labelled records have `prediction_id` and
    `predicted_at` too. Without a contract, `raw` has every named column as
    text. Raises TableError.
    """
    content = decompress(name, content)
    kind = table_format.kind or kind_of(name)
    if not content.strip():
        raise TableError(f"{name}: the file is empty; expected a table. Write the file again.")
    if kind == "parquet":
        lines = parquet_lines(name, content)
    elif kind == "jsonl":
        lines = json_lines(name, decode(name, content, table_format), contract)
    else:
        lines = csv_lines(name, decode(name, content, table_format), contract, table_format)
    if not lines.numbers and not lines.misshapen:
        raise EmptyTable(f"{name}: no rows below the header, expected some. Write the file again.")
    for column, text in folder_values(name).items():
        if column not in lines.header:
            lines.header.append(column)
            lines.columns = [*lines.columns, [text] * len(lines.numbers)]
    raw = typed(name, lines, contract, table_format)
    misshapen = pd.DataFrame(lines.misshapen, columns=["line", "row", "problems"], dtype=object)
    return Table(raw, misshapen, lines.notes)


# --- bytes and text -----------------------------------------------------------------------------


def decompress(name: str, content: bytes) -> bytes:
    """Return the content without gzip."""
    try:
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as err:
        raise TableError(f"{name}: damaged gzip file: {err}. Compress the table again.") from err


def suffix_of(name: str) -> str:
    """Return the ending of a file's name before .gz, in lower case."""
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def kind_of(name: str) -> str:
    """Return the format that a file's name ends in. Raises TableError for another ending."""
    suffix = suffix_of(name)
    if suffix not in KINDS:
        raise TableError(
            f"{name}: unknown format; got {suffix!r}, expected {', '.join(KINDS)}, or one of these"
            " with .gz. Save the table as CSV (UTF-8) with a header line."
        )
    return KINDS[suffix]


def decode(name: str, content: bytes, table_format: TableFormat) -> str:
    """Return the text of a file; a byte-order mark names the encoding."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif content.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    else:
        encoding = table_format.encoding
        if b"\0" in content[:1000] and "16" not in encoding and "32" not in encoding:
            raise TableError(
                f"{name}, line 1: zero bytes, as in UTF-16 without a byte-order mark or in a binary"
                f" file; expected {encoding} text. Save the file as UTF-8, or set `encoding` in the"
                " source's format, for example to utf-16-le."
            )
    try:
        return content.decode(encoding)
    except UnicodeError as err:
        start = getattr(err, "start", 0)
        line = content[:start].count(b"\n") + 1
        raise TableError(
            f"{name}, line {line}: not {encoding} text: {getattr(err, 'reason', err)}. Save the"
            " file as UTF-8, or set `encoding` in the source's format, for example to latin-1."
        ) from err


# --- CSV ----------------------------------------------------------------------------------------


def csv_lines(name: str, text: str, contract: Contract | None, table_format: TableFormat) -> Lines:
    """Return the rows of a CSV file, values without blanks at both ends."""
    notes: list[str] = []
    text, above, separator = without_top(text, table_format, notes)
    if separator is None:
        separator = find_separator(text, contract, table_format)
        if separator != ",":
            notes.append(f"the fields are separated by {SEPARATORS[separator]}")
    rows = csv_rows(name, text, above, separator, table_format)
    if not table_format.header:
        number, header = next(rows, (above + 1, []))
        check_header(f"{name}, line {number}", header, contract)
    else:
        header = list(table_format.header)
    return shaped(header, list(rows), separator, notes)


def shaped(
    header: list[str], rows: list[tuple[int, list[str]]], separator: str, notes: list[str]
) -> Lines:
    """Return the rows by column; those with another number of fields are misshapen."""
    width = len(header)
    kept = {number: fields for number, fields in rows if len(fields) == width and fields != header}
    misshapen: list[Misshapen] = []
    for number, fields in rows:
        if number not in kept:
            expected = f"{width} fields, separated by {separator!r}"
            problem = Problem("row", f"{len(fields)} fields", expected)
            if fields == header:
                problem = Problem("row", "the header again", "values")
            misshapen.append((number, separator.join(fields), [problem]))
    if rows and all(len(fields) == width + 1 for _, fields in rows):
        notes.append("every row has one field more than the header; name the column of row names")
    columns = list(zip(*kept.values())) if kept else [()] * width
    return Lines(header, list(kept), columns, misshapen, notes)


def without_top(
    text: str, table_format: TableFormat, notes: list[str]
) -> tuple[str, int, str | None]:
    """Return the text below the lines to skip, their number, and the separator if it is given."""
    above, separator, skip = 0, table_format.separator, table_format.skip
    while text:
        line, end, rest = text.partition("\n")
        if skip and line.startswith(skip):
            notes.append(f"line {above + 1}: skipped, it starts with {skip!r}")
        elif above == 0 and (named := SEPARATOR_LINE.fullmatch(line)):
            separator = separator or named[1]
            notes.append(f"line 1: skipped, it names the separator {named[1]!r}")
        elif line.strip():
            break
        above += bool(end)
        text = rest
    return text, above, separator


def find_separator(text: str, contract: Contract | None, table_format: TableFormat) -> str:
    """Return the separator that gives the first line most of the columns, else most fields."""
    words = words_of(contract) if contract else {}

    def score(separator: str) -> tuple[int, int]:
        fields: list[str] = []
        try:
            fields = next(csv_reader(text, separator, table_format), [])
        except csv.Error:
            pass
        return sum(map(bool, find_places(words, fields).values())), len(fields)

    return max(SEPARATORS, key=score)  # the first of equals is the comma


def csv_reader(text: str, separator: str, table_format: TableFormat) -> Any:
    """Return the standard library's reader of a text."""
    return csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quotechar=table_format.quote or None,
        quoting=csv.QUOTE_MINIMAL if table_format.quote else csv.QUOTE_NONE,
        skipinitialspace=True,
        strict=True,
    )


def csv_rows(
    name: str, text: str, above: int, separator: str, table_format: TableFormat
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each row; blank lines are no rows."""
    reader = csv_reader(text, separator, table_format)
    line = above + 1
    try:
        for fields in reader:
            if fields and any(fields) or len(fields) > 1:
                yield line, [value.strip() for value in fields]
            line = above + reader.line_num + 1
    except csv.Error as err:
        raise TableError(
            f"{name}, line {line}: {err}; expected fields separated by {separator!r}, with quotes"
            f" ({table_format.quote or 'none'}) around a value that contains it. Fix the line."
        ) from err


def check_header(where: str, header: list[str], contract: Contract | None) -> None:
    """Raise TableError if the first line is a row of values."""
    if contract is None:
        is_data = any(map(NUMBER_TEXT.fullmatch, header))
    else:
        places = find_places(words_of(contract), header)
        values = {text for one in contract.features for text in map(to_text, one.categories)}
        values |= {*contract.target.labels}
        is_data = not any(places.values()) and any(
            NUMBER_TEXT.fullmatch(text) or text in values for text in header
        )
    if is_data:
        names_rule = f" ({', '.join(words_of(contract))})" if contract else ""
        other = "list them as `header` in the source's format" if contract else "give --names"
        raise TableError(
            f"{where}: looks like a row of values; expected a header line. Add a line with the"
            f" names of the columns above it{names_rule}, or {other}."
        )


# --- JSON lines and Parquet ---------------------------------------------------------------------


def json_lines(name: str, text: str, contract: Contract | None) -> Lines:
    """Return the rows of a JSON-lines file: flat objects, or labelled records.

    A labelled record with an unknown column, class or time is misshapen. Other objects may have
    more columns.
    """
    if text.lstrip().startswith("["):
        raise TableError(
            f"{name}, line 1: a JSON array; expected one object a line. Write the table as JSON"
            ' lines, for example with pandas: to_json(path, orient="records", lines=True).'
        )
    names = names_of(contract) if contract else {}
    rows, records, misshapen = [], {}, []
    for number, line in enumerate(text.split("\n"), start=1):  # a string may hold U+2028
        if line.strip():
            row, record, problems = decode_line(line, contract, names)
            if problems:
                misshapen.append((number, row, problems))
            else:
                rows.append(row)
                records[number] = record
    header = list(dict.fromkeys(key for row in rows for key in row))
    lines = Lines(header, list(records), [[row.get(key) for row in rows] for key in header])
    lines.misshapen = misshapen
    for key in IDENTITY if any(records.values()) else ():
        lines.identity[key] = [getattr(record, key, None) for record in records.values()]
    return lines


def decode_line(
    line: str, contract: Contract | None, names: Mapping[str, str]
) -> tuple[Any, LabelledRecord | None, list[Problem]]:
    """Return the row of a line, its labelled record and its problems.

    names: the contract's columns by their names as headers are compared.
    """
    rule = LINE_RULE
    try:
        row = msgspec.json.decode(line)
        if not isinstance(row, dict) or "record" not in row:
            return msgspec.convert(row, dict[str, Scalar]), None, []
        rule = RECORD_RULE
        record = msgspec.convert(row, LabelledRecord)
    except msgspec.DecodeError as err:
        return line, None, [Problem("line", line[:MAX_SHOWN], f"{rule}: {err}")]
    if problems := list(record_problems(record, contract, names)):
        return row, None, problems
    flat = {names.get(column_name(key), key): value for key, value in record.record.items()}
    target = contract.target if contract else None
    label = {target.name: target.labels[record.label]} if target else {"label": record.label}
    return flat | label, record, []


def record_problems(
    record: LabelledRecord, contract: Contract | None, names: Mapping[str, str]
) -> Iterator[Problem]:
    """Yield the problems of a labelled record that the check of its columns does not find.

    A prediction of the future would be among the newest rows forever.
    """
    if record.label not in (0, 1):
        negative, positive = contract.target.labels if contract else ("negative", "positive")
        yield Problem("label", record.label, f"0 ({negative}) or 1 ({positive})")
    latest = time.time() + CLOCK_SKEW_S
    if record.predicted_at is not None and not 0 <= record.predicted_at <= latest:
        rule = "a Unix time in seconds that is not in the future"
        yield Problem("predicted_at", record.predicted_at, rule)
    for key, value in record.record.items():
        if names and column_name(key) not in names:
            yield Problem(key, value, "no such field", nearest(key, tuple(names.values())))


def parquet_lines(name: str, content: bytes) -> Lines:
    """Return the rows of a Parquet file."""
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read()
    except (pyarrow.ArrowException, OSError) as err:
        raise TableError(f"{name}: not a Parquet file: {err}. Write the file again.") from err
    columns = []
    for column in table.columns:
        values = column.to_pylist()
        nested = pyarrow.types.is_nested(column.type)
        columns.append([str(value) for value in values] if nested else values)
    numbers = list(range(1, table.num_rows + 1))
    return Lines([one.strip() for one in table.column_names], numbers, columns)


# --- values -------------------------------------------------------------------------------------


def typed(
    name: str,
    lines: Lines,
    contract: Contract | None,
    table_format: TableFormat,
) -> pd.DataFrame:
    """Return the values of the matched columns; without a contract, the texts of all columns."""
    raw: dict[str, list[Any]] = {}
    if contract is None:
        check_repeated(name, lines.header)
        read_text = text_reader(table_format)
        for number, column in enumerate(lines.header):
            if column:
                raw[column] = list(map(read_text, lines.columns[number]))
        unnamed = [number for number, column in enumerate(lines.header) if not column]
        lines.notes += ignored_columns(lines.header, unnamed)
        return pd.DataFrame(raw, index=lines.numbers, dtype=object)
    names = list(words_of(contract))
    if not lines.header and not lines.numbers:  # no line of a JSON-lines file is valid
        return pd.DataFrame(columns=names, dtype=object)
    found = match_columns(name, lines.header, contract)
    lines.notes += found.notes
    for column, place in found.places.items():
        if column == contract.target.name:
            read = label_reader(contract.target, table_format)
        else:
            read = value_reader(contract[column], table_format)
        raw[column] = list(map(read, lines.columns[place]))
        if column in contract.by_name and contract[column].is_number:
            texts = [value for value in raw[column] if isinstance(value, str)]
            if marked := sum(1 for text in texts if MARKED_NUMBER.fullmatch(text)):
                lines.notes.append(
                    f"{column}: {counted(marked, 'value')} with decimal or thousands marks that the"
                    " format does not name; set `decimal` or `thousands` in the source's format"
                )
    return pd.DataFrame(raw | lines.identity, index=lines.numbers, dtype=object)


def text_reader(table_format: TableFormat) -> Callable[[Any], str | None]:
    """Return a function from a file's value to its text, None if it is missing."""

    @lru_cache(maxsize=None, typed=True)
    def read(value: Any) -> str | None:
        text = to_text(value)
        return None if text is None or text.strip() in table_format.missing else text.strip()

    return read


def value_reader(feature: Feature, table_format: TableFormat) -> Callable[[Any], Scalar]:
    """Return a function from a file's value to the JSON value of a feature.

    A value that does not fit stays as it is, so that the contract names it.
    """
    own = {column_name(name): marks for name, marks in table_format.missing_in.items()}
    marks = {*table_format.missing, *own.get(column_name(feature.name), ())}
    missing = marks - set(map(to_text, feature.categories))

    @lru_cache(maxsize=None, typed=True)
    def read(value: Any) -> Scalar:
        value = to_json_value(value)
        if value is None or (to_text(value) or "").strip() in missing:
            return None
        if feature.is_number:
            if isinstance(value, float) and value.is_integer() and feature.kind == "integer":
                return int(value)
            if not isinstance(value, str):
                return value
            plain = plain_number(value.strip(), table_format)
            return value.strip() if plain is None else feature.parse(plain)
        text = (to_text(value) or "").strip()
        return feature.parse(without_time(text) if feature.kind == "date" else text)

    return read


def without_time(text: str) -> str:
    """Return the day of a date with a time, which no column has; else the same text."""
    moment = DATE_WITH_TIME.fullmatch(text)
    return moment[1] if moment else text


def plain_number(text: str, table_format: TableFormat) -> str | None:
    """Return a number's text with a decimal point, without thousands marks; else the same text.

    Returns None if a mark of the format is in another place: 1.500 with `decimal: ","`.
    """
    thousands, decimal = table_format.thousands, table_format.decimal
    if thousands and thousands in text:
        groups = rf"[+-]?\d{{1,3}}({re.escape(thousands)}\d{{3}})+({re.escape(decimal)}\d+)?"
        if not re.fullmatch(groups, text):
            return None
        text = text.replace(thousands, "")
    if decimal == ",":
        return None if "." in text else text.replace(",", ".")
    return text


def label_reader(target: Target, table_format: TableFormat) -> Callable[[Any], Scalar]:
    """Return a function from a file's label to the contract's; a label that does not fit stays."""
    suffix = table_format.label_suffix

    @lru_cache(maxsize=None, typed=True)
    def read(value: Any) -> Scalar:
        value = to_json_value(value)
        text = (to_text(value) or "").strip()
        for one in (text, text.removesuffix(suffix), label_text(text)):
            if one in table_format.labels:
                return table_format.labels[one]
            if one in target.labels:
                return one
            if one.lower() in ("true", "false") and one.lower() in map(str.lower, target.labels):
                return next(label for label in target.labels if label.lower() == one.lower())
        if isinstance(value, str):
            return None if text in table_format.missing else text.removesuffix(suffix)
        return value

    return read
