"""The running service shows no internals, logs no record and unpickles nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from config.model_registry import CARD
from prediction_service.models.model_folder import ModelFolder
from prediction_service.models.live_model import LiveModel
from prediction_service.settings import Settings
from tests.conftest import wait_until
from tests.prediction_service.conftest import Start, environment, gunicorn
from tests.prediction_service.test_server import connect, predict_request, read_response

Record = dict[str, Any]
# Values that can be in a log only because of these records.
COUNTRY, BAD_SEX, BAD_FIELD, BAD_AGE = "Zubrowka-77", "sexvalue-31", "fieldname-53", 918273645
JSON_TYPE = {"Content-Type": "application/json"}
MARKS = (COUNTRY, BAD_SEX, BAD_FIELD, str(BAD_AGE))


@pytest.fixture(params=["text", "json"])
def logging_service(
    settings: Settings, model_folder: ModelFolder, start: Start, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """Run the service and its relay, which logs that its sink is unavailable."""
    assert model_folder.current()
    logging = {"log_format": request.param, "log_requests": True, "request_timeout_s": 60.0}
    changes = {"workers": 1, "evidently_address": "http://127.0.0.1:1"}
    own = settings.model_copy(update=changes | logging)
    start(own, "prediction_service.relay")
    with gunicorn(start, own):
        yield own


def test_no_log_contains_a_value_of_a_record(
    logging_service: Settings, record: Record, tmp_path: Path
) -> None:
    """The values are in valid, invalid and malformed requests: in records, queries and headers."""
    valid = record | {"native_country": COUNTRY}
    send_requests(f"http://127.0.0.1:{logging_service.prediction_port}", valid)
    send_malformed_requests(logging_service, json.dumps(valid).encode())
    wait_until(lambda: "sink_unavailable" in text_of(tmp_path), "the relay's warning")
    wait_until(lambda: text_of(tmp_path).count("malformed_request") == 3, "the server's warnings")
    wait_until(lambda: text_of(tmp_path).count("POST /predict") >= 36, "the requests' lines")
    text = text_of(tmp_path)
    assert not [mark for mark in MARKS if mark in text]
    if logging_service.log_format == "json":
        lines = [json.loads(line) for line in text.splitlines()]
        assert all(line["event"] and line["level"] for line in lines)


def send_requests(address: str, valid: Record) -> None:
    """Send requests of every kind with the marks in them."""
    url = f"{address}/predict"
    invalid = valid | {"sex": BAD_SEX, "age": BAD_AGE, BAD_FIELD: 1}
    statuses = [
        requests.post(url, json=body, params=params, headers=headers, timeout=30).status_code
        for body in (valid, [valid], invalid, [valid, invalid])
        for params in ({}, {"explain": "true"}, {"explain": COUNTRY})
        for headers in ({}, {"Idempotency-Key": COUNTRY}, {"X-Request-ID": f"{COUNTRY} {BAD_SEX}"})
    ]
    assert set(statuses) == {200, 400, 422}
    assert (
        requests.post(url, data=json.dumps(valid)[:-1], headers=JSON_TYPE, timeout=10).status_code
        == 400
    )
    assert requests.post(f"{address}/feedback", json=valid, timeout=10).status_code == 422
    path = f"{address}/nowhere?{BAD_FIELD}={COUNTRY}"
    assert requests.get(path, timeout=10).status_code == 404


def send_malformed_requests(settings: Settings, body: bytes) -> None:
    """Send malformed requests. One has a wrong length, so that the rest of a record follows it."""
    request = predict_request(body)
    for sent in (
        request.replace(b"Content-Length: ", b"Content-Length: 1\r\nX-Was: ") + b"\r\n\r\n",
        predict_request(body, f"{COUNTRY} {BAD_SEX}"),
        body + b"\r\n\r\n",
    ):
        with connect(settings) as client:
            client.sendall(sent)
            assert read_response(client)[0] == 400


def text_of(folder: Path) -> str:
    """Return all logs of a test's processes."""
    return "".join(path.read_text("utf-8") for path in folder.glob("*.log"))


def test_an_unexpected_error_shows_the_record_neither_in_the_response_nor_in_the_log(
    client: FlaskClient,
    record: Record,
    live_model: LiveModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message of an error in the model may quote the record."""

    def score(rows: Any) -> None:
        raise ValueError(f"cannot score {rows}")

    monkeypatch.setattr(live_model.model, "score", score)
    with capture_logs() as logged:
        for path in ("/predict", "/predict?explain=true"):
            sent = record | {"native_country": COUNTRY}
            response = client.post(path, json=sent, headers={"X-Request-ID": "an-id"})
            assert response.status_code == 500
            assert response.get_json()["error"]["code"] == "internal_error"
            assert "Traceback" not in response.text and "ValueError" not in response.text
            assert "File " not in response.text and COUNTRY not in response.text
    failures = [one for one in logged if one["event"] == "request_failed"]
    assert [one["request_id"] for one in failures] == ["an-id", "an-id"]
    for one in failures:
        assert one["error"].startswith("ValueError at ") and "predictor.py:" in one["error"]
    assert COUNTRY not in str(logged)


def test_every_page_and_error_has_the_security_headers(client: FlaskClient) -> None:
    for path in ("/", "/model", "/metrics", "/nowhere", "/predict", "/health/ready"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy, path
        assert "script-src" not in policy and "unsafe-eval" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_a_model_card_cannot_run_or_load_anything(
    client: FlaskClient, live_model: LiveModel
) -> None:
    """The card is a page from the registry. A version of an earlier release has no card."""
    missing = client.get("/model/card")
    assert (missing.status_code, missing.get_json()["error"]["code"]) == (404, "not_found")
    assert "Version 1 has no model card" in missing.get_json()["error"]["message"]
    (live_model.folder.path / "1" / CARD).write_text("<h1>Größe</h1>", "utf-8")
    page = client.get("/model/card")
    assert (page.status_code, page.text) == (200, "<h1>Größe</h1>")
    assert page.content_type == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
    )
    assert page.headers["X-Content-Type-Options"] == "nosniff"


SERVE_AND_REPORT = """
import json, sys
found = []
sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
from prediction_service.wsgi import app
client = app.test_client()
record = json.loads(sys.argv[1])
responses = [client.post("/predict", json=record), client.post("/predict", json=[record] * 3)]
responses += [client.get(path) for path in ("/model", "/metrics", "/health/ready")]
names = {name.partition(".")[0] for name in sys.modules}
responses.append(client.post("/predict?explain=true", json=record))
statuses = [one.status_code for one in responses]
print(json.dumps([statuses, found, sorted(names & {"joblib", "cloudpickle", "dill", "shelve"})]))
"""


def test_serving_unpickles_nothing(
    settings: Settings, model_folder: ModelFolder, record: Record, tmp_path: Path
) -> None:
    """numpy and Jinja import the module `pickle`, but the service reads nothing with it.

    Python reports each class that an unpickler looks up to audit hooks. The first explanation
    imports XGBoost, and that imports scikit-learn and joblib if they are installed. The service's
    image does not have them.
    """
    assert model_folder.current()
    done = subprocess.run(
        [sys.executable, "-c", SERVE_AND_REPORT, json.dumps(record)],
        env={**os.environ, **environment(settings)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    statuses, unpickled, modules = json.loads(done.stdout.splitlines()[-1])
    assert set(statuses) == {200}
    assert unpickled == []
    assert modules == []
