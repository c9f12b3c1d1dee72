"""Scores from counts are Evidently's own, over random data of every kind of column."""

import warnings

import numpy as np
import pandas as pd
import pytest

from evidently_service.verdict.scores import count, scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

NUMERIC = ("integers", "few", "gains", "shares")
NUMERIC_TESTS = ("wasserstein", "jensenshannon", "psi", "ks")
CATEGORICAL_TESTS = ("jensenshannon", "psi", "chisquare")
CASES = [(column, test) for column in NUMERIC for test in NUMERIC_TESTS]
CASES += [(column, test) for column in ("rare", "two") for test in CATEGORICAL_TESTS]


def made_up(rng: np.random.Generator, rows: int, shift: float) -> pd.DataFrame:
    """Columns as the census has them; `shift` from 0 to 1 moves all of them."""
    chances = rng.dirichlet(np.full(25, 0.3)) if shift else np.linspace(1, 0.01, 25)
    drawn = rng.choice(25, rows, p=chances / chances.sum())
    return pd.DataFrame(
        {
            "integers": rng.integers(17, 91, rows) + int(10 * shift),
            "few": rng.integers(0, 15, rows),
            "gains": np.where(rng.random(rows) < 0.9 - shift / 2, 0, rng.integers(1, 99, rows) * 9),
            "shares": rng.beta(2, 5 - shift, rows),
            "rare": [f"category {number}" for number in drawn],
            "two": np.where(rng.random(rows) < 0.3 + shift / 5, "Female", "Male"),
        }
    )


@pytest.mark.parametrize(
    ("seed", "reference_rows", "rows", "shift"),
    [(0, 5000, 1000, 0), (1, 5000, 500, 1), (2, 60, 40, 0), (3, 333, 1000, 0.2), (4, 777, 51, 0.5)],
)
def test_a_score_is_the_one_that_evidently_gives(
    seed: int, reference_rows: int, rows: int, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    reference, window = made_up(rng, reference_rows, 0), made_up(rng, rows, shift)
    columns = DataDefinition(numerical_columns=list(NUMERIC), categorical_columns=["rare", "two"])
    report = Report([ValueDrift(column=column, method=test) for column, test in CASES])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a chi-square with a new category
        snapshot = report.run(
            Dataset.from_pandas(window, columns), Dataset.from_pandas(reference, columns)
        )
    expected = [float(metric["value"]) for metric in snapshot.dict()["metrics"]]
    found = [
        float(scores(test, count(reference[column], window[column]), column in NUMERIC)[0])
        for column, test in CASES
    ]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_many_windows_have_the_scores_that_each_has_alone() -> None:
    rng = np.random.default_rng(5)
    reference = made_up(rng, 800, 0)
    for column, test in CASES:
        windows = [made_up(rng, 90, shift)[column] for shift in (0, 0.3, 0.6)]
        codes, values = pd.factorize(pd.concat([reference[column], *windows]), sort=True)
        counts = [
            np.bincount(part, minlength=len(values)) for part in np.split(codes, [800, 890, 980])
        ]
        together = count(reference[column], windows[0])._replace(
            values=np.asarray(values), reference=counts[0], windows=np.stack(counts[1:])
        )
        alone = [
            scores(test, count(reference[column], one), column in NUMERIC)[0] for one in windows
        ]
        assert scores(test, together, column in NUMERIC) == pytest.approx(alone, rel=1e-9)
