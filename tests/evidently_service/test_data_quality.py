"""Data quality, counted by hand."""

from typing import Any

import pytest

from config.contract import Contract
from evidently_service.store.records import FeatureQuality
from evidently_service.measure.data_quality import invalid_share_rises, measure_data_quality
from evidently_service.reference.reference_data import monitored_frame
from tests.evidently_service.events import made_up_rows

OUTPUTS = {"probability": 0.5, "income_class": 1}


def measured(contract: Contract, *changes: dict[str, Any]) -> dict[str, FeatureQuality]:
    """Return the quality, by feature, of faultless rows with one change each."""
    rows = made_up_rows(contract, len(changes), seed=1)
    changed = [row | change for row, change in zip(rows, changes, strict=True)]
    return {one.feature: one for one in measure_data_quality(changed, contract)}


def test_faultless_rows_have_shares_of_zero_and_none_for_impossible_faults(
    contract: Contract,
) -> None:
    found = measured(contract, {}, {})
    assert list(found) == list(contract.input_names)
    assert found["age"] == FeatureQuality("age", None, 0.0, None)
    assert found["workclass"] == FeatureQuality("workclass", 0.0, None, 0.0)


def test_missing_and_unseen_categories_are_counted_apart(contract: Contract) -> None:
    values = [None, "?", "Atlantis", "Peru", "Cuba"]
    found = measured(contract, *({"native_country": value} for value in values))
    assert found["native_country"] == FeatureQuality("native_country", 0.4, None, 0.2)
    assert found["workclass"] == FeatureQuality("workclass", 0.0, None, 0.0)


@pytest.mark.parametrize(("hours", "share"), [(0, 0.25), (1, 0.0), (99, 0.0), (2400, 0.25)])
def test_a_number_beyond_the_contracts_range_is_counted(
    contract: Contract, hours: int, share: float
) -> None:
    """Hours a week are from 1 to 99; 2,400 are 40 hours in minutes."""
    found = measured(contract, {"hours_per_week": hours}, {}, {}, {})
    assert found["hours_per_week"].out_of_range == share


def test_missing_numbers_booleans_and_dates_are_counted_apart_from_other_faults(
    churn: Contract,
) -> None:
    row: dict[str, Any] = {
        "tenure": 3,
        "plan": "basic",
        "charges": 1,
        "autopay": "Yes",
        "senior": 1,
    }
    row |= {"joined": "2020-02-29", "contentment": "fair"}
    nothing = dict.fromkeys(("charges", "autopay", "joined", "plan"), None)
    wrong = {"charges": 200.5, "autopay": "Maybe", "joined": "1999-12-31", "plan": "luxury"}
    rows = [row, row | nothing, row | nothing, row | wrong | {"senior": 2}]
    found = {one.feature: one for one in measure_data_quality(rows, churn)}
    assert found["tenure"] == FeatureQuality("tenure", None, 0.0, None)
    assert found["charges"] == FeatureQuality("charges", 0.5, 0.25, None)
    assert found["joined"] == FeatureQuality("joined", 0.5, 0.25, None)
    assert found["autopay"] == FeatureQuality("autopay", 0.5, None, 0.25)
    assert found["plan"] == FeatureQuality("plan", 0.5, None, 0.25)
    assert found["senior"] == FeatureQuality("senior", 0.0, None, 0.25)
    reference = monitored_frame([one | OUTPUTS for one in [row, row, row, row | nothing]], churn)
    rises = invalid_share_rises(found.values(), reference, churn)
    expected = {"charges": 0.5, "joined": 0.5, "autopay": 0.5, "plan": 0.5, "senior": 0.25}
    assert rises == pytest.approx(expected | {"tenure": 0.0, "contentment": 0.0})
