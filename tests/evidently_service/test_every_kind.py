"""Another table through the service: columns of every kind, three values in ten missing."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry

from config.contract import Contract
from config.events import Prediction
from evidently_service.api.app import create_app
from evidently_service.measure.drift import Drift
from evidently_service.measure.measurement import Measure
from evidently_service.reference.monitoring_config import Monitoring, load_monitoring
from evidently_service.reference.reference_data import monitored_frame
from evidently_service.reference.registry import ReferenceCache
from evidently_service.settings import Settings
from evidently_service.store.reports import LATEST, Reports
from evidently_service.store.window import Window
from evidently_service.verdict.thresholds import find_thresholds
from tests.evidently_service.events import (
    Shift,
    labels_of,
    made_up_rows,
    predictions_of,
    soon_ready,
    unshifted,
)
from tests.evidently_service.mlflow_registry import FakeRegistry

JSON = "application/json"
BROWSER = {"Accept": "text/html"}
OPTIONAL = ("plan", "charges", "autopay", "joined", "contentment")


def subscribers(
    contract: Contract, rows: int, seed: int, shift: Shift = unshifted
) -> list[dict[str, Any]]:
    """Return made-up rows with many missing values."""
    return made_up_rows(contract, rows, seed, shift, missing=0.3)


def predictions(
    contract: Contract, rows: int, seed: int, shift: Shift = unshifted
) -> list[Prediction]:
    """Return such rows as predictions of version 1."""
    return predictions_of(contract, subscribers(contract, rows, seed, shift), str(seed))


@pytest.fixture(scope="module")
def reference(churn: Contract) -> list[dict[str, Any]]:
    """Return the rows of the reference data."""
    return subscribers(churn, 2000, seed=1)


@pytest.fixture(scope="module")
def small(churn: Contract, reference: list[dict[str, Any]]) -> Monitoring:
    """Return the monitoring without a file, with thresholds for windows of 500 rows."""
    monitoring = msgspec.structs.replace(
        load_monitoring(None, churn), window_rows=500, min_rows=400, min_labels=300
    )
    return monitoring.with_tests(
        find_thresholds(monitored_frame(reference, churn), monitoring, 500)
    )


@pytest.fixture
def other_window(tmp_path: Path, churn: Contract) -> Window:
    """Return an empty window."""
    return Window(tmp_path / "other.db", segments=churn.segments)


@pytest.fixture
def client(tmp_path: Path, churn: Contract, small: Monitoring, other_window: Window) -> FlaskClient:
    """Return a client of the service for the other table."""
    settings = Settings(window_dir=str(tmp_path))
    return create_app(settings, small, churn, other_window, CollectorRegistry()).test_client()


@pytest.fixture
def whole(
    tmp_path: Path,
    churn: Contract,
    small: Monitoring,
    other_window: Window,
    reference: list[dict[str, Any]],
) -> Measure:
    """Return the measure process's object."""
    references = ReferenceCache(tmp_path / "reference", FakeRegistry(reference))
    reports = Reports(tmp_path, small.reports_kept)
    made = Measure(other_window, references, small, churn, reports=reports, judge_period_s=0)
    return soon_ready(made)


