"""The HTTP side with Flask's client: stored events, rejected requests, shown measurements."""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from config.contract import Contract, load_contract
from config.events import Label, Prediction
from config.runtime.api_keys import hash_of, make_key
from config.web import STYLE
from evidently_service.api.app import create_app
from evidently_service.shadow.sequential import Evidence
from evidently_service.shadow.store import ShadowTest
from evidently_service.store.records import (
    Bin,
    ColumnDrift,
    Confusion,
    Distribution,
    DriftImpact,
    Estimate,
    FairnessGap,
    FeatureQuality,
    Interval,
    JointDrift,
    Judgement,
    LabelCounts,
    Measurement,
    Quality,
    Run,
    Segment,
    WindowFacts,
)
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.reports import Reports
from evidently_service.settings import Settings
from evidently_service.store.window import Window
from tests.evidently_service.events import labels_of, made_up_predictions

JSON = "application/json"
EVIDENCE = Evidence(200, 0.02, 0.01, 0.03, 3.5, -2.0)
TESTED = ShadowTest(
    kind="challenger",
    version="2",
    production="1",
    run_at=1_700_000_009.0,
    rows=400,
    labels=200,
    evidence=EVIDENCE,
    segments={"sex: Female": EVIDENCE},
    agreement=0.97,
    output_drift=0.05,
)
MEASURED = Measurement(
    dataset="income",
    state="ok",
    drifted=True,
    share_drifted=0.25,
    share_threshold=0.2,
    features=(
        ColumnDrift("age", "wasserstein", 0.3, 0.15, 2.0, True, True),
        ColumnDrift("sex", "jensenshannon", 0.01, 0.05, 0.2, False),
    ),
    prediction=(ColumnDrift("probability", "wasserstein", 0.09, 0.18, 0.5, False),),
    impacts=(DriftImpact("age", 0.04, -0.04, 0.003),),
    distributions=(Distribution("age", (Bin("to 30", 0.5, 0.1), Bin("above 30", 0.5, 0.9))),),
    model_version="7",
    reference_rows=5000,
    measured_at=1_700_000_000.5,
    duration_s=0.75,
    window=WindowFacts(1000, 1234, 1.0, 2.0),
    data_quality=(
        FeatureQuality("age", out_of_range=0.125),
        FeatureQuality("workclass", missing=0.0625, unseen=0.0),
    ),
    invalid_share_rises={"age": 0.125},
    broken_features=("age",),
    roc_auc_floor=0.85,
    concept_shift_scores={"calibration": 0.4},
    judgement=Judgement(
        windows=2,
        streaks={"age": 2, "sex": 0, "probability": 0},
        joint=JointDrift(0.5, 0.54, 0.25),
    ),
    segments=(
        Segment("sex", "Female", 330, 0.11, {"accuracy": 0.92, "fpr": 0.02}),
        Segment("age", "to 29", 300, 0.05, {}),
    ),
    fairness_gaps=(FairnessGap("sex", "tpr", 0.3, 0.09, 0.08, "Male", "Female"),),
    labels=LabelCounts(300, 2, 1),
    label_coverage=0.28,
    label_horizon_s=86_400.0,
    label_delay_s={"0.5": 60.0, "0.9": 3600.0},
    quality=Quality(
        300,
        0.86,
        0.7,
        0.71,
        0.705,
        0.92,
        0.29,
        bounds={"roc_auc": Interval(0.88, 0.95)},
        confusion=Confusion(200, 20, 22, 58),
        calibration_error=0.03,
        calibration_error_by_chance=0.02,
        calibration_slope=0.9,
        calibration_excess=-0.01,
    ),
    estimated=Estimate(1000, {"accuracy": 0.87}, {"accuracy": Interval(0.85, 0.89)}),
    estimation_error={"accuracy": 0.015},
)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return an empty registry of metrics."""
    return CollectorRegistry()


@pytest.fixture
def client(
    tmp_path: Path,
    monitoring: Monitoring,
    contract: Contract,
    window: Window,
    registry: CollectorRegistry,
) -> FlaskClient:
    """Return a client of the service with an empty window and bodies of up to 100 kB."""
    settings = Settings(window_dir=str(tmp_path), evidently_max_body_bytes=100_000)
    return create_app(settings, monitoring, contract, window, registry).test_client()


def post(client: FlaskClient, path: str, events: Any) -> Any:
    """Return the response to a JSON POST."""
    return client.post(path, data=msgspec.json.encode(events), content_type=JSON)


def get(client: FlaskClient, path: str) -> Any:
    """Return the response to a GET."""
    return client.get(path)


def problems(response: Any) -> list[dict[str, Any]]:
    """Return the problems of the error body."""
    assert set(response.json) == {"error"}
    assert set(response.json["error"]) == {"code", "message", "problems"}
    return response.json["error"]["problems"]


def save(reports: Reports, second: int, columns: Sequence[str] = ("age",)) -> None:
    """Save the report of a second, with its number as text."""
    rows = made_up_predictions(load_contract(), 3, seed=1)
    html = f"<html>{second}</html>"
    reports.save(html, second, columns=list(columns), version="7", rows=rows)


def as_dict(prediction: Prediction, **changes: Any) -> dict[str, Any]:
    """Return a prediction as in JSON, with changes."""
    return msgspec.to_builtins(prediction) | changes


def test_posted_predictions_are_stored_once(
    client: FlaskClient, contract: Contract, window: Window
) -> None:
    events = made_up_predictions(contract, 5, seed=1)
    response = post(client, "/iterate/income", events)
    assert response.status_code == 200
    assert response.json == {"received": 5, "stored": 5, "duplicates": 0}
    assert post(client, "/iterate/income", events[3:]).json["duplicates"] == 2
    assert window.last_predictions(10) == events


def test_events_need_no_name_of_the_dataset(
    contract: Contract, window: Window, monitoring: Monitoring
) -> None:
    """The relay had a fixed name, so with any other name in the file all events got 404."""
    renamed = msgspec.structs.replace(monitoring, dataset="people")
    app = create_app(Settings(), renamed, contract, window, CollectorRegistry())
    client, events = app.test_client(), made_up_predictions(contract, 3, seed=1)
    assert post(client, "/iterate", events).json["stored"] == 3
    assert post(client, "/labels", labels_of(events, wrong_every=2)).status_code == 200
    assert window.label_counts() == LabelCounts(matched=3)
    assert post(client, "/iterate/people", events).json["duplicates"] == 3
    assert post(client, "/iterate/income", events).json["error"]["code"] == "unknown_dataset"


def test_an_unknown_dataset_is_rejected_with_the_known_one(client: FlaskClient) -> None:
    response = post(client, "/labels/incom", [])
    assert (response.status_code, response.json["error"]["code"]) == (404, "unknown_dataset")
    assert "got 'incom', expected 'income'" in response.json["error"]["message"]
    assert problems(response) == [
        {"field": "dataset", "value": "incom", "expected": "income", "nearest": "income"}
    ]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"[{", 400, "The body is not JSON: "),
        (b'[{"prediction_id": "\xff"}]', 400, "The body is not JSON: "),
        (b"{}", 422, "Expected a JSON list of Predictions."),
        (b" " * 100_001, 413, ""),
    ],
)
def test_a_body_that_is_not_a_json_list_within_the_limit_is_rejected(
    client: FlaskClient, body: bytes, status: int, message: str
) -> None:
    response: Any = client.post("/iterate/income", data=body, content_type=JSON)
    assert (response.status_code, problems(response)) == (status, [])
    assert response.json["error"]["message"].startswith(message)


def test_every_problem_of_a_batch_is_listed_and_nothing_is_stored(
    client: FlaskClient, contract: Contract, window: Window
) -> None:
    events = made_up_predictions(contract, 6, seed=1)
    without_age = {name: v for name, v in events[3].features.items() if name != "age"}
    batch = [
        as_dict(events[0]),
        as_dict(events[1], probability="high"),
        as_dict(events[2], features=events[2].features | {"age": "old"}),
        as_dict(events[3], features=without_age),
        as_dict(events[4], probability=1.5, income_class=2),
        {"prediction_id": "x"},
        "no object",
    ]
    response = post(client, "/iterate/income", batch)
    assert response.status_code == 422
    assert response.json["error"]["code"] == "invalid_events"
    found = {(p["record"], p["field"]): (p["value"], p["expected"]) for p in problems(response)}
    assert found == {
        (1, "probability"): ("high", "Expected `float`, got `str`"),
        (2, "age"): ("old", "Expected `int`, got `str`"),
        (3, "age"): (None, "Object missing required field `age`"),
        (4, "probability"): (1.5, "a number from 0 to 1"),
        (4, "income_class"): (2, "0 or 1"),
        (5, "predicted_at"): (None, "Object missing required field `predicted_at`"),
        (6, "event"): ("no object", "Expected `object`, got `str`"),
    }
    assert window.counters().ingested == 0


def test_a_label_other_than_0_or_1_is_rejected(client: FlaskClient) -> None:
    response = post(client, "/labels/income", [Label("a", 1.0, 1), Label("b", 1.0, 2)])
    assert response.status_code == 422
    assert problems(response) == [{"record": 1, "field": "label", "value": 2, "expected": "0 or 1"}]


def test_an_unknown_path_and_a_wrong_method_have_the_error_body(client: FlaskClient) -> None:
    assert get(client, "/nothing").json["error"]["code"] == "not_found"
    assert get(client, "/iterate/income").json["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("header", [("Sec-Fetch-Site", "cross-site"), ("Origin", "http://a.b")])
def test_a_post_from_another_site_is_rejected(client: FlaskClient, header: tuple[str, str]) -> None:
    """A form or script on any page could fill the window, and its drift start a training.

    Over plain HTTP to another machine, a browser sends `Origin` alone.
    """
    for path in ("/iterate/income", "/labels/income"):
        response: Any = client.post(path, json=[], headers=[header])
        assert (response.status_code, response.json["error"]["code"]) == (403, "cross_site")
        assert client.post(path, json=[], headers={"Origin": "http://localhost"}).status_code == 200
    assert client.get("/drift", headers=[header]).status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "expected application/json"),
        ({"Content-Type": "text/plain"}, "expected application/json"),
        ({"Content-Type": JSON, "Content-Encoding": "gzip"}, "Content-Encoding: "),
    ],
)
def test_a_post_must_be_plain_json(
    client: FlaskClient, headers: dict[str, str], message: str
) -> None:
    for path in ("/iterate/income", "/labels/income"):
        response: Any = client.post(path, data=b"[]", headers=headers)
        assert response.status_code == 415
        assert response.json["error"]["code"] == "unsupported_media_type"
        assert message in response.json["error"]["message"]


def test_with_key_hashes_only_a_known_key_may_post(
    tmp_path: Path, monitoring: Monitoring, contract: Contract, window: Window
) -> None:
    """Anyone with access to the port could once send labels that start a training."""
    key = make_key()
    settings = Settings(window_dir=str(tmp_path), evidently_key_hashes=f"relay={hash_of(key)}")
    client = create_app(settings, monitoring, contract, window, CollectorRegistry()).test_client()
    for path in ("/iterate/income", "/labels/income"):
        for header in (None, "Bearer", f"Bearer {make_key()}", f"Basic {key}", "Bearer \xe9", key):
            headers = {"Authorization": header} if header else {}
            response: Any = client.post(path, json=[], headers=headers)
            assert (response.status_code, response.json["error"]["code"]) == (401, "not_authorized")
            assert "EVIDENTLY_API_KEY" in response.json["error"]["message"]
            assert response.headers["WWW-Authenticate"] == "Bearer"
        response = client.post(path, json=[], headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 200
    for path in ("/", "/drift", "/report", "/metrics", "/health/ready"):
        assert client.get(path).status_code == 200, path


def test_a_host_that_dns_rebinding_could_make_is_rejected(client: FlaskClient) -> None:
    """With DNS rebinding a foreign page could read the drift verdict and fill the window."""
    response: Any = client.get("/drift", headers={"Host": "elsewhere.example:3000"})
    assert (response.status_code, response.json["error"]["code"]) == (403, "untrusted_host")
    assert "TRUSTED_HOSTS" in response.json["error"]["message"]
    assert client.get("/drift", headers={"Host": "evidently:3000"}).status_code == 200


def test_a_path_cannot_forge_a_log_line(client: FlaskClient) -> None:
    """`/report/x%0A...` once began a line of its own."""
    with capture_logs() as logged:
        assert client.get("/report/x%0A2026-01-01%20forged").status_code == 404
    assert [(line["event"], line["endpoint"]) for line in logged] == [
        ("request_rejected", "report")
    ]
    assert "\n" not in "".join(map(str, logged[0].values()))


def test_an_unavailable_window_is_a_503_so_that_the_relay_retries(
    client: FlaskClient, contract: Contract, window: Window
) -> None:
    window.close()
    response = post(client, "/iterate/income", made_up_predictions(contract, 1, seed=1))
    assert (response.status_code, response.json["error"]["code"]) == (503, "window_unavailable")
    assert get(client, "/health/ready").status_code == 503
    assert get(client, "/health/live").status_code == 200


def test_neither_response_nor_log_of_an_error_holds_values_of_a_record(
    client: FlaskClient, contract: Contract, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while storing, whose message quotes the record."""

    def add_predictions(predictions: list[Prediction]) -> None:
        raise ValueError(f"cannot store {predictions}")

    monkeypatch.setattr(window, "add_predictions", add_predictions)
    (one,) = made_up_predictions(contract, 1, seed=1)
    sent = as_dict(one, features=one.features | {"native_country": "Zubrowka-77"})
    with capture_logs() as logged:
        response = post(client, "/iterate/income", [sent])
    assert (response.status_code, problems(response)) == (500, [])
    assert response.json["error"]["code"] == "internal_error"
    assert [(line["event"], line["endpoint"]) for line in logged] == [("request_failed", "iterate")]
    assert logged[0]["error"].startswith("ValueError at test_app.py:")
    assert "Zubrowka-77" not in f"{response.text} {logged}"


