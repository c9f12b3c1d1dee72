"""The groups of each kind of column, in records and in frames."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from config.contract import Contract, load_contract
from config.feature import Value
from config.segments import segment_groups

BOUNDS: dict[str, Any] = {
    "tenure": [11, 59],
    "plan": True,
    "charges": [20, 49.5],
    "autopay": True,
    "senior": True,
    "joined": [date(2009, 12, 31), date(2019, 12, 31)],
}


@pytest.fixture(name="grouped")
def grouped_contract(tmp_path: Path, churn: Contract) -> Contract:
    """Return the other table's contract with a segment of every kind."""
    return with_segments(churn, tmp_path, BOUNDS)


def with_segments(contract: Contract, folder: Path, segments: dict[str, Any]) -> Contract:
    """Return a contract from a file whose columns have these values of `segment`."""
    raw = yaml.safe_load(Path("tests/end_to_end/churn.yaml").read_text("utf-8"))
    for feature in raw["features"]:
        if feature["name"] in segments:
            feature["segment"] = segments[feature["name"]]
    path = folder / "churn.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")
    found = load_contract(path)
    assert found.digest == contract.digest  # groups need no new training
    return found


def test_the_census_has_its_groups_and_a_table_without_the_key_has_none(
    contract: Contract, churn: Contract
) -> None:
    assert {one.name: one.groups for one in contract.segments} == {
        "age": ("to 29", "30 to 44", "45 to 59", "from 60", "missing"),
        "race": (*contract["race"].categories, "missing"),
        "sex": ("Female", "Male", "missing"),
    }
    assert churn.segments == ()


@pytest.mark.parametrize(
    ("column", "groups"),
    [
        ("tenure", {11: "to 11", 12: "12 to 59", 60: "from 60", 500: "from 60"}),
        ("plan", {"family": "family", None: "missing", "luxury": "missing"}),
        ("charges", {20: "to 20", 20.5: "above 20 to 49.5", 50: "above 49.5", None: "missing"}),
        ("autopay", {"No": "No", "Yes": "Yes", None: "missing"}),
        ("senior", {0: "0", 1: "1", None: "missing"}),
        (
            "joined",
            {
                "2009-12-31": "to 2009-12-31",
                "2010-01-01": "2010-01-01 to 2019-12-31",
                "2020-01-01": "from 2020-01-01",
                None: "missing",
            },
        ),
    ],
)
def test_a_value_has_the_same_group_in_a_record_and_in_a_frame(
    grouped: Contract, column: str, groups: dict[Value, str]
) -> None:
    records = [segment_groups({column: value}, grouped.segments) for value in groups]
    assert records == [{column: group} for group in groups.values()]
    (segment,) = (one for one in grouped.segments if one.name == column)
    frame = pd.Series([grouped[column].known(value) for value in groups])
    assert segment.frame_groups(frame.to_numpy()).tolist() == list(groups.values())
    assert set(groups.values()) <= set(segment.groups)


def test_the_bands_of_an_ordinal_column_are_its_groups(contract: Contract, tmp_path: Path) -> None:
    """The bands of a column `age` once were compared with numbers, and the gate failed."""
    raw = yaml.safe_load(Path("config/features.yaml").read_text("utf-8"))
    bands = ["18-29", "30-44", "45-59", "60+"]
    raw["features"][0] = {
        **{"name": "age", "kind": "ordinal", "description": "age", "categories": bands},
        "segment": True,
    }
    path = tmp_path / "features.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")
    age, *_ = load_contract(path).segments
    assert age.groups == (*bands, "missing")
    assert age.group("30-44") == "30-44"
    assert age.frame_groups(np.array(["60+", "18-29"], object)).tolist() == ["60+", "18-29"]
    assert load_contract(path).digest != contract.digest
