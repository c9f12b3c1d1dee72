"""Synthetic census rows: what is published, how rows are drawn, and how near they are."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from config.contract import Contract
from training.data import synthetic as synthesis
from training.data.census import Census, CensusError, check_frame
from training.data.synthetic import Cells, Tables


@pytest.fixture(scope="module")
def tables() -> Tables:
    """The tables that the project ships."""
    return synthesis.read_tables(synthesis.TABLES_PATH)


@pytest.fixture(scope="module")
def drawn(contract: Contract) -> Census:
    """A synthetic census of the real one's size."""
    return synthesis.synthesize(contract)


def all_cells(tables: Tables) -> list[Cells]:
    """Every published table."""
    steps = [column.steps.cells for column in tables.columns if column.steps]
    return steps + [cells for column in tables.columns for cells in column.tables]


# --- what is published --------------------------------------------------------------------------


def test_the_shipped_tables_are_small_and_no_number_stands_for_fewer_than_ten_people(tables):
    assert synthesis.TABLES_PATH.stat().st_size < 300_000
    counts = [count for cells in all_cells(tables) for count in cells.count]
    assert (tables.minimum_count, tables.rounding) == (10, 5)
    assert min(counts) >= 10 and {count % 5 for count in counts} == {0}


def test_small_cells_are_summed_up_and_a_small_sum_is_left_out():
    counts = np.array([[12, 3, 4, 0], [23, 9, 2, 9], [4, 3, 2, 0]])
    expected = [[10, 0, 0, 0, 0], [25, 0, 0, 0, 20], [0, 0, 0, 0, 0]]
    assert synthesis.publish(counts).tolist() == expected


def test_rare_survey_weights_are_not_told_to_the_unit(tables):
    """An exact weight could single out one row of the census."""
    column = next(column for column in tables.columns if column.name == "fnlwgt")
    assert {value % 1000 for value in column.steps.first} == {0}
    assert {value % 1000 for value in column.steps.last} == {999}


def test_every_column_comes_after_its_parents(tables):
    names = [column.name for column in tables.columns]
    assert names[0] == "income"
    for at, column in enumerate(tables.columns):
        assert set(column.parents) <= set(names[:at])
        assert at == 0 or column.parents[0] == "income"


def test_neighbours_are_merged_until_a_run_is_large_enough():
    """40 is large enough by itself, so the run of 3 before it stays small."""
    assert synthesis.runs(np.array([4, 7, 3, 40, 2, 8, 9]), 10).tolist() == [0, 0, 1, 2, 3, 3, 4]


def test_common_values_are_steps_of_their_own_and_rare_ones_share_a_range_or_are_not_told():
    """7 and 9 share a range; 30, between two common values, counts as the 20 before it."""
    values = pd.Series([0] * 50 + [7] * 4 + [9] * 6 + [20] * 10 + [30] * 5 + [40] * 12)
    steps = synthesis.make_steps(values, np.array([0] * 75 + [1] * 12))
    assert (steps.first, steps.last) == ([0, 7, 20, 40], [0, 9, 20, 40])
    assert (steps.cells.config, steps.cells.state) == ([0, 0, 0, 1], [0, 1, 2, 3])
    assert steps.cells.count == [50, 10, 15, 10]


# --- how rows are drawn -------------------------------------------------------------------------


def test_published_counts_outweigh_the_coarser_table_and_share_their_remainder_by_it():
    """By hand: 80, and 20 shared as 1:1, plus 20 rows of the prior, out of 120."""
    probability = synthesis.refine(np.array([[0.5, 0.25, 0.25]]), np.array([[80, 0, 0, 20]]))
    assert probability.tolist() == [pytest.approx([0.75, 0.125, 0.125])]


def test_an_unpublished_configuration_takes_the_coarser_tables_distribution():
    prior = np.array([[0.5, 0.25, 0.25]])
    assert synthesis.refine(prior, np.zeros((1, 4))).tolist() == prior.tolist()


def test_states_are_drawn_from_the_distribution_of_their_configuration():
    probability = np.array([[0.0, 1.0, 0.0], [0.2, 0.0, 0.8], [1.0, 0.0, 0.0]])
    config = np.array([0, 1, 2] * 20_000)
    states = synthesis.draw(probability, config, np.random.default_rng(0))
    assert set(states[config == 0]) == {1} and set(states[config == 2]) == {0}
    assert np.mean(states[config == 1] == 2) == pytest.approx(0.8, abs=0.01)


def test_drawn_rows_keep_the_contract_and_are_typed_like_real_ones(drawn, contract):
    for frame in (drawn.train, drawn.test):
        checked, rejected = check_frame(frame, contract)
        assert rejected.empty
        pd.testing.assert_frame_equal(checked, frame)
    assert (len(drawn.train), len(drawn.test)) == (32561, 16281)
    assert drawn.source == "synthetic"


