"""Platt's scaling and the threshold, against values worked out by hand."""

import numpy as np
import pytest

from training.model.calibration import Platt, best_f1_threshold, fit_platt
from training.model.search import Trial


def test_slope_and_intercept_change_the_log_odds_and_no_probability_is_0_or_1():
    # odds 1 times e^-ln(3) is a third: probability 1/4; odds 3 squared and over 3 are 3
    assert Platt(1.0, -np.log(3))(np.array([0.5])) == pytest.approx([0.25])
    assert Platt(2.0, -np.log(3))(np.array([0.75])) == pytest.approx([0.75])
    low, high = Platt(1.0, 0.0)(np.array([0.0, 1.0], dtype=np.float32))
    assert 0 < low < 1e-6 and 1 - 1e-6 < high < 1


def test_scaling_undoes_a_raised_share_of_positives():
    random = np.random.default_rng(0)
    true = random.beta(1, 3, 20000)
    y = (random.random(20000) < true).astype(int)
    odds = true / (1 - true) * 3  # what a sample with three times the positives would say
    fitted = fit_platt(odds / (1 + odds), y)
    assert fitted.slope == pytest.approx(1, abs=0.05)
    assert fitted.intercept == pytest.approx(-np.log(3), abs=0.05)


def test_after_a_drift_a_trial_is_calibrated_again_on_the_recent_rows():
    """The recent half has three times the odds: the calibration of both halves fits neither."""
    random = np.random.default_rng(0)
    raw = random.beta(1, 3, 40000)
    recent = np.arange(40000) >= 20000
    odds = raw / (1 - raw) * np.where(recent, 3, 1)
    y = (random.random(40000) < odds / (1 + odds)).astype(int)
    platt = fit_platt(raw, y)
    again = Trial({}, platt, platt(raw), {"cv_log_loss": 0.5}).recalibrated(y, recent)
    assert abs(platt(raw)[recent].mean() - y[recent].mean()) > 0.05
    assert again.probability[recent].mean() == pytest.approx(y[recent].mean(), abs=1e-4)
    assert (again.platt.slope, again.platt.intercept) == pytest.approx((1, np.log(3)), abs=0.05)
    assert again.platt(raw) == pytest.approx(again.probability)


def test_threshold_is_where_f1_is_highest():
    y = np.array([0, 0, 1, 0, 1, 1])
    probability = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    # at 0.3: precision 3/4, recall 1, F1 0.857; at 0.5: precision 1, recall 2/3, F1 0.8
    assert best_f1_threshold(probability, y) == pytest.approx(0.3)
