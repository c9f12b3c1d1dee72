"""Groups and their rates, counted by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from config.contract import Contract, load_contract
from config.events import Prediction
from config.feature import Value
from evidently_service.measure.performance import estimate_quality, measure_quality
from evidently_service.measure.segments import (
    ClassifiedRows,
    classified,
    estimation_spread,
    group_errors,
    measure_segments,
)
from evidently_service.reference.reference_data import Reference
from evidently_service.reference.registry import Version
from evidently_service.store.records import Segment

NO_LABELS = ClassifiedRows({}, np.array([], int)), np.array([], int)
SEGMENTS = load_contract().segments


def measured(window: ClassifiedRows, *labels: Any, min_rows: int) -> tuple[Segment, ...]:
    """Return the census's groups."""
    labelled, truth = labels or NO_LABELS
    return measure_segments(window, labelled, truth, min_rows, SEGMENTS)


def people(*groups: tuple[str, str, int, str]) -> ClassifiedRows:
    """Return rows of (sex, race, age) groups, each with its predicted classes, such as '1100'."""
    return rows_of(
        [
            ({"sex": sex, "race": race, "age": age}, int(one))
            for sex, race, age, classes in groups
            for one in classes
        ]
    )


def rows_of(people: list[tuple[dict[str, Value], int]]) -> ClassifiedRows:
    """Return people with these features and predicted classes."""
    predictions = [
        Prediction("", 1.0, "1", row, 0.5, income_class, 0.5) for row, income_class in people
    ]
    return classified(predictions, SEGMENTS)


def test_selection_rates_calculated_by_hand() -> None:
    window = people(("Female", "White", 30, "1000"), ("Male", "White", 60, "11100"))
    assert measured(window, min_rows=1) == (
        Segment("age", "30 to 44", 4, 0.25, {}),
        Segment("age", "from 60", 5, 0.6, {}),
        Segment("race", "White", 9, 4 / 9, {}),
        Segment("sex", "Female", 4, 0.25, {}),
        Segment("sex", "Male", 5, 0.6, {}),
    )


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


def test_groups_need_an_input_column() -> None:
    found = measured(rows_of([({"age": 50}, 1), ({"age": 20}, 0)]), min_rows=1)
    assert [one.group for one in found] == ["to 29", "45 to 59"]


def test_a_table_without_groups_has_none_and_missing_values_are_a_group(churn: Contract) -> None:
    assert not measure_segments(rows_of([({}, 1)]), *NO_LABELS, 1, churn.segments)
    found = measured(rows_of([({"sex": None}, 1), ({"sex": None}, 0)]), min_rows=1)
    assert found == (Segment("sex", "missing", 2, 0.5, {}),)


def census(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sex, label and probability of rows; right for all together, not for either sex.

    The true odds of women are 1.5 times those of the probability, and those of men 1 / 1.5.
    """
    random = np.random.default_rng(seed)
    sex = random.choice(["Female", "Male"], rows)
    probability = random.beta(0.5, 1.0, rows)
    odds = probability / (1 - probability) * np.where(sex == "Female", 1.5, 1 / 1.5)
    return sex, (random.random(rows) < odds / (1 + odds)).astype(int), probability


def reference(rows: int) -> Reference:
    """Return reference data of such rows."""
    sex, label, probability = census(rows, seed=0)
    columns = {"probability": probability, "income_class": (probability >= 0.5).astype(int)}
    return Reference(Version("1", ""), pd.DataFrame({"sex": sex, **columns}), label)


def test_the_spread_is_the_root_mean_square_of_the_errors_of_the_rows_groups() -> None:
    """Two rows of a group with error 0.3 and one with -0.6: the mean square is 0.18."""
    errors = {("sex", "Female"): {"recall": 0.3}, ("sex", "Male"): {"recall": -0.6}}
    groups = {"sex": np.array(["Female", "Female", "Male"]), "race": np.array(["Other"] * 3)}
    assert estimation_spread(errors, groups) == pytest.approx({"recall": 0.18**0.5})
    assert estimation_spread(errors, {"race": groups["race"]}) == {}


def test_a_group_of_few_reference_rows_has_no_error() -> None:
    found = group_errors(reference(1000), SEGMENTS, min_rows=200)
    assert found.keys() == {("sex", "Female"), ("sex", "Male")}  # no other column is there
    assert found["sex", "Female"]["precision"] < 0 < found["sex", "Male"]["precision"]
    assert not group_errors(reference(300), SEGMENTS, min_rows=200)


def test_the_band_contains_the_quality_of_traffic_of_one_group() -> None:
    """Only the mix changes: now all requests are about women. A band of the label noise
    alone would be too narrow for the error that this group had in the reference data.
    """
    errors = group_errors(reference(5000), SEGMENTS, min_rows=200)
    held: dict[bool, list[bool]] = {False: [], True: []}
    for seed in range(1, 13):
        sex, label, probability = census(2000, seed)
        of = sex == "Female"
        classes = (probability[of] >= 0.5).astype(int)
        measured = measure_quality(label[of], classes, probability[of])
        spread = estimation_spread(errors, {"sex": sex[of]})
        for is_wide, more in ((False, None), (True, spread)):
            bounds = estimate_quality(classes, probability[of], spread=more).bounds
            held[is_wide] += [
                bounds[n].lower <= getattr(measured, n) <= bounds[n].upper
                for n in ("precision", "recall")
            ]
    assert np.mean(held[False]) < 0.5 and np.mean(held[True]) > 0.9


def test_a_widened_band_calculated_by_hand() -> None:
    """An end is √(reach² + (1.96 · 0.05)²) away from the estimate, at most at 1."""
    found = estimate_quality(np.array([1] * 40), np.full(40, 0.9))
    wide = estimate_quality(np.array([1] * 40), np.full(40, 0.9), spread={"accuracy": 0.05})
    lower, upper = found.bounds["accuracy"].lower, found.bounds["accuracy"].upper
    reach = ((0.9 - lower) ** 2 + (1.95996 * 0.05) ** 2) ** 0.5
    assert wide.bounds["accuracy"].lower == pytest.approx(0.9 - reach)
    assert upper <= wide.bounds["accuracy"].upper <= 1
    assert wide.bounds["log_loss"].lower == pytest.approx(found.bounds["log_loss"].lower)
