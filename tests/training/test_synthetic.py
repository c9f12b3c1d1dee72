"""Synthetic census rows: the published tables, and how rows are drawn from them."""

import msgspec
import numpy as np
import pandas as pd
import pytest

from config.contract import Contract
from training.data import synthetic
from training.data.dataset import Dataset
from training.data.errors import SourceError
from training.data.synthetic import Tables
from training.data.validation import check_frame


@pytest.fixture(scope="module")
def tables() -> Tables:
    """The tables of the project."""
    return synthetic.read_tables(synthetic.TABLES_PATH)


@pytest.fixture(scope="module")
def drawn(contract: Contract) -> Dataset:
    """A synthetic census of the real one's size."""
    return synthetic.synthesize(contract)


# --- what is published --------------------------------------------------------------------------


def test_the_shipped_tables_are_small_and_no_number_stands_for_fewer_than_ten_people(tables):
    """Exact survey weights could single out one row of the census, so they are thousands."""
    assert synthetic.TABLES_PATH.stat().st_size < 300_000
    steps = {column.name: column.steps for column in tables.columns if column.steps}
    published = [cells for column in tables.columns for cells in column.tables]
    counts = [
        n for cells in [*published, *(one.cells for one in steps.values())] for n in cells.count
    ]
    assert (tables.minimum_count, tables.rounding) == (10, 5)
    assert min(counts) >= 10 and {count % 5 for count in counts} == {0}
    assert {value % 1000 for value in steps["fnlwgt"].first} == {0}
    assert {value % 1000 for value in steps["fnlwgt"].last} == {999}


# --- how rows are drawn -------------------------------------------------------------------------


def test_published_counts_outweigh_the_coarser_table_and_share_their_remainder_by_it():
    """By hand: 80, and 20 shared as 1:1, plus 20 rows of the prior, out of 120."""
    probability = synthetic.refine(np.array([[0.5, 0.25, 0.25]]), np.array([[80, 0, 0, 20]]))
    assert probability.tolist() == [pytest.approx([0.75, 0.125, 0.125])]
    nothing_published = synthetic.refine(np.array([[0.5, 0.25, 0.25]]), np.zeros((1, 4)))
    assert nothing_published.tolist() == [[0.5, 0.25, 0.25]]


def test_drawn_rows_keep_the_contract_and_are_typed_like_real_ones(drawn, contract):
    for frame in (drawn.train, drawn.test):
        checked, rejected = check_frame(frame, contract)
        assert rejected.empty
        pd.testing.assert_frame_equal(checked, frame)
    assert (len(drawn.train), len(drawn.test)) == (32561, 16281)
    assert drawn.source == "synthetic"


def test_a_seed_draws_the_same_rows_and_another_seed_others(contract):
    first, again, other = (
        synthetic.synthesize(contract, 300, 200, seed=seed).digest for seed in (7, 7, 8)
    )
    assert first == again != other


def test_rare_combinations_of_the_census_are_rarely_drawn(drawn):
    train = drawn.train
    husbands = train["relationship"] == "Husband"
    assert (train.loc[husbands, "sex"] == "Female").mean() < 0.005
    assert (train.loc[train["relationship"] == "Wife", "sex"] == "Male").mean() < 0.01
    assert (train.loc[husbands, "marital_status"] != "Married-civ-spouse").mean() < 0.01
    young = train["age"] < 20
    assert train.loc[young, "education"].isin(["Masters", "Doctorate"]).mean() < 0.01


def test_tables_of_other_categories_or_columns_are_rejected_with_the_columns(contract, tables):
    fewer = [column for column in tables.columns if column.name != "hours_per_week"]
    fewer[1] = msgspec.structs.replace(fewer[1], states=["Spouse"])
    changed = msgspec.structs.replace(tables, columns=fewer)
    with pytest.raises(SourceError, match=r"column\(s\) hours_per_week, relationship"):
        synthetic.synthesize(contract, 10, 10, tables=changed)


@pytest.mark.parametrize("content", [None, b"{", b'{"rows": "many"}'])
def test_tables_that_cannot_be_read_are_an_error_with_the_command_that_makes_them(
    tmp_path, content
):
    path = tmp_path / "tables.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match="tables.json: .*notebooks.census_tables tables"):
        synthetic.read_tables(path)
