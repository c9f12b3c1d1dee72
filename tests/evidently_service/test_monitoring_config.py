"""The monitoring file, checked against the contract, and the ratios of its tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from config.contract import Contract
from evidently_service.reference.monitoring_config import (
    ColumnTest,
    Monitoring,
    MonitoringError,
    load_monitoring,
)
from evidently_service.settings import Settings
from tests.evidently_service.conftest import MONITORING_PATH

Edit = Callable[[dict[str, Any]], None]


def load_edited(tmp_path: Path, contract: Contract, edit: Edit) -> Monitoring:
    """Load the real file with an edit."""
    raw = yaml.safe_load(MONITORING_PATH.read_text("utf-8"))
    edit(raw)
    path = tmp_path / "monitoring.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_monitoring(path, contract)


def test_a_column_that_the_file_leaves_out_gets_the_test_of_its_kind(
    tmp_path: Path, contract: Contract, monitoring: Monitoring
) -> None:
    def leave_out(raw: dict[str, Any]) -> None:
        raw["features"] = {"capital_gain": {"test": "ks"}, "capital_loss": {"test": "ks"}}

    assert load_edited(tmp_path, contract, leave_out) == monitoring


def test_another_table_needs_no_file_or_one_with_a_name_alone(
    tmp_path: Path, churn: Contract, monitoring: Monitoring
) -> None:
    """The census's file has the defaults, except for its name and its own tests."""
    default = load_monitoring(None, churn)
    assert default.dataset == "churn"
    assert {name: test.test for name, test in default.tests.items()} == {
        "tenure": "wasserstein",
        "plan": "jensenshannon",
        "charges": "wasserstein",
        "autopay": "jensenshannon",
        "senior": "jensenshannon",
        "joined": "wasserstein",
        "contentment": "jensenshannon",
        "probability": "wasserstein",
        "income_class": "jensenshannon",
    }
    census = {name: getattr(monitoring, name) for name in ("dataset", "features")}
    assert msgspec.structs.replace(default, **census) == monitoring
    path = tmp_path / "monitoring.yaml"
    path.write_text("dataset: subscribers\nfeatures: {joined: {test: ks, threshold: 0.01}}\n")
    named = load_monitoring(path, churn)
    assert named.dataset == "subscribers"
    assert named.features["joined"] == ColumnTest("ks", 0.01)
    path.write_text("")
    assert load_monitoring(path, churn) == default


def test_the_file_beside_the_contract_is_read_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings().monitoring_path == MONITORING_PATH
    monkeypatch.setenv("CONTRACT", str(tmp_path / "churn.yaml"))
    assert Settings().monitoring_path is None
    (tmp_path / "monitoring.yaml").touch()
    assert Settings().monitoring_path == tmp_path / "monitoring.yaml"
    assert Settings(monitoring_file="other.yaml").monitoring_path == Path("other.yaml")


def test_a_column_that_is_not_an_input_is_named_with_the_nearest_one(
    tmp_path: Path, contract: Contract
) -> None:
    def misspell(raw: dict[str, Any]) -> None:
        raw["features"] |= {"ages": raw["features"].pop("age"), "fnlwgt": {"test": "ks"}}

    with pytest.raises(MonitoringError) as caught:
        load_edited(tmp_path, contract, misspell)
    assert "features.ages: not an input column of the model. Did you mean age?" in str(caught.value)
    assert "features.fnlwgt: not an input column of the model." in str(caught.value)


@pytest.mark.parametrize(
    ("column", "test", "message"),
    [
        (
            "sex",
            ("wasserstein", 0.1),
            "sex: unusable test; got wasserstein, expected one of jensen",
        ),
        ("age", ("jensenshannon", 0.1), "got jensenshannon, expected one of wasserstein, ks for"),
        ("age", ("psi", 0.1), "age: unusable test; got psi, expected one of wasserstein, ks for"),
        ("age", ("ks", 2), "age: invalid threshold; got 2.0, expected a p-value below 1"),
        ("age", ("wasserstein", 0), r"Expected `float` > 0"),
    ],
)
def test_an_unusable_test_is_rejected_with_the_usable_ones(
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
        # A verdict of one window, with a chance of 1 / 2880 / 14.
        ({"persistent_windows": 1}, "exceed a threshold with a chance of 2e-05"),
    ],
)
def test_contradicting_sizes_are_rejected(
    tmp_path: Path, contract: Contract, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(MonitoringError, match=message):
        load_edited(tmp_path, contract, lambda raw: raw.update(change))


def test_a_larger_distance_and_a_smaller_p_value_have_a_larger_ratio() -> None:
    distance = ColumnTest("wasserstein", 0.2)
    assert [distance.ratio(score) for score in (0.1, 0.2, 0.4)] == pytest.approx([0.5, 1, 2])
    p_value = ColumnTest("ks", 0.05)
    assert [p_value.ratio(score) for score in (1, 0.05, 0.05**2)] == pytest.approx([0, 1, 2])
    assert p_value.ratio(0.0) == pytest.approx(9.2, abs=0.1)  # finite, so that JSON can carry it
    with pytest.raises(ValueError, match="no threshold"):
        ColumnTest("ks").ratio(0.1)
