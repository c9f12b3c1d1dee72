"""The groups with figures of their own: categories or bands of each column with `segment`.

The gate, the model card and the monitoring use the same groups, so their figures are comparable.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np

from config.feature import MISSING, Feature, Limit, Value

NO_VALUE = "missing"  # the group of rows without a value


class Segment(NamedTuple):
    """A column of the contract that is divided into groups."""

    feature: Feature
    groups: tuple[str, ...]  # all names in their order; the last is NO_VALUE
    bounds: tuple[float, ...]  # of a column with bands: their upper bounds, as frame values

    @classmethod
    def of(cls, feature: Feature) -> "Segment":
        """Return the segment of a column with `segment`."""
        if isinstance(feature.segment, bool):
            return cls(feature, (*feature.categories, NO_VALUE), ())
        names = band_names(feature.segment, is_decimal=feature.kind == "number")
        return cls(feature, (*names, NO_VALUE), tuple(map(feature.number, feature.segment)))

    @property
    def name(self) -> str:
        """The column's name."""
        return self.feature.name

    def group(self, value: Value) -> str:
        """Return the group of a JSON value; a missing or unlisted value is in NO_VALUE."""
        known = self.feature.known(value)
        if isinstance(known, str):
            return NO_VALUE if known == MISSING else known
        return NO_VALUE if math.isnan(known) else self.groups[bisect_left(self.bounds, known)]

    def frame_groups(self, values: np.ndarray) -> np.ndarray:
        """Return the group of each frame value of the column (n_rows,)."""
        if self.feature.is_categorical:
            return np.where(values == MISSING, NO_VALUE, values)
        numbers = values.astype(float)
        # NaN sorts behind every bound, so it gets the last band first.
        bands = np.array(self.groups, object)[np.searchsorted(self.bounds, numbers)]
        return np.where(np.isnan(numbers), NO_VALUE, bands)


def segment_groups(features: Mapping[str, Value], segments: Sequence[Segment]) -> dict[str, str]:
    """Return the group of a record of JSON values in each segment whose column it has."""
    return {one.name: one.group(features[one.name]) for one in segments if one.name in features}


def band_names(bounds: Sequence[Limit], is_decimal: bool) -> list[str]:
    """Return the names of bands: "to 29", "30 to 44", "from 45"; of decimals "above 1.5"."""
    starts = [f"above {bound}" if is_decimal else str(next_of(bound)) for bound in bounds]
    between = [f"{low} to {high}" for low, high in zip(starts, bounds[1:])]
    return [f"to {bounds[0]}", *between, starts[-1] if is_decimal else f"from {starts[-1]}"]


def next_of(bound: Limit) -> Limit:
    """Return the whole number or the day after an upper bound."""
    return bound + timedelta(days=1) if isinstance(bound, date) else bound + 1
