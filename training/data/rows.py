"""Rows as text: their digests, and requests with labels."""

import hashlib
from pathlib import Path

import pandas as pd

from config.contract import MISSING, Contract
from training.data.storage import write_atomically


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


def write_requests(frame: pd.DataFrame, contract: Contract, path: Path) -> None:
    """Write rows as requests with their labels: `{"record": {...}, "label": 0}` a line.

    A record has the input columns, with null for a missing category.
    """
    inputs = frame[list(contract.input_names)]
    inputs = inputs.mask(inputs == MISSING, None)
    bodies = inputs.to_json(orient="records", lines=True).splitlines()
    lines = zip(bodies, frame[contract.target.name], strict=True)
    text = "".join(f'{{"record":{body},"label":{label}}}\n' for body, label in lines)
    write_atomically(path, text.encode())
