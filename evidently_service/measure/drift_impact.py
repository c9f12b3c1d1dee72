"""Estimate how far the drift of each feature moves the model's mean probability.

A large drift may have a small impact. No model is needed: the rows of the reference data carry the
production version's probabilities. A feature is cut into bins. Each bin has a mean probability in
the reference data; these means are weighted with the bins' shares in the current window.

Limits:
- Each feature is treated alone, without interactions.
- A bin's mean probability includes the influence of correlated features. Each of these
  features shows the shift, so impacts must not be summed.
- Opposite shifts within one feature cancel out.
- A value that is new in the window counts with the overall mean. So do missing values if the
  reference data have none.
- A shift within a bin has no impact.
- Concept shift is invisible.
"""

import math

import numpy as np
import pandas as pd

from config.contract import Contract
from evidently_service.store.records import DriftImpact

BINS = 20  # of a number, with equal shares of the reference data where its values allow that
NO_VALUE = -1  # the bin of missing numbers


def measure_drift_impacts(
    reference: pd.DataFrame, window: pd.DataFrame, contract: Contract
) -> tuple[DriftImpact, ...]:
    """Return the impact of each feature's drift, the largest first.

    Both frames as `monitored_frame` returns them, each with at least one row.
    """
    probability = reference["probability"].to_numpy()
    impacts = []
    for feature in contract.inputs:
        before, after = reference[feature.name], window[feature.name]
        if not feature.is_categorical:
            edges = bin_edges(before, BINS)
            before, after = bin_numbers(before, edges), bin_numbers(after, edges)
        impacts.append(drift_impact(feature.name, before, after, probability))
    return tuple(sorted(impacts, key=lambda one: -one.impact))


def bin_edges(column: pd.Series, bins: int) -> np.ndarray:
    """Return the quantiles that cut a column into bins, at most `bins`; none without values."""
    values = column.dropna()
    if values.empty:
        return np.array([])
    return np.unique(np.quantile(values, np.arange(1, bins) / bins, method="lower"))


def bin_numbers(column: pd.Series, edges: np.ndarray) -> pd.Series:
    """Return the bin of each value, upper edge included. Missing values have their own bin."""
    return pd.Series(np.where(column.isna(), NO_VALUE, np.searchsorted(edges, column)))


def drift_impact(
    name: str, before: pd.Series, after: pd.Series, probability: np.ndarray
) -> DriftImpact:
    """Return the impact of one feature's drift, from its bins before and after.

    `probability` (n_reference,) belongs to `before`. The standard error is that of two samples of
    these sizes from one population: 95 % of undrifted features shift by less than two of it.
    """
    means = pd.Series(probability).groupby(before.to_numpy()).mean() - probability.mean()
    spread = float(np.sqrt((before.map(means) ** 2).mean()))
    shift = float(after.map(means).fillna(0).mean())
    return DriftImpact(
        feature=name,
        impact=abs(shift),
        shift=shift,
        standard_error=spread * math.sqrt(1 / len(before) + 1 / len(after)),
    )
