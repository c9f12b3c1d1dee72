"""A frame has the problems that the contract finds in its records one by one."""

from typing import Any

import pandas as pd
import pytest

from training.data.errors import TableError
from training.data.validation import check_frame

ODD: dict[str, list[Any]] = {
    "age": [16, 17, 90, 91, 38.0, 38.5, "38", True, None, float("inf"), 10**30],
    "workclass": [None, "private", "", "5"],
    "sex": [None, "male"],
    "education": [None, "Masters"],
    "education_num": [None, 9.0, "9", 14],
    "fnlwgt": [None, 0],
    "native_country": [None, "Atlantis", "x" * 100, "x" * 101, "7"],
}


@pytest.mark.parametrize("together", [False, True])
def test_a_frame_has_the_same_problems_as_its_records(contract, record, together):
    """The column of a single row has a type of its own; in a larger frame all are objects."""
    usual = record | {"fnlwgt": 1000, "education_num": 9}
    rows = [usual | {name: value} for name, values in ODD.items() for value in values]
    rows.append(usual | {"education": "Masters", "education_num": 14})
    frames = [pd.DataFrame(rows, dtype=object)] if together else [pd.DataFrame([r]) for r in rows]
    found: list[Any] = []
    for frame in frames:
        checked, rejected = check_frame(frame.assign(income="<=50K"), contract)
        problems = rejected["problems"].to_dict() | dict.fromkeys(checked.index, [])
        found += [problems[number] for number in frame.index]
        assert checked["age"].dtype == "int64" and all(rejected["problems"])
    assert found == [contract.check(row) for row in rows]


def test_a_frame_without_a_used_column_is_rejected_with_its_name(contract, record):
    frame = pd.DataFrame([record | {"income": 0}]).drop(columns=["sex", "income"])
    with pytest.raises(TableError, match=r"missing column\(s\) sex, income"):
        check_frame(frame, contract)
