"""Count the faulty values of the window, by the rules of the feature contract.

This runs before `monitored_frame`, which turns missing and unseen categories into '?'. The drift
score of a number is that of its values alone, so its missing values are counted here only. The
prediction service rejects records that break the contract and counts them there
(`income_invalid_records_total`), so they are in no window.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from config.contract import Contract
from config.feature import MISSING, Feature, Value
from evidently_service.store.records import FeatureQuality

Row = Mapping[str, Value]


def measure_data_quality(rows: Iterable[Row], contract: Contract) -> tuple[FeatureQuality, ...]:
    """Return the faults of each input column, in contract order; at least one row.

    Raises KeyError for a row that lacks a column.
    """
    rows = list(rows)
    return tuple(
        feature_quality(feature, [row[feature.name] for row in rows]) for feature in contract.inputs
    )


def feature_quality(feature: Feature, values: list[Value]) -> FeatureQuality:
    """Return the shares of one column's faulty values; None for a fault that cannot occur."""
    if not feature.is_categorical:
        return number_quality(feature, np.array([feature.known(value) for value in values], float))
    missing = unseen = 0
    for value, rows in Counter(values).items():  # a column has few distinct values
        if value is None or value == MISSING:
            missing += rows
        elif feature.known(value) == MISSING:
            unseen += rows
    n = len(values)
    return FeatureQuality(feature.name, missing=missing / n, unseen=unseen / n)


def number_quality(feature: Feature, numbers: np.ndarray) -> FeatureQuality:
    """Return the shares of the faulty numbers (n_rows,) of a column; NaN is a missing one.

    Dates are days since the column's reference date. `parsing.features_type` rejects an event with
    a missing value where the contract does not allow it.
    """
    low, high = feature.bounds
    missing = float(np.isnan(numbers).mean()) if feature.missing == "allow" else None
    out_of_range = float(((numbers < low) | (numbers > high)).mean())
    return FeatureQuality(feature.name, missing=missing, out_of_range=out_of_range)


def invalid_share_rises(
    current: Iterable[FeatureQuality], reference: pd.DataFrame, contract: Contract
) -> dict[str, float]:
    """Return, by feature, its share of faulty values minus that of the reference data.

    reference: as `monitored_frame` returns it. There, missing and unseen categories are the same,
    so the shares of all faults are added.
    """
    return {
        one.feature: invalid_share(one)
        - invalid_share(column_quality(contract[one.feature], reference[one.feature]))
        for one in current
    }


def invalid_share(quality: FeatureQuality) -> float:
    """Return the share of rows with any fault; a value has at most one."""
    return sum(filter(None, (quality.missing, quality.out_of_range, quality.unseen)))


def column_quality(feature: Feature, column: pd.Series) -> FeatureQuality:
    """Return the shares of the faulty frame values of one column."""
    if feature.is_categorical:
        return feature_quality(feature, column.tolist())
    return number_quality(feature, column.to_numpy(float))
