"""The search file: narrow ranges for one table, wide ones for every other."""

from math import exp, log

import numpy as np
import pytest
import yaml
from hyperopt.pyll.stochastic import sample
from structlog.testing import capture_logs

from config.contract import CONTRACT_PATH
from training.model.search_space import (
    DEFAULT_START,
    SEARCH_FILE,
    Ranges,
    SearchError,
    SearchSpace,
    load_search,
)

CENSUS_FILE = CONTRACT_PATH.with_name(SEARCH_FILE)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a search file for the target `income`."""

    def write(**parts):
        path = tmp_path / SEARCH_FILE
        path.write_text(yaml.safe_dump({"target": "income", **parts}), "utf-8")
        return path

    return write


def drawn(space, n=200):
    """Return random settings of a space."""
    random = np.random.default_rng(0)
    return [sample(space.expressions(), random) for _ in range(n)]


def test_a_table_without_a_search_file_has_wide_ranges_that_include_no_resampling(
    contract, tmp_path
):
    space = load_search(tmp_path / SEARCH_FILE, contract)
    assert space == SearchSpace() and space.start == DEFAULT_START
    assert all(Ranges().has(name, value) for name, value in DEFAULT_START.items())
    settings = drawn(space)
    assert {one["smote_multiplier"] for one in settings} == {1.0, 1.5, 3.0, 10.0}
    assert {one["max_depth"] for one in settings} == set(range(2, 11))
    rates = [one["learning_rate"] for one in settings]
    assert np.median(rates) == pytest.approx(exp((log(0.03) + log(0.3)) / 2), rel=0.1)


def test_the_census_file_narrows_every_range_and_includes_no_resampling(contract):
    space, wide = load_search(CENSUS_FILE, contract), Ranges()
    assert 1.0 in space.ranges.smote_multiplier
    for one in drawn(space):
        assert all(wide.has(name, value) for name, value in one.items() if "multiplier" not in name)
    assert space.first_point() == space.start | {"smote_multiplier": 1, "smote_neighbours": 1}


def test_the_first_trial_can_be_left_out(contract, write):
    space = load_search(CENSUS_FILE, contract, with_start=False)
    assert space.start is None and space.ranges == load_search(CENSUS_FILE, contract).ranges
    assert load_search(write(ranges={"gamma": [0, 1]}), contract).start is None


def test_the_file_of_another_target_is_ignored_with_a_log_line(contract, write):
    """A copy of the census file beside another contract would narrow that table's ranges."""
    path = write(target="churn", ranges={"gamma": [0, 1]})
    with capture_logs() as logs:
        assert load_search(path, contract) == SearchSpace()
    assert [(one["event"], one["target"]) for one in logs] == [("search_file_ignored", "churn")]


def test_equal_ends_fix_a_parameter(contract, write):
    space = load_search(
        write(
            ranges={"max_depth": [4, 4], "smote_multiplier": [1]},
            start=DEFAULT_START | {"max_depth": 4},
        ),
        contract,
    )
    assert {(one["max_depth"], one["smote_multiplier"]) for one in drawn(space)} == {(4, 1.0)}
    assert not {"max_depth", "smote_multiplier"} & space.first_point().keys()


def test_every_problem_of_the_file_is_named_with_its_field(contract, write):
    path = write(
        ranges={
            "learning_rat": [0.1, 0.2],
            "smote_multiplier": [0.5],
            "smote_neighbours": [],
            "gamma": [2, 1],
            "max_depth": [2.5, 4],
            "subsample": [0.5],
            "reg_lambda": "wide",
        },
        start={"gamma": 9, "max_depth": 40, "eta": 0.1},
    )
    with pytest.raises(SearchError) as caught:
        load_search(path, contract)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    told = [line.removeprefix(f"{path}: ") for line in lines]
    assert "ranges.learning_rat: unknown parameter. Did you mean learning_rate?" in told
    assert "ranges.smote_neighbours: empty; expected at least one value." in told
    assert "ranges.gamma: wrong order; got [2.0, 1.0], expected the lower end first." in told
    assert "start.subsample: missing; expected every parameter, or no start." in told
    for field in ("smote_multiplier", "max_depth", "subsample", "reg_lambda"):
        assert any(line.startswith(f"ranges.{field}: ") for line in told), field
    for field in ("gamma", "max_depth", "eta"):
        assert any(line.startswith(f"start.{field}: ") for line in told), field


@pytest.mark.parametrize("text", ["target: [", "ranges: {}", "target: income\nspace: {}", ""])
def test_a_file_that_is_not_a_search_file_is_rejected_with_its_name(contract, tmp_path, text):
    path = tmp_path / SEARCH_FILE
    path.write_text(text, "utf-8")
    with pytest.raises(SearchError, match=SEARCH_FILE):
        load_search(path, contract)
