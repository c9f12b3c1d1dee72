"""A contract proposed from a table: kinds, ranges and categories, and what looks suspicious.

`table_files` reads the table, `suspicion` compares its columns with each other and with the target,
and `text` writes the proposal as YAML that a person edits.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import Any

import pandas as pd
from msgspec.structs import replace

from config.contract import Target
from config.feature import (
    INTEGER_TEXT,
    MAX_NUMBER,
    MISSING_MARKS,
    NUMBER_TEXT,
    Feature,
    is_date,
)
from training.data.columns import label_text
from training.data.proposal.categories import (
    MISSING_WORDS,
    ODD_SHARE,
    boolean_pair,
    date_reason,
    infer_text,
)
from training.data.proposal.columns import Column, Proposal
from training.data.proposal.headers import (
    column_names,
    find_labels,
    find_target,
    in_words,
    shorten,
)
from training.data.rows import counted
from training.data.table_files import TableFormat, plain_number, without_time

HEAD_ROOM = 0.1  # of the range of a number, below its minimum and above its maximum
LATER_YEARS = 2  # full years that are accepted after the latest date
MAX_ODD = 5  # different texts in a column of numbers or dates that are read as missing
SAMPLE_ROWS = 1000  # to find decimal and thousands marks
IDENTIFIER_NAME = re.compile(r"(?i:(\b|_)(id|no|nr|number|key|code))$|[a-z]I[dD]$")
CODE = re.compile(r"[-+]?(0\d.*|\d{19,})")  # digits that are no number
NUMBER_MARKS = ((".", ""), (".", ","), (",", ""), (",", "."), (".", "'"), (".", " "), (",", " "))


def propose(raw: pd.DataFrame, target: str, positive: str, table_format: TableFormat) -> Proposal:
    """Return the proposal for a table of texts, before its columns are compared.

    Raises TableError for a target that is not there or has other than two values.
    """
    headers = [str(name) for name in raw]
    header, names = find_target(headers, target), column_names(headers)
    table_format = with_number_marks(raw, table_format)
    columns = [column_of(name, raw[name]) for name in headers if name != header]
    for column in columns:
        infer(column, *names[column.header], table_format)
    labels = column_of(header, raw[header]).texts.map(label_text, na_action="ignore")
    negative, positive = find_labels(header, Counter(labels.dropna()), positive)
    goal = Target(
        name=names[header][0],
        negative=negative,
        positive=positive,
        description=f"whether {in_words(header)} is {positive}",
        aliases=names[header][1],
    )
    return Proposal(goal, labels, columns, table_format)


def column_of(header: str, texts: pd.Series) -> Column:
    """Return a column with None for each missing value."""
    is_mark = texts.isin(MISSING_MARKS)
    written = Counter(texts[is_mark])
    return Column(header, texts.where(~is_mark & texts.notna(), None).astype(object), written)


# --- kinds --------------------------------------------------------------------------------------


def infer(column: Column, name: str, aliases: tuple[str, ...], table_format: TableFormat) -> None:
    """Set the proposed feature of a column, or the reason why it is left out."""
    counts = column.counts
    has_missing = bool(column.texts.isna().any())
    if not counts or len(counts) == 1 and not has_missing:
        only = f"constant: {shorten(list(counts)[0])}" if counts else "missing in every row"
        column.leave_out(only)
        return
    column.feature = Feature(
        name,
        "nominal",
        in_words(column.header),
        missing="allow" if has_missing else "reject",
        aliases=aliases,
    )
    if numbers := fit_kind(column, lambda text: number_text(text, table_format)):
        infer_number(column, numbers)
    elif dates := fit_kind(column, date_text):
        infer_date(column, dates)
    elif pair := boolean_pair(list(counts)):
        is_true = list(counts)[0].lower() == str(pair[1]).lower()
        column.propose(kind="boolean", values=pair, default=pair[is_true])
    else:
        infer_text(column)


def fit_kind(column: Column, convert: Callable[[str], str | None]) -> dict[str, str] | None:
    """Return the converted texts if all but a few fit; these become missing values."""
    texts = {text: convert(text) for text in column.counts}
    odd = {text: column.counts[text] for text, fitted in texts.items() if fitted is None}
    others = sum(count for text, count in odd.items() if text.lower() not in MISSING_WORDS)
    if len(odd) > MAX_ODD or others > ODD_SHARE * sum(column.counts.values()):
        return None
    if odd:
        if len(texts) - len(odd) < 2:
            return None
        shown = ", ".join(f"{shorten(text)} ({counted(count)})" for text, count in odd.items())
        column.checks.append(f"read as missing, see missing_in of source.yaml: {shown}")
        column.odd = tuple(odd)
        column.propose(missing="allow")
    return {text: fitted for text, fitted in texts.items() if fitted is not None}


def date_text(text: str) -> str | None:
    """Return a date's text without its time; None for other texts."""
    day = without_time(text)
    return day if is_date(day) else None


