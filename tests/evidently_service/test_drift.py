"""Drift by Evidently: shifted columns drift, others do not, and no telemetry is sent."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from config.contract import Contract
from evidently_service.measure.drift import Drift, measure_drift
from evidently_service.reference.reference_data import monitored_frame
from evidently_service.reference.monitoring_config import Monitoring
from tests.evidently_service.events import made_up_rows, older

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference(contract: Contract) -> pd.DataFrame:
    """Return 5,000 made-up rows."""
    return monitored_frame(made_up_rows(contract, 5000, seed=1), contract)


def ratios(drift: Drift) -> dict[str, float]:
    """Return the ratio of each column."""
    return {column.name: column.ratio for column in drift.features + drift.prediction}


def test_a_frame_has_the_contracts_columns_and_question_marks_for_missing_values(
    contract: Contract,
) -> None:
    row = made_up_rows(contract, 1, seed=1)[0]
    frame = monitored_frame([row | {"workclass": None, "native_country": "Atlantis"}], contract)
    names = [feature.name for feature in contract.inputs]
    assert list(frame) == [*names, "probability", "income_class"]
    assert frame[["workclass", "native_country"]].to_numpy().tolist() == [["?", "?"]]
    assert frame["age"].tolist() == [row["age"]]


def test_a_shifted_feature_drifts_and_an_unshifted_one_does_not(
    reference: pd.DataFrame, judging: Monitoring, contract: Contract
) -> None:
    rows = made_up_rows(contract, 1000, seed=2, shift=older)
    drift = measure_drift(reference, monitored_frame(rows, contract), judging, contract)
    found = ratios(drift)
    assert found["age"] > 3
    assert found["probability"] > 3  # the made-up probability is age / 100
    assert found["income_class"] > 1
    still = {name: r for name, r in found.items() if name not in ("age", *judging.outputs)}
    assert max(still.values()) < 1, still
    assert drift.share_drifted == pytest.approx(1 / 12)
    assert [column.name for column in drift.features if column.drifted] == ["age"]


def test_the_report_shows_the_scores_that_were_measured(
    reference: pd.DataFrame, judging: Monitoring, contract: Contract
) -> None:
    rows = made_up_rows(contract, 500, seed=3)
    drift = measure_drift(reference, monitored_frame(rows, contract), judging, contract)
    page = drift.html()
    assert page.lstrip().startswith("<!DOCTYPE html>")
    # As Evidently writes them: the features in a table, an output in words.
    for column in drift.features:
        assert column.name in page and str(round(column.score, 6)) in page, column
    for column in drift.prediction:
        assert f"Drift in column '{column.name}'" in page
        assert f"Drift score: {round(column.score, 3)}" in page, column
    assert 'src="http' not in page  # a page on its own: no script from elsewhere


def test_no_telemetry_is_sent(tmp_path: Path) -> None:
    """A process without telemetry settings measures while every connection fails."""
    script = """
import socket
tried = []
def fail(self, address):
    tried.append(address)
    raise OSError("no network in this test")
socket.socket.connect = fail
from pathlib import Path
import msgspec
from config.contract import load_contract
from evidently_service.measure.drift import measure_drift
from evidently_service.reference.reference_data import monitored_frame
from evidently_service.reference.monitoring_config import load_monitoring
from tests.evidently_service.events import made_up_rows, with_thresholds
contract = load_contract()
monitoring = load_monitoring(Path("config/monitoring.yaml"), contract)
monitoring = with_thresholds(monitoring, {name: 0.1 for name in monitoring.tests})
two = {name: monitoring.features[name] for name in ("age", "sex")}  # a number and a category
monitoring = msgspec.structs.replace(monitoring, features=two)
frame = monitored_frame(made_up_rows(contract, 500, seed=1), contract)
measure_drift(frame, frame, monitoring, contract).html()
from evidently.telemetry import event_logger
assert not event_logger.is_enabled()
assert not tried, tried
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
