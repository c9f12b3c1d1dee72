"""Measure the quality of predictions from labels, and estimate it where labels are missing.

Arrays in, values with 95 % intervals out. Throughout: `label` (n_rows,), the true class, 0 or 1;
`income_class` (n_rows,), the predicted class, 0 or 1; `probability` (n_rows,) of class 1, in
[0, 1]; the positive class is 1. Each call uses the same seed, so equal rows give equal figures.

Cost: a sort, and RESAMPLES random numbers a row for the log loss and again for the estimate.
"""

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from config.runtime import statistics
from config.runtime.statistics import (
    LEVEL,
    MIN_PROBABILITY,
    clip,
    ece_by_chance,
    expected_calibration_error,
    log_losses,
    measure_calibration,
)
from evidently_service.store.records import Confusion, Estimate, Interval, Quality

FLOOR_ERRORS = 3  # standard errors between the reference data's ROC AUC and its floor
CHANCE = 0.5  # ROC AUC without skill
RESAMPLES = 400  # the ends of an interval then vary by a twentieth of its width
MIN_CLASS_LABELS = 30  # with fewer of a class the interval of the ROC AUC is too short
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
    for name, (value, *ends) in measure_calibration(label, probability).items():
        metrics[f"calibration_{name}"] = value
        intervals[f"calibration_{name}"] = Interval(*ends)
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
        calibration_error_by_chance=ece_by_chance(probability),
    )


def estimate_quality(
    income_class: np.ndarray, probability: np.ndarray, *, spread: Mapping[str, float] | None = None
) -> Estimate:
    """Return the metrics to expect if each probability is the chance of a label of 1.

    At least one row. An interval holds 95 % of the values over labels drawn by these
    probabilities, widened by `spread`: by metric, the standard error of the estimate that
    `segments.estimation_spread` found for such groups. It leaves out concept shift, which makes
    the probabilities wrong, and errors in groups that are not segments of the contract. Nor is
    the estimate reliable for rows unlike all training rows.

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
    bounds = defined_bounds(metrics, intervals)
    if spread:
        bounds = {
            name: widened(metrics[name], one, spread.get(name, 0.0)) for name, one in bounds.items()
        }
    return Estimate(len(probability), metrics, bounds)


def estimation_error(estimate: Estimate, quality: Quality) -> dict[str, float]:
    """Return estimated minus measured for each metric that both have; both of the same rows."""
    measured = {name: getattr(quality, name) for name in estimate.metrics}
    return {
        name: estimate.metrics[name] - value
        for name, value in measured.items()
        if value is not None
    }


# --- concept shift --------------------------------------------------------------------------------


def concept_shift_scores(
    label: np.ndarray, probability: np.ndarray, reference: np.ndarray, limit: float
) -> dict[str, float]:
    """Return how far the labels contradict the probabilities; a score above 1 is concept shift.

    Each score is a z-score divided by `limit`. Which rows have labels does not matter: labels are
    compared with the probabilities of the same rows.

    - `roc_auc`: the measured ROC AUC is below its estimate (CBPE), on the logit scale. Absent
      with fewer than MIN_CLASS_LABELS of a class.
    - `calibration`: the labels of 1 are more or fewer than the sum of the probabilities. Its
      standard deviation includes what `reference` (n_reference,), the probabilities of the
      reference data, leaves open about the model's calibration.
    """
    p, n = clip(probability), len(probability)
    variances, known = p * (1 - p), clip(reference)
    open_error = n * math.sqrt((known * (1 - known)).sum()) / len(known)
    z = float((label - p).sum()) / math.hypot(math.sqrt(variances.sum()), open_error)
    # Of rare labels many more than expected come by chance more often than many fewer.
    skewness = float((variances * (1 - 2 * p)).sum() / variances.sum() ** 1.5)
    scores = {"calibration": abs(z - skewness * (z**2 - 1) / 6) / limit}
    if min(label.sum(), n - label.sum()) >= MIN_CLASS_LABELS:
        auc, error = roc_auc_error(label, probability)
        auc, expected = (np.clip(one, MIN_PROBABILITY, 1) for one in (auc, expected_auc(p)))
        if auc < 1:
            error = max(error, MIN_PROBABILITY) / (auc * (1 - auc))  # on the logit scale
            scores["roc_auc"] = float((logit(expected) - logit(auc)) / error) / limit
    return scores


def z_limit(false_alarms: float, windows: float, ends: int = 3) -> float:
    """Return the limit of the z-scores that chance exceeds `false_alarms` times in `windows`.

    The newest labels are a sliding window that is looked at again with each label. Such a score
    exceeds a high limit z about z φ(z) times while the window slides by its own length, where φ is
    the density of the normal distribution. `ends` are watched. Those of concept shift are a low ROC
    AUC, and too many or too few labels of 1.

    Source: Pickands (1969), Upcrossing probabilities for stationary Gaussian processes,
    doi:10.1090/S0002-9947-1969-0250367-X.
    """
    rate, z = false_alarms / (ends * windows), 3.0
    for _ in range(50):  # a fixed point of z φ(z) = rate
        z = math.sqrt(max(1.0, 2 * math.log(z / (rate * math.sqrt(2 * math.pi)))))
    return z


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
    overlap. Elsewhere it is DeLong's on the logit scale, where the distribution of the area is
    even on both sides: on the scale of the area, 200 labels miss the truth mostly on one side.
    """
    auc, error = roc_auc_error(label, probability)
    if np.isnan(auc):
        return auc, None
    if auc in (0, 1):
        return auc, Interval(auc, auc)
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * error / (auc * (1 - auc))
    return auc, Interval(*(float(end) for end in expit(logit(auc) + np.array([-reach, reach]))))


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


def widened(value: float, interval: Interval, standard_error: float) -> Interval:
    """Return an interval with an independent error added to that of its ends, within [0, 1].

    The log loss alone may be above 1, and keeps its upper end there.
    """
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * standard_error
    lower = value - math.hypot(value - interval.lower, reach)
    upper = value + math.hypot(interval.upper - value, reach)
    return Interval(max(0.0, lower), max(min(1.0, upper), interval.upper))


def without_nan(values: Mapping[str, float | np.ndarray]) -> dict[str, float]:
    """Return the values that are defined."""
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def defined_bounds(
    metrics: Mapping[str, float], intervals: Mapping[str, Interval | None]
) -> dict[str, Interval]:
    """Return the intervals that are defined, of the metrics that are defined."""
    return {name: found for name in metrics if (found := intervals.get(name)) is not None}
