"""The distributions of drifted features, worked out by hand."""

import pandas as pd
import pytest

from config.contract import Contract
from evidently_service.measure.distribution import measure_distribution

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        (
            "tenure",  # quantiles of eighths: 1, 2, ..., 7
            [1, 2, 3, 4, 5, 6, 7, 8],
            [7, 8, 9, 9],
            [("to 1", 0.125, 0.0)]
            + [(f"{n} to {n + 1}", 0.125, 0.0) for n in range(1, 6)]
            + [("6 to 7", 0.125, 0.25), ("above 7", 0.125, 0.75)],
        ),
        (
            "charges",
            [0.0, 0.0, NAN, 0.0],
            [0.5, 0.0],
            [("to 0.0", 0.75, 0.5), ("above 0.0", 0, 0.5), ("missing", 0.25, 0)],
        ),
        ("charges", [NAN], [0.5], [("any value", 0, 1), ("missing", 1, 0)]),
        ("joined", [0.0, 0.0], [365.0], [("to 2000-01-01", 1, 0), ("above 2000-01-01", 0, 1)]),
        ("senior", ["0", "1"], ["0", "0"], [("0", 0.5, 1), ("1", 0.5, 0)]),
        ("autopay", ["?", "no"], ["no", "no"], [("no", 0.5, 1), ("missing", 0.5, 0)]),
    ],
)
def test_shares_of_numbers_dates_and_categories(
    churn: Contract,
    name: str,
    before: list[float],
    after: list[float],
    expected: list[tuple[str, float, float]],
) -> None:
    found = measure_distribution(churn[name], pd.Series(before), pd.Series(after))
    assert [(one.values, one.reference, one.window) for one in found.bins] == expected


def test_of_many_categories_the_most_frequent_have_a_row_each(contract: Contract) -> None:
    names = contract["occupation"].categories
    before = pd.Series([name for number, name in enumerate(names) for _ in range(number + 1)])
    after = pd.Series([names[0]] * 10)
    found = measure_distribution(contract["occupation"], before, after).bins
    shown = [one.values for one in found]
    assert shown == [names[0], *names[:-8:-1], "all others"]
    assert sum(one.reference for one in found) == pytest.approx(1)
    assert found[0].window == 1
