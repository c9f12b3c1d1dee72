"""The impact of drift: calculated by hand, and compared with made-up shifts."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from config.contract import Contract
from evidently_service.reference.reference_data import monitored_frame
from evidently_service.measure.drift_impact import drift_impact, measure_drift_impacts
from evidently_service.store.records import DriftImpact
from tests.evidently_service.events import made_up_rows, older


@pytest.fixture(scope="module")
def reference(contract: Contract) -> pd.DataFrame:
    """Return 4,000 made-up rows."""
    return monitored_frame(made_up_rows(contract, 4000, seed=1), contract)


def impacts(
    contract: Contract, reference: pd.DataFrame, window: list[dict[str, Any]]
) -> dict[str, DriftImpact]:
    """Return the impacts by feature, in their order."""
    found = measure_drift_impacts(reference, monitored_frame(window, contract), contract)
    return {one.feature: one for one in found}


def test_an_impact_calculated_by_hand() -> None:
    """In the reference half are a with a mean of 0.2, half b with 0.6; in the window 3 in 4 are b.

    (1/4 - 1/2) 0.2 + (3/4 - 1/2) 0.6 = 0.1; and each bin is 0.2 from the mean.
    """
    before, after = pd.Series(["a", "a", "b", "b"]), pd.Series(["a", "b", "b", "b"])
    found = drift_impact("letter", before, after, np.array([0.1, 0.3, 0.5, 0.7]))
    assert found.shift == found.impact == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(0.2 * (1 / 4 + 1 / 4) ** 0.5)
    back = drift_impact("letter", after, before, np.array([0.2, 0.6, 0.6, 0.6]))
    assert back.shift == pytest.approx(-0.1) and back.impact == pytest.approx(0.1)


def test_a_value_that_is_new_in_the_window_counts_with_the_overall_mean() -> None:
    before, after = pd.Series(["a", "b"]), pd.Series(["c", "b"])
    found = drift_impact("letter", before, after, np.array([0.2, 0.6]))
    assert found.shift == pytest.approx((0.4 + 0.6) / 2 - 0.4)


def test_the_feature_that_drives_the_probability_comes_first_with_its_shift(
    contract: Contract, reference: pd.DataFrame
) -> None:
    """The made-up probability is age / 100, and independent of the other features."""
    unshifted = made_up_rows(contract, 2000, seed=2)
    shifted = [older(row) | {"sex": "Female", "hours_per_week": 99} for row in unshifted]
    found = impacts(contract, reference, shifted)
    years = np.mean([row["age"] for row in shifted]) - np.mean([row["age"] for row in unshifted])
    assert next(iter(found)) == "age"
    assert found["age"].shift == pytest.approx(years / 100, abs=0.02)
    # Far from the reference data, and without impact: within three standard errors of 0.
    for name in ("sex", "hours_per_week"):
        assert found[name].impact < 0.03 < found["age"].impact
    sizes = [one.impact for one in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert set(found) == set(contract.input_names)


def test_undrifted_features_stay_within_two_standard_errors_19_times_in_20(
    contract: Contract, reference: pd.DataFrame
) -> None:
    within = [
        one.impact <= 1.96 * one.standard_error
        for seed in range(2, 22)
        for one in impacts(contract, reference, made_up_rows(contract, 500, seed)).values()
    ]
    assert len(within) == 240
    assert 0.9 <= np.mean(within) <= 0.99


def test_a_number_that_is_mostly_one_value_has_bins_too(contract: Contract) -> None:
    """Nine in ten capital gains are 0; the others have a higher probability."""
    rows = made_up_rows(contract, 2000, seed=3)
    for number, row in enumerate(rows):
        row["capital_gain"] = 5000 if number % 10 == 0 else 0
        row["probability"] = 0.8 if number % 10 == 0 else 0.2
    window = [dict(row, capital_gain=5000) for row in rows]
    reference = monitored_frame(rows, contract)
    found = measure_drift_impacts(reference, monitored_frame(window, contract), contract)
    assert found[0].feature == "capital_gain"
    assert found[0].shift == pytest.approx(0.8 - (0.1 * 0.8 + 0.9 * 0.2))


def test_missing_numbers_have_a_bin_of_their_own(churn: Contract) -> None:
    """Half of the reference lacks the charges, with a mean of 0.8. The whole window has them."""
    row: dict[str, Any] = {"tenure": 3, "plan": None, "autopay": None, "senior": 1, "joined": None}
    rows = [
        row | {"contentment": None, "charges": charges, "probability": p, "income_class": 0}
        for charges, p in ((None, 0.8), (20.5, 0.2))
        for _ in range(50)
    ]
    reference, window = monitored_frame(rows, churn), monitored_frame(rows[50:], churn)
    found = {one.feature: one for one in measure_drift_impacts(reference, window, churn)}
    assert found["charges"].shift == pytest.approx(0.2 - 0.5)
    assert found["joined"].impact == pytest.approx(0)  # missing everywhere, before and after
    again = {one.feature: one for one in measure_drift_impacts(window, reference, churn)}
    # The reference has no missing value: the overall mean.
    assert again["charges"].impact == pytest.approx(0)
