"""Measure how the predictions treat the contract's groups, with and without labels.

Only groups of the model's input columns: a prediction carries no other column. A rate needs enough
rows: over fewer rows it is noise, and may reveal single people.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from config.events import Prediction
from config.segments import Segment as ContractSegment, segment_groups
from evidently_service.measure.performance import (
    estimate_quality,
    estimation_error,
    measure_quality,
)
from evidently_service.reference.reference_data import Reference
from evidently_service.store.records import LabelledPrediction, Segment

GroupErrors = dict[tuple[str, str], dict[str, float]]  # by segment and group, then by metric


class ClassifiedRows(NamedTuple):
    """Groups and predicted classes of rows, in arrays (n_rows,)."""

    groups: Mapping[str, np.ndarray]  # by segment, of columns that all rows have
    income_class: np.ndarray  # 0 or 1


def classified(
    rows: Sequence[Prediction] | Sequence[LabelledPrediction], segments: Sequence[ContractSegment]
) -> ClassifiedRows:
    """Return groups and classes of predictions."""
    of_rows = [
        (
            one.groups
            if isinstance(one, LabelledPrediction)
            else segment_groups(one.features, segments)
        )
        for one in rows
    ]
    groups = {
        one.name: np.array([row[one.name] for row in of_rows], object)
        for one in segments
        if all(one.name in row for row in of_rows)
    }
    return ClassifiedRows(groups, np.array([one.income_class for one in rows], int))


def classified_frame(frame: pd.DataFrame, segments: Sequence[ContractSegment]) -> ClassifiedRows:
    """Return groups and classes of a frame, as `monitored_frame` returns it."""
    groups = {
        one.name: one.frame_groups(frame[one.name].to_numpy())
        for one in segments
        if one.name in frame
    }
    return ClassifiedRows(groups, frame["income_class"].to_numpy())


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
    labelled_groups = dict(groups_of(labelled, segments))
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
        for name, rows in groups_of(window, segments)
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
    known, errors = classified_frame(reference.frame, segments), {}
    classes, probability = known.income_class, reference.frame["probability"].to_numpy()
    for name, rows in groups_of(known, segments):
        if rows.sum() >= min_rows:
            estimate = estimate_quality(classes[rows], probability[rows])
            measured = measure_quality(reference.label[rows], classes[rows], probability[rows])
            errors[name] = estimation_error(estimate, measured)
    return errors


def estimation_spread(errors: GroupErrors, groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the root mean square of the errors by metric, over the rows' groups by segment.

    Each row counts once for each of its groups with an error. Empty if no group has one.
    """
    counts = {
        (segment, group): int((groups[segment] == group).sum())
        for segment, group in errors
        if segment in groups
    }
    total = sum(counts.values())
    metrics = {metric for name, n in counts.items() if n for metric in errors[name]}
    return {
        metric: math.sqrt(
            sum(n * errors[name].get(metric, 0.0) ** 2 for name, n in counts.items()) / total
        )
        for metric in metrics
    }


def groups_of(
    rows: ClassifiedRows, segments: Sequence[ContractSegment]
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Yield ((segment, group), rows) for each group; its rows (n_rows,) as bool."""
    for segment in (one for one in segments if one.name in rows.groups):
        for group in segment.groups:
            yield (segment.name, group), rows.groups[segment.name] == group
