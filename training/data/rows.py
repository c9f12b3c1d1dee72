"""Rows as text: their digests, and requests with labels."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import pandas as pd

from config.contract import Contract
from config.feature import Value
from training.data.storage import write_atomically


def counted(number: int, noun: str = "row") -> str:
    """Return a number of things in words: 1 row, 1,234 rows."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def row_texts(frame: pd.DataFrame) -> list[str]:
    """Return each row as one line of comma-separated values."""
    return list(map(",".join, zip(*(frame[name].astype(str) for name in frame))))


def row_digests(frame: pd.DataFrame, contract: Contract) -> list[str]:
    """Return the sha256 of each row's input columns: those that the model uses."""
    texts = row_texts(frame[list(contract.input_names)])
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def frame_digest(frame: pd.DataFrame) -> str:
    """Return the sha256 of all values of a frame."""
    return hashlib.sha256("\n".join(row_texts(frame)).encode()).hexdigest()


def records_of(frame: pd.DataFrame, contract: Contract) -> list[dict[str, Value]]:
    """Return the model's inputs of a checked frame as records of JSON values."""
    columns = {f.name: [f.show(value) for value in frame[f.name].tolist()] for f in contract.inputs}
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def frame_of(records: Iterable[Mapping[str, Value]], contract: Contract) -> pd.DataFrame:
    """Return valid records as a frame of the model's inputs. Raises KeyError for a lost column."""
    records = list(records)
    return pd.DataFrame(
        {f.name: [f.known(record[f.name]) for record in records] for f in contract.inputs}
    )


def write_requests(frame: pd.DataFrame, contract: Contract, path: Path) -> None:
    """Write rows as requests with their labels: `{"record": {...}, "label": 0}` a line.

    A record has the input columns, with null for a missing value.
    """
    records, labels = records_of(frame, contract), frame[contract.target.name].tolist()
    lines = [{"record": one, "label": label} for one, label in zip(records, labels, strict=True)]
    write_atomically(path, msgspec.json.Encoder().encode_lines(lines))
