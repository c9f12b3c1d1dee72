"""The statistics of training and monitoring, compared with figures by hand and scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from config.runtime.statistics import (
    ece_by_chance,
    expected_calibration_error,
    log_losses,
    measure_calibration,
    percentile_interval,
)

Y = np.array([0, 1, 1, 0, 1])
P = np.array([0.1, 0.9, 0.2, 0.6, 0.5], np.float32)


def test_the_mean_of_the_log_losses_equals_that_of_scikit_learn():
    assert log_losses(Y, P).mean() == pytest.approx(log_loss(Y, P.astype(float)), abs=1e-9)


def test_a_certain_wrong_probability_has_a_finite_log_loss():
    assert log_losses(np.array([1, 0]), np.array([0.0, 1.0])) == pytest.approx(-np.log(1e-7))


def test_the_calibration_error_is_the_weighted_gap_of_each_bin():
    y, p = np.array([1, 0, 1]), np.array([0.51, 0.52, 0.99])  # two rows of one bin, one of another
    assert expected_calibration_error(y, p) == pytest.approx((0.03 + 0.01) / 3)


def calibrated(rows, seed):
    """Return labels that are drawn by probabilities, and the probabilities."""
    random = np.random.default_rng(seed)
    p = random.beta(0.5, 1.5, rows)
    return (random.random(rows) < p).astype(int), p


def test_a_calibrated_model_has_the_calibration_error_of_chance():
    """With 200 labels the gauge showed 0.06, which looked like a fault."""
    _, p = calibrated(200, 0)
    random = np.random.default_rng(1)
    drawn = [
        expected_calibration_error((random.random(200) < p).astype(int), p) for _ in range(500)
    ]
    assert ece_by_chance(p) == pytest.approx(np.mean(drawn), rel=0.03)
    assert 0.03 < ece_by_chance(p) < 0.08


def test_the_recalibration_equals_that_of_scikit_learn_and_its_intervals_contain_the_truth():
    y, p = calibrated(2000, 3)
    found = measure_calibration(y, p)
    fitted = LogisticRegression(C=np.inf).fit(np.log(p / (1 - p))[:, None], y)
    assert found["slope"][0] == pytest.approx(fitted.coef_[0, 0], abs=1e-3)
    assert found["intercept"][0] == pytest.approx(fitted.intercept_[0], abs=1e-3)
    assert found["excess"][0] == pytest.approx(p.mean() - y.mean())
    truth = {"excess": 0, "slope": 1, "intercept": 0}
    held = dict.fromkeys(truth, 0)
    for seed in range(200):
        for name, (_, low, high) in measure_calibration(*calibrated(500, seed)).items():
            held[name] += low <= truth[name] <= high
    assert all(181 <= count < 200 for count in held.values()), held  # 190 are expected


@pytest.mark.parametrize(
    ("y", "p"), [([1, 1], [0.2, 0.9]), ([0, 1], [0.4, 0.4]), ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])]
)
def test_without_a_solution_the_recalibration_is_left_out(y, p):
    found = measure_calibration(np.array(y), np.array(p))
    assert found.keys() == {"excess"}
    assert found["excess"][0] == pytest.approx(np.mean(p) - np.mean(y))


def test_the_interval_contains_the_middle_95_percent():
    assert percentile_interval(np.arange(1001)) == pytest.approx((25.0, 975.0))
