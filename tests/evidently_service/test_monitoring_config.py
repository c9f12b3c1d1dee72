"""The monitoring file, checked against the contract, and the ratios of its tests."""

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
    """Load the real file with an edit."""
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
    with pytest.raises(MonitoringError, match="features.age: no test"):
        load_edited(tmp_path, contract, lambda raw: raw["features"].pop("age"))


def test_an_unknown_column_is_named_with_the_nearest_one(
    tmp_path: Path, contract: Contract
) -> None:
    def misspell(raw: dict[str, Any]) -> None:
        raw["features"]["ages"] = raw["features"].pop("age")

    with pytest.raises(MonitoringError) as caught:
        load_edited(tmp_path, contract, misspell)
    assert "features.age: no test" in str(caught.value)
    assert "features.ages: not an input column of the model. Did you mean age?" in str(caught.value)


def test_a_column_that_the_model_does_not_use_cannot_be_monitored(
    tmp_path: Path, contract: Contract
) -> None:
    test = {"test": "wasserstein", "threshold": 0.2}
    with pytest.raises(MonitoringError, match="features.fnlwgt: not an input column"):
        load_edited(tmp_path, contract, lambda raw: raw["features"].update(fnlwgt=test))


@pytest.mark.parametrize(
    ("column", "test", "message"),
    [
        (
            "sex",
            ("wasserstein", 0.1),
            "sex: unusable test; got wasserstein, expected one of jensen",
        ),
        ("sex", ("ks", 0.05), "sex: unusable test; got ks, expected one of jensenshannon for"),
        ("age", ("jensenshannon", 0.1), "got jensenshannon, expected one of wasserstein, ks for"),
        ("age", ("psi", 0.1), "age: unusable test; got psi, expected one of wasserstein, ks for"),
        ("age", ("ks", 2), "age: invalid threshold; got 2.0, expected a p-value below 1"),
        ("age", ("wasserstein", 0), r"Expected `float` > 0"),
    ],
)
def test_an_unusable_test_is_rejected_with_those_that_can_be_used(
    tmp_path: Path, contract: Contract, column: str, test: tuple[str, float], message: str
) -> None:
    edited = {column: dict(zip(("test", "threshold"), test, strict=True))}
    with pytest.raises(MonitoringError, match=message):
        load_edited(tmp_path, contract, lambda raw: raw["features"].update(edited))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_rows": 1001}, "min_rows: too large; got 1001, expected at most 1000"),
        ({"min_labels": 1001}, "min_labels: too large; got 1001, expected at most 1000"),
        ({"retention_rows": 999}, "retention_rows: too small; got 999, expected at least 1000"),
        ({"label_rows": 49_999}, "label_rows: too small; got 49999, expected at least 50000"),
        ({"share_drifted": 1.5}, "share_drifted"),
        ({"windowrows": 5}, "windowrows"),
    ],
)
def test_contradicting_sizes_are_rejected(
    tmp_path: Path, contract: Contract, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(MonitoringError, match=message):
        load_edited(tmp_path, contract, lambda raw: raw.update(change))


def test_a_missing_file_ends_the_start_like_a_wrong_setting(
    tmp_path: Path, contract: Contract
) -> None:
    with pytest.raises(SettingsError, match="nowhere.yaml"):
        load_monitoring(tmp_path / "nowhere.yaml", contract)


@pytest.mark.parametrize("test", ["wasserstein", "jensenshannon"])
def test_a_larger_distance_has_a_larger_ratio(test: str) -> None:
    column = ColumnTest(test, 0.2)
    assert column.ratio(0.1) == pytest.approx(0.5)
    assert column.ratio(0.2) == pytest.approx(1.0)
    assert column.ratio(0.4) == pytest.approx(2.0)


def test_a_smaller_p_value_has_a_larger_ratio() -> None:
    column = ColumnTest("ks", 0.05)
    assert column.ratio(1.0) == 0
    assert column.ratio(0.05) == pytest.approx(1.0)
    assert column.ratio(0.05**2) == pytest.approx(2.0)
    assert column.ratio(0.0) == pytest.approx(9.2, abs=0.1)  # finite, so that JSON can carry it


def test_a_test_without_a_threshold_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="no threshold"):
        ColumnTest("ks").ratio(0.1)


def test_a_budget_too_small_for_the_bootstrap_is_rejected(
    tmp_path: Path, contract: Contract
) -> None:
    """A verdict of one window, with a chance of 1 / 2880 / 14."""
    with pytest.raises(MonitoringError, match="exceed a threshold with a chance of 2e-05"):
        load_edited(tmp_path, contract, lambda raw: raw.update(persistent_windows=1))