@pytest.fixture
def measure(whole: Measure, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Return it with empty reports and without the joint test, which take a second."""
    monkeypatch.setattr(Drift, "html", lambda drift: "")
    whole.judge.joint = None
    return whole


def post(client: FlaskClient, path: str, events: Any) -> Any:
    """Return the response to a JSON POST."""
    return client.post(path, data=msgspec.json.encode(events), content_type=JSON)


def drift(client: FlaskClient) -> dict[str, Any]:
    """Return the body of /drift; fail for an invalid figure there, in /metrics or the page."""

    def reject(constant: str) -> None:
        raise AssertionError(constant)

    metrics = client.get("/metrics").text
    assert "NaN" not in metrics and "Inf" not in metrics.replace("+Inf", "")
    page = client.get("/", headers=BROWSER)
    assert page.status_code == 200 and "nan" not in page.text.lower().split()
    body = json.loads(client.get("/drift").data, parse_constant=reject)
    assert body["error"] is None
    return body


def test_rows_without_drift_have_scores_of_their_values_and_shares_of_missing_ones(
    client: FlaskClient, churn: Contract, whole: Measure
) -> None:
    rows = predictions(churn, 500, seed=2)
    assert post(client, "/iterate", rows).json == {"received": 500, "stored": 500, "duplicates": 0}
    assert post(client, "/labels", labels_of(rows, wrong_every=5)).status_code == 200
    whole.run_once()
    found = drift(client)
    assert (found["dataset"], found["state"], found["drifted"]) == ("churn", "ok", False)
    assert {one["name"]: one["drifted"] for one in found["features"]} == dict.fromkeys(
        churn.input_names, False
    )
    assert found["not_compared"] == [] and found["broken_features"] == []
    missing = {one["feature"]: one["missing"] for one in found["data_quality"]}
    assert missing["tenure"] is None and missing["senior"] == 0
    assert all(0.2 < missing[name] < 0.4 for name in OPTIONAL), missing
    assert found["segments"] == [] and found["quality"]["rows"] == 500
    assert 'income_data_quality_share{feature="joined",problem="missing"}' in (
        client.get("/metrics").text
    )
    report = whole.reports.path(LATEST)
    assert report and all(name in report.read_text("utf-8") for name in churn.input_names)


def test_shifted_decimals_dates_and_booleans_drift_alone(
    client: FlaskClient, churn: Contract, measure: Measure
) -> None:
    def shift(row: dict[str, Any]) -> dict[str, Any]:
        if row["charges"] is not None:
            row["charges"] = min(200, row["charges"] + 50)
        if row["joined"] is not None:
            row["joined"] = max(row["joined"], "2015-01-01")
        return row | {"autopay": row["autopay"] and "Yes"}

    for seed in (2, 3):
        post(client, "/iterate", predictions(churn, 500, seed, shift))
        measure.run_once()
    found = drift(client)
    assert found["drifted"] and found["judgement"]["windows"] == 2
    names = [one["name"] for one in found["features"] if one["persistent"]]
    assert names == ["charges", "autopay", "joined"]


def test_an_empty_column_is_named_and_has_no_score(
    client: FlaskClient, churn: Contract, measure: Measure
) -> None:
    def lose(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"charges": None, "joined": None}

    post(client, "/iterate", predictions(churn, 500, 2, lose))
    measure.run_once()
    found = drift(client)
    assert (found["state"], found["not_compared"]) == ("ok", ["charges", "joined"])
    assert found["broken_features"] == ["charges", "joined"]
    assert found["invalid_share_rises"]["charges"] == pytest.approx(0.7, abs=0.05)
    assert {one["name"] for one in found["features"]} == set(churn.input_names) - {
        *("charges", "joined")
    }
    assert len(found["effects"]) == len(churn.input_names)
    page = client.get("/", headers=BROWSER).text
    assert "Too few values to compare: charges, joined." in page
    assert 'income_feature_drift_score{feature="charges"}' not in client.get("/metrics").text


def test_columns_that_are_empty_in_window_and_reference_do_not_end_the_measurement(
    client: FlaskClient, churn: Contract, other_window: Window, tmp_path: Path
) -> None:
    """Other columns are constant: a chi-square test of one category once gave NaN."""

    def empty(row: dict[str, Any]) -> dict[str, Any]:
        return row | dict.fromkeys(OPTIONAL) | {"senior": 1, "tenure": 12}

    references = ReferenceCache(tmp_path, FakeRegistry(subscribers(churn, 2000, 1, empty)))
    monitoring = msgspec.structs.replace(load_monitoring(None, churn), window_rows=500)
    reports = Reports(tmp_path, 1)
    measure = soon_ready(Measure(other_window, references, monitoring, churn, reports=reports))
    post(client, "/iterate", predictions(churn, 500, 2, empty))
    measure.run_once()
    found = drift(client)
    assert found["not_compared"] == ["charges", "joined"]
    scores = {one["name"]: one["ratio"] for one in (*found["features"], *found["prediction"])}
    constant = ("tenure", "plan", "autopay", "senior", "contentment", "probability", "income_class")
    assert scores == dict.fromkeys(constant, 0)
    assert 'income_feature_drift_score{feature="senior"} 0.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tenure": None}, "tenure"),
        ({"tenure": 3.5}, "tenure"),
        ({"tenure": 10**30}, "tenure"),
        ({"charges": "29.5"}, "charges"),
        ({"autopay": True}, "autopay"),
        ({"senior": "1"}, "senior"),
        ({"joined": "2023-02-29"}, "joined"),
        ({"contentment": 2}, "contentment"),
    ],
)
def test_an_event_with_a_value_of_another_kind_is_rejected_with_its_column(
    client: FlaskClient, churn: Contract, change: dict[str, Any], field: str
) -> None:
    (event,) = predictions(churn, 1, seed=4)
    wrong = msgspec.structs.replace(event, features=event.features | change)
    response = post(client, "/iterate", [wrong])
    assert response.status_code == 422
    assert [one["field"] for one in response.json["error"]["problems"]] == [field]


def test_values_of_every_kind_beyond_their_range_are_stored_and_shown(
    client: FlaskClient, churn: Contract, measure: Measure
) -> None:
    """The prediction service checks ranges; monitoring shows what passed."""

    def beyond(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"charges": 300, "joined": "1990-01-01", "senior": 2, "plan": "luxury"}

    wrong = predictions(churn, 500, 2, beyond)
    assert post(client, "/iterate", wrong).status_code == 200
    measure.run_once()
    shares = {one["feature"]: one for one in drift(client)["data_quality"]}
    assert (shares["charges"]["out_of_range"], shares["charges"]["missing"]) == (1, 0)
    assert shares["joined"]["out_of_range"] == 1 and shares["senior"]["unseen"] == 1
    assert shares["plan"]["unseen"] == 1
    assert shares["tenure"]["out_of_range"] == 0
