"""The rows of a source as checked frames: training split and test split, the latter halved.

`source` describes where the rows come from, `download` reads the files.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from config.contract import Contract
from config.feature import Problem
from training.data.download import read_files
from training.data.errors import SourceError
from training.data.rows import row_digests, row_texts
from training.data.source import ByFiles, ByTime, Source, check_source, load_source
from training.data.table_files import read_table
from training.data.validation import check_rows, first_problem, quarantine
from training.settings import Settings

MAX_OTHER_LABELS = 0.01  # share of rows with a label that the contract does not have
MAX_REJECTED = 0.5  # share of rows that break the contract


@dataclass(frozen=True)
class ReadFile:
    """One file of a source as it was read."""

    name: str
    sha256: str
    rows_train: int


@dataclass(frozen=True)
class Dataset:
    """Both splits as checked frames: contract columns in order, then the target as 0/1.

    Integers are int64; categories are strings, with '?' for a missing one.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    source: str  # its name, or `synthetic`
    problems: Mapping[str, int]  # quarantined rows per faulty field: "age" -> 3
    duplicates: int  # rows that equal an earlier row of their split in all columns; they are kept
    rejected: int = 0  # quarantined rows; a row may have several problems
    files: tuple[ReadFile, ...] = ()
    notes: tuple[str, ...] = ()  # what was decided or left out in a file

    @cached_property
    def digest(self) -> str:
        """The sha256 of all values, equal on every machine."""
        content = "\n".join([*row_texts(self.train), "", *row_texts(self.test)])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class FileRows:
    """The rows of one file: both splits, and the rejected rows as `quarantine` takes them."""

    file: ReadFile
    train: pd.DataFrame
    test: pd.DataFrame
    rejected: pd.DataFrame
    notes: list[str]


def load_dataset(contract: Contract, settings: Settings, source: Source | None = None) -> Dataset:
    """Return the rows of a source, by default of the one that SOURCE describes.

    Rejected rows go to `quarantine-NAME.jsonl` in DATA_DIR. Raises SourceUnavailable without the
    files and a download, SourceError or TableError for files that cannot be used.
    """
    source = source or load_source(settings.source_path)
    check_source(source, contract)
    contents = read_files(source, settings)
    parts = [read_split(name, content, source, contract) for name, content in contents.items()]
    rejected = pd.concat([part.rejected for part in parts])
    quarantine_file = Path(settings.data_dir) / f"quarantine-{source.name}.jsonl"
    problems = quarantine(rejected, quarantine_file)
    train = joined([part.train for part in parts])
    test = joined([part.test for part in parts])
    if problem := rejected_problem(rejected, len(train) + len(test), contract):
        raise SourceError(
            f"{', '.join(contents)}: {problem} The rejected rows are in {quarantine_file}."
        )
    return Dataset(
        train,
        test,
        source.name,
        problems,
        duplicates=int(train.duplicated().sum() + test.duplicated().sum()),
        rejected=len(rejected),
        files=tuple(part.file for part in parts),
        notes=tuple(f"{part.file.name}: {note}" for part in parts for note in part.notes),
    )


def read_split(name: str, content: bytes, source: Source, contract: Contract) -> FileRows:
    """Return the rows of one file. Raises SourceError for a file without a valid row."""
    raw, misshapen, notes = read_table(name, content, contract, source.format)
    checked, rejected = check_rows(name, raw, misshapen, contract)
    if isinstance(source.split, ByTime):
        dated = raw.loc[checked.index, source.split.column].notna()
        undated = raw.loc[checked.index[~dated]]
        rejected = pd.concat([rejected, without_date(name, undated, source.split.column)])
        checked = checked[dated]
    if checked.empty:
        raise SourceError(f"{name}: no valid row, e.g. {first_problem(rejected)}. {source.remedy}")
    in_test = is_test(name, raw, checked, source, contract)
    file = ReadFile(name, hashlib.sha256(content).hexdigest(), int((~in_test).sum()))
    return FileRows(file, checked[~in_test], checked[in_test], rejected, notes)


def is_test(
    name: str, raw: pd.DataFrame, checked: pd.DataFrame, source: Source, contract: Contract
) -> np.ndarray:
    """Return True for each checked row that belongs to the test split (n_samples,)."""
    split = source.split
    if isinstance(split, ByFiles):
        return np.full(len(checked), name in split.test)
    if isinstance(split, ByTime):
        return (raw.loc[checked.index, split.column] >= split.test_from).to_numpy(dtype=bool)
    # Other digits than those that choose holdout rows: the choices are independent.
    draws = [int(digest[16:24], 16) / 16**8 for digest in row_digests(checked, contract)]
    return np.array(draws) < split.test_share


def without_date(name: str, raw: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return rows that a split by time cannot place, as `quarantine` takes them."""
    problem = Problem(column, None, "a date: the source is split by time")
    rows = [(name, line, row.to_dict(), [problem]) for line, row in raw.iterrows()]
    return pd.DataFrame(rows, columns=["source", "line", "row", "problems"], dtype=object)


def joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all files. An empty frame has no types and would change other types."""
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled or frames[:1], ignore_index=True)


def rejected_problem(rejected: pd.DataFrame, valid: int, contract: Contract) -> str | None:
    """Return the problem of a source of which too many rows are rejected, if any."""
    target, rows = contract.target, valid + len(rejected)
    others = [
        str(problem.value)
        for problems in rejected["problems"]
        for problem in problems
        if problem.field == target.name and problem.value is not None
    ]
    if len(others) > MAX_OTHER_LABELS * rows:
        return (
            f"{target.name}: {len(others)} of {rows} rows have {len(set(others))} other label(s);"
            f" expected {target.negative} or {target.positive}. Name the files' labels in"
            " `format.labels` of the source, or correct the contract's target."
        )
    if len(rejected) > MAX_REJECTED * rows:
        return (
            f"{len(rejected)} of {rows} rows break the contract, e.g. {first_problem(rejected)};"
            f" expected at most {MAX_REJECTED:.0%}. Correct the contract or the source's format."
        )
    return None


def split_judge_traffic(
    test: pd.DataFrame, contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the judge half of the test split, and the traffic half that is sent to the service.

    A hash of the input columns decides. Rows with equal inputs are in the same half, whatever
    their label, and a row is in the same half in every run.
    """
    digests = row_digests(test, contract)
    judges = np.array([int(digest[-1], 16) % 2 == 0 for digest in digests], dtype=bool)
    return test[judges], test[~judges]
