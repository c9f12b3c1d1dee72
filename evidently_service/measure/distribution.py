"""Compare a column's values in the reference data with those in the current window."""

import pandas as pd

from config.feature import MISSING, Feature
from evidently_service.measure.drift_impact import NO_VALUE, bin_edges, bin_numbers
from evidently_service.store.records import Bin, Distribution

BINS = 8  # of a number; categories with a row of their own
MIN_SHARE = 0.0005  # of a row; less is 0.0 % on the page
OTHER = "all others"


def measure_distribution(feature: Feature, before: pd.Series, after: pd.Series) -> Distribution:
    """Return the shares of a feature's values, `before` in the reference data.

    A number has bins between quantiles of `before`. Of a category, the most frequent values have a
    row each.
    """
    if feature.is_categorical:
        shares = pd.concat([one.value_counts(normalize=True) for one in (before, after)])
        frequent = shares.groupby(level=0).max().nlargest(BINS).index
        names = {value: "missing" if value == MISSING else value for value in frequent}
        names[OTHER] = OTHER
        before, after = (one.where(one.isin(frequent), OTHER) for one in (before, after))
    else:
        edges = bin_edges(before, BINS)
        names = dict(enumerate(bin_names([str(feature.show(edge)) for edge in edges])))
        names[NO_VALUE] = "missing"
        before, after = bin_numbers(before, edges), bin_numbers(after, edges)
    rows = (
        Bin(name, float((before == value).mean()), float((after == value).mean()))
        for value, name in names.items()
    )
    shown = (row for row in rows if max(row.reference, row.window) >= MIN_SHARE)
    return Distribution(feature.name, tuple(shown))


def bin_names(edges: list[str]) -> list[str]:
    """Return the bins between the edges in words. A bin includes its upper edge."""
    if not edges:
        return ["any value"]
    between = [f"{low} to {high}" for low, high in zip(edges, edges[1:])]
    return [f"to {edges[0]}", *between, f"above {edges[-1]}"]
