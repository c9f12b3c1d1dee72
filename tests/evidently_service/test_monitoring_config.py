"""The monitoring file: held against the contract, and ratios that point one way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.contract import Contract
from config.runtime.settings import SettingsError
from evidently_service.reference.monitoring_config import (
    ColumnTest,
    Monitoring,
    MonitoringError,
    load_monitoring,
)
from tests.evidently_service.conftest import MONITORING_PATH

Edit = Callable[[dict[str, Any]], None]


def load_edited(tmp_path: Path, contract: Contract, edit: Edit) -> Monitoring:
    """The real file with an edit, loaded."""
    raw = yaml.safe_load(MONITORING_PATH.read_text("utf-8"))
    edit(raw)
    path = tmp_path / "monitoring.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_monitoring(path, contract)


def test_every_used_column_of_the_contract_has_a_named_test(
    monitoring: Monitoring, contract: Contract
) -> None:
    assert list(monitoring.features) == [feature.name for feature in contract.inputs]
    assert list(monitoring.outputs) == ["probability", "income_class"]


def test_a_column_without_a_test_is_named(tmp_path: Path, contract: Contract) -> None:
    with pytest.raises(MonitoringError, match="features: age has no test"):
        load_edited(tmp_path, contract, lambda raw: raw["features"].pop("age"))


def test_an_unknown_column_is_named_with_the_nearest_one(
    tmp_path: Path, contract: Contract
) -> None:
    def misspell(raw: dict[str, Any]) -> None:
        raw["features"]["ages"] = raw["features"].pop("age")

    with pytest.raises(MonitoringError) as caught:
        load_edited(tmp_path, contract, misspell)
    assert "age has no test" in str(caught.value)
    assert "ages is no column that the model uses; did you mean age?" in str(caught.value)


def test_a_column_that_the_model_does_not_use_cannot_be_monitored(
    tmp_path: Path, contract: Contract
) -> None:
    test = {"test": "wasserstein", "threshold": 0.2}
    with pytest.raises(MonitoringError, match="fnlwgt is no column that the model uses"):
        load_edited(tmp_path, contract, lambda raw: raw["features"].update(fnlwgt=test))


@pytest.mark.parametrize(
    ("column", "test", "said"),
    [
        ("sex", ("wasserstein", 0.1), "sex: wasserstein is for numbers"),
        ("sex", ("ks", 0.05), "sex: ks is for numbers"),
        ("age", ("chisquare", 0.05), "age: chisquare is for categories"),
        ("age", ("ks", 2), "age: the threshold of a p-value is below 1, got 2"),
        ("age", ("wasserstain", 0.1), "wasserstain"),
        ("age", ("wasserstein", 0), r"Expected `float` > 0"),
    ],
)
def test_a_test_that_cannot_watch_a_column_is_refused(
    tmp_path: Path, contract: Contract, column: str, test: tuple[str, float], said: str
) -> None:
    edited = {column: dict(zip(("test", "threshold"), test, strict=True))}
    with pytest.raises(MonitoringError, match=said):
        load_edited(tmp_path, contract, lambda raw: raw["features"].update(edited))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_rows": 1001}, "min_rows: got 1001, expected at most 1000"),
        ({"min_labels": 1001}, "min_labels: got 1001, expected at most 1000"),
        ({"retention_rows": 999}, "retention_rows: got 999, expected at least 1000"),
        ({"share_drifted": 1.5}, "share_drifted"),
        ({"windowrows": 5}, "windowrows"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(
    tmp_path: Path, contract: Contract, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(MonitoringError, match=said):
        load_edited(tmp_path, contract, lambda raw: raw.update(change))


def test_a_missing_file_ends_the_start_like_a_wrong_setting(
    tmp_path: Path, contract: Contract
) -> None:
    with pytest.raises(SettingsError, match="nowhere.yaml"):
        load_monitoring(tmp_path / "nowhere.yaml", contract)


@pytest.mark.parametrize("test", ["wasserstein", "jensenshannon", "psi"])
def test_a_larger_distance_has_a_larger_ratio(test: Any) -> None:
    column = ColumnTest(test, 0.2)
    assert column.ratio(0.1) == pytest.approx(0.5)
    assert column.ratio(0.2) == pytest.approx(1.0)
    assert column.ratio(0.4) == pytest.approx(2.0)


@pytest.mark.parametrize("test", ["ks", "chisquare"])
def test_a_smaller_p_value_has_a_larger_ratio(test: Any) -> None:
    column = ColumnTest(test, 0.05)
    assert column.ratio(1.0) == 0
    assert column.ratio(0.05) == pytest.approx(1.0)
    assert column.ratio(0.05**2) == pytest.approx(2.0)
    assert column.ratio(0.0) == pytest.approx(9.2, abs=0.1)  # finite, so that JSON can carry it


def test_a_test_without_a_threshold_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="no threshold"):
        ColumnTest("psi").ratio(0.1)


def test_a_budget_that_no_bootstrap_can_show_is_refused(tmp_path: Path, contract: Contract) -> None:
    """One window is enough, and the chance is 1 / 2880 / 14."""
    with pytest.raises(MonitoringError, match="exceed a threshold with a chance of 2e-05"):
        load_edited(tmp_path, contract, lambda raw: raw.update(persistent_windows=1))
