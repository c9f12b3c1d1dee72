"""Thresholds from reference data: they keep the budget, are cached, and fit the window size."""

import msgspec
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import distance
from scipy.stats import norm

from config.contract import Contract
from evidently_service.verdict import thresholds
from evidently_service.reference.reference_data import Reference
from evidently_service.reference.monitoring_config import (
    CATEGORICAL_TESTS,
    NUMERIC_TESTS,
    ColumnTest,
    Monitoring,
)
from evidently_service.reference.registry import Version
from evidently_service.verdict.scores import Counts, score, scores
from evidently_service.verdict.thresholds import (
    Thresholds,
    find_threshold,
    find_thresholds,
    limit_of,
    population_of,
    unshown_distance,
    values_size,
    window_size,
)
from tests.evidently_service.events import made_up_rows, reference_of, with_thresholds


@pytest.fixture(scope="module")
def reference(contract: Contract) -> Reference:
    """Return 800 made-up rows."""
    return reference_of(contract, made_up_rows(contract, 800, seed=1))


@pytest.fixture
def two_columns(monitoring: Monitoring) -> Monitoring:
    """Return the real file with thresholds for all columns except two."""
    own = {name: 1.0 for name in monitoring.tests if name not in ("age", "sex")}
    return with_thresholds(monitoring, own)


def window_of(reference: Reference, rows: int) -> pd.DataFrame:
    """Return a window of this many rows."""
    return reference.frame.sample(rows, replace=True, random_state=0)


def test_the_budget_is_shared_by_the_columns_without_a_threshold_and_a_months_windows(
    monitoring: Monitoring, two_columns: Monitoring
) -> None:
    assert monitoring.false_alarm_chance == pytest.approx(
        1 / 2880 / 15
    )  # the features together are one more
    assert two_columns.false_alarm_chance == pytest.approx(1 / 2880 / 3)


def test_two_windows_in_a_row_exceed_the_threshold_with_the_allowed_chance() -> None:
    """Normal distances with equal references: p^2 = 1e-4 at the 99 % quantile."""
    far = np.random.default_rng(0).normal(size=(2000, 100))
    assert limit_of(far, 1, 0.01) == pytest.approx(norm.ppf(0.99), abs=0.03)
    assert limit_of(far, 2, 1e-4) == pytest.approx(norm.ppf(0.99), abs=0.05)


def test_differing_references_raise_the_threshold() -> None:
    """One reference in ten is far from all its windows: p and p^2 are 1 there."""
    far = np.random.default_rng(0).normal(size=(1000, 100))
    far[:100] += 5
    assert limit_of(far, 2, 0.01) > 5


def chance_of_two(ratios: list[float]) -> float:
    """Return the chance that two windows drawn from these are both beyond their threshold."""
    beyond = sum(ratio > 1 for ratio in ratios)
    return beyond * (beyond - 1) / (len(ratios) * (len(ratios) - 1))


def test_undrifted_windows_of_other_samples_keep_the_budget(
    two_columns: Monitoring,
) -> None:
    """A known population of integers and two categories; the references are samples of it."""
    rng = np.random.default_rng(2)
    alarms = {"age": 0.0, "sex": 0.0}
    samples = 12
    lenient = msgspec.structs.replace(two_columns, false_alarms_per_month=90.0)  # p about 0.1
    for seed in range(samples):
        frame = pd.DataFrame(
            {"age": rng.integers(17, 91, 800), "sex": rng.choice(["Female", "Male"], 800)}
        )
        found = find_thresholds(frame, lenient, 400, seed)
        for name, values in (("age", np.arange(17, 91)), ("sex", np.array(["Female", "Male"]))):
            known = frame[name].value_counts().reindex(values, fill_value=0).to_numpy()
            windows = rng.multinomial(400, np.full(len(values), 1 / len(values)), 200)
            drawn = scores(lenient.tests[name].test, Counts(values, known, windows))
            ratios = [found[name].ratio(float(one)) for one in drawn]
            alarms[name] += 2880 * chance_of_two(ratios) / samples
    # The budget is 30 for each. The 12 references differ much: within a factor of 2.5.
    assert 12 < alarms["age"] < 75, alarms
    assert 12 < alarms["sex"] < 75, alarms


def test_a_column_keeps_its_own_threshold(reference: Reference, two_columns: Monitoring) -> None:
    found = Thresholds(two_columns).apply(reference, window_of(reference, 1000), {}).tests
    assert found["race"].threshold == 1.0
    assert 0 < (found["age"].threshold or 0) < 0.3


