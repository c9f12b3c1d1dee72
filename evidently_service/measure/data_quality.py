"""Count the faulty values of the window, by the rules of the feature contract.

This runs before `monitored_frame`, which turns missing and unseen categories into '?'. The
prediction service rejects records that break the contract and counts them there
(`income_invalid_records_total`), so they are in no window.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

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
    """Return the shares of one column's faulty values; None for a fault that cannot occur.

    A number is never missing: `parsing.features_type` rejects such an event.
    """
    counts: Counter[str | None] = Counter()
    for value, rows in Counter(values).items():  # a column has few distinct values
        counts[fault(feature, value)] += rows
    shares = {kind: counts[kind] / len(values) for kind in ("missing", "out_of_range", "unseen")}
    if feature.is_categorical:
        return FeatureQuality(feature.name, missing=shares["missing"], unseen=shares["unseen"])
    return FeatureQuality(feature.name, out_of_range=shares["out_of_range"])


def invalid_share_rises(
    current: Iterable[FeatureQuality], reference: pd.DataFrame, contract: Contract
) -> dict[str, float]:
    """Return, by feature, its share of faulty values minus that of the reference data.

    reference: as `monitored_frame` returns it. There, missing and unseen categories are the same,
    so the shares of all faults are added.
    """
    return {
        one.feature: invalid_share(one)
        - invalid_share(feature_quality(contract[one.feature], reference[one.feature].tolist()))
        for one in current
    }


def invalid_share(quality: FeatureQuality) -> float:
    """Return the share of rows with any fault; a value has at most one."""
    return sum(filter(None, (quality.missing, quality.out_of_range, quality.unseen)))


def fault(feature: Feature, value: Value) -> str | None:
    """Return the fault of a value, or None. The census files write a missing value as '?'."""
    if feature.is_categorical:
        if value is None or value == MISSING:
            return "missing"
        return None if value in feature.categories else "unseen"
    return "out_of_range" if feature.check(value) else None
