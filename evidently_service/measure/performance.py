"""How right the predictions are: measured where labels have come, estimated where they have not.

Takes columns of the window as arrays and gives values with their 95 % intervals. Throughout:
`label` (n_rows,), the true class, 0 or 1; `income_class` (n_rows,), the predicted class, 0 or 1;
`probability` (n_rows,) of class 1, in [0, 1]; the positive class is 1. Each call draws from the
same seed, so that the same rows have the same figures.

Cost: sorting, and RESAMPLES random numbers a row for each of the log loss and the estimate.
"""

from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np
from scipy import stats

from evidently_service.store.records import Confusion, Estimate, Interval, Quality

LEVEL = 0.95  # of every interval
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
RESAMPLES = 400  # ends of an interval then vary by a twentieth of its width
BLOCK = 1_000_000  # random numbers held at once: memory stays at some 20 MB whatever the window
ECE_BINS = 15  # as in training
NEAREST = 1e-7  # to 0 and 1 that a probability counts as in the log loss: float32 has no nearer one


def measure_quality(
    label: np.ndarray, income_class: np.ndarray, probability: np.ndarray
) -> Quality:
    """Every metric that these labels define, with its interval; at least one row.

    Without true or predicted rows of class 1, or of class 0, some metrics do not exist.
    """
    random = np.random.default_rng(0)
    counts = np.bincount(2 * label + income_class, minlength=4)
    losses = log_losses(label, probability)
    auc, auc_interval = roc_auc(label, probability)
    found = defined({**rates(*counts), "roc_auc": auc, "log_loss": losses.mean()})
    intervals: dict[str, Interval | None] = {**wilson_intervals(*map(int, counts))}
    intervals["roc_auc"] = auc_interval
    drawn = random.multinomial(len(label), counts / len(label), RESAMPLES).T
    intervals["f1"] = middle(rates(*drawn)["f1"])
    intervals["log_loss"] = middle(resampled_means(losses, random))
    return Quality(
        rows=len(label),
        **found,
        bounds=existing(found, intervals),
        confusion=Confusion(*map(int, counts)),
        calibration_error=expected_calibration_error(label, probability),
        calibration_excess=float(probability.mean() - label.mean()),
    )


def estimate_quality(income_class: np.ndarray, probability: np.ndarray) -> Estimate:
    """What the metrics will be if each probability is the chance of a label of 1; at least a row.

    The interval holds 95 of 100 values that labels drawn by these probabilities would give. Where
    the relation of features and income has changed (concept shift), the probabilities are wrong
    and this cannot see it; nor where rows are unlike all that the model was trained on.

    Source: confidence-based performance estimation (CBPE), NannyML's documentation, "Estimation of
    Performance of the Monitored Model" (nannyml.readthedocs.io); Bialek et al. (2024), Estimating
    model performance under covariate shift without labels, arXiv:2401.08348, section 2. The
    probabilities are calibrated in the model already; a row is not compared with itself.
    """
    chosen = income_class == 1
    found = defined(
        {
            **rates(
                (1 - probability)[~chosen].sum(),
                (1 - probability)[chosen].sum(),
                probability[~chosen].sum(),
                probability[chosen].sum(),
            ),
            "roc_auc": expected_auc(probability),
            "log_loss": expected_log_loss(probability),
        }
    )
    drawn = draw_metrics(income_class, probability, np.random.default_rng(0))
    intervals = {name: middle(values) for name, values in drawn.items()}
    return Estimate(len(probability), found, existing(found, intervals))


def estimation_error(estimate: Estimate, quality: Quality) -> dict[str, float]:
    """Estimated less measured, both of the same rows, by metric."""
    measured = {name: getattr(quality, name) for name in estimate.metrics}
    return {
        name: estimate.metrics[name] - value
        for name, value in measured.items()
        if value is not None
    }


# --- metrics --------------------------------------------------------------------------------------