def test_the_state_is_not_measured_before_the_first_measurement(
    client: FlaskClient, contract: Contract
) -> None:
    post(client, "/iterate/income", made_up_predictions(contract, 3, seed=1))
    verdict = get(client, "/drift").json
    assert (verdict["state"], verdict["drifted"], verdict["share_drifted"]) == (
        "not_measured",
        False,
        None,
    )
    assert verdict["window"]["ingested_total"] == 0  # when measured
    assert verdict["received"]["ingested"] == 3  # now
    assert verdict["measured_at"] is None and verdict["error"] is None


def test_drift_shows_the_latest_measurement_and_the_last_runs_error(
    client: FlaskClient, window: Window
) -> None:
    window.record(MEASURED, Run(1_700_000_009.0, "registry is unavailable"))
    verdict = get(client, "/drift").json
    assert verdict["drifted"] is True
    assert verdict["features"][0] == {
        "name": "age",
        "test": "wasserstein",
        "score": 0.3,
        "threshold": 0.15,
        "ratio": 2.0,
        "drifted": True,
        "persistent": True,
    }
    assert verdict["model_version"] == "7"
    assert verdict["labels"] == {"matched": 300, "pending": 2, "conflicting": 1}
    assert verdict["quality"]["roc_auc"] == 0.92
    assert verdict["error"] == "registry is unavailable"
    assert verdict["last_run_at"] == 1_700_000_009.0


