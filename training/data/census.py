"""The census as checked frames, with its official split; the test split halved by a stable hash."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from config.contract import Contract
from training.data.download import TEST_FILE, TRAIN_FILE, UCI, Origin, read_files
from training.data.errors import SourceError
from training.data.parsing import parse
from training.data.rows import row_digests, row_texts
from training.data.validation import check_rows, first_problem, quarantine


@dataclass(frozen=True)
class Census:
    """The official split as checked frames: contract columns in order, then the target as 0/1.

    Integers are int64; categories are strings, with '?' for a missing one.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    source: Literal["uci", "synthetic"]
    problems: Mapping[str, int]  # quarantined rows per faulty field: "age" -> 3
    duplicates: int  # rows that equal an earlier row of their split in all columns; they are kept
    rejected: int = 0  # quarantined rows; a row may have several problems

    @cached_property
    def digest(self) -> str:
        """The sha256 of all values, equal on every machine."""
        content = "\n".join([*row_texts(self.train), "", *row_texts(self.test)])
        return hashlib.sha256(content.encode()).hexdigest()


def load_census(
    contract: Contract,
    cache_dir: Path = Path("data/raw"),
    folder: Path | None = None,
    quarantine_file: Path = Path("data/quarantine.jsonl"),
    origin: Origin = UCI,
) -> Census:
    """Return the real census from `folder` if it is given, else from the cache or a download.

    Raises SourceUnavailable without a file and a download, SourceError for wrong files.
    """
    contents = read_files(folder, cache_dir, origin)
    train, bad_train = read_split(TRAIN_FILE, contents[TRAIN_FILE], contract)
    test, bad_test = read_split(TEST_FILE, contents[TEST_FILE], contract)
    rejected = pd.concat([bad_train, bad_test])
    problems = quarantine(rejected, quarantine_file)
    duplicates = int(train.duplicated().sum() + test.duplicated().sum())
    return Census(train, test, "uci", problems, duplicates, len(rejected))


def read_split(name: str, content: bytes, contract: Contract) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the valid rows of one file, and the rejected ones as `quarantine` takes them.

    Raises SourceError for a file with other columns or without a valid row.
    """
    raw, misshapen = parse(name, content.decode("utf-8", errors="replace"), contract)
    checked, rejected = check_rows(name, raw, misshapen, contract)
    if checked.empty:
        raise SourceError(f"{name}: no valid row, e.g. {first_problem(rejected)}.")
    return checked.reset_index(drop=True), rejected


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
