"""Calibrated probabilities and the decision threshold, both from out-of-fold scores.

SMOTE raises the share of the positive class, and with it every probability; two parameters on
the logit undo that, keep the ranking and fit into the graph as two multiplications.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

EDGE = 1e-7  # keeps the logit of a float32 probability finite


@dataclass(frozen=True)
class Platt:
    """Platt's scaling, p' = sigmoid(slope * logit(p) + intercept).

    Source: Platt (1999), Probabilistic outputs for support vector machines, in Advances in
    Large Margin Classifiers, MIT Press.
    """

    slope: float
    intercept: float

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n_samples,), in [0, 1]."""
        return self.of_margin(logit(np.clip(probability, EDGE, 1 - EDGE)))

    def of_margin(self, margin: np.ndarray) -> np.ndarray:
        """The same for raw log-odds (n_samples,), of which nothing was rounded away."""
        return expit(self.slope * margin + self.intercept)


def fit_platt(probability: np.ndarray, y: np.ndarray) -> Platt:
    """The scaling with the least log loss on out-of-fold probabilities (n_samples,)."""
    margin = logit(np.clip(probability.astype(np.float64), EDGE, 1 - EDGE))
    fitted = LogisticRegression(C=np.inf).fit(margin[:, None], y)
    return Platt(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


def best_f1_threshold(probability: np.ndarray, y: np.ndarray) -> float:
    """The threshold in [0, 1] that has the highest F1 on out-of-fold probabilities."""
    precision, recall, thresholds = precision_recall_curve(y, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])