def test_the_list_of_reports_shows_the_saved_ones_or_what_the_first_one_needs(
    client: FlaskClient, tmp_path: Path
) -> None:
    assert "needs reference data and 500" in get(client, "/report").text
    reports = Reports(tmp_path / "reports", max_saved=2)
    reports.write_latest("<html>drift</html>")
    for number in range(3):
        save(reports, number, ["<age>", "sex"])
    index = get(client, "/report")
    assert "default-src 'none'" in index.headers["Content-Security-Policy"]
    assert "1970-01-01 00:00:01" in index.text and "1970-01-01 00:00:00" not in index.text
    assert "&lt;age&gt;, sex" in index.text and "2023-11-14 22:13:20 to" in index.text
    style = get(client, "/style.css")
    assert style.mimetype == "text/css" and style.data.startswith(STYLE.read_bytes())
    for name, html in (("latest", "drift"), ("19700101T000002Z", "2"), ("19700101T000001Z", "1")):
        assert f"/report/{name}" in index.text
        with get(client, f"/report/{name}") as found:
            assert (found.mimetype, found.text) == ("text/html", f"<html>{html}</html>")


@pytest.mark.parametrize("damaged", [b"", b"\xff"])
def test_a_damaged_description_hides_its_own_report_alone_and_is_logged(
    client: FlaskClient, tmp_path: Path, damaged: bytes
) -> None:
    """One damaged file once caused an internal error for the whole list."""
    reports = Reports(tmp_path / "reports", max_saved=2)
    for number in range(2):
        save(reports, number)
    (tmp_path / "reports" / "19700101T000001Z.json").write_bytes(damaged)
    with capture_logs() as logged:
        index = get(client, "/report")
    assert index.status_code == 200
    assert "19700101T000000Z" in index.text and "19700101T000001Z" not in index.text
    assert [line["event"] for line in logged] == ["report_description_damaged"]
    for number in (2, 3):  # the damaged one is deleted in its turn too
        save(reports, number)
    names = {path.stem for path in (tmp_path / "reports").iterdir()}
    assert names == {"19700101T000002Z", "19700101T000003Z"}


