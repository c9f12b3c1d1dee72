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
    target = contract.target
    problems = list(train_problems(class_counts(train, target), target, n_folds))
    for name, frame in judged.items():
        problems += judged_problems(name, class_counts(frame, target), target)
    if problems:
        raise UntrainableRows("\n".join(f"{target.name}: {problem}" for problem in problems))
    log_constant_columns(train, contract)


def class_counts(frame: pd.DataFrame, target: Target) -> dict[str, int]:
    """Return the rows of each label."""
    counts = np.bincount(frame[target.name].to_numpy(int), minlength=2)
    return dict(zip(target.labels, map(int, counts)))


def train_problems(counts: dict[str, int], target: Target, n_folds: int) -> Iterator[str]:
    """Yield why training rows with these classes cannot be divided into folds."""
    for label, rows in counts.items():
        if rows == 0:
            yield (
                f"no training row of {label}; got {counted(sum(counts.values()))} in all, expected"
                f" both classes. Check the labels in the contract: {' and '.join(target.labels)}."
            )
        elif rows < n_folds:
            yield (
                f"too few training rows of {label}; got {rows}, expected at least {n_folds}, one"
                " for each fold. Add rows of this class, or lower the number of folds (--folds)."
            )


def judged_problems(name: str, counts: dict[str, int], target: Target) -> Iterator[str]:
    """Yield why a model cannot be measured on rows with these classes."""
    if missing := [label for label, rows in counts.items() if rows == 0]:
        n_rows = sum(counts.values())
        remedy = "Add rows to it." if n_rows else "Add different rows: equal ones stay together."
        yield (
            f"no row of {' and '.join(missing)} in the {name}; got {counted(n_rows)} in"
            f" all, expected both {' and '.join(target.labels)}. {remedy}"
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
