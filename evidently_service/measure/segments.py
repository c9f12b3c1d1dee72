"""Measure how the predictions treat the contract's groups, with and without labels.

Only groups of the model's input columns: a prediction carries no other column. A rate needs enough
rows: over fewer rows it is noise, and may reveal single people.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from config.segments import Segment as ContractSegment
from evidently_service.measure.performance import (
    estimate_quality,
    estimation_error,
    measure_quality,
)
from evidently_service.reference.reference_data import Reference
from evidently_service.store.records import Segment

GroupErrors = dict[tuple[str, str], dict[str, float]]  # by segment and group, then by metric


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


def group_errors(
    reference: Reference, segments: Sequence[ContractSegment], min_rows: int
) -> GroupErrors:
    """Return estimated minus measured quality in each group with `min_rows` reference rows.

    A model that is calibrated as a whole may be too high in one group and too low in another.
    """
    frame, errors = reference.frame, {}
    classes, probability = (frame[name].to_numpy() for name in ("income_class", "probability"))
    for segment in (one for one in segments if one.name in frame):
        groups = segment.frame_groups(frame[segment.name].to_numpy())
        for group in segment.groups:
            if (rows := groups == group).sum() >= min_rows:
                estimate = estimate_quality(classes[rows], probability[rows])
                measured = measure_quality(reference.label[rows], classes[rows], probability[rows])
                errors[segment.name, group] = estimation_error(estimate, measured)
    return errors


def estimation_spread(errors: GroupErrors, groups: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Return the root mean square of the errors by metric, over the rows' groups (n_rows,).

    Each row counts once for each of its groups with an error. Empty if no group has one.
    """
    counts = Counter(name for row in groups for name in row.items() if name in errors)
    metrics = {metric for name in counts for metric in errors[name]}
    return {
        metric: math.sqrt(
            sum(n * errors[name].get(metric, 0.0) ** 2 for name, n in counts.items())
            / counts.total()
        )
        for metric in metrics
    }


def groups_of(
    rows: Sequence[Mapping[str, str]], segments: Sequence[ContractSegment]
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Yield ((segment, group), rows) for each group of a column that all rows have."""
    columns = columns_of(rows, segments)
    for segment in (one for one in segments if one.name in columns):
        for group in segment.groups:
            yield (segment.name, group), columns[segment.name] == group


def columns_of(
    rows: Sequence[Mapping[str, str]], segments: Sequence[ContractSegment]
) -> dict[str, np.ndarray]:
    """Return the rows' groups by segment, each (n_rows,), of columns that all rows have."""
    return {
        one.name: np.array([row[one.name] for row in rows], object)
        for one in segments
        if all(one.name in row for row in rows)
    }
