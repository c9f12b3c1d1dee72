"""Measured and estimated quality: calculated by hand, and checked by simulation."""

import math
import tracemalloc

import numpy as np
import pytest
from sklearn import metrics

from evidently_service.store.records import Confusion, Estimate, Interval, Quality
from evidently_service.measure.performance import (
    concept_shift_scores,
    estimate_quality,
    estimation_error,
    measure_quality,
    roc_auc,
    roc_auc_error,
    roc_auc_floor,
    wilson_intervals,
    z_limit,
)

NAMES = ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss")
Window = tuple[np.ndarray, np.ndarray, np.ndarray]


def calibrated(rows: int, seed: int, ones: float = 1.0) -> Window:
    """Return labels drawn by their probabilities, classes with threshold 0.4, probabilities."""
    random = np.random.default_rng(seed)
    probability = random.beta(ones, 2, rows)
    label = (random.random(rows) < probability).astype(int)
    return label, (probability >= 0.4).astype(int), probability


def values(quality: Quality) -> dict[str, float]:
    """Return each defined metric."""
    return {name: value for name in NAMES if (value := getattr(quality, name)) is not None}


def test_the_metrics_are_those_of_scikit_learn() -> None:
    label, income_class, probability = calibrated(3000, seed=1)
    probability = probability.round(2).clip(0.01, 0.99)  # with ties
    quality = measure_quality(label, income_class, probability)
    assert quality.accuracy == pytest.approx(metrics.accuracy_score(label, income_class))
    assert quality.precision == pytest.approx(metrics.precision_score(label, income_class))
    assert quality.recall == pytest.approx(metrics.recall_score(label, income_class))
    assert quality.f1 == pytest.approx(metrics.f1_score(label, income_class))
    assert quality.roc_auc == pytest.approx(metrics.roc_auc_score(label, probability))
    assert quality.log_loss == pytest.approx(metrics.log_loss(label, probability))
    assert quality.rows == 3000
    assert quality.confusion == Confusion(*metrics.confusion_matrix(label, income_class).ravel())
    assert {*NAMES, "calibration_excess", "calibration_slope"} < set(quality.bounds)


def test_calibration_calculated_by_hand() -> None:
    """Bins of 1/15: of two rows at 0.05 one is a 1, of two at 0.95 both are."""
    label, probability = np.array([0, 1, 1, 1]), np.array([0.05, 0.05, 0.95, 0.95])
    quality = measure_quality(label, (probability > 0.5).astype(int), probability)
    assert quality.calibration_error == pytest.approx((0.9 + 0.1) / 4)
    assert quality.calibration_error_by_chance == pytest.approx(
        2 * math.sqrt(2 * 0.05 * 0.95 * 2 / math.pi) / 4
    )
    assert quality.calibration_excess == pytest.approx(0.5 - 0.75)
    assert quality.calibration_slope is None  # one of two slopes is infinite


def test_a_metric_undefined_by_labels_of_one_class_is_none() -> None:
    label, probability = np.array([0, 0, 0]), np.array([0.1, 0.2, 0.6])
    quality = measure_quality(label, np.array([0, 0, 1]), probability)
    assert values(quality) == pytest.approx(
        {
            "accuracy": 2 / 3,
            "precision": 0,
            "f1": 0,
            "log_loss": -(math.log(0.9) + math.log(0.8) + math.log(0.4)) / 3,
        }
    )
    assert set(quality.bounds) == {"accuracy", "precision", "f1", "log_loss", "calibration_excess"}


def test_a_certain_and_wrong_probability_has_a_finite_log_loss() -> None:
    quality = measure_quality(np.array([1, 0]), np.array([0, 0]), np.array([0.0, 0.0]))
    assert quality.log_loss == pytest.approx(-math.log(1e-7) / 2)


def test_wilsons_intervals_calculated_by_hand() -> None:
    """6 of 8 right; with z = 1.95996: (0.75 + z²/16 ± z √(0.75·0.25/8 + z²/256)) / (1 + z²/8)."""
    found = wilson_intervals(3, 1, 1, 3)
    assert found["accuracy"].lower == pytest.approx(0.40928, abs=1e-5)
    assert found["accuracy"].upper == pytest.approx(0.92852, abs=1e-5)
    assert set(wilson_intervals(3, 0, 1, 0)) == {"accuracy", "recall"}  # nothing predicted 1


def test_delongs_interval_calculated_by_hand() -> None:
    """The shares of zeros below each one are 1 and 1/2, of ones above each zero 1/2 and 1.

    So both variances are 1/8, and that of the area is 1/8 / 2 + 1/8 / 2 = 1/8. On the logit scale
    the area is ln 3, and its standard error is that of the area, divided by 3/4 * 1/4.
    """
    auc, interval = roc_auc(np.array([1, 1, 0, 0]), np.array([0.9, 0.6, 0.7, 0.1]))
    assert interval is not None
    assert auc == pytest.approx(3 / 4)
    reach = 1.95996 * math.sqrt(1 / 8) / (3 / 16)
    assert interval.lower == pytest.approx(1 / (1 + math.exp(reach) / 3), abs=1e-5)
    assert interval.upper == pytest.approx(1 / (1 + math.exp(-reach) / 3), abs=1e-5)


