"""Calibrated probabilities and the decision threshold, both fitted on out-of-fold scores.

SMOTE raises the share of the positive class and so every probability. Two parameters on the logit
correct that, keep the ranking and add two nodes to the graph.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

MIN_DISTANCE = 1e-7  # from 0 and 1: keeps the logit of a float32 probability finite


@dataclass(frozen=True)
class Platt:
    """Platt's scaling, p' = sigmoid(slope * logit(p) + intercept).

    Source: Platt (1999), Probabilistic outputs for support vector machines, in Advances in
    Large Margin Classifiers, MIT Press.
    """

    slope: float
    intercept: float

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n_samples,), in [0, 1]."""
        return self.of_margin(logit(np.clip(probability, MIN_DISTANCE, 1 - MIN_DISTANCE)))

    def of_margin(self, margin: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities for raw log-odds (n_samples,), without rounding."""
        return expit(self.slope * margin + self.intercept)

    def then(self, second: "Platt") -> "Platt":
        """Return the scaling that applies this one and then a second one."""
        slope, intercept = second.slope, second.intercept
        return Platt(slope * self.slope, slope * self.intercept + intercept)


def fit_platt(probability: np.ndarray, y: np.ndarray) -> Platt:
    """Return the scaling with minimum log loss on out-of-fold probabilities (n_samples,)."""
    margin = logit(np.clip(probability.astype(np.float64), MIN_DISTANCE, 1 - MIN_DISTANCE))
    fitted = LogisticRegression(C=np.inf).fit(margin[:, None], y)
    return Platt(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


def best_f1_threshold(probability: np.ndarray, y: np.ndarray) -> float:
    """Return the threshold in [0, 1] with the highest F1 on out-of-fold probabilities."""
    precision, recall, thresholds = precision_recall_curve(y, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])
