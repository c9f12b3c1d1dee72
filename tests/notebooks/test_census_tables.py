"""Making the census tables, and comparing synthetic with real rows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config.contract import Contract
from notebooks import census_tables
from training.data import synthetic
from training.data.dataset import Dataset


@pytest.fixture(scope="module")
def drawn(contract: Contract) -> Dataset:
    """Return a synthetic census of the size of the real one."""
    return synthetic.synthesize(contract)


def test_small_cells_are_summed_and_a_small_sum_is_left_out():
    counts = np.array([[12, 3, 4, 0], [23, 9, 2, 9], [4, 3, 2, 0]])
    expected = [[10, 0, 0, 0, 0], [25, 0, 0, 0, 20], [0, 0, 0, 0, 0]]
    assert census_tables.publish(counts).tolist() == expected


def test_neighbours_are_merged_until_a_run_is_large_enough():
    """40 is large enough alone, so the run of 3 before it stays small."""
    runs = census_tables.merge_runs(np.array([4, 7, 3, 40, 2, 8, 9]), 10)
    assert runs.tolist() == [0, 0, 1, 2, 3, 3, 4]


def test_common_values_are_steps_and_rare_ones_share_a_range_or_are_not_published():
    """7 and 9 share a range; 30, between two common values, counts as the 20 before it."""
    values = pd.Series([0] * 50 + [7] * 4 + [9] * 6 + [20] * 10 + [30] * 5 + [40] * 12)
    steps = census_tables.make_steps(values, np.array([0] * 75 + [1] * 12))
    assert (steps.first, steps.last) == ([0, 7, 20, 40], [0, 9, 20, 40])
    assert (steps.cells.config, steps.cells.state) == ([0, 0, 0, 1], [0, 1, 2, 3])
    assert steps.cells.count == [50, 10, 15, 10]


def test_total_variation_is_half_the_sum_of_differences():
    """Shares 0.5, 0.5, 0 against 0.25, 0.5, 0.25."""
    assert census_tables.total_variation(np.array([0, 1]), np.array([0, 1, 1, 2])) == 0.25


def test_the_distance_of_a_census_is_zero_from_itself_and_positive_from_a_shifted_one(
    drawn, contract
):
    part = Dataset(drawn.train[:2000], drawn.test[:1000], "synthetic", {}, 0)
    same = census_tables.compare(part, part, contract)
    assert same["worst_one_way"] == same["worst_two_way"] == 0
    assert same["roc_auc_synthetic"] == same["roc_auc_real"] > 0.85
    older = part.train.assign(age=(part.train["age"] + 10).clip(upper=90))
    moved = census_tables.compare(part, Dataset(older, part.test, "synthetic", {}, 0), contract)
    assert moved["one_way age"] > 0.2 and moved["one_way sex"] == 0
    assert moved["worst_two_way"] >= moved["worst_one_way"] == moved["one_way age"]


@pytest.mark.slow
def test_tables_of_drawn_rows_give_similar_rows(drawn, contract, tmp_path):
    """This makes tables and draws rows also on a machine without the real files."""
    path = tmp_path / "tables.json"
    census_tables.write_tables(census_tables.build_tables(drawn.train, contract), path)
    again = synthetic.synthesize(contract, seed=1, tables=synthetic.read_tables(path))
    found = census_tables.compare(drawn, again, contract)
    assert found["worst_one_way"] < 0.03 and found["worst_two_way"] < 0.12
    assert found["roc_auc_synthetic"] > found["roc_auc_real"] - 0.03


@pytest.fixture
def real_data(census_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands read the real files and write under tmp_path."""
    monkeypatch.setenv("CENSUS_DATA_DIR", str(census_dir))
    monkeypatch.setenv("DATA_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("real_data")
def test_the_command_makes_the_shipped_tables_from_the_real_files(tmp_path):
    census_tables.main(["tables", "--out", str(tmp_path / "tables.json")])
    assert (tmp_path / "tables.json").read_bytes() == synthetic.TABLES_PATH.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("real_data")
def test_drawn_rows_meet_the_goals_against_the_real_files(tmp_path, capsys):
    census_tables.main(["compare", "--out", str(tmp_path / "figures.json")])
    document = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    goals = {row["name"]: row for row in document["results"] if "goal" in row}
    assert goals["worst_one_way"]["value"] <= 0.02
    assert goals["worst_two_way"]["value"] <= 0.10
    assert goals["roc_auc_synthetic"]["value"] >= 0.88
    assert all(row["met"] for row in goals.values())
    assert "worst_two_way" in capsys.readouterr().out


def test_a_command_without_the_files_ends_with_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CENSUS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="1"):
        census_tables.main(["tables", "--out", str(tmp_path / "tables.json")])
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "tables.json").exists()
