"""Read the rows to send from `traffic.jsonl`.

Training writes the file: labelled rows of the test split on which no model was evaluated.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from config.contract import Feature

EXPECTED = 'expected {"record": {column: value, ...}, "label": 0 or 1}'


class TrafficError(Exception):
    """There are no rows to send. The message names the source, the problem and the remedy."""


class Row(NamedTuple):
    """A record as a request carries it, and its true class: 1 for the positive label, else 0."""

    record: dict[str, Any]
    label: int


class Line(msgspec.Struct):
    """One line of the file. The prediction service alone validates the record."""

    record: dict[str, Any]
    label: Annotated[int, msgspec.Meta(ge=0, le=1)]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file. Raises TrafficError."""
    try:
        return parse_rows(path.read_bytes(), str(path))
    except OSError as err:
        raise TrafficError(
            f"--traffic: {err.strerror}; got {path}, expected a traffic.jsonl."
            " Name another file, or omit the flag to use the rows of the production run."
        ) from err


def parse_rows(content: bytes, source: str) -> list[Row]:
    """Return the rows of a file's content. Raises TrafficError with the source and the line."""
    rows = []
    for number, text in enumerate(content.splitlines(), start=1):
        if text.strip():
            try:
                line = msgspec.json.decode(text, type=Line)
            except (msgspec.DecodeError, UnicodeDecodeError) as err:
                raise TrafficError(f"{source}, line {number}: {err}; {EXPECTED}.") from err
            rows.append(Row(line.record, line.label))
    if not rows:
        raise TrafficError(
            f"{source}: no rows; expected one JSON object per line."
            " `make train` writes such a file with each run."
        )
    return rows


def endless(rows: Sequence[Row], rng: random.Random) -> Iterator[Row]:
    """Yield all rows in a random order, then all of them in another order, without end."""
    order = list(rows)
    while order:
        rng.shuffle(order)
        yield from order


def known_value(feature: Feature, record: dict[str, Any]) -> Any:
    """Return a record's value as in frames; None if it is missing, invalid or unseen."""
    value = record.get(feature.name)
    if value is None or feature.check(value):
        return None
    known = feature.known(value)
    return None if feature.show(known) is None else known
