"""Measure how the predictions treat the contract's groups, with and without labels.

Only groups of the model's input columns: a prediction carries no other column. A rate needs enough
rows: over fewer rows it is noise, and may reveal single people.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from config.segments import Segment as ContractSegment
from evidently_service.store.records import Segment


class ClassifiedRows(NamedTuple):
    """The groups of each row by segment, and the predicted classes (n_rows,), 0 or 1."""

    groups: Sequence[Mapping[str, str]]
    income_class: np.ndarray


def measure_segments(
    window: ClassifiedRows,
    labelled: ClassifiedRows,
    label: np.ndarray,
    min_rows: int,
    segments: Sequence[ContractSegment],
) -> tuple[Segment, ...]:
    """Return the groups with at least `min_rows` rows in the window, by segment.

    `label` (n_labelled,) are the true classes of `labelled`, 0 or 1; may be empty.
    """
    labelled_groups = dict(groups_of(labelled.groups, segments))
    no_rows = np.zeros(len(label), bool)
    return tuple(
        Segment(
            *name,
            rows=int(rows.sum()),
            selection_rate=float(window.income_class[rows].mean()),
            quality=group_quality(
                labelled.income_class, label, labelled_groups.get(name, no_rows), min_rows
            ),
        )
        for name, rows in groups_of(window.groups, segments)
        if rows.sum() >= min_rows
    )


def group_quality(
    income_class: np.ndarray, label: np.ndarray, rows: np.ndarray, min_rows: int
) -> dict[str, float]:
    """Return accuracy, tpr and fpr of a group; each only over at least `min_rows` rows.

    `rows` (n_labelled,) is True for the group's rows. The tpr is over rows with a label of 1,
    the fpr over rows with a label of 0.
    """
    income_class, label = income_class[rows], label[rows]
    hits = {
        "accuracy": income_class == label,
        "tpr": income_class[label == 1],
        "fpr": income_class[label == 0],
    }
    return {name: float(of.mean()) for name, of in hits.items() if len(of) >= min_rows}


def groups_of(
    rows: Sequence[Mapping[str, str]], segments: Sequence[ContractSegment]
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Yield ((segment, group), rows) for each group of a column that all rows have."""
    for segment in segments:
        values = np.array([row[segment.name] for row in rows if segment.name in row])
        for group in segment.groups if len(values) == len(rows) else ():
            yield (segment.name, group), values == group
