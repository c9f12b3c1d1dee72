"""Pairs of values that are rarer together than alone, on rows with a known dependence."""

import numpy as np
import pandas as pd

from config.contract import Contract, Target
from config.feature import Feature
from config.rare_pairs import RarePair, Values
from training.model.rare_pairs import find_rare_pairs

CONTRACT = Contract(
    Target("y", "no", "yes", "whether"),
    (
        Feature("size", "number", "a size", minimum=0, maximum=100, missing="allow", unit="cm"),
        Feature("colour", "nominal", "a colour", categories=("red", "blue")),
        Feature("day", "date", "a day", minimum="2020-01-01", maximum="2030-01-01"),  # type: ignore
    ),
)


def made_up_frame(n_rows: int) -> pd.DataFrame:
    """Return independent columns, with sizes of 1 to 40 and missing ones."""
    random = np.random.default_rng(0)
    size = random.integers(1, 41, n_rows).astype(float)
    size[::7] = np.nan
    colour = random.choice(["red", "blue"], n_rows)
    return pd.DataFrame({"size": size, "colour": colour, "day": random.integers(0, 3000, n_rows)})


def test_a_pair_that_never_occurs_is_found_with_its_expected_number_of_rows():
    frame = made_up_frame(8000)
    assert not find_rare_pairs(frame, CONTRACT).pairs
    frame.loc[frame["size"] <= 2, "colour"] = "red"
    found = find_rare_pairs(frame, CONTRACT)
    n = (frame["size"] <= 2).sum() * (frame["colour"] == "blue").mean()
    parts = (Values("size", 1.0, 2.0), Values("colour", "blue", "blue"))
    assert (found.rows, found.pairs) == (8000, [RarePair(parts, 0, round(n, 1))])
    record = {"size": 2, "colour": "blue", "day": 5}
    words = f"size 1.0 to 2 cm with colour blue: 0 of 8,000 test rows, {n:,.0f} if the two were"
    assert list(found.of(record, CONTRACT)) == [f"{words} unrelated"]
    for other in ({"size": 3}, {"size": np.nan}, {"colour": "red"}):
        assert not list(found.of(record | other, CONTRACT))


def test_a_frame_without_rows_or_with_missing_numbers_only_has_no_pairs():
    frame = made_up_frame(500).assign(size=np.nan)
    assert not find_rare_pairs(frame, CONTRACT).pairs
    assert not find_rare_pairs(frame.head(0), CONTRACT).pairs
