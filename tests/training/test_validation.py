"""Frames are judged as the contract judges their records, one by one."""

from typing import Any

import pandas as pd
import pytest

from training.data.errors import TableError
from training.data.validation import check_frame

ODD: list[dict[str, Any]] = [
    {},
    {"age": -3},
    {"age": 16},
    {"age": 17},
    {"age": 90},
    {"age": 91},
    {"age": 38.0},
    {"age": 38.5},
    {"age": "38"},
    {"age": True},
    {"age": None},
    {"age": float("inf")},
    {"age": 10**30},
    {"workclass": None},
    {"workclass": "private"},
    {"workclass": ""},
    {"workclass": "5"},
    {"sex": None},
    {"sex": "male"},
    {"education": None},
    {"education": "Masters"},
    {"education": "Masters", "education_num": 14},
    {"education_num": None},
    {"education_num": 9.0},
    {"education_num": "9"},
    {"fnlwgt": None},
    {"fnlwgt": 0},
    {"native_country": None},
    {"native_country": "Atlantis"},
    {"native_country": "x" * 100},
    {"native_country": "x" * 101},
    {"native_country": "7"},
    {"capital_gain": 99999},
    {"capital_gain": 100000},
    {"capital_loss": -1, "hours_per_week": 0},
]


def odd_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a valid raw row with each of the oddities."""
    return [record | {"fnlwgt": 1000, "education_num": 9} | odd for odd in ODD]


@pytest.mark.parametrize("at", range(len(ODD)), ids=[str(odd)[:40] for odd in ODD])
def test_a_frame_is_judged_as_the_contract_judges_its_records(contract, record, at):
    row = odd_rows(record)[at]
    frame = pd.DataFrame([row | {"income": "<=50K"}])
    checked, rejected = check_frame(frame, contract)
    problems = contract.check(row)
    assert (len(checked), len(rejected)) == ((0, 1) if problems else (1, 0))
    assert list(rejected["problems"]) == ([problems] if problems else [])


def test_valid_and_odd_rows_of_one_frame_are_separated(contract, record):
    rows = odd_rows(record)
    frame = pd.DataFrame(rows, dtype=object).assign(income=1)
    checked, rejected = check_frame(frame, contract)
    valid = [index for index, row in enumerate(rows) if not contract.check(row)]
    assert checked.index.tolist() == valid
    assert sorted([*checked.index, *rejected.index]) == list(range(len(rows)))
    assert checked["age"].dtype == "int64" and checked["fnlwgt"].dtype == "Int64"


def test_a_checked_frame_passes_again_unchanged(contract, record):
    frame = pd.DataFrame([record | {"workclass": None, "income": ">50K"}])
    checked, _ = check_frame(frame, contract)
    again, rejected = check_frame(checked, contract)
    pd.testing.assert_frame_equal(checked, again)
    assert rejected.empty


def test_a_frame_without_a_used_column_is_rejected_with_its_name(contract, record):
    frame = pd.DataFrame([record | {"income": 0}]).drop(columns=["sex", "income"])
    with pytest.raises(TableError, match=r"missing column\(s\) sex, income"):
        check_frame(frame, contract)