@pytest.mark.parametrize("name", ["19700101T000000Z", "..%2Fwindow", "latest.html", "a"])
def test_an_unknown_report_is_a_404(client: FlaskClient, name: str) -> None:
    response = get(client, f"/report/{name}")
    assert (response.status_code, response.json["error"]["code"]) == (
        404,
        "not_found" if "/" in name.replace("%2F", "/") else "no_report",
    )


def test_metrics_show_counts_and_state_but_no_drift_without_a_verdict(
    client: FlaskClient, contract: Contract, window: Window, registry: CollectorRegistry
) -> None:
    post(client, "/iterate/income", made_up_predictions(contract, 3, seed=1))
    few = msgspec.structs.replace(MEASURED, state="not_enough_rows", quality=None)
    window.record(few, Run(1.0))
    text = get(client, "/metrics").text
    assert registry.get_sample_value("income_window_ingested_total") == 3
    assert registry.get_sample_value("income_window_rows") == 3
    states = {"ok": 0, "not_enough_rows": 1, "no_reference": 0, "not_measured": 0}
    for state, value in states.items():
        assert registry.get_sample_value("income_measurement_state", {"state": state}) == value
    for absent in (
        "drift_score",
        "drift_effect",
        "drift_share",
        "drift_detected",
        "income_quality_rows",
    ):
        assert absent not in text


