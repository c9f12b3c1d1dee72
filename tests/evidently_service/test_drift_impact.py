"""What drift does to the score: worked out by hand, and held against made-up shifts."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from config.contract import Contract
from evidently_service.measure.drift import monitored_frame
from evidently_service.measure.drift_impact import effect, measure_effects
from tests.evidently_service.events import made_up_rows, older


def effects(contract: Contract, window: list[dict[str, Any]]) -> dict[str, Any]:
    """The effects against 4,000 made-up rows, by feature, in their order."""
    reference = monitored_frame(made_up_rows(contract, 4000, seed=1), contract)
    found = measure_effects(reference, monitored_frame(window, contract), contract)
    return {one.feature: one for one in found}


def test_an_effect_worked_by_hand() -> None:
    """In the reference half are a with a mean of 0.2, half b with 0.6; in the window 3 in 4 are b.

    (1/4 - 1/2) 0.2 + (3/4 - 1/2) 0.6 = 0.1; and each bin is 0.2 from the mean.
    """
    before, after = pd.Series(["a", "a", "b", "b"]), pd.Series(["a", "b", "b", "b"])
    found = effect("letter", before, after, np.array([0.1, 0.3, 0.5, 0.7]))
    assert found.shift == found.effect == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(0.2 * (1 / 4 + 1 / 4) ** 0.5)
    back = effect("letter", after, before, np.array([0.2, 0.6, 0.6, 0.6]))
    assert back.shift == pytest.approx(-0.1) and back.effect == pytest.approx(0.1)


def test_a_value_that_the_reference_does_not_have_counts_with_the_mean_of_all() -> None:
    before, after = pd.Series(["a", "b"]), pd.Series(["c", "b"])
    found = effect("letter", before, after, np.array([0.2, 0.6]))
    assert found.shift == pytest.approx((0.4 + 0.6) / 2 - 0.4)


def test_the_feature_that_the_score_follows_comes_first_with_the_size_of_its_shift(
    contract: Contract,
) -> None:
    """The made-up probability is age / 100, and no other feature has a part in it."""
    unshifted = made_up_rows(contract, 2000, seed=2)
    shifted = [older(row) | {"sex": "Female", "hours_per_week": 99} for row in unshifted]
    found = effects(contract, shifted)
    years = np.mean([row["age"] for row in shifted]) - np.mean([row["age"] for row in unshifted])
    assert next(iter(found)) == "age"
    assert found["age"].shift == pytest.approx(years / 100, abs=0.02)
    # Far from the reference, and of no effect: within three standard errors of none.
    for name in ("sex", "hours_per_week"):
        assert found[name].effect < 0.03 < found["age"].effect
    sizes = [one.effect for one in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert set(found) == set(contract.input_names)


def test_undrifted_features_stay_within_two_standard_errors_19_times_in_20(
    contract: Contract,
) -> None:
    within = [
        one.effect <= 1.96 * one.standard_error
        for seed in range(2, 22)
        for one in effects(contract, made_up_rows(contract, 500, seed)).values()
    ]
    assert len(within) == 240
    assert 0.9 <= np.mean(within) <= 0.99


def test_a_number_that_is_mostly_one_value_has_bins_all_the_same(contract: Contract) -> None:
    """Nine in ten capital gains are 0; whoever has one is likelier to earn more."""
    rows = made_up_rows(contract, 2000, seed=3)
    for number, row in enumerate(rows):
        row["capital_gain"] = 5000 if number % 10 == 0 else 0
        row["probability"] = 0.8 if number % 10 == 0 else 0.2
    window = [dict(row, capital_gain=5000) for row in rows]
    reference = monitored_frame(rows, contract)
    found = measure_effects(reference, monitored_frame(window, contract), contract)
    assert found[0].feature == "capital_gain"
    assert found[0].shift == pytest.approx(0.8 - (0.1 * 0.8 + 0.9 * 0.2))