def test_thresholds_are_found_once_for_each_size_and_reference(
    reference: Reference, two_columns: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = Thresholds(two_columns)
    windows = window_of(reference, 1000), window_of(reference, 949)
    full, half = (cached.apply(reference, one, {}) for one in windows)
    assert (half.tests["age"].threshold or 0) > (full.tests["age"].threshold or 0)
    monkeypatch.setattr(thresholds, "find_threshold", None)  # not called again
    assert [cached.apply(reference, one, {}) for one in windows] == [full, half]
    with pytest.raises(TypeError):
        cached.apply(reference._replace(version=Version("2", "run-2")), windows[0], {})


@pytest.mark.parametrize(
    ("rows", "size"), [(1000, 1000), (2000, 1000), (950, 1000), (949, 500), (400, 500)]
)
def test_a_window_gets_the_thresholds_of_the_size_it_has_reached(
    monitoring: Monitoring, rows: int, size: int
) -> None:
    assert window_size(monitoring, rows) == size


@pytest.mark.parametrize("test", [*NUMERIC_TESTS, *CATEGORICAL_TESTS])
@pytest.mark.parametrize("others_before", [0, 1])
def test_a_constant_column_drifts_from_more_rows_than_its_reference_can_exclude(
    monitoring: Monitoring, test: str, others_before: int
) -> None:
    """One other row in 1,000 once was 18,600,000 times beyond the threshold of 5,000 equal rows.

    They cannot exclude a share of 3 / 5,000, by which three rows in 1,000 come by chance.
    """
    name = "age" if test in NUMERIC_TESTS else "sex"
    common, other = (40, 4000) if test in NUMERIC_TESTS else ("Male", "Female")

    def column(others: int, rows: int) -> pd.Series:
        return pd.Series([other] * others + [common] * (rows - others), name=name)

    only = msgspec.structs.replace(
        monitoring, features=monitoring.features | {name: ColumnTest(test)}
    )
    before = column(others_before, 5000)
    found = find_threshold(name, before, only, 1000)
    assert found.test == ("ks" if test in NUMERIC_TESTS else test)
    ratios = [
        found.ratio(score(before, column(others, 1000), found.test))
        for others in (0, 1, 3, 50, 900)
    ]
    assert ratios == sorted(ratios)
    assert ratios[2] <= 1 < ratios[3], ratios
    assert ratios[4] < 300, ratios


def test_the_allowed_rows_of_a_value_absent_from_the_reference_calculated_by_hand() -> None:
    """A share of 3 / 5,000 gives 0.6 rows in 1,000; more than three have a chance of 0.0034."""
    assert unshown_distance("ks", 1000, 5000, 0.005**2, 2) == pytest.approx(3 / 1000)
    assert unshown_distance("ks", 1000, 5000, 0.003**2, 2) == pytest.approx(4 / 1000)
    assert unshown_distance("jensenshannon", 1000, 5000, 0.005**2, 2) == pytest.approx(
        distance.jensenshannon([1, 0], [0.997, 0.003])
    )


def test_missing_numbers_have_no_part_in_a_threshold(monitoring: Monitoring) -> None:
    """Of 700 values in 1,000 rows, the threshold is that of 700 rows without missing values."""
    values = pd.Series(np.random.default_rng(0).normal(50, 10, 2100), name="age")
    column = values.reindex(range(3000))
    frame = pd.DataFrame({name: column for name in monitoring.tests})
    only = with_thresholds(monitoring, {n: 1.0 for n in monitoring.tests if n != "age"})
    assert find_thresholds(frame, only, 1000) == {"age": find_threshold("age", values, only, 700)}


@pytest.mark.parametrize(
    ("expected", "values", "size"),
    [(700, 700, 700), (700, 640, 700), (700, 600, 350), (700, 100, 87), (1000, 30, 31)],
)
def test_a_window_with_fewer_values_than_expected_gets_a_larger_threshold(
    expected: int, values: int, size: int
) -> None:
    """640 of 700 are within three standard errors of chance, 600 are not."""
    assert values_size(expected, values) == size


def test_a_column_with_too_few_values_has_no_test(
    reference: Reference, two_columns: Monitoring
) -> None:
    window = window_of(reference, 1000)
    emptied = window.assign(age=window["age"].where(np.arange(1000) < 29))
    found = Thresholds(two_columns).apply(reference, emptied, {})
    assert set(two_columns.features) - set(found.features) == {"age"}
    kept = Thresholds(two_columns).apply(reference, window.assign(age=window["age"]), {})
    assert set(kept.features) == set(two_columns.features)


def test_many_values_are_grouped_by_rank() -> None:
    column = pd.Series(np.random.default_rng(3).beta(2, 5, 5000))
    population = population_of(column, "wasserstein")
    assert len(population.values) == 1000
    assert population.values[population.codes] == pytest.approx(column, abs=0.05)


@pytest.mark.slow
def test_thresholds_on_census_rows_keep_the_budget(
    census_rows: pd.DataFrame, monitoring: Monitoring
) -> None:
    """Real columns: heavy tails, and countries that a sample of 5,000 lacks.

    `make bench NAME=false-alarms` has the figures of many months. The budget here is large, so
    that there are alarms to count: 40 a month for each of three columns.
    """
    columns = ("hours_per_week", "capital_gain", "native_country")
    only = with_thresholds(monitoring, {n: 1.0 for n in monitoring.tests if n not in columns})
    only = msgspec.structs.replace(only, false_alarms_per_month=120.0)
    rng = np.random.default_rng(0)
    alarms = []
    for seed in range(8):
        order = rng.permutation(len(census_rows))
        reference, others = census_rows.iloc[order[:5000]], census_rows.iloc[order[5000:]]
        found = only.with_tests(find_thresholds(reference, only, 1000, seed))
        for name in columns:
            windows = [others[name].sample(1000, random_state=rng) for _ in range(100)]
            test = found.tests[name]
            ratios = [test.ratio(score(reference[name], one, test.test)) for one in windows]
            alarms.append(2880 * chance_of_two(ratios))
    assert 15 < np.mean(alarms) < 90, alarms