def rates(tn: np.ndarray, fp: np.ndarray, fn: np.ndarray, tp: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of counts of true and false, negatives and positives; nan for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return {
            "accuracy": (tp + tn) / (tn + fp + fn + tp),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def log_losses(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The log loss of each row (n_rows,), in nats."""
    p = clipped(probability)
    return -np.where(label == 1, np.log(p), np.log1p(-p))


def expected_log_loss(probability: np.ndarray) -> float:
    """The mean log loss over labels drawn by the probabilities, in nats."""
    p = clipped(probability)
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).mean())


def expected_auc(probability: np.ndarray) -> float:
    """The chance that of two rows, one of each class by their probabilities, the higher is the 1.

    nan if the probabilities leave no doubt and all rows are of one class.
    """
    level = np.unique(probability, return_inverse=True)[1]
    ones, zeros = (np.bincount(level, weights=p) for p in (probability, 1 - probability))
    with_itself = (probability * (1 - probability)).sum()
    won = ones @ (np.cumsum(zeros) - zeros / 2) - with_itself / 2
    pairs = ones.sum() * zeros.sum() - with_itself
    return float(won / pairs) if pairs > 0 else float("nan")


def expected_calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean distance of probability and observed rate over 15 equal-width bins, in [0, 1].

    Source: Naeini et al. (2015), Obtaining well calibrated probabilities using Bayesian
    binning, doi:10.1609/aaai.v29i1.9602.
    """
    bins = np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)
    return float(np.abs(np.bincount(bins, weights=probability - label)).sum() / len(label))


# --- intervals ------------------------------------------------------------------------------------


def wilson_intervals(tn: int, fp: int, fn: int, tp: int) -> dict[str, Interval]:
    """The intervals of the metrics that are shares of rows, where there are such rows.

    Source: Wilson (1927), Probable inference, doi:10.1080/01621459.1927.10502953.
    """
    shares = {
        "accuracy": (tp + tn, tn + fp + fn + tp),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }
    found = {}
    for name, (right, rows) in shares.items():
        if rows:
            ends = stats.binomtest(right, rows).proportion_ci(LEVEL, method="wilson")
            found[name] = Interval(float(ends.low), float(ends.high))
    return found


def roc_auc(label: np.ndarray, probability: np.ndarray) -> tuple[float, Interval | None]:
    """The area under the ROC curve and its interval; nan unless there are two rows of each class.

    The interval is a point where the classes do not overlap at all. Source: DeLong et al. (1988),
    doi:10.2307/2531595, by ranks as in Sun & Xu (2014), doi:10.1109/LSP.2014.2337313.
    """
    ones, zeros = probability[label == 1], probability[label == 0]
    if min(len(ones), len(zeros)) < 2:
        return float("nan"), None
    ranks = stats.rankdata(np.concatenate([ones, zeros]))
    zeros_below = (ranks[: len(ones)] - stats.rankdata(ones)) / len(zeros)
    ones_above = 1 - (ranks[len(ones) :] - stats.rankdata(zeros)) / len(ones)
    auc = float(zeros_below.mean())
    variance = zeros_below.var(ddof=1) / len(ones) + ones_above.var(ddof=1) / len(zeros)
    reach = NormalDist().inv_cdf(ENDS[1]) * float(np.sqrt(variance))
    return auc, Interval(max(0.0, auc - reach), min(1.0, auc + reach))


def resampled_means(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Means over rows drawn with replacement (RESAMPLES,)."""
    n = len(values)
    return np.array([values[random.integers(0, n, n)].mean() for _ in range(RESAMPLES)])


def draw_metrics(
    income_class: np.ndarray, probability: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """The metrics (RESAMPLES,) of labels drawn by the probabilities; nan where undefined.

    Each metric follows from sums over the rows whose label is 1: so one product with the drawn
    labels (n_draws, n_rows) gives all of them.
    """
    p, n = clipped(probability), len(probability)
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
    """RESAMPLES rows of labels (n_draws, n_rows) as floats, some at a time."""
    at_once = max(1, BLOCK // len(probability))
    for start in range(0, RESAMPLES, at_once):
        size = (min(at_once, RESAMPLES - start), len(probability))
        yield (random.random(size) < probability).astype(float)


def middle(drawn: np.ndarray) -> Interval | None:
    """The ends of the middle 95 % of what exists of the values, if anything does.

    Source: Efron (1979), doi:10.1214/aos/1176344552.
    """
    drawn = drawn[~np.isnan(drawn)]
    if drawn.size == 0:
        return None
    low, high = np.quantile(drawn, ENDS)
    return Interval(float(low), float(high))


def clipped(probability: np.ndarray) -> np.ndarray:
    """Probabilities that have a finite log loss whatever the label."""
    return np.clip(probability, NEAREST, 1 - NEAREST)


def defined(values: Mapping[str, float | np.ndarray]) -> dict[str, float]:
    """The values that exist."""
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def existing(
    values: Mapping[str, float], intervals: Mapping[str, Interval | None]
) -> dict[str, Interval]:
    """The intervals that exist of the values that do."""
    return {name: found for name in values if (found := intervals.get(name)) is not None}
