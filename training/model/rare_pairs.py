"""Find the pairs of values that are far rarer together than alone, so that a record can be unusual.

The lift of a pair is its number of rows over the number with independent columns, both plus one.
Source: Brin, Motwani and Silverstein (1997), Beyond market baskets, doi:10.1145/253260.253327.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from config.contract import Contract
from config.feature import Feature
from config.rare_pairs import RarePair, RarePairs, Values

BINS = 20  # of a number or date, with about the same number of rows
RARE_ROWS = 0.001  # share of rows that have a pair below the limit
MAX_LIFT = 0.1


class Column(NamedTuple):
    """The values of a column in few groups; None is the group of missing numbers."""

    groups: list[Values | None]
    codes: np.ndarray  # (n_rows,), the group of each row


def find_rare_pairs(frame: pd.DataFrame, contract: Contract) -> RarePairs:
    """Return the pairs with a lower lift than any pair of 99.9 % of the rows, at most MAX_LIFT."""
    columns = [group_values(one, frame[one.name].to_numpy()) for one in contract.inputs]
    lowest = np.ones(len(frame))
    found: list[tuple[float, RarePair]] = []
    for first, second in combinations(columns, 2):
        counts, expected = count_pairs(first, second)
        lift = (counts + 1) / (expected + 1)
        np.minimum(lowest, lift[first.codes, second.codes], out=lowest)
        for cell in map(tuple, np.argwhere(lift < MAX_LIFT)):
            one, other = first.groups[cell[0]], second.groups[cell[1]]
            if one and other:
                rows = int(counts[cell])
                found.append((lift[cell], RarePair((one, other), rows, float(expected[cell]))))
    limit = np.quantile(lowest, RARE_ROWS) if len(frame) else 0.0
    return RarePairs(len(frame), [pair for lift, pair in found if lift < limit])


def count_pairs(first: Column, second: Column) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of each pair of groups, and their number with independent columns."""
    shape = len(first.groups), len(second.groups)
    cells = np.ravel_multi_index((first.codes, second.codes), shape)
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    return counts, np.round(
        np.outer(counts.sum(axis=1), counts.sum(axis=0)) / max(1, len(cells)), 1
    )


def group_values(feature: Feature, values: np.ndarray) -> Column:
    """Return each category, or bins of a number or date, as groups of the frame's values."""
    if feature.is_categorical:
        names, codes = np.unique(values.astype(str), return_inverse=True)
        return Column([Values(feature.name, one, one) for one in names.tolist()], codes)
    numbers = values.astype(float)
    known = np.isfinite(numbers)
    edges = np.quantile(numbers[known], np.linspace(0, 1, BINS + 1)[1:-1]) if known.any() else []
    bins = np.where(known, np.searchsorted(edges, numbers), BINS)
    found, codes = np.unique(bins, return_inverse=True)
    groups: list[Values | None] = []
    for one in found:
        own = numbers[bins == one].tolist()
        groups.append(None if one == BINS else Values(feature.name, min(own), max(own)))
    return Column(groups, codes)
