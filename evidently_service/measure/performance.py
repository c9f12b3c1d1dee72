"""Measure the quality of predictions from labels, and estimate it where labels are missing.

Arrays in, values with 95 % intervals out. Throughout: `label` (n_rows,), the true class, 0 or 1;
`income_class` (n_rows,), the predicted class, 0 or 1; `probability` (n_rows,) of class 1, in
[0, 1]; the positive class is 1. Each call uses the same seed, so equal rows give equal figures.

Cost: a sort, and RESAMPLES random numbers a row for the log loss and again for the estimate.
"""

from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np
from scipy import stats

from config.runtime import statistics
from config.runtime.statistics import (
    LEVEL,
    clip,
    expected_calibration_error,
    log_losses,
)
from evidently_service.store.records import Confusion, Estimate, Interval, Quality

FLOOR_ERRORS = 3  # standard errors between the reference data's ROC AUC and its floor
CHANCE = 0.5  # ROC AUC without skill
RESAMPLES = 400  # the ends of an interval then vary by a twentieth of its width
BLOCK = 1_000_000  # random numbers held at once: about 20 MB for a window of any size


def measure_quality(
    label: np.ndarray, income_class: np.ndarray, probability: np.ndarray
) -> Quality:
    """Return every metric that the labels define, with its interval; at least one row.

    Some metrics are undefined without true or predicted rows of both classes.
    """
    random = np.random.default_rng(0)
    counts = np.bincount(2 * label + income_class, minlength=4)
    losses = log_losses(label, probability)
    auc, auc_interval = roc_auc(label, probability)
    metrics = without_nan({**rates(*counts), "roc_auc": auc, "log_loss": losses.mean()})
    intervals: dict[str, Interval | None] = {**wilson_intervals(*map(int, counts))}
    intervals["roc_auc"] = auc_interval
    drawn = random.multinomial(len(label), counts / len(label), RESAMPLES).T
    intervals["f1"] = percentile_interval(rates(*drawn)["f1"])
    intervals["log_loss"] = percentile_interval(resampled_means(losses, random))
    return Quality(
        rows=len(label),
        **metrics,
        bounds=defined_bounds(metrics, intervals),
        confusion=Confusion(*map(int, counts)),
        calibration_error=expected_calibration_error(label, probability),
        calibration_excess=float(probability.mean() - label.mean()),
    )


def estimate_quality(income_class: np.ndarray, probability: np.ndarray) -> Estimate:
    """Return the metrics to expect if each probability is the chance of a label of 1.

    At least one row. An interval holds 95 % of the values over labels drawn by these
    probabilities. The estimate cannot see concept shift, which makes the probabilities wrong. Nor
    is it reliable for rows unlike all training rows.

    Source: confidence-based performance estimation (CBPE), NannyML's documentation, "Estimation of
    Performance of the Monitored Model" (nannyml.readthedocs.io); Bialek et al. (2024), Estimating
    model performance under covariate shift without labels, arXiv:2401.08348, section 2. Unlike
    there, the model is calibrated already, and a row is not compared with itself.
    """
    positive = income_class == 1
    metrics = without_nan(
        {
            **rates(
                (1 - probability)[~positive].sum(),
                (1 - probability)[positive].sum(),
                probability[~positive].sum(),
                probability[positive].sum(),
            ),
            "roc_auc": expected_auc(probability),
            "log_loss": expected_log_loss(probability),
        }
    )
    drawn = draw_metrics(income_class, probability, np.random.default_rng(0))
    intervals = {name: percentile_interval(values) for name, values in drawn.items()}
    return Estimate(len(probability), metrics, defined_bounds(metrics, intervals))


def estimation_error(estimate: Estimate, quality: Quality) -> dict[str, float]:
    """Return estimated minus measured for each metric that both have; both of the same rows."""
    measured = {name: getattr(quality, name) for name in estimate.metrics}
    return {
        name: estimate.metrics[name] - value
        for name, value in measured.items()
        if value is not None
    }


# --- metrics --------------------------------------------------------------------------------------


def rates(tn: np.ndarray, fp: np.ndarray, fn: np.ndarray, tp: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics of true and false negatives and positives; nan for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return {
            "accuracy": (tp + tn) / (tn + fp + fn + tp),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def expected_log_loss(probability: np.ndarray) -> float:
    """Return the mean log loss over labels drawn by the probabilities, in nats."""
    p = clip(probability)
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).mean())


def expected_auc(probability: np.ndarray) -> float:
    """Return the expected area under the ROC curve, over labels drawn by the probabilities.

    nan if all probabilities are certain and of one class.
    """
    level = np.unique(probability, return_inverse=True)[1]
    ones, zeros = (np.bincount(level, weights=p) for p in (probability, 1 - probability))
    with_itself = (probability * (1 - probability)).sum()
    won = ones @ (np.cumsum(zeros) - zeros / 2) - with_itself / 2
    pairs = ones.sum() * zeros.sum() - with_itself
    return float(won / pairs) if pairs > 0 else float("nan")


