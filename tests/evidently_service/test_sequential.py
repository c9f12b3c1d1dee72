"""The test of two versions, whose result may be checked after every label."""

import math

import numpy as np
import pytest

from evidently_service.shadow.sequential import (
    BOUND,
    SEGMENT_MARGIN,
    Decision,
    Rules,
    decide,
    evidence_of,
    interval,
    log_e_values,
    loss_differences,
)

RULES = Rules()
DAY_S = 86_400
# Every fifth row of 2,000 is a woman's.
SEX = {"sex: Female": np.arange(0, 2000, 5), "sex: Male": np.flatnonzero(np.arange(2000) % 5)}


def by_sex(female: float, male: float) -> np.ndarray:
    """Return 2,000 differences, the same for each person of a sex."""
    return np.where(np.arange(2000) % 5, male, female)


def centred(random: np.random.Generator, tails: str, rows: int) -> np.ndarray:
    """Return differences with a mean of 0: one row in ten or in a hundred has a large one."""
    if tails == "rare harm":
        return np.where(random.random(rows) < 0.01, -BOUND, BOUND / 99)
    sizes = np.where(random.random(rows) < 0.1, random.uniform(0, BOUND, rows), 0.05)
    return sizes * random.choice([-1, 1], rows)


def test_differences_are_clipped_to_the_bound() -> None:
    found = loss_differences(np.array([1, 0]), np.array([0.0, 0.5]), np.array([1.0, 0.75]))
    assert found == pytest.approx([BOUND, math.log(0.25 / 0.5)])


def test_an_e_value_is_the_mean_wealth_of_the_bets() -> None:
    """1, 2, 4 and 8 fifteenths of the wealth stake 0.95 times 1/8, 1/4, 1/2 and 1.

    A difference of the bound adds the stake, its opposite takes it.
    """
    bets = [(1 / 15, 0.11875), (2 / 15, 0.2375), (4 / 15, 0.475), (8 / 15, 0.95)]
    won = sum(weight * (1 + stake) for weight, stake in bets)
    lost = sum(weight * (1 + stake) * (1 - stake) for weight, stake in bets)
    assert np.exp(log_e_values(np.array([BOUND, -BOUND]))) == pytest.approx([won, lost])


@pytest.mark.parametrize("tails", ["both sides", "rare harm"])
def test_equal_versions_rarely_end_a_test_however_often_it_is_checked(tails: str) -> None:
    random, rules, found = np.random.default_rng(0), Rules(max_labels=2000), []
    for _ in range(1000):
        decision = decide(centred(random, tails, 2000), {}, rules, guards=False)
        found.append(decision.outcome if decision else "")
    assert 0 < found.count("better") <= 50
    assert 0 < found.count("worse") <= 50
    assert found.count("undecided") >= 900


def test_a_better_and_a_worse_version_end_the_test_once_the_wealth_is_20() -> None:
    """It is 17.4 after 5 rows and 32.7 after 6: the last bet alone has 8 / 15 * 1.95**n."""
    gains = np.full(100, BOUND)
    assert decide(gains[:5], {}, RULES, guards=False) is None
    assert decide(gains, {}, RULES, guards=False) == Decision("better", "better", 6)
    assert decide(-gains, {}, RULES, guards=False) == Decision("worse", "worse", 6)


def test_harm_in_one_segment_rejects_a_version_that_is_better_on_the_whole() -> None:
    harmful, harmless = by_sex(-0.8, 0.25), by_sex(-0.75 * SEGMENT_MARGIN, 0.25)
    assert harmful.mean() > 0
    found = [decide(one, SEX, RULES, guards=False) for one in (harmful, harmless)]
    assert found[0] and found[1]
    assert (found[0].outcome, found[0].why) == ("worse", "worse for sex: Female")
    assert found[0].labels % 5 == 1  # a woman's row
    assert found[1].outcome == "better"


def test_a_former_version_is_better_on_the_whole_or_in_one_segment() -> None:
    """A worse former version does not end the test: it stays the fallback."""
    worse, better, for_women = by_sex(-0.5, -0.5), by_sex(0.5, 0.5), by_sex(0.8, -0.5)
    assert decide(worse, SEX, RULES, guards=True) is None
    whole, women = (decide(one, SEX, RULES, guards=True) for one in (better, for_women))
    assert whole and whole.why == "better"
    assert women and (women.outcome, women.why) == ("better", "better for sex: Female")


def test_a_test_without_a_result_ends_at_a_limit() -> None:
    rows, rules = np.zeros(50), Rules(max_labels=51, max_s=2 * DAY_S)
    assert decide(rows, {}, rules, guards=False, age_s=2 * DAY_S - 1) is None
    late = decide(rows, {}, rules, guards=False, age_s=2 * DAY_S)
    assert late == Decision("undecided", "undecided after 2.0 days", 50)
    enough = decide(np.zeros(51), {}, rules, guards=True)
    assert enough == Decision("undecided", "undecided after 51 labels", 51)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_contradicts_0_exactly_with_the_decision(sign: int) -> None:
    rows = sign * (centred(np.random.default_rng(1), "both sides", 2000) + 0.1)
    decision = decide(rows, {}, RULES, guards=False)
    assert decision
    before, after = (interval(rows[:n], 0.05) for n in (decision.labels - 1, decision.labels))
    assert before[0] < 0 < before[1]
    assert sign * after[0 if sign > 0 else 1] >= 0
    assert after[0] < rows[: decision.labels].mean() < after[1]


def test_evidence_without_labels_and_of_the_most_extreme_row() -> None:
    none, row = evidence_of(np.array([]), 0.0, 0.05), evidence_of(np.array([-BOUND]), 0.0, 0.05)
    assert (none.labels, none.gain, none.log_e_better, none.log_e_worse) == (0, 0, 0, 0)
    assert (none.lower, none.upper) == (-BOUND, BOUND)
    assert (row.lower, row.gain) == (-BOUND, -BOUND)
    assert row.log_e_worse > 0 > row.log_e_better
