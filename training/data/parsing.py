"""Text of the census files as raw rows; `validation` checks them against the contract."""

import re
from collections import Counter

import pandas as pd

from config.contract import MISSING, Contract, Problem
from training.data.download import REMEDY
from training.data.errors import SourceError

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


def parse(name: str, text: str, contract: Contract) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the raw rows of a census file, indexed by line number, and the misshapen lines.

    Whole numbers become int and '?' becomes None. Raises SourceError if most lines have the wrong
    number of fields.
    """
    columns = [*contract.by_name, contract.target.name]
    rows = split_lines(text)
    width = Counter(map(len, rows.values())).most_common(1)[0][0] if rows else 0
    if width != len(columns):
        raise SourceError(
            f"{name}: wrong columns; got {len(rows)} rows of {width} fields, expected"
            f" {len(columns)} fields: {', '.join(columns)} (config/features.yaml). {REMEDY}"
        )
    whole = {number: fields for number, fields in rows.items() if len(fields) == width}
    frame = pd.DataFrame.from_dict(whole, orient="index", columns=columns).replace({MISSING: None})
    for feature in contract.features:
        if not feature.is_categorical:
            frame[feature.name] = to_numbers(frame[feature.name])
    frame[contract.target.name] = frame[contract.target.name].str.removesuffix(".")
    return frame, misshapen_rows(rows, width)


def split_lines(text: str) -> dict[int, list[str]]:
    """Return the fields of each row by line number, from 1.

    Skips blank lines and the first line of the test file (`|1x3 Cross validator`).
    """
    return {
        number: line.split(", ")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("|")
    }


def misshapen_rows(rows: dict[int, list[str]], width: int, separator: str = ", ") -> pd.DataFrame:
    """Return the rows with more or fewer fields than `width`, with their problem."""
    expected = f"{width} fields, separated by {separator!r}"
    misshapen = [
        (number, separator.join(fields), [Problem("row", f"{len(fields)} fields", expected)])
        for number, fields in rows.items()
        if len(fields) != width
    ]
    return pd.DataFrame(misshapen, columns=["line", "row", "problems"], dtype=object)


def to_numbers(column: pd.Series) -> pd.Series:
    """Return a text column with int in place of whole numbers; other text stays."""
    return column.map(lambda text: int(text) if text and WHOLE_NUMBER.fullmatch(text) else text)