def test_the_relay_reports_the_backlog_of_each_instance(client: FlaskClient) -> None:
    for reported, stored in (
        ({"a": 3, "b": 0}, {"a": 3, "b": 0}),
        ({"a": 4, "b": None}, {"a": 4}),
        ({"a": "x"}, {"a": 4}),
    ):
        headers = {"X-Relay-Backlog": msgspec.json.encode(reported).decode()}
        response = client.post("/iterate", data=b"[]", content_type=JSON, headers=headers)
        assert response.status_code == (422 if reported == {"a": "x"} else 200)
        found = get(client, "/drift").json
        assert {one["instance"]: one["events"] for one in found["backlog"]} == stored
        assert found["received"]["ingested"] == found["received"]["duplicates"] == 0


def test_figures_of_a_sample_are_shown_with_their_share(
    client: FlaskClient, window: Window, registry: CollectorRegistry
) -> None:
    window.record(MEASURED, Run(1.0))

    def shown(share: float) -> bool:
        """Return whether /drift, the gauge and the page name the share."""
        page = client.get("/", headers={"Accept": "text/html"}).text
        told = f"The relays send {100 * share:g} % of the predictions" in page
        assert told == (share < 1) == ("Sample" in page)
        assert registry.get_sample_value("income_sample_share") == share
        return get(client, "/drift").json["sample"] == share

    assert shown(1.0)
    for instance, header, status in (("a", "0.2", 200), ("b", "1", 200), ("a", "1.5", 422)):
        headers = {"X-Relay-Backlog": f'{{"{instance}": 0}}', "X-Relay-Sample": header}
        response = client.post("/iterate", data=b"[]", content_type=JSON, headers=headers)
        assert response.status_code == status
        assert shown(0.2)
    shares = {one["instance"]: one["sample"] for one in get(client, "/drift").json["backlog"]}
    assert shares == {"a": 0.2, "b": 1.0}
    headers = {"X-Relay-Backlog": '{"a": 0}'}
    client.post("/iterate", data=b"[]", content_type=JSON, headers=headers)
    assert shown(1.0)


