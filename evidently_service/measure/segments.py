"""How the predictions treat sex, race and age groups, in the window and where labels have come.

Only groups that the model's own columns tell apart: a prediction carries no other column. A rate is
given only over enough rows: of fewer it is noise, and tells of single people.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from config.segments import AGE_BANDS, PROTECTED
from evidently_service.store.records import Segment

Value = str | int | None


class Answered(NamedTuple):
    """Predictions: the features of each and the predicted classes (n_rows,), 0 or 1."""

    features: Sequence[Mapping[str, Value]]
    income_class: np.ndarray


def measure_segments(
    window: Answered, labelled: Answered, label: np.ndarray, min_rows: int
) -> tuple[Segment, ...]:
    """The groups with at least `min_rows` rows in the window, by segment.

    `label` (n_labelled,) are the true classes of `labelled`, 0 or 1; there may be none.
    """
    known = dict(groups_of(labelled.features))
    none = np.zeros(len(label), bool)
    return tuple(
        Segment(
            *name,
            rows=int(rows.sum()),
            selection_rate=float(window.income_class[rows].mean()),
            quality=group_quality(labelled.income_class, label, known.get(name, none), min_rows),
        )
        for name, rows in groups_of(window.features)
        if rows.sum() >= min_rows
    )


def group_quality(
    income_class: np.ndarray, label: np.ndarray, rows: np.ndarray, min_rows: int
) -> dict[str, float]:
    """The rates of the group of `rows` (n_labelled,) that have at least `min_rows` rows under them.

    accuracy: of all; tpr: of those with a label of 1, the predicted 1; fpr: of those with 0.
    """
    income_class, label = income_class[rows], label[rows]
    hits = {
        "accuracy": income_class == label,
        "tpr": income_class[label == 1],
        "fpr": income_class[label == 0],
    }
    return {name: float(of.mean()) for name, of in hits.items() if len(of) >= min_rows}


def groups_of(
    features: Sequence[Mapping[str, Value]],
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """((segment, group), rows) of each group that the rows tell apart, in a fixed order."""
    for column in PROTECTED:
        values = np.array([str(row[column]) for row in features if column in row])
        for value in np.unique(values) if len(values) == len(features) else ():
            yield (column, str(value)), values == value
    ages = np.array([row["age"] for row in features if "age" in row])
    for name, (low, high) in AGE_BANDS.items() if len(ages) == len(features) else ():
        yield ("age", name), (low <= ages) & (ages <= high)
