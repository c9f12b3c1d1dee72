"""Gaps between groups: by hand, without a change, and with a group that is treated worse."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from config.contract import load_contract
from evidently_service.measure.fairness import (
    MAX_LABELS,
    Counted,
    Counts,
    Rate,
    count_rates,
    fairness_gaps,
    growth,
    rates_of,
)
from evidently_service.measure.segments import ClassifiedRows, classified_frame
from evidently_service.reference.monitoring_config import DAY_S, MONTH_S
from evidently_service.store.records import FairnessGap

MIN_ROWS = 30
REFERENCE_ROWS = 5000
SHARES = {  # of the groups, about those of the census
    "sex": {"Female": 0.33, "Male": 0.67},
    "race": {"White": 0.855, "Black": 0.096, "Asian-Pac-Islander": 0.031, "Other": 0.018},
}
POSITIVES = {"Female": 0.11, "Male": 0.30}
TPR, FPR = {"Female": 0.62, "Male": 0.70}, {"Female": 0.03, "Male": 0.11}


class People(NamedTuple):
    """Rows with their true class (n_rows,)."""

    rows: ClassifiedRows
    label: np.ndarray

    def cut(self, part: slice) -> "People":
        """Return some of the rows."""
        groups = {name: of[part] for name, of in self.rows.groups.items()}
        return People(ClassifiedRows(groups, self.rows.income_class[part]), self.label[part])

    def counts(self) -> tuple[Counts, Counts]:
        """Return the counts of the selection rate, and of tpr and fpr."""
        return count_rates(self.rows, MIN_ROWS), count_rates(self.rows, MIN_ROWS, self.label)


def people(rows: int, random: np.random.Generator, **lower_tpr: float) -> People:
    """Return people as a model sees them; `lower_tpr` is taken from the tpr of a sex."""
    groups = {
        name: random.choice(np.array(list(of), object), rows, p=list(of.values()))
        for name, of in SHARES.items()
    }

    def of_sex(rate: dict[str, float]) -> np.ndarray:
        return np.where(groups["sex"] == "Female", rate["Female"], rate["Male"])

    label = (random.random(rows) < of_sex(POSITIVES)).astype(int)
    tpr = {sex: rate - lower_tpr.get(sex, 0.0) for sex, rate in TPR.items()}
    predicted = np.where(label == 1, of_sex(tpr), of_sex(FPR))
    return People(ClassifiedRows(groups, (random.random(rows) < predicted).astype(int)), label)


def gaps(live: People, known: Counts, span_s: float, budget: float) -> tuple[FairnessGap, ...]:
    """Return the gaps of rows that came within `span_s`, all with a label."""
    return fairness_gaps([Counted(of, span_s) for of in live.counts()], known, budget)


def known_people(random: np.random.Generator) -> Counts:
    """Return the counts of people in the reference data."""
    selected, labelled = people(REFERENCE_ROWS, random).counts()
    return selected | labelled


def beyond(found: Iterable[FairnessGap]) -> Iterator[tuple[str, str]]:
    """Yield segment and rate of the gaps beyond their bound."""
    yield from ((one.segment, one.rate) for one in found if one.score > 1)


def test_the_score_of_a_gap_calculated_by_hand() -> None:
    """The gap rises from 0.1 to 0.3; the margin is sqrt(0.1² + 0.1² + 0.05² + 0.05²)."""
    women, men = Rate(0.4, 0.3, 0.5, "Female"), Rate(0.7, 0.6, 0.8, "Male")
    known = [Rate(0.5, 0.45, 0.55, "Female"), Rate(0.6, 0.55, 0.65, "Male")]
    score, *gap, highest, lowest = growth([women, men], known)
    assert score == pytest.approx(0.2 / 0.025**0.5)
    assert gap == pytest.approx([0.3, 0.1])
    assert (highest, lowest) == ("Male", "Female")


def test_a_gap_that_shrinks_or_reverses_without_growing_has_no_positive_score() -> None:
    known = [Rate(0.4, 0.3, 0.5, "Female"), Rate(0.7, 0.6, 0.8, "Male")]
    turned = [Rate(0.7, 0.6, 0.8, "Female"), Rate(0.4, 0.3, 0.5, "Male")]
    equal = [Rate(0.7, 0.6, 0.8, "Female"), Rate(0.7, 0.6, 0.8, "Male")]
    assert growth(turned, known)[0] == 0
    assert growth(equal, known)[0] < 0


def test_the_interval_of_a_rate_is_exact() -> None:
    """Without a positive row among n, the upper end u has (1 - u)^n = P(Z > z)."""
    counts = pd.DataFrame({"positives": [0, 40], "rows": [30, 40]}, index=["none", "all"])
    none, every = rates_of(counts, z=3.0)
    assert none == (0, 0, pytest.approx(1 - 0.001349898 ** (1 / 30)), "none")
    assert every == (1, pytest.approx(0.001349898 ** (1 / 40)), 1, "all")


def test_a_group_with_too_few_rows_in_the_denominator_has_no_rate() -> None:
    sex = np.repeat(np.array(["Female", "Male"], object), [40, 60])
    label = np.repeat([1, 0, 1, 0], [10, 30, 30, 30])
    counts = count_rates(ClassifiedRows({"sex": sex}, np.ones(100, int)), MIN_ROWS, label)
    assert list(counts["sex", "tpr"].index) == ["Male"]
    assert counts["sex", "fpr"].to_dict("index")["Female"] == {"positives": 30, "rows": 30}
    assert {rate for _, rate in counts} == {"tpr", "fpr"}
    assert [one.rate for one in fairness_gaps([Counted(counts, DAY_S)], counts, 1)] == ["fpr"]


def test_a_table_without_groups_has_no_gaps() -> None:
    nobody = classified_frame(pd.DataFrame({"income_class": [0, 1]}), load_contract().segments)
    assert not count_rates(nobody, MIN_ROWS)
    assert not fairness_gaps([Counted({}, DAY_S)], {}, 1)


def test_false_alarms_of_traffic_as_in_the_reference_data_are_within_the_budget() -> None:
    """Ten references with three windows of 1,000 rows each, which slide by a tenth. The 30 windows
    count as a month. With bounds for a single check of a single gap there are 15 alarms.
    """
    random, budget, windows, rows = np.random.default_rng(1), 5.0, 3, 1000
    references, alarms = 10, 0
    for _ in range(references):
        known = known_people(random)
        live = people((windows + 1) * rows, random)
        last: dict[tuple[str, str], int] = {}
        for start in range(0, windows * rows, rows // 10):
            window = live.cut(slice(start, start + rows))
            for gap in beyond(gaps(window, known, MONTH_S / (windows * references), budget)):
                alarms += start - last.get(gap, -rows) >= rows  # later looks see the same rows
                last[gap] = start
    assert alarms <= budget


def test_a_lower_true_positive_rate_is_found_for_women_and_narrows_the_gap_for_men() -> None:
    """10,000 labels in ten days. Men's tpr, the higher one, comes nearer to that of women."""
    random = np.random.default_rng(2)
    seen = 0
    for _ in range(10):
        known = known_people(random)
        worse = gaps(people(MAX_LABELS, random, Female=0.2), known, 10 * DAY_S, 1)
        seen += ("sex", "tpr") in beyond(worse)
        assert not {("race", "tpr"), ("race", "fpr"), ("sex", "fpr")} & set(beyond(worse))
        nearer = gaps(people(MAX_LABELS, random, Male=0.1), known, 10 * DAY_S, 1)
        assert ("sex", "tpr") not in beyond(nearer)
    assert seen >= 6
    (tpr,) = (one for one in worse if (one.segment, one.rate) == ("sex", "tpr"))
    assert (tpr.highest, tpr.lowest) == ("Male", "Female")
    assert tpr.gap == pytest.approx(0.28, abs=0.05)
    assert tpr.reference_gap == pytest.approx(0.08, abs=0.08)


def test_faster_labels_do_not_give_more_alarms() -> None:
    """The same rows within a second: more windows a month need a wider bound."""
    random = np.random.default_rng(3)
    known, live = known_people(random), people(MAX_LABELS, random, Female=0.2)
    slow, fast = (gaps(live, known, span_s, 1) for span_s in (10 * DAY_S, 1.0))
    for one, other in zip(slow, fast):
        assert abs(other.score) < abs(one.score)
        assert (other.gap, other.reference_gap) == (one.gap, one.reference_gap)