def test_a_seed_draws_the_same_rows_and_another_seed_others(contract):
    first, again, other = (
        synthesis.synthesize(contract, 300, 200, seed=seed).digest for seed in (7, 7, 8)
    )
    assert first == again != other


def test_what_hardly_occurs_in_the_census_is_hardly_drawn(drawn):
    train = drawn.train
    husbands = train["relationship"] == "Husband"
    assert (train.loc[husbands, "sex"] == "Female").mean() < 0.005
    assert (train.loc[husbands, "marital_status"] != "Married-civ-spouse").mean() < 0.01
    young = train["age"] < 20
    assert train.loc[young, "education"].isin(["Masters", "Doctorate"]).mean() < 0.01


def test_a_million_rows_take_seconds(contract):
    start = pd.Timestamp.now()
    found = synthesis.synthesize(contract, 1_000_000, 0)
    assert len(found.train) == 1_000_000 and found.test.empty
    assert (pd.Timestamp.now() - start).total_seconds() < 30  # 3 s on an idle core


def test_tables_for_other_categories_or_columns_are_refused_with_the_columns(contract, tables):
    fewer = [column for column in tables.columns if column.name != "hours_per_week"]
    fewer[1] = msgspec.structs.replace(fewer[1], states=["Spouse"])
    changed = msgspec.structs.replace(tables, columns=fewer)
    with pytest.raises(CensusError, match=r"column\(s\) hours_per_week, relationship"):
        synthesis.synthesize(contract, 10, 10, tables=changed)


@pytest.mark.parametrize("content", [None, b"{", b'{"rows": "many"}'])
def test_tables_that_cannot_be_read_are_an_error_with_the_command_that_makes_them(
    tmp_path, content
):
    path = tmp_path / "tables.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CensusError, match="tables.json: .*training.data.synthetic tables"):
        synthesis.read_tables(path)


# --- how near they are --------------------------------------------------------------------------


def test_total_variation_is_half_the_sum_of_differences():
    """Shares 0.5, 0.5, 0 against 0.25, 0.5, 0.25."""
    assert synthesis.total_variation(np.array([0, 1]), np.array([0, 1, 1, 2])) == 0.25


def test_a_census_is_at_no_distance_from_itself_and_a_shifted_one_is(drawn, contract):
    part = Census(drawn.train[:4000], drawn.test[:2000], "synthetic", {}, 0)
    same = synthesis.compare(part, part, contract)
    assert same["worst_one_way"] == same["worst_two_way"] == 0
    assert same["roc_auc_synthetic"] == same["roc_auc_real"] > 0.85
    older = part.train.assign(age=(part.train["age"] + 10).clip(upper=90))
    moved = synthesis.compare(part, Census(older, part.test, "synthetic", {}, 0), contract)
    assert moved["one_way"]["age"] > 0.2 and moved["one_way"]["sex"] == 0
    assert moved["worst_two_way"] >= moved["worst_one_way"] == moved["one_way"]["age"]


def test_tables_made_from_drawn_rows_draw_rows_like_them(drawn, contract, tmp_path):
    """The whole way round, on a machine without the real files."""
    synthesis.write_tables(synthesis.build_tables(drawn.train, contract), tmp_path / "t.json")
    again = synthesis.synthesize(
        contract, seed=1, tables=synthesis.read_tables(tmp_path / "t.json")
    )
    found = synthesis.compare(drawn, again, contract)
    assert found["worst_one_way"] < 0.03 and found["worst_two_way"] < 0.12
    assert found["roc_auc_synthetic"] > found["roc_auc_real"] - 0.03


@pytest.fixture
def real_data(
    census_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The commands read the real files and write under tmp_path."""
    monkeypatch.setenv("CENSUS_DATA_DIR", str(census_dir))
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return monkeypatch


@pytest.mark.usefixtures("real_data")
def test_the_command_makes_the_shipped_tables_from_the_real_files(tmp_path):
    synthesis.main(["tables", "--out", str(tmp_path / "tables.json")])
    assert (tmp_path / "tables.json").read_bytes() == synthesis.TABLES_PATH.read_bytes()


@pytest.mark.usefixtures("real_data")
def test_drawn_rows_meet_the_goals_against_the_real_files(tmp_path, capsys):
    synthesis.main(["compare", "--out", str(tmp_path / "synthesis.json")])
    document = json.loads((tmp_path / "synthesis.json").read_text(encoding="utf-8"))
    goals = {row["name"]: row for row in document["results"] if "goal" in row}
    assert goals["worst_one_way"]["value"] <= 0.02
    assert goals["worst_two_way"]["value"] <= 0.10
    assert goals["roc_auc_synthetic"]["value"] >= 0.88
    assert all(row["met"] for row in goals.values())
    assert "worst_two_way" in capsys.readouterr().out


def test_a_command_without_the_files_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CENSUS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="1"):
        synthesis.main(["tables", "--out", str(tmp_path / "tables.json")])
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "tables.json").exists()
