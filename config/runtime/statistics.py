"""Statistics that training and monitoring both use, so that their figures agree.

Throughout: `y` (n_samples,) is the true class, 0 or 1. `probability` (n_samples,) is that of class
1, in [0, 1].
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

LEVEL = 0.95  # of every interval
ECE_BINS = 15
NEWTON_STEPS = 25  # a solution needs about six; labels that separate have none
MAX_LOGIT = 500.0
SINGULAR = 1e-9  # determinant of the information
MIN_PROBABILITY = 1e-7  # distance to 0 and 1 in the log loss; float32 has no closer one


def clip(probability: np.ndarray) -> np.ndarray:
    """Return probabilities with a finite log loss for either label, as float64."""
    return np.clip(probability.astype(np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)


def log_losses(y: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the log loss of each row (n_samples,), in nats."""
    p = clip(probability)
    return -np.where(y == 1, np.log(p), np.log1p(-p))


def expected_calibration_error(y: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean distance of probability and observed rate over 15 equal-width bins.

    In [0, 1]. Chance adds to it: compare it with `ece_by_chance`. A bootstrap interval would add
    the same noise again, and not hold the value of all rows.

    Source: Naeini et al. (2015), Obtaining well calibrated probabilities using Bayesian
    binning, doi:10.1609/aaai.v29i1.9602.
    """
    return float(np.abs(np.bincount(ece_bins(probability), weights=probability - y)).sum() / len(y))


def ece_by_chance(probability: np.ndarray) -> float:
    """Return the calibration error to expect of labels drawn by the probabilities.

    The gap of a bin is nearly normal then; the mean of its distance from 0 is √(2 / π) standard
    deviations.
    """
    p = probability.astype(np.float64)
    variances = np.bincount(ece_bins(p), weights=p * (1 - p))
    return float(np.sqrt(variances * 2 / np.pi).sum() / len(p))


def ece_bins(probability: np.ndarray) -> np.ndarray:
    """Return the bin of each probability (n_samples,)."""
    return np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)


def measure_calibration(
    y: np.ndarray, probability: np.ndarray
) -> dict[str, tuple[float, float, float]]:
    """Return excess, slope and intercept, each with the ends of its 95 % interval.

    excess: mean probability minus share of labels of 1. slope, intercept: of the logistic
    regression of the label on the logit of the probability. A calibrated model has 0, 1 and 0.
    The regression is left out if it has no solution, as with labels of one class.

    Source: Cox (1958), Two further applications of a model for binary regression,
    doi:10.1093/biomet/45.3-4.562.
    """
    p, reach = clip(probability), NormalDist().inv_cdf((1 + LEVEL) / 2)
    gaps = p - y
    found = {"excess": (float(gaps.mean()), reach * float(gaps.std()) / math.sqrt(len(y)))}
    columns = np.column_stack([np.ones(len(p)), np.log(p) - np.log1p(-p)])
    weights = np.array([0.0, 1.0])
    for _ in range(NEWTON_STEPS if 0 < y.sum() < len(y) and np.ptp(p) else 0):
        fitted = 1 / (1 + np.exp(-np.clip(columns @ weights, -MAX_LOGIT, MAX_LOGIT)))
        information = (columns.T * (fitted * (1 - fitted))) @ columns
        if np.linalg.det(information) < SINGULAR:
            break
        covariance = np.linalg.inv(information)
        step = covariance @ (columns.T @ (y - fitted))
        weights = weights + step
        if np.abs(step).max() < 1e-6:
            errors = reach * np.sqrt(covariance.diagonal())
            found["slope"] = float(weights[1]), float(errors[1])
            found["intercept"] = float(weights[0]), float(errors[0])
            break
    return {name: (value, value - far, value + far) for name, (value, far) in found.items()}


def percentile_interval(resampled: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % percentile bootstrap interval of an estimate per resample.

    A resample of few rows may lack a class, which some estimates need. It is nan and left out.
    Source: Efron (1979), doi:10.1214/aos/1176344552.
    """
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