def number_text(text: str, table_format: TableFormat) -> str | None:
    """Return a number's text with a decimal point; None for other texts and codes such as 007."""
    plain = plain_number(text, table_format)
    if plain is None or not NUMBER_TEXT.fullmatch(plain) or CODE.fullmatch(plain):
        return None
    return plain if abs(float(plain)) <= MAX_NUMBER else None


def with_number_marks(raw: pd.DataFrame, table_format: TableFormat) -> TableFormat:
    """Return the format with the decimal and thousands marks that make most columns numbers."""
    if table_format.kind != "csv":
        return table_format
    samples = [set(raw[name][:SAMPLE_ROWS].dropna()) - {*MISSING_MARKS} for name in raw]

    def n_numbers(marks: tuple[str, str]) -> int:
        marked = replace(table_format, decimal=marks[0], thousands=marks[1])
        return sum(all(number_text(text, marked) for text in sample) for sample in samples)

    decimal, thousands = max(NUMBER_MARKS, key=n_numbers)  # the first of equals
    return replace(table_format, decimal=decimal, thousands=thousands)


def infer_number(column: Column, plain: dict[str, str]) -> None:
    """Propose an integer, a number, or a boolean for 0 and 1."""
    whole = all(map(INTEGER_TEXT.fullmatch, plain.values()))
    numbers = {text: float(number) for text, number in plain.items()}
    column.numbers = column.texts.map(numbers).astype(float)
    values = column.numbers.dropna()
    if whole and {*numbers.values()} == {0, 1}:
        column.propose(kind="boolean", values=(0, 1), default=int(values.mean() > 0.5))
        return
    if whole and (reason := date_reason(column.counts) or identifier_reason(column, values)):
        column.leave_out(reason)
        return
    mark = stand_in(values)
    low, high = limits(values[values != mark], whole)
    if mark is not None:
        bound = f"minimum: {low}" if mark < low else f"maximum: {high}"
        low, high = min(low, int(mark)), max(high, int(mark))
        share = (values == mark).mean()
        column.checks.append(
            f"{mark:g} in {share:.1%} of the rows may stand for no value; if so, write missing:"
            " allow, and add it to missing_in of source.yaml, as in"
            f' {{{column.name}: ["{mark:g}"]}}, and write {bound}'
        )
    kind, to_number = ("integer", int) if whole else ("number", float)
    default = to_number(values.quantile(0.5, interpolation="lower"))
    column.propose(kind=kind, minimum=low, maximum=high, default=default)
    column.notes.append(
        f"{values.nunique():,} different values from {values.min():,.10g} to {values.max():,.10g}"
    )


def limits(values: pd.Series, whole: bool) -> tuple[Any, Any]:
    """Return minimum and maximum with head-room, rounded outwards; not below 0 if no value is."""
    low, high = float(values.min()), float(values.max())
    room = (high - low) * HEAD_ROOM or abs(high) * HEAD_ROOM or 1.0
    digits = -math.floor(math.log10(room))
    digits = min(digits, 0) if whole else digits
    step = 10.0**-digits
    floor = round(math.floor((low - room) / step) * step, digits)
    ceiling = round(math.ceil((high + room) / step) * step, digits)
    if low >= 0:
        floor = max(floor, 0.0)
    return (int(floor), int(ceiling)) if whole else (floor, ceiling)


def stand_in(values: pd.Series) -> float | None:
    """Return a number that may stand for a missing value: -1 below the others, 999 above them."""
    counts = values.value_counts().sort_index()
    if len(counts) < 3:
        return None
    first, second, *_, last_but_one, last = [*counts.index[:2], *counts.index[-2:]]
    if first in (-1, -9, -99, -999, -9999) and second >= 0 and counts[first] > 0.01 * len(values):
        return first
    is_nines = last >= 999 and {*f"{last:g}"} == {"9"}
    if is_nines and last > 1.5 * last_but_one and counts[last] > 0.01 * len(values):
        return last
    return None


def identifier_reason(column: Column, values: pd.Series) -> str | None:
    """Return why whole numbers are probably identifiers, or None.

    Numbers that are all different by chance are rare, unless their range is large.
    """
    n_values = len(values)
    if n_values < 20 or len(column.counts) < n_values:
        return None
    equal_pairs = n_values**2 / 2 / (values.max() - values.min())
    if IDENTIFIER_NAME.search(column.header) or equal_pairs > 5 or values.is_monotonic_increasing:
        return f"an identifier: {counted(n_values)}, no number twice"
    return None


def infer_date(column: Column, dates: dict[str, str]) -> None:
    """Propose a date."""
    days = {text: date.fromisoformat(day).toordinal() for text, day in dates.items()}
    column.numbers = column.texts.map(days).astype(float)
    values = column.numbers.dropna()
    first, last = (date.fromordinal(int(day)) for day in (values.min(), values.max()))
    column.propose(
        kind="date",
        minimum=date(first.year, 1, 1),
        maximum=date(min(last.year + LATER_YEARS, 9999), 12, 31),
        default=str(date.fromordinal(int(values.quantile(0.5, interpolation="lower")))),
    )
    column.notes.append(
        f"dates from {first} to {last}; later ones are accepted to the end of {LATER_YEARS} years"
        " more. parts: [days] may also have year, month, day, weekday"
    )
