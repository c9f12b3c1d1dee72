"""How much the drift of each feature moves the model's output: far is not the same as important.

Needs no model: what a value goes with is read from the reference, whose rows carry the production
version's probabilities. A feature is cut into bins; the reference's mean probability of each bin is
weighted with the window's shares in place of the reference's.

What this leaves out: it looks at one feature at a time, so not at interactions. A bin's mean
probability is that of the people in it, with all that goes along with the value; features that
go together each show the move, so effects must not be summed. Moves up and down within one
feature cancel out. Of a value that the reference does not have nothing is known: it counts with the
mean of all rows, and a move within a bin not at all. And a change of what follows from a value
(concept shift) does not show.
"""

import math

import numpy as np
import pandas as pd

from config.contract import Contract
from evidently_service.store.records import DriftEffect

BINS = 20  # of numbers, with equal shares of the reference where its values allow that


def measure_effects(
    reference: pd.DataFrame, window: pd.DataFrame, contract: Contract
) -> tuple[DriftEffect, ...]:
    """The effect of each feature's drift, the largest first.

    Both frames as `drift.monitored_frame` gives them, each with at least one row.
    """
    probability = reference["probability"].to_numpy()
    effects = []
    for feature in contract.inputs:
        before, after = reference[feature.name], window[feature.name]
        if not feature.is_categorical:
            before, after = binned(before, after)
        effects.append(effect(feature.name, before, after, probability))
    return tuple(sorted(effects, key=lambda one: -one.effect))


def binned(before: pd.Series, after: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The number of each value's bin; the bins are quantiles of `before`, ends included."""
    edges = np.unique(np.quantile(before, np.arange(1, BINS) / BINS, method="lower"))
    return pd.Series(np.searchsorted(edges, before)), pd.Series(np.searchsorted(edges, after))


def effect(name: str, before: pd.Series, after: pd.Series, probability: np.ndarray) -> DriftEffect:
    """The effect of one feature's drift, from its bins in the reference and in the window.

    `probability` (n_reference,) belongs to `before`. The standard error is that of two samples of
    these sizes from one population: an undrifted feature's shift is within two of it, 19 times in
    20.
    """
    mean = probability.mean()
    means = pd.Series(probability).groupby(before.to_numpy()).mean() - mean  # of each bin
    spread = float(np.sqrt((before.map(means) ** 2).mean()))
    shift = float(after.map(means).fillna(0).mean())
    return DriftEffect(
        feature=name,
        effect=abs(shift),
        shift=shift,
        standard_error=spread * math.sqrt(1 / len(before) + 1 / len(after)),
    )
