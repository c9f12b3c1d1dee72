"""A file's columns and values in the contract's words; `table_files` and `validation` use them.

Names match by one rule: case does not count, and spaces, `-` and `.` count as `_`. A feature has
its own name and its `aliases`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd

from config.contract import Contract, column_name
from config.feature import json_text, nearest
from training.data.errors import TableError

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # in place of a missing value in a folder's name


class Columns(NamedTuple):
    """Where a file has the contract's columns."""

    places: dict[str, int]  # from 0, by the contract's name, in the contract's order
    notes: list[str]  # the columns that are ignored


def match_columns(
    file: str, names: Sequence[str], contract: Contract, labelled: bool = True
) -> Columns:
    """Return the places of the contract's columns among a file's names.

    `labelled` includes the target. Columns that the model does not use may be absent. Raises
    TableError naming each missing column, and columns that match the same feature.
    """
    words = words_of(contract, labelled)
    needed = [*contract.input_names, *([contract.target.name] if labelled else [])]
    found = find_places(words, names)
    ignored = [n for n in range(len(names)) if not any(n in numbers for numbers in found.values())]
    problems = [*missing_columns(found, needed, [names[n] for n in ignored])]
    for name, numbers in found.items():
        if len(numbers) > 1:
            which = " and ".join(f"{number + 1} ({names[number]})" for number in numbers)
            problems.append(f"{name}: got columns {which}, expected one")
    if problems:
        optional = ", ".join(name for name in words if name not in needed)
        expected = ", ".join(words) + (f" ({optional} may be absent)" if optional else "")
        raise TableError(
            f"{file}: wrong columns: {'; '.join(problems)}. Expected {expected}. Rename or remove"
            " columns, or add their names to the contract as `aliases`."
        )
    places = {name: numbers[0] for name, numbers in found.items() if numbers}
    return Columns(places, ignored_columns(names, ignored))


def missing_columns(
    found: Mapping[str, list[int]], needed: Sequence[str], others: Sequence[str]
) -> Iterator[str]:
    """Yield the problem of the missing columns, and the file's other columns with hints."""
    if missing := [name for name in needed if not found[name]]:
        yield f"missing {', '.join(missing)}"
        absent = tuple(name for name, numbers in found.items() if not numbers)
        for name in filter(None, others):
            hint = nearest(name, absent)
            yield f"{name}: unknown column" + (f"; did you mean {hint}?" if hint else "")


def check_repeated(name: str, header: list[str]) -> None:
    """Raise TableError if columns have the same name."""
    repeated = [column for column, count in Counter(filter(None, header)).items() if count > 1]
    if repeated:
        raise TableError(
            f"{name}: {', '.join(repeated)}: named more than once, expected once. Rename the"
            " columns; if the first line is a row of values, add a header line above it."
        )


def words_of(contract: Contract, labelled: bool = True) -> dict[str, tuple[str, ...]]:
    """Return the names that a file may give each column of the contract."""
    words = {one.name: (one.name, *one.aliases) for one in contract.features}
    target = contract.target
    return words | {target.name: (target.name, *target.aliases)} if labelled else words


def names_of(contract: Contract) -> dict[str, str]:
    """Return the features by their names and aliases, as `column_name` compares them."""
    words = words_of(contract, labelled=False)
    return {column_name(word): name for name, each in words.items() for word in each}


def find_places(words: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of the names that match each column's words.

    Columns of the contract whose names differ in case alone are compared exactly.
    """
    claims = Counter(key for each in words.values() for key in set(map(column_name, each)))
    found = {}
    for column, each in words.items():
        exact = {word for word in each if claims[column_name(word)] > 1}
        keys = {column_name(word) for word in each} - set(map(column_name, exact))
        found[column] = [
            number
            for number, name in enumerate(names)
            if column_name(name) in keys or name.strip() in exact
        ]
    return found


def ignored_columns(names: Sequence[str], ignored: Sequence[int]) -> list[str]:
    """Return a sentence about the unnamed columns and one about the others."""
    notes = []
    if unnamed := [str(number + 1) for number in ignored if not names[number]]:
        index = "; column 1 may be a row index" if "1" in unnamed else ""
        notes.append(f"ignored column(s) without a name: {', '.join(unnamed)}{index}")
    if named := [names[number] for number in ignored if names[number]]:
        notes.append(f"ignored column(s) that the contract does not have: {', '.join(named)}")
    return notes


def folder_values(path: str) -> dict[str, str | None]:
    """Return the columns in the names of a file's folders: sex=Female/part.parquet."""
    pairs = (folder.partition("=") for folder in PurePosixPath(path).parent.parts)
    return {
        key: None if text == NULL_FOLDER else unquote(text) for key, sign, text in pairs if sign
    }


# --- values -------------------------------------------------------------------------------------


def to_json_value(value: Any) -> str | int | float | bool | None:
    """Return a value of a Parquet file or a frame as JSON has it; NaN is None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Decimal):
        value = int(value) if value == value // 1 else float(value)
        return to_json_value(value)
    if isinstance(value, date):  # a datetime is one too; no column has times
        return value.isoformat()[:10]
    return value if isinstance(value, float) else str(value)


def to_text(value: Any) -> str | None:
    """Return a value as a file writes it: 1.0 as `1`, true as `true`; None if it is missing."""
    value = to_json_value(value)
    return None if value is None else json_text(value)


def label_text(text: str) -> str:
    """Return a label as it is compared: 1.0 as 1."""
    return re.sub(r"(\d)\.0+$", r"\1", text)
