"""Metrics of a model, by segment and with intervals, and the plots of a run."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from config.runtime.statistics import expected_calibration_error, percentile_interval
from config.segments import Segment

matplotlib.use("Agg")  # no display on a server

RESAMPLES = 200  # of the metrics' intervals


def measure(y: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, float]:
    """Return the metrics of probabilities (n_samples,) against labels (n_samples,)."""
    predicted = probability >= threshold
    probability = probability.astype(np.float64)
    return {
        "roc_auc": float(roc_auc_score(y, probability)),
        "log_loss": float(log_loss(y, probability)),
        "brier": float(brier_score_loss(y, probability)),
        "ece": expected_calibration_error(y, probability),
        "accuracy": float(accuracy_score(y, predicted)),
        "precision": float(precision_score(y, predicted, zero_division=0)),
        "recall": float(recall_score(y, predicted)),
        "f1": float(f1_score(y, predicted)),
    }


def groups_of(frame: pd.DataFrame, segments: Sequence[Segment]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (column and group, mask of rows) for each group in the frame, in contract order."""
    for segment in segments:
        if segment.name in frame:
            group_of_row = segment.frame_groups(frame[segment.name].to_numpy())
            for group in segment.groups:
                if (rows := group_of_row == group).any():
                    yield f"{segment.name} {group}", rows


def bootstrap_intervals(
    y: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of each metric of `measure` but ECE, over resampled rows.

    A resample is a count for each row: `measure` on the drawn rows takes 50 times as long.
    """
    random, n = np.random.default_rng(seed), len(y)
    roc_auc = weighted_auc(y, probability)
    measured = []
    for _ in range(resamples):
        counts = np.bincount(random.integers(0, n, n), minlength=n).astype(float)
        metrics = counted_metrics(y, probability.astype(np.float64), threshold, counts)
        measured.append({"roc_auc": roc_auc(counts), **metrics})
    return {name: percentile_interval([one[name] for one in measured]) for name in measured[0]}


def counted_metrics(
    y: np.ndarray, probability: np.ndarray, threshold: float, counts: np.ndarray
) -> dict[str, float]:
    """Return the metrics of `measure` except ROC AUC and ECE; row i occurs `counts[i]` times."""
    n, positive = counts.sum(), (counts * y).sum()
    predicted = probability >= threshold
    selected, true_positive = counts[predicted].sum(), (counts * y)[predicted].sum()
    likelihood = np.maximum(np.where(y == 1, probability, 1 - probability), sys.float_info.epsilon)
    return {
        "log_loss": -counts @ np.log(likelihood) / n,
        "brier": counts @ (probability - y) ** 2 / n,
        "accuracy": counts[predicted == y].sum() / n,
        "precision": true_positive / max(selected, 1),
        "recall": true_positive / positive if positive else math.nan,
        "f1": 2 * true_positive / (selected + positive) if selected + positive else math.nan,
    }


def weighted_auc(y: np.ndarray, probability: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the ROC AUC as a function of row weights (n_samples,); it sorts the rows once.

    nan if the rows of a class have no weight.
    """
    order = np.argsort(probability, kind="stable")
    positive = y[order] == 1
    starts = np.flatnonzero(np.r_[True, np.diff(probability[order]) > 0])  # ties share a rank

    def auc(weight: np.ndarray) -> float:
        sorted_weight = weight[order]
        up = np.add.reduceat(np.where(positive, sorted_weight, 0), starts)
        down = np.add.reduceat(np.where(positive, 0, sorted_weight), starts)
        below = np.cumsum(down) - down / 2
        pairs = up.sum() * down.sum()
        return float((up * below).sum() / pairs) if pairs else math.nan

    return auc


class Scores(NamedTuple):
    """A version's probabilities (n_samples,) of labelled rows, for its plots."""

    version: str
    y: np.ndarray
    probability: np.ndarray
    threshold: float
    labels: tuple[str, str]  # names of the negative and the positive class

    @property
    def predicted(self) -> np.ndarray:
        """The predicted classes (n_samples,), 0 or 1."""
        return (self.probability >= self.threshold).astype(int)


def draw_plots(scores: Scores, importances: pd.Series) -> Iterator[tuple[str, Figure]]:
    """Yield (name, figure) of ROC, precision-recall, calibration, confusion and importances."""
    y, probability = scores.y, scores.probability
    for name, draw in (
        ("roc", draw_roc),
        ("precision_recall", draw_precision_recall),
        ("calibration", lambda ax, _: draw_calibration(ax, y, probability, scores.labels[1])),
        ("confusion", draw_confusion),
        ("importances", lambda ax, _: draw_importances(ax, importances)),
    ):
        figure = Figure(figsize=(7, 6), layout="constrained")
        axes = figure.add_subplot()
        draw(axes, scores)
        axes.set_title(
            f"{name.replace('_', ' ')} of version {scores.version} on {len(y):,} test rows\n"
            f"base rate of {scores.labels[1]} {y.mean():.3f}, threshold {scores.threshold:.3f}",
            fontsize="medium",
        )
        yield name, figure


def draw_roc(axes: matplotlib.axes.Axes, scores: Scores) -> None:
    """Draw the ROC curve with the point of the threshold, and the line of chance."""
    y, predicted = scores.y, scores.predicted
    RocCurveDisplay.from_predictions(y, scores.probability, ax=axes, plot_chance_level=True)
    mark_threshold(axes, predicted[y == 0].mean(), predicted[y == 1].mean(), scores.threshold)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")


def draw_precision_recall(axes: matplotlib.axes.Axes, scores: Scores) -> None:
    """Draw precision against recall with the point of the threshold, and the base rate."""
    y, predicted = scores.y, scores.predicted
    PrecisionRecallDisplay.from_predictions(y, scores.probability, ax=axes, plot_chance_level=True)
    axes.lines[-1].set_label(f"base rate {y.mean():.3f}")
    recall, precision = recall_score(y, predicted), precision_score(y, predicted, zero_division=0)
    mark_threshold(axes, recall, precision, scores.threshold)
    axes.set(xlabel="recall", ylabel="precision")


def mark_threshold(axes: matplotlib.axes.Axes, x: float, y: float, threshold: float) -> None:
    """Mark the point of a curve at the served threshold."""
    axes.plot(x, y, "o", color="tab:red", label=f"served threshold {threshold:.3f}")
    axes.legend(loc="best")


def draw_calibration(
    axes: matplotlib.axes.Axes, y: np.ndarray, probability: np.ndarray, positive: str
) -> None:
    """Draw the observed rate against the mean probability in ten bins of equal count."""
    order = np.array_split(np.argsort(probability), min(10, len(y)))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot([probability[i].mean() for i in order], [y[i].mean() for i in order], marker="o")
    axes.set(xlabel="mean probability", ylabel=f"observed share of {positive}")


def draw_confusion(axes: matplotlib.axes.Axes, scores: Scores) -> None:
    """Draw the counts of true against predicted class."""
    ConfusionMatrixDisplay.from_predictions(
        scores.y, scores.predicted, display_labels=scores.labels, ax=axes, colorbar=False
    )
    axes.set(xlabel="predicted class (rows)", ylabel="true class (rows)")


def draw_importances(axes: matplotlib.axes.Axes, importances: pd.Series) -> None:
    """Draw XGBoost's importance of encoded columns: the mean gain of a split, as a share."""
    importances.sort_values().plot.barh(
        ax=axes, xlabel="mean gain of a split, share of all columns"
    )