def test_the_interval_of_a_perfect_ranking_is_a_point() -> None:
    label, probability = np.array([1, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1])
    assert roc_auc(label, probability) == (1.0, Interval(1.0, 1.0))
    assert roc_auc(1 - label, probability) == (0.0, Interval(0.0, 0.0))


def test_the_interval_of_the_roc_auc_misses_as_often_below_as_above() -> None:
    """On the scale of the area itself, 39 of these intervals lay above the truth and 3 below."""
    truth = roc_auc(*calibrated(400_000, 0, ones=0.3)[::2])[0]
    found = [roc_auc(*calibrated(200, seed, ones=0.3)[::2])[1] for seed in range(1, 501)]
    above = sum(one is not None and one.lower > truth for one in found)
    below = sum(one is not None and one.upper < truth for one in found)
    assert 3 <= above <= 25 and 3 <= below <= 25  # of 500, 12.5 are expected on each side


def test_the_floor_is_three_standard_errors_of_that_many_labels_below_the_reference() -> None:
    label, probability = np.array([1, 1, 0, 0] * 500), np.array([0.9, 0.6, 0.7, 0.1] * 500)
    auc, error = roc_auc_error(label, probability)
    of_200 = error * np.sqrt(2000 / 200)
    assert roc_auc_floor(label, probability, 200) == pytest.approx(auc - 3 * of_200, abs=1e-4)
    assert roc_auc_floor(label, probability, 10) == 0.5  # never below chance
    assert roc_auc_floor(label[:1], probability[:1], 200) == 0.5  # one class has no ROC AUC


def test_an_interval_contains_the_true_value_19_times_in_20() -> None:
    """The truth is measured on 400,000 rows, and compared with 120 windows of 500 rows."""
    truth = values(measure_quality(*calibrated(400_000, seed=0)))
    found = [measure_quality(*calibrated(500, seed)).bounds for seed in range(1, 121)]
    held = {name: sum(within(one[name], truth[name]) for one in found) for name in NAMES}
    # Of 120, 114 are expected with a standard deviation of 2.4.
    assert all(106 <= count < 120 for count in held.values()), held


def test_the_same_rows_have_the_same_figures() -> None:
    window = calibrated(700, seed=3)
    assert measure_quality(*window) == measure_quality(*window)
    assert estimate_quality(*window[1:]) == estimate_quality(*window[1:])


# --- concept shift --------------------------------------------------------------------------------

LIMIT = z_limit(1, 2880)  # the monitoring file's: one false alarm a month, a window in 15 minutes


