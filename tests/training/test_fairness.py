"""Rates, gaps and calibration of groups against values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from tests.conftest import made_up_rows
from training.evaluation.fairness import (
    Scored,
    Share,
    difference,
    excess,
    find_gaps,
    gap_table,
    group_table,
    population_words,
    rates,
)

ALL = 0.95


def sexes(*groups: tuple[str, int, int, int]) -> tuple[pd.DataFrame, Scored]:
    """Return rows of groups: their sex, number, positives among them, and how many are selected.

    The first rows of a group are selected and positive.
    """
    frame = pd.DataFrame({"sex": [sex for sex, rows, _, _ in groups for _ in range(rows)]})
    y = np.concatenate([np.arange(rows) < positives for _, rows, positives, _ in groups])
    selected = np.concatenate([np.arange(rows) < count for _, rows, _, count in groups])
    return frame, Scored.of(y.astype(int), selected * 0.8, 0.5)


def test_the_interval_of_a_share_is_wilsons():
    """Newcombe (1998), doi:10.1002/(SICI)1097-0258(19980430)17:8<857>3.0.CO;2-E, has 81 of 263."""
    assert Share(81 / 263, 263)[0] == pytest.approx(0.3080, abs=1e-4)
    assert Share(81 / 263, 263).interval() == pytest.approx((0.3080, 0.2553, 0.3662), abs=1e-4)
    assert Share(0, 20).interval() == pytest.approx((0, 0, 0.1611), abs=1e-4)


def test_the_interval_of_a_difference_is_newcombes():
    """The article has 56 of 70 against 48 of 80: 0.0524 to 0.3339."""
    found = difference(Share(56 / 70, 70), Share(48 / 80, 80), ALL)
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_rates_and_gaps_are_those_counted_by_hand(contract):
    frame, scored = sexes(("Female", 100, 40, 20), ("Male", 100, 40, 50))
    found = {gap.rate: gap for gap in find_gaps(frame, contract.segments, scored)}
    assert {name: gap.gap.estimate for name, gap in found.items()} == pytest.approx(
        {
            "selection_rate": 0.5 - 0.2,
            "true_positive_rate": 40 / 40 - 20 / 40,
            "false_positive_rate": 10 / 60 - 0 / 60,
        }
    )
    assert {(gap.highest, gap.lowest) for gap in found.values()} == {("sex Male", "sex Female")}
    assert found["selection_rate"].gap == difference(Share(0.5, 100), Share(0.2, 100), ALL)


def test_the_minimum_of_rows_holds_for_the_denominator_of_a_rate(contract):
    """200 rows of a group with 25 positives once had a true positive rate."""
    frame, scored = sexes(("Female", 200, 25, 20), ("Male", 200, 100, 50))
    assert list(rates(frame["sex"].to_numpy() == "Female", scored)) == [
        "selection_rate",
        "false_positive_rate",
    ]
    table = group_table(frame, contract.segments, scored)
    assert pd.isna(table.loc["sex Female", "true_positive_rate"])
    assert pd.isna(table.loc["sex Female", "roc_auc"])
    assert table.loc["sex Male", "true_positive_rate"].startswith("0.500 (0.4")
    rates_compared = [gap.rate for gap in find_gaps(frame, contract.segments, scored)]
    assert rates_compared == ["selection_rate", "false_positive_rate"]


def test_a_gap_hidden_in_single_columns_is_found_for_two_columns_together(contract):
    """Half of each sex and half of each race is selected, but no Black man and no White woman."""
    frame = pd.DataFrame(
        {"sex": ["Female", "Male"] * 100, "race": ["Black"] * 100 + ["White"] * 100}
    )
    selected = (frame["sex"] == "Female") == (frame["race"] == "Black")
    scored = Scored.of(np.zeros(200, int), selected.to_numpy() * 0.8, 0.5)
    gap = {
        one.columns: one.gap.estimate
        for one in find_gaps(frame, contract.segments, scored)
        if one.rate == "selection_rate"
    }
    assert gap == {"race": 0, "sex": 0, "race and sex": 1}


def test_the_interval_of_a_gap_allows_for_the_choice_of_its_two_groups(contract):
    """Five groups of one rate differ by chance. The interval of one pair excludes 0 too often."""
    random = np.random.default_rng(0)
    races = np.repeat(["White", "Black", "Other", "Asian-Pac-Islander", "Amer-Indian-Eskimo"], 100)
    frame = pd.DataFrame({"race": races})
    covers = []
    for _ in range(200):
        scored = Scored.of(np.zeros(500, int), random.random(500), 0.7)
        (gap,) = [
            one
            for one in find_gaps(frame, contract.segments, scored)
            if one.rate == "selection_rate"
        ]
        covers.append(gap.gap.low <= 0)
    assert np.mean(covers) >= 0.93


def test_calibration_excess_by_hand():
    scored = Scored.of(np.array([1, 0, 0, 0]), np.array([0.5, 0.5, 0.5, 0.5]), 0.5)
    half = 1.96 * np.sqrt(4 * 0.25) / 4
    assert excess(np.ones(4, bool), scored) == pytest.approx((0.25, 0.25 - half, 0.25 + half), 1e-4)
    heavy = scored._replace(weight=np.array([3.0, 1, 1, 1]))
    assert excess(np.ones(4, bool), heavy).estimate == pytest.approx(0)


def test_a_weighted_row_counts_as_the_rows_that_it_stands_for(contract):
    """Weights say nothing about a census of equal weights, and halve nothing in the estimate."""
    frame, scored = sexes(("Female", 100, 40, 20), ("Male", 100, 40, 50))
    table = gap_table(frame.assign(fnlwgt=7), contract, scored)
    assert table["weighted gap"].equals(table["gap"].rename("weighted gap"))
    weight = np.where(frame["sex"] == "Male", np.where(scored.selected, 1, 3), 5)
    table = gap_table(frame.assign(fnlwgt=weight), contract, scored)
    assert table["weighted gap"].iloc[0].startswith("0.050")  # 50 of 200 against 20 of 100
    assert "weighted gap" not in gap_table(frame, contract, scored)


def test_the_population_has_a_sentence_if_the_contract_has_a_weight(contract, churn):
    rows = made_up_rows(contract, 400)
    scored = Scored.of(rows["income"].to_numpy(), np.full(400, 0.3), 0.5)
    text = population_words(rows.assign(fnlwgt=[1, 3] * 200), contract, scored)
    assert "ROC AUC 0.5000" in text and " 320 effective rows" in text  # 800^2 / 2,000
    assert population_words(rows.assign(fnlwgt=[1.0, np.nan] * 200), contract, scored) == ""
    assert population_words(rows, churn, scored) == ""
