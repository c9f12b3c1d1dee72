"""Phase I: what a version's first windows show about the spread of undrifted windows."""

import msgspec
import numpy as np
import pytest

from evidently_service.store.records import Judgement, Spread
from evidently_service.reference.monitoring_config import ColumnTest, Monitoring
from evidently_service.verdict.calibration import Compared, calibrate, factor_of, spread_with
from evidently_service.verdict.judge import factors_of, reset_for_reference
from evidently_service.verdict.scores import Counts

# One of two categories or numbers, equally likely in the reference data.
VALUES, REFERENCE = np.array([0, 1]), np.array([500, 500])


def compared(ones: int, test: str = "jensenshannon") -> Compared:
    """Return a window of 100 rows, of which `ones` have the second value."""
    return Compared(0.5, test, Counts(VALUES, REFERENCE, np.array([[100 - ones, ones]])))


def after(windows: list[int], test: str = "jensenshannon", needed: int = 8) -> Judgement:
    """Return the judgement after these windows of one column."""
    judgement = Judgement(reference="1")
    for ones in windows:
        judgement = calibrate(judgement, {"sex": compared(ones, test)}, needed)
    return judgement


@pytest.mark.parametrize("test", ["jensenshannon", "wasserstein", "ks"])
def test_a_spread_is_the_variance_of_the_shares_over_that_of_independent_rows(test: str) -> None:
    """Shares 0.4 and 0.6 have the variance 0.02; 100 rows give 0.5 * 0.5 / 100 = 0.0025."""
    spread = Spread()
    for ones in (40, 60):
        spread = spread_with(spread, compared(ones, test))
    assert spread.excess / (spread.windows - 1) == pytest.approx(8)
    assert factor_of(spread, test) == pytest.approx(8 if test == "ks" else 8**0.5)


def test_equal_windows_have_the_factor_one_however_far_they_are_from_the_reference() -> None:
    """Drift that exists in the first windows of a version does not widen the thresholds."""
    assert after([50] * 8).factors == {"sex": 1.0}
    assert after([95] * 8).factors == {"sex": 1.0}


def test_a_drift_that_begins_in_one_half_is_not_learnt() -> None:
    assert after([50] * 6 + [90] * 2).factors == {"sex": 1.0}
    assert after([50] * 2 + [90] * 6).factors == {"sex": 1.0}
    assert after([40, 60] * 4).factors["sex"] == pytest.approx((8 * 2 / 3) ** 0.5)


def test_factors_are_in_use_once_both_halves_are_known(monitoring: Monitoring) -> None:
    eight = msgspec.structs.replace(monitoring, calibration_windows=8)
    half, whole = after([40, 60] * 2), after([40, 60] * 4)
    assert half.factors and not factors_of(half, eight)
    assert factors_of(whole, eight) == whole.factors
    assert whole.spreads == {} and after([40, 60] * 5) == whole
    anew = reset_for_reference(whole, "2", last_arrival=9)
    assert (anew.calm_windows, anew.factors, anew.spreads) == (0, {}, {})


@pytest.mark.parametrize(
    ("test", "score"), [(ColumnTest("wasserstein", 0.1), 0.3), (ColumnTest("ks", 0.01), 1e-6)]
)
def test_a_widened_test_divides_every_ratio_by_its_factor(test: ColumnTest, score: float) -> None:
    """0.3 is three times 0.1, and the logarithm of 1e-6 three times that of 0.01."""
    assert test.ratio(score) == pytest.approx(3)
    assert test.widened(2).ratio(score) == pytest.approx(1.5)
    assert test.widened(1) is test


def test_a_widened_p_value_can_be_exceeded() -> None:
    """0.001 widened ten times is 1e-30. Smaller p-values once counted as 1e-12."""
    assert ColumnTest("ks", 0.001).widened(10).ratio(1e-45) == pytest.approx(1.5)


@pytest.mark.parametrize("batch", [1, 5])
def test_batches_of_one_kind_widen_by_the_root_of_their_size(batch: int) -> None:
    """Rows in batches of five equal values have five times the variance of independent rows."""
    windows = batch * np.random.default_rng(0).binomial(100 // batch, 0.5, 400)
    found = after(windows.tolist(), needed=400).factors["sex"]
    assert found == pytest.approx(batch**0.5, rel=0.1)