def test_metrics_have_no_verdict_before_the_first_judged_window(
    client: FlaskClient, window: Window
) -> None:
    unjudged = msgspec.structs.replace(
        MEASURED, drifted=False, features=MEASURED.features[1:], judgement=Judgement()
    )
    window.record(unjudged, Run(1.0))
    text = get(client, "/metrics").text
    assert 'income_feature_drift_score{feature="sex"} 0.2' in text
    for absent in ("drift_share ", "drift_detected ", "drift_persistent{"):
        assert absent not in text
    now = time.time()
    for at, verdict in ((now, "not_judged"), (now - 3600, "stale")):
        window.record(msgspec.structs.replace(unjudged, measured_at=at), Run(at))
        assert get(client, "/drift").json["verdict"] == verdict


def test_metrics_show_the_latest_measurement(
    client: FlaskClient, window: Window, registry: CollectorRegistry
) -> None:
    window.record(MEASURED, Run(1_700_000_009.0, "registry is unavailable"))
    window.add_labels([Label("a", 1.0, 1)])
    assert get(client, "/metrics").status_code == 200

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"income_{name}", labels)

    assert sample("feature_drift_score", feature="age") == 2.0
    assert sample("prediction_drift_score", output="probability") == 0.5
    assert sample("feature_drift_effect", feature="age") == 0.04
    assert sample("drift_share") == 0.25
    assert sample("drift_detected") == 1
    assert sample("measurement_timestamp_seconds") == 1_700_000_000.5
    assert sample("measurement_duration_seconds") == 0.75
    assert sample("measurement_run_timestamp_seconds") == 1_700_000_009.0
    assert sample("measurement_failed") == 1
    assert sample("data_quality_share", feature="age", problem="out_of_range") == 0.125
    assert sample("data_quality_share", feature="age", problem="missing") is None
    assert sample("data_quality_share", feature="workclass", problem="missing") == 0.0625
    assert sample("invalid_share_rise", feature="age") == 0.125
    assert sample("segment_rows", segment="sex", group="Female") == 330
    assert sample("segment_selection_rate", segment="age", group="to 29") == 0.05
    assert sample("segment_quality", segment="sex", group="Female", metric="fpr") == 0.02
    assert sample("segment_quality", segment="sex", group="Female", metric="tpr") is None
    assert sample("fairness_gap_score", segment="sex", rate="tpr") == 0.3
    assert sample("labels", state="pending") == 1
    assert sample("labels_unmatched_total", reason="late") == 0
    assert sample("label_coverage_ratio") == 0.28
    assert sample("label_horizon_seconds") == 86_400
    assert sample("label_delay_seconds", quantile="0.9") == 3600
    assert sample("quality_accuracy") == 0.86
    assert sample("quality_rows") == 300
    assert sample("quality_roc_auc_floor") == 0.85
    assert sample("concept_shift_score", check="calibration") == 0.4
    assert sample("quality_bound", metric="roc_auc", bound="lower") == 0.88
    assert sample("quality_bound", metric="accuracy", bound="lower") is None
    assert sample("quality_calibration_error") == 0.03
    assert sample("confusion_rows", label="0", income_class="1") == 20
    assert sample("estimated_quality", metric="accuracy") == 0.87
    assert sample("estimated_quality_bound", metric="accuracy", bound="upper") == 0.89
    assert sample("estimation_error", metric="accuracy") == 0.015
    assert sample("reference_info", model_version="7") == 1


def test_an_undefined_metric_is_absent(
    window: Window, registry: CollectorRegistry, client: FlaskClient
) -> None:
    only = Quality(300, accuracy=0.9, bounds={"accuracy": Interval(0.86, 0.93)})
    window.record(msgspec.structs.replace(MEASURED, quality=only, estimated=None), Run(1.0))
    assert get(client, "/drift").json["quality"]["recall"] is None
    assert registry.get_sample_value("income_quality_accuracy") == 0.9
    text = get(client, "/metrics").text
    for absent in ("income_quality_recall", "income_confusion", "income_estimated_quality"):
        assert absent not in text


def test_registering_the_metrics_does_not_read_the_window(
    window: Window, tmp_path: Path, monitoring: Monitoring, contract: Contract
) -> None:
    window.close()
    app = create_app(
        Settings(window_dir=str(tmp_path)), monitoring, contract, window, CollectorRegistry()
    )
    assert app.test_client().get("/health/live").status_code == 200
    with pytest.raises(sqlite3.ProgrammingError):
        window.counters()
