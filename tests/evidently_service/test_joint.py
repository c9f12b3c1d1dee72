"""Drift of columns together, with the values of each column as in the reference data."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from config.contract import Contract
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.reference.reference_data import Reference, monitored_frame
from evidently_service.reference.registry import Version
from evidently_service.store.records import JointDrift
from evidently_service.verdict.joint import JointTest
from evidently_service.verdict.judge import joint_after
from tests.evidently_service.events import made_up_rows

WINDOW = 1000


def split(frame: pd.DataFrame, seed: int) -> tuple[Reference, list[pd.DataFrame]]:
    """Return 5,000 rows as reference data, and windows of the other rows."""
    order = np.random.default_rng(seed).permutation(len(frame))
    rest = order[5000:]
    windows = [rest[start : start + WINDOW] for start in range(0, len(rest) - WINDOW, WINDOW)]
    reference = Reference(Version("1", "run-1"), frame.iloc[order[:5000]], np.zeros(5000, int))
    return reference, [frame.iloc[window].reset_index(drop=True) for window in windows]


def opposite(window: pd.DataFrame) -> pd.DataFrame:
    """Return the window in which the oldest people work the fewest hours."""
    by_age = window.sort_values("age", kind="stable")
    return by_age.assign(hours_per_week=np.sort(by_age["hours_per_week"])[::-1])


def mixed(window: pd.DataFrame) -> pd.DataFrame:
    """Return the window with the occupations of other people."""
    return window.assign(occupation=window["occupation"].sample(frac=1, random_state=0).to_numpy())


@pytest.fixture(scope="module")
def people(census_rows: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Return the census's rows as `monitored_frame` does."""
    rows = census_rows.assign(probability=0.5, income_class=0)
    for feature in contract.inputs:
        if not feature.is_categorical:
            rows[feature.name] = rows[feature.name].astype(float)
    return rows[[*contract.input_names, "probability", "income_class"]]


def test_new_relations_between_columns_are_found_and_named(
    people: pd.DataFrame, monitoring: Monitoring, contract: Contract
) -> None:
    """No test of a single column can detect either change: each column keeps its values."""
    reference, windows = split(people, seed=0)
    joint = JointTest(monitoring, contract)
    for change, column in ((opposite, "hours_per_week"), (mixed, "occupation")):
        for window in windows[:5]:
            found = joint.compare(reference, change(window))
            assert found.ratio > 1 and column in found.columns
    for window in windows[10:15]:
        found = joint.compare(reference, window)
        assert found.ratio <= 1 and not found.columns


def test_missing_numbers_are_compared_as_values(monitoring: Monitoring, contract: Contract) -> None:
    """In the window, age determines sex. Half of the hours are missing in window and reference."""

    def tied(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"sex": "Male" if row["age"] >= 54 else "Female"}

    frames = []
    for rows in (made_up_rows(contract, 2000, 1), made_up_rows(contract, 500, 2, tied)):
        frame = monitored_frame(rows, contract).astype({"hours_per_week": float})
        frames.append(
            frame.assign(hours_per_week=frame["hours_per_week"].where(frame.index % 2 == 1))
        )
    reference = Reference(Version("1", "run-1"), frames[0], np.zeros(2000, int))
    joint = JointTest(monitoring, contract)
    joint.splits = 5  # the threshold is higher, and found sooner
    found = joint.compare(reference, frames[1])
    assert found.ratio > 1 and found.roc_auc > 0.6
    assert set(found.columns) == {"age", "sex"}


def test_joint_drift_needs_windows_in_a_row_and_lasts_until_a_window_without_it() -> None:
    last, seen = None, []
    for ratio in (2.0, 0.5, 2.0, 2.0, 3.0, 0.9):
        last = joint_after(last, JointDrift(0.6, 0.55, ratio), windows=2)
        seen.append((last.streak, last.persistent))
    assert seen == [(1, False), (0, False), (1, False), (2, True), (3, True), (0, False)]
