"""Groups and their rates, counted by hand."""

from typing import Any

import numpy as np
import pytest

from config.contract import Contract, load_contract
from config.segments import segment_groups
from evidently_service.store.records import Segment
from evidently_service.measure.segments import ClassifiedRows, measure_segments

NO_LABELS = ClassifiedRows([], np.array([], int)), np.array([], int)
SEGMENTS = load_contract().segments


def measured(window: ClassifiedRows, *labels: Any, min_rows: int) -> tuple[Segment, ...]:
    """Return the census's groups."""
    labelled, truth = labels or NO_LABELS
    return measure_segments(window, labelled, truth, min_rows, SEGMENTS)


def people(*groups: tuple[str, str, int, str]) -> ClassifiedRows:
    """Return rows of (sex, race, age) groups, each with its predicted classes, such as '1100'."""
    rows: list[dict[str, str]] = []
    for sex, race, age, classes in groups:
        rows += [segment_groups({"sex": sex, "race": race, "age": age}, SEGMENTS)] * len(classes)
    return ClassifiedRows(rows, np.array([int(one) for group in groups for one in group[3]]))


def test_selection_rates_calculated_by_hand() -> None:
    window = people(("Female", "White", 30, "1000"), ("Male", "White", 60, "11100"))
    assert measured(window, min_rows=1) == (
        Segment("age", "30 to 44", 4, 0.25, {}),
        Segment("age", "from 60", 5, 0.6, {}),
        Segment("race", "White", 9, 4 / 9, {}),
        Segment("sex", "Female", 4, 0.25, {}),
        Segment("sex", "Male", 5, 0.6, {}),
    )


@pytest.mark.parametrize(
    ("age", "band"),
    [(17, "to 29"), (29, "to 29"), (30, "30 to 44"), (45, "45 to 59"), (60, "from 60")],
)
def test_an_age_is_in_one_band(age: int, band: str) -> None:
    found = measured(people(("Male", "White", age, "1")), min_rows=1)
    assert [one.group for one in found if one.segment == "age"] == [band]


def test_a_group_below_the_minimum_is_absent() -> None:
    window = people(("Female", "White", 30, "1000"), ("Male", "Other", 30, "111"))
    found = measured(window, min_rows=4)
    assert [one.group for one in found] == ["30 to 44", "White", "Female"]


def test_the_quality_of_a_group_calculated_by_hand() -> None:
    """Women: 1 of 4 positives is predicted 1, and 1 of 2 negatives. No man has a label."""
    window = people(("Female", "White", 30, "10"), ("Male", "White", 30, "10"))
    labelled = people(("Female", "White", 30, "100010"))
    label = np.array([1, 1, 1, 1, 0, 0])
    *_, women, men = measured(window, labelled, label, min_rows=2)
    assert women.quality == pytest.approx({"accuracy": 2 / 6, "tpr": 1 / 4, "fpr": 1 / 2})
    assert men.quality == {}


def test_a_rate_over_too_few_labels_is_absent() -> None:
    window = people(("Female", "White", 30, "1000"))
    labelled, label = people(("Female", "White", 30, "1100")), np.array([1, 0, 0, 0])
    *_, women = measured(window, labelled, label, min_rows=3)
    assert women.quality == pytest.approx({"accuracy": 3 / 4, "fpr": 1 / 3})


def test_there_are_no_groups_of_columns_that_are_no_input() -> None:
    window = ClassifiedRows(
        [segment_groups({"age": age}, SEGMENTS) for age in (50, 20)], np.array([1, 0])
    )
    found = measured(window, min_rows=1)
    assert [one.group for one in found] == ["to 29", "45 to 59"]


def test_a_table_without_groups_has_none_and_missing_values_are_a_group(churn: Contract) -> None:
    rows = ClassifiedRows([{}, {}], np.array([1, 0]))
    assert not measure_segments(rows, *NO_LABELS, 1, churn.segments)
    people_without_sex = [segment_groups({"sex": None}, SEGMENTS)] * 2
    found = measured(ClassifiedRows(people_without_sex, np.array([1, 0])), min_rows=1)
    assert found == (Segment("sex", "missing", 2, 0.5, {}),)
