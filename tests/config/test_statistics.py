"""The statistics that training and monitoring share, by hand and beside scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from config.runtime.statistics import (
    expected_calibration_error,
    log_losses,
    percentile_interval,
)

Y = np.array([0, 1, 1, 0, 1])
P = np.array([0.1, 0.9, 0.2, 0.6, 0.5], np.float32)


def test_the_mean_of_the_log_losses_is_scikit_learns():
    assert log_losses(Y, P).mean() == pytest.approx(log_loss(Y, P.astype(float)), abs=1e-9)


def test_a_certain_wrong_probability_has_a_finite_log_loss():
    assert log_losses(np.array([1, 0]), np.array([0.0, 1.0])) == pytest.approx(-np.log(1e-7))


def test_the_calibration_error_is_the_weighted_gap_of_each_bin():
    y, p = np.array([1, 0, 1]), np.array([0.51, 0.52, 0.99])  # two rows of one bin, one of another
    assert expected_calibration_error(y, p) == pytest.approx((0.03 + 0.01) / 3)


def test_a_row_that_counts_twice_is_as_good_as_two_rows():
    counts = np.array([2.0, 1.0, 0.0, 1.0, 1.0])
    rows = np.repeat(np.arange(5), counts.astype(int))
    by_counts = expected_calibration_error(Y, P.astype(float), counts)
    assert by_counts == pytest.approx(expected_calibration_error(Y[rows], P[rows].astype(float)))


def test_the_interval_holds_the_middle_95_percent():
    assert percentile_interval(np.arange(1001)) == pytest.approx((25.0, 975.0))
