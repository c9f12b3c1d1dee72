"""Scores from counts equal Evidently's, over random data of every kind of column."""

import warnings

import numpy as np
import pandas as pd
import pytest

from evidently_service.reference.monitoring_config import CATEGORICAL_TESTS, NUMERIC_TESTS
from evidently_service.verdict.scores import count, score, scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

NUMERIC = ("integers", "few", "gains", "shares")
CATEGORICAL = ("rare", "two", "class")  # 0 and 1, as `income_class`
CASES = [(column, test) for column in NUMERIC for test in NUMERIC_TESTS]
CASES += [(column, test) for column in CATEGORICAL for test in CATEGORICAL_TESTS]


def made_up(rng: np.random.Generator, rows: int, shift: float) -> pd.DataFrame:
    """Return columns like the census's; `shift` from 0 to 1 moves all of them."""
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
            "class": (rng.random(rows) < 0.2 + shift / 5).astype(int),
        }
    )


@pytest.mark.parametrize(
    ("seed", "reference_rows", "rows", "shift"),
    [(0, 5000, 1000, 0), (1, 5000, 500, 1), (2, 60, 40, 0), (3, 333, 1000, 0.2), (4, 777, 51, 0.5)],
)
def test_a_score_equals_evidentlys(seed: int, reference_rows: int, rows: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    reference, window = made_up(rng, reference_rows, 0), made_up(rng, rows, shift)
    columns = DataDefinition(numerical_columns=list(NUMERIC), categorical_columns=list(CATEGORICAL))
    report = Report([ValueDrift(column=column, method=test) for column, test in CASES])
    snapshot = report.run(
        Dataset.from_pandas(window, columns), Dataset.from_pandas(reference, columns)
    )
    expected = [float(metric["value"]) for metric in snapshot.dict()["metrics"]]
    found = [score(reference[column], window[column], test) for column, test in CASES]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_many_windows_have_the_same_scores_as_each_alone() -> None:
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
        alone = [score(reference[column], one, test) for one in windows]
        assert scores(test, together) == pytest.approx(alone, rel=1e-9)
