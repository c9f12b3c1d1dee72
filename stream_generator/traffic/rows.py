"""The rows to send: `traffic.jsonl`, as training wrote it, to an endless seeded stream.

Training -> traffic.jsonl (labelled rows of the test split that no model was judged by) -> here ->
a scenario -> requests.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec


class TrafficError(Exception):
    """There are no rows to send; the message names the source, what is wrong and the remedy."""


class Row(NamedTuple):
    """A census record as a request carries it, and its true class: 1 for >50K, else 0."""

    record: dict[str, Any]
    label: int


class Line(msgspec.Struct):
    """One line of the file. Whether the record keeps the contract is for the service to judge."""

    record: dict[str, Any]
    label: int


def read_rows(path: Path) -> list[Row]:
    """The rows of a file. Raises TrafficError."""
    try:
        return parse_rows(path.read_bytes(), str(path))
    except OSError as err:
        raise TrafficError(
            f"--traffic {path}: {err.strerror}; name a traffic.jsonl, or leave the flag out to"
            " take the production run's"
        ) from err


def parse_rows(content: bytes, source: str) -> list[Row]:
    """The rows of a file's content. Raises TrafficError naming the source and the line."""
    rows = []
    for number, text in enumerate(content.splitlines(), start=1):
        if text.strip():
            rows.append(parse_row(text, f"{source}, line {number}"))
    if not rows:
        raise TrafficError(f"{source}: no rows; `make train` writes some with each run")
    return rows


def parse_row(text: bytes, place: str) -> Row:
    """The row of one line. Raises TrafficError."""
    expected = 'expected {"record": {column: value, ...}, "label": 0 or 1}'
    try:
        line = msgspec.json.decode(text, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise TrafficError(f"{place}: {err}; {expected}") from err
    if line.label not in (0, 1):
        raise TrafficError(f"{place}: got label {line.label}, {expected}")
    return Row(line.record, line.label)


def endless(rows: Sequence[Row], rng: random.Random) -> Iterator[Row]:
    """All rows in a random order, then all of them in another one, and so on."""
    order = list(rows)
    while order:
        rng.shuffle(order)
        yield from order
