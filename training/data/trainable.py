"""Check, before anything is trained, that rows can make a model.

Assembled rows -> this check -> the search. Without it a search would end in a library's error.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import structlog

from config.contract import MISSING, Contract, Target
from training.data.errors import UntrainableRows
from training.data.rows import counted

log = structlog.get_logger(__name__)


def check_trainable(
    train: pd.DataFrame, judged: Mapping[str, pd.DataFrame], contract: Contract, n_folds: int
) -> None:
    """Raise UntrainableRows with every reason why these checked rows cannot make a model.

    judged: frames by name on which the model will be measured. Columns with one value pass with a
    log line: the model cannot learn from them.
    """
    problems = list(find_problems(train, judged, contract.target, n_folds))
    if problems:
        lines = [f"{contract.target.name}: {problem}" for problem in problems]
        raise UntrainableRows("\n".join(lines))
    log_constant_columns(train, contract)


def class_counts(frame: pd.DataFrame, target: Target) -> dict[str, int]:
    """Return the rows of each label."""
    counts = np.bincount(frame[target.name].to_numpy(int), minlength=2)
    return dict(zip(target.labels, map(int, counts)))


def find_problems(
    train: pd.DataFrame, judged: Mapping[str, pd.DataFrame], target: Target, n_folds: int
) -> Iterator[str]:
    """Yield why rows cannot be divided into folds, or a model cannot be measured on them."""
    labels = " and ".join(target.labels)
    for label, rows in class_counts(train, target).items():
        if rows == 0:
            yield (
                f"no training row of {label}; got {counted(len(train))} in all, expected both"
                f" classes. Check the labels in the contract: {labels}."
            )
        elif rows < n_folds:
            yield (
                f"too few training rows of {label}; got {rows}, expected at least {n_folds}, one"
                " for each fold. Add rows of this class, or lower the number of folds (--folds)."
            )
    for name, frame in judged.items():
        if missing := [label for label, rows in class_counts(frame, target).items() if rows == 0]:
            remedy = "Add different rows: equal ones stay together."
            if len(frame):
                remedy = "Add rows to it."
            yield (
                f"no row of {' and '.join(missing)} in the {name}; got {counted(len(frame))} in"
                f" all, expected both {labels}. {remedy}"
            )


def log_constant_columns(train: pd.DataFrame, contract: Contract) -> None:
    """Log the input columns without any value, and those with one value."""
    empty, constant = [], []
    for feature in contract.inputs:
        column = train[feature.name]
        values = (
            column.mask(column == MISSING).dropna() if feature.is_categorical else column.dropna()
        )
        if values.empty:
            empty.append(feature.name)
        elif len(values) == len(column) and values.nunique() == 1:
            constant.append(feature.name)
    if empty or constant:
        log.warning("columns_without_information", missing_in_every_row=empty, constant=constant)