# --- intervals ------------------------------------------------------------------------------------


def wilson_intervals(tn: int, fp: int, fn: int, tp: int) -> dict[str, Interval]:
    """Return the intervals of the metrics that are shares of rows, if there are such rows.

    Source: Wilson (1927), Probable inference, doi:10.1080/01621459.1927.10502953.
    """
    shares = {
        "accuracy": (tp + tn, tn + fp + fn + tp),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }
    intervals = {}
    for name, (right, rows) in shares.items():
        if rows:
            ends = stats.binomtest(right, rows).proportion_ci(LEVEL, method="wilson")
            intervals[name] = Interval(float(ends.low), float(ends.high))
    return intervals


def roc_auc(label: np.ndarray, probability: np.ndarray) -> tuple[float, Interval | None]:
    """Return the area under the ROC curve and its interval.

    nan unless each class has at least two rows. The interval is a point if the classes do not
    overlap.
    """
    auc, error = roc_auc_error(label, probability)
    if np.isnan(auc):
        return auc, None
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    return auc, Interval(max(0.0, auc - reach), min(1.0, auc + reach))


def roc_auc_floor(label: np.ndarray, probability: np.ndarray, rows: int) -> float:
    """Return the ROC AUC below which a version is worse than on its own reference data.

    label, probability: of the reference data, predicted out of fold. The floor is three standard
    errors of `rows` such rows below its ROC AUC, and at least that of chance.
    """
    auc, error = roc_auc_error(label, probability)
    if np.isnan(auc):
        return CHANCE
    return max(CHANCE, auc - FLOOR_ERRORS * error * float(np.sqrt(len(label) / rows)))


def roc_auc_error(label: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error.

    nan unless each class has at least two rows. Source: DeLong et al. (1988), doi:10.2307/2531595,
    by ranks as in Sun & Xu (2014), doi:10.1109/LSP.2014.2337313.
    """
    ones, zeros = probability[label == 1], probability[label == 0]
    if min(len(ones), len(zeros)) < 2:
        return float("nan"), float("nan")
    ranks = stats.rankdata(np.concatenate([ones, zeros]))
    zeros_below = (ranks[: len(ones)] - stats.rankdata(ones)) / len(zeros)
    ones_above = 1 - (ranks[len(ones) :] - stats.rankdata(zeros)) / len(ones)
    auc = float(zeros_below.mean())
    variance = zeros_below.var(ddof=1) / len(ones) + ones_above.var(ddof=1) / len(zeros)
    return auc, float(np.sqrt(variance))


def resampled_means(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the means of rows drawn with replacement (RESAMPLES,)."""
    n = len(values)
    return np.array([values[random.integers(0, n, n)].mean() for _ in range(RESAMPLES)])


def draw_metrics(
    income_class: np.ndarray, probability: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return each metric (RESAMPLES,) for labels drawn by the probabilities; nan if undefined.

    Each metric follows from sums over the rows with a label of 1. So one product with the drawn
    labels (n_draws, n_rows) gives all of them.
    """
    p, n = clip(probability), len(probability)
    of_ones = [np.ones(n), income_class, stats.rankdata(probability), np.log(p) - np.log1p(-p)]
    table = np.column_stack(of_ones)
    sums = np.concatenate([labels @ table for labels in drawn_labels(probability, random)])
    ones, tp, ranks, log_odds = sums.T
    fp = income_class.sum() - tp
    with np.errstate(invalid="ignore"):
        auc = (ranks - ones * (ones + 1) / 2) / (ones * (n - ones))
    log_loss = -(np.log1p(-p).sum() + log_odds) / n
    return {**rates(n - ones - fp, fp, ones - tp, tp), "roc_auc": auc, "log_loss": log_loss}


def drawn_labels(probability: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield RESAMPLES draws of labels in blocks (n_draws, n_rows), as floats."""
    at_once = max(1, BLOCK // len(probability))
    for start in range(0, RESAMPLES, at_once):
        size = (min(at_once, RESAMPLES - start), len(probability))
        yield (random.random(size) < probability).astype(float)


def percentile_interval(drawn: np.ndarray) -> Interval | None:
    """Return the interval of the values that are not nan, or None without any."""
    drawn = drawn[~np.isnan(drawn)]
    return Interval(*statistics.percentile_interval(drawn)) if drawn.size else None


def without_nan(values: Mapping[str, float | np.ndarray]) -> dict[str, float]:
    """Return the values that are defined."""
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def defined_bounds(
    metrics: Mapping[str, float], intervals: Mapping[str, Interval | None]
) -> dict[str, Interval]:
    """Return the intervals that are defined, of the metrics that are defined."""
    return {name: found for name in metrics if (found := intervals.get(name)) is not None}
