"""The quality of the window's values, each held against the feature contract.

Comes before `monitored_frame`, which turns what is missing or unseen into '?'. A prediction carries
the values as its caller sent them, but the prediction service refuses a record that breaks the
contract: what it refused is counted there (`income_invalid_records_total`) and is in no window.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from config.contract import MISSING, Contract, Feature
from evidently_service.store.records import FeatureQuality

Value = str | int | None
Row = Mapping[str, Value]


def measure_data_quality(rows: Iterable[Row], contract: Contract) -> tuple[FeatureQuality, ...]:
    """The faults of each column that the model sees, in contract order; rows are at least one.

    Raises KeyError for a row that lacks a column.
    """
    rows = list(rows)
    return tuple(
        feature_quality(feature, [row[feature.name] for row in rows]) for feature in contract.inputs
    )


def feature_quality(feature: Feature, values: list[Value]) -> FeatureQuality:
    """Shares of one column's faulty values; None for a fault that the column cannot have.

    A number is never missing: an event without it is refused (`bodies.features_type`).
    """
    counts: Counter[str | None] = Counter()
    for value, rows in Counter(values).items():  # a column has few distinct values
        counts[fault(feature, value)] += rows
    shares = {kind: counts[kind] / len(values) for kind in ("missing", "out_of_range", "unseen")}
    if feature.is_categorical:
        return FeatureQuality(feature.name, missing=shares["missing"], unseen=shares["unseen"])
    return FeatureQuality(feature.name, out_of_range=shares["out_of_range"])


def fault(feature: Feature, value: Value) -> str | None:
    """What is wrong with a value, or None. A '?' is how the census files write a missing one."""
    if feature.is_categorical:
        if value is None or value == MISSING:
            return "missing"
        return None if value in feature.categories else "unseen"
    return "out_of_range" if feature.check(value) else None
