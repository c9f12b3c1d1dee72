"""Statistics that training and monitoring both use, so that their figures agree.

Throughout: `y` (n_samples,) is the true class, 0 or 1. `probability` (n_samples,) is that of class
1, in [0, 1].
"""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95  # of every interval
ECE_BINS = 15
MIN_PROBABILITY = 1e-7  # distance to 0 and 1 in the log loss; float32 has no closer one


def clip(probability: np.ndarray) -> np.ndarray:
    """Return probabilities with a finite log loss for either label, as float64."""
    return np.clip(probability.astype(np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)


def log_losses(y: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the log loss of each row (n_samples,), in nats."""
    p = clip(probability)
    return -np.where(y == 1, np.log(p), np.log1p(-p))


def expected_calibration_error(
    y: np.ndarray, probability: np.ndarray, counts: np.ndarray | None = None
) -> float:
    """Return the mean distance of probability and observed rate over 15 equal-width bins.

    `counts` (n_samples,): how often each row counts; once by default. In [0, 1].

    Source: Naeini et al. (2015), Obtaining well calibrated probabilities using Bayesian
    binning, doi:10.1609/aaai.v29i1.9602.
    """
    weight = np.ones(len(y)) if counts is None else counts
    bins = np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=(probability - y) * weight)
    return float(np.abs(gaps).sum() / weight.sum())


def percentile_interval(resampled: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % percentile bootstrap interval of an estimate per resample.

    A resample of few rows may lack a class, which some estimates need. It is nan and left out.
    Source: Efron (1979), doi:10.1214/aos/1176344552.
    """
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