def scores(label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return the scores with reference data of 5,000 rows."""
    reference = calibrated(5000, 99, ones=0.3)[2]
    return concept_shift_scores(label, probability, reference, LIMIT)


def test_the_limit_is_exceeded_as_often_as_the_budget_allows() -> None:
    """Each of three ends is exceeded 2,880 z φ(z) times in 2,880 windows, so in all once."""
    density = math.exp(-(LIMIT**2) / 2) / math.sqrt(2 * math.pi)
    assert 3 * 2880 * LIMIT * density == pytest.approx(1)
    assert z_limit(1000, 1) == 1  # more than chance gives


def test_scores_calculated_by_hand() -> None:
    """100 rows at 0.5 with 60 labels of 1: z = 10 / √(25 + 10,000 · 1/4 / 400) = 10 / √31.25."""
    label = np.array([1] * 60 + [0] * 40)
    found = concept_shift_scores(label, np.full(100, 0.5), np.full(400, 0.5), limit=2.0)
    assert found == pytest.approx({"calibration": 10 / math.sqrt(31.25) / 2, "roc_auc": 0})


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_contradict_the_probabilities_are_found(seed: int) -> None:
    """The ROC AUC floor detected 5 % flipped labels in 1 % of windows, and doubled odds never."""
    label, _, probability = calibrated(1000, seed, ones=0.3)
    random = np.random.default_rng(seed)
    of_specialists = random.random(1000) < 0.13
    for flipped in (random.random(1000) < 0.05, of_specialists):
        assert scores(np.where(flipped, 1 - label, label), probability)["roc_auc"] > 1
    odds = 2 * probability / (1 - probability)
    doubled = (random.random(1000) < odds / (1 + odds)).astype(int)
    assert scores(doubled, probability)["calibration"] > 1


def test_healthy_labels_are_no_concept_shift_whichever_rows_have_them() -> None:
    """Labels for predicted positives alone have a ROC AUC of 0.65. They once started trainings."""
    found, aucs = [], []
    for seed in range(100):
        label, income_class, probability = calibrated(1000, seed, ones=0.3)
        selected = income_class == 1
        found += [scores(label, probability), scores(label[selected], probability[selected])]
        aucs.append(roc_auc(label[selected], probability[selected])[0])
    assert max(max(one.values()) for one in found) < 1
    assert np.mean(aucs) == pytest.approx(0.65, abs=0.02)


def test_many_labels_of_a_rare_class_are_not_more_often_concept_shift() -> None:
    """Of two expected labels of 1, eight are 4.3 standard deviations away, and come in one window
    of a thousand.
    """
    label, probability = np.array([1] * 8 + [0] * 192), np.full(200, 0.01)
    found = concept_shift_scores(label, probability, np.full(5000, 0.01), LIMIT)
    assert found.keys() == {"calibration"}  # too few labels of 1 for the ROC AUC
    assert found["calibration"] < 1


# --- estimated ------------------------------------------------------------------------------------


def test_an_estimate_calculated_by_hand() -> None:
    """Expected: 0.9 + 0.6 true and 0.1 + 0.4 false positives, 0.2 false and 0.8 true negatives."""
    estimate = estimate_quality(np.array([1, 1, 0]), np.array([0.9, 0.6, 0.2]))
    won, lost = 0.9 * 0.4 + 0.9 * 0.8 + 0.6 * 0.8, 0.6 * 0.1 + 0.2 * 0.1 + 0.2 * 0.4
    surprise = [p * math.log(p) + (1 - p) * math.log(1 - p) for p in (0.9, 0.6, 0.2)]
    assert estimate.rows == 3
    assert estimate.metrics == pytest.approx(
        {
            "accuracy": 2.3 / 3,
            "precision": 1.5 / 2,
            "recall": 1.5 / 1.7,
            "f1": 3 / 3.7,
            "roc_auc": won / (won + lost),
            "log_loss": -sum(surprise) / 3,
        }
    )


def test_an_estimate_without_predicted_or_possible_ones_has_only_defined_metrics() -> None:
    estimate = estimate_quality(np.array([0, 0]), np.array([0.0, 0.0]))
    assert set(estimate.metrics) == {"accuracy", "log_loss"} == set(estimate.bounds)
    equal = estimate_quality(np.ones(10, int), np.full(10, 0.3))
    assert equal.metrics["roc_auc"] == pytest.approx(0.5)  # ranked by chance
    nearly = estimate_quality(np.array([0, 0]), np.array([1e-9, 1e-9]))
    assert nearly.metrics["recall"] == 0 and "recall" not in nearly.bounds


@pytest.mark.parametrize("ones", [1.0, 0.3, 4.0])
def test_estimates_of_calibrated_predictions_are_right_under_covariate_shift(ones: float) -> None:
    """Covariate shift moves the probabilities (from mostly low to mostly high) and the quality."""
    inside, errors = [], []
    for seed in range(40):
        label, *outputs = calibrated(1000, seed, ones)
        estimate, quality = estimate_quality(*outputs), measure_quality(label, *outputs)
        inside += [within(estimate.bounds[name], value) for name, value in values(quality).items()]
        errors.append(list(estimation_error(estimate, quality).values()))
    assert len(inside) == 240
    assert 0.88 < np.mean(inside) < 1
    assert np.abs(np.mean(errors, axis=0)).max() < 0.02


def within(interval: Interval, value: float) -> bool:
    """Return whether an interval holds a value."""
    return interval.lower <= value <= interval.upper


def test_concept_shift_does_not_change_the_estimate_and_shows_in_its_error() -> None:
    """The same people earn less: every second 1 is now a 0."""
    label, *outputs = calibrated(2000, seed=8)
    shifted = label * (np.random.default_rng(6).random(2000) < 0.5)
    before, after = measure_quality(label, *outputs), measure_quality(shifted, *outputs)
    estimate = estimate_quality(*outputs)
    assert all(within(estimate.bounds[name], value) for name, value in values(before).items())
    error = estimation_error(estimate, after)
    # The density of the probabilities is 2 (1 - p): 0.6 of those above 0.4 were a 1, now 0.3.
    assert error["precision"] == pytest.approx(0.3, abs=0.05)
    assert error["accuracy"] == pytest.approx(0.216 / 2 - 0.352 / 6, abs=0.03)
    for name in ("accuracy", "precision", "f1"):
        assert not within(estimate.bounds[name], getattr(after, name)), name
    assert after.calibration_excess == pytest.approx(1 / 6, abs=0.03)  # half of the mean, 1/3


def test_the_error_has_the_metrics_of_both() -> None:
    estimate = Estimate(10, {"accuracy": 0.9, "recall": 0.8}, {})
    assert estimation_error(estimate, Quality(10, accuracy=0.7)) == pytest.approx({"accuracy": 0.2})


def test_memory_is_bounded_for_a_large_window() -> None:
    """50,000 rows, the maximum: their drawn labels in one block would take 160 MB."""
    label, *outputs = calibrated(50_000, seed=7)
    tracemalloc.start()
    try:
        assert estimate_quality(*outputs).rows == measure_quality(label, *outputs).rows == 50_000
        _, max_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max_bytes < 60e6
