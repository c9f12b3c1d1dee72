"""Request ids, API keys and the request log: the middleware around every route and every error."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry

from config.runtime.api_keys import hash_of
from config.events import Label
from config.runtime.settings import SettingsError, read_settings
from prediction_service.http.app import create_app
from prediction_service.http import request_log
from prediction_service.journal import Journal, read_after
from prediction_service.sinks.log_of_record import stored_labelled
from prediction_service.metrics import Metrics
from prediction_service.models.live_model import LiveModel
from prediction_service.settings import Settings
from tests.prediction_service.conftest import made_predictions

Record = dict[str, Any]
MakeClient = Callable[..., FlaskClient]
SOME_ID = "0123456789abcdef" * 2
KEY, OTHER_KEY = "income_" + "k" * 43, "income_" + "o" * 43
HASHES = f"planning={hash_of(KEY)},analysts={hash_of(OTHER_KEY)}"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def make_client(settings: Settings, live_model: LiveModel, journal: Journal) -> MakeClient:
    """Return a function that makes a client of the service with changed settings."""

    def make(**changes: Any) -> FlaskClient:
        own = settings.model_copy(update={**changes})
        return create_app(own, live_model, journal, Metrics(CollectorRegistry())).test_client()

    return make


@pytest.fixture
def guarded(make_client: MakeClient) -> FlaskClient:
    """Return a client of the service with API keys."""
    return make_client(api_key_hashes=HASHES)


@pytest.mark.parametrize("path", ["/predict", "/feedback", "/nowhere"])
@pytest.mark.parametrize(
    "header",
    [None, "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {hash_of(KEY)}"]
    + [f"Bearer{KEY}", "Bearer \xe9"],
)
def test_without_a_known_key_a_request_is_rejected_with_the_remedy(
    guarded: FlaskClient, journal: Journal, record: Record, path: str, header: str | None
) -> None:
    response = guarded.post(path, json=record, headers={"Authorization": header} if header else {})
    assert response.status_code == 401
    error = response.get_json()["error"]
    assert error["code"] == "not_authorized"
    assert "Authorization: Bearer KEY" in error["message"]
    assert "prediction_service.keys new NAME" in error["message"]
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert not read_after(journal.path, 0, 10)
    assert 'status="401",version="none"} 1.0' in guarded.get("/metrics").text


@pytest.mark.parametrize("header", [f"Bearer {OTHER_KEY}", f"bearer {KEY}", f"BEARER  {KEY}"])
def test_known_keys_are_accepted_with_a_scheme_in_any_case_and_any_spaces(
    guarded: FlaskClient, record: Record, header: str
) -> None:
    """RFC 9110, section 11.4, allows both."""
    for path in ("/predict", "/predict?explain=false"):
        response = guarded.post(path, json=record, headers={"Authorization": header})
        assert response.status_code == 200


def test_pages_health_metrics_and_the_model_need_no_key(guarded: FlaskClient) -> None:
    pages = ("/", "/form.js", "/form.css", "/docs", "/docs.css", "/style.css", "/openapi.json")
    for path in (*pages, "/model", "/health/live", "/health/ready", "/metrics"):
        assert guarded.get(path).status_code == 200, path
    assert guarded.get("/model/card").status_code == 404  # not 401: this version has no card


def test_a_label_is_stored_with_the_name_of_its_callers_key(
    guarded: FlaskClient, journal: Journal
) -> None:
    label = {"prediction_id": SOME_ID, "label": 1}
    assert guarded.post("/feedback", json=label, headers=WITH_KEY).status_code == 202
    (event,) = read_after(journal.path, 0, 10)
    assert msgspec.json.decode(event.body, type=Label).labelled_by == "planning"


def test_training_ignores_labels_without_a_known_key_if_keys_are_required(
    settings: Settings, journal: Journal
) -> None:
    """Such labels were sent before keys were required, or with a key that was removed."""
    predictions = made_predictions(4)
    anonymous, planning, gone, both = (one.prediction_id for one in predictions)
    journal.append(predictions)
    journal.append([Label(anonymous, 1.0, 1), Label(planning, 1.0, 1, "planning")])
    journal.append(
        [Label(gone, 1.0, 1, "gone"), Label(both, 1.0, 0), Label(both, 2.0, 1, "planning")]
    )
    guarded = settings.model_copy(update={"api_key_hashes": HASHES})
    found = {one.prediction_id: one.label for one in stored_labelled(guarded)}
    assert found == {planning: 1, both: 1}
    with pytest.raises(SettingsError, match="API_KEY_HASHES: not set.*LEARN_ANONYMOUS_LABELS=true"):
        list(stored_labelled(settings))
    trusting = settings.model_copy(update={"learn_anonymous_labels": True})
    assert {one.prediction_id for one in stored_labelled(trusting)} == {anonymous, planning, gone}


def test_the_command_makes_a_key_and_its_hash(make_client: MakeClient) -> None:
    command = [sys.executable, "-m", "prediction_service.keys", "new"]
    out = subprocess.run([*command, "traffic"], capture_output=True, text=True, check=True).stdout
    key = re.search(r"^  (income_\S{43})$", out, re.M)
    line = re.search(r"^  (traffic=[0-9a-f]{64})$", out, re.M)
    assert key and line
    assert line[1] == f"traffic={hashlib.sha256(key[1].encode()).hexdigest()}"
    guarded = make_client(api_key_hashes=line[1])
    headers = {"Authorization": f"Bearer {key[1]}"}
    assert guarded.post("/feedback", json=[], headers=headers).status_code == 422
    assert subprocess.run([*command, "a=b"], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("path", ["/predict", "/feedback"])
@pytest.mark.parametrize("headers", [{}, WITH_KEY])
def test_a_post_from_a_page_of_another_site_is_rejected(
    guarded: FlaskClient, journal: Journal, record: Record, path: str, headers: dict[str, str]
) -> None:
    """Otherwise a form or script of any page could fill the journal through a visitor's browser."""
    sent = headers | {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    response = guarded.post(path, data=json.dumps(record), headers=sent)
    assert response.status_code == 403
    assert response.get_json()["error"]["code"] == "cross_site"
    assert not read_after(journal.path, 0, 10)
    assert guarded.get("/", headers=sent).status_code == 200  # a link on another site


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://elsewhere.example", "Host": "localhost"}, 403),
        ({"Origin": "http://localhost:3000", "Host": "localhost:9696"}, 403),
        ({"Origin": "null", "Host": "localhost"}, 403),
        ({"Origin": "http://localhost:9696", "Host": "localhost:9696"}, 200),
        ({"Origin": "https://10.0.0.7", "Host": "10.0.0.7"}, 200),  # a reverse proxy with TLS
    ],
)
def test_sec_fetch_site_or_the_origin_decides_whether_a_post_is_of_the_same_site(
    client: FlaskClient, record: Record, headers: dict[str, str], status: int
) -> None:
    """Over plain HTTP to another machine, a browser sends `Origin` without `Sec-Fetch-Site`."""
    assert client.post("/predict", json=record, headers=headers).status_code == status
    assert client.get("/model", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/feedback"])
@pytest.mark.parametrize("content_type", [None, "text/plain; application/json"])
def test_a_post_must_declare_json(
    client: FlaskClient, journal: Journal, record: Record, path: str, content_type: str | None
) -> None:
    """A page of another site can send a body of another type, or without a type."""
    response = client.post(path, data=json.dumps(record), content_type=content_type)
    assert response.status_code == 415
    error = response.get_json()["error"]
    assert error["code"] == "unsupported_media_type"
    assert "Content-Type: expected application/json" in error["message"]
    assert not read_after(journal.path, 0, 10)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON ;x=y"])
def test_json_may_be_declared_with_parameters(
    client: FlaskClient, record: Record, kind: str
) -> None:
    response = client.post("/predict", data=json.dumps(record), content_type=kind)
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/", "/predict"])
@pytest.mark.parametrize("host", ["elsewhere.example:9696", "127.0.0.1.example", "a.b:x", "[::.1"])
def test_a_host_that_dns_rebinding_could_use_is_rejected(
    client: FlaskClient, journal: Journal, record: Record, path: str, host: str
) -> None:
    """If a page's name resolves to the service's address, a browser takes both for one site."""
    headers = {"Host": host, "Sec-Fetch-Site": "same-origin"}
    for response in (
        client.get(path, headers=headers),
        client.post(path, json=record, headers=headers),
    ):
        assert response.status_code == 403
        assert response.get_json()["error"]["code"] == "untrusted_host"
        assert "TRUSTED_HOSTS" in response.get_json()["error"]["message"]
    assert not read_after(journal.path, 0, 10)


def test_addresses_and_names_without_a_dot_and_trusted_hosts_are_accepted(
    make_client: MakeClient,
) -> None:
    client = make_client(trusted_hosts="income.example.org,.example.net")
    for host in (
        "127.0.0.1:9696",
        "[::1]:9696",
        "localhost",
        "prediction:9696",
        "Income.Example.org:443",
    ):
        assert client.get("/model", headers={"Host": host}).status_code == 200, host
    assert client.get("/model", headers={"Host": "a.example.net"}).status_code == 200
    assert client.get("/model", headers={"Host": "a.example.org"}).status_code == 403


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("API_KEY_HASHES", f"planning={KEY}"),
        ("API_KEY_HASHES", f"{HASHES},"),
        ("API_KEY_HASHES", f"{HASHES}\n"),
        ("TRUSTED_HOSTS", "a.example:80"),
        ("TRUSTED_HOSTS", "*.example"),
        ("TRUSTED_HOSTS", "a, b"),
    ],
)
def test_invalid_hashes_and_hosts_end_the_start(name: str, text: str, monkeypatch) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError, match=name):
        read_settings(Settings)


@pytest.mark.parametrize("path", ["/predict", "/predict?explain=no", "/health/live", "/nowhere"])
def test_a_valid_request_id_is_in_every_response(client: FlaskClient, path: str) -> None:
    for given in ("3f-A.b_c:9", "x" * 100):
        response = client.post(path, headers={"X-Request-ID": given})
        assert response.headers.getlist("X-Request-ID") == [given]


@pytest.mark.parametrize("given", ["", "x" * 101, "a b", "é"])
def test_an_invalid_request_id_is_replaced(client: FlaskClient, record: Record, given: str) -> None:
    response = client.post("/predict", json=record, headers={"X-Request-ID": given})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])


def test_each_request_is_logged_with_id_route_status_and_time(
    make_client: MakeClient, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    client = make_client(log_format="json", log_requests=True)
    for method, path in (("POST", "/predict"), ("GET", "/predict"), ("GET", "/no/age/38?a=b")):
        client.open(path, method=method, json=record, headers={"X-Request-ID": "an-id"})
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("POST /predict", 200),
        ("GET /predict", 405),
        ("GET /no/age/38", 404),
    ]
    names = ["at", "level", "logger", "event", "request_id", "route", "status", "ms"]
    for line, more in zip(lines, ("prediction_id", "code", "code")):
        assert list(line) == [*names, more]
        assert (line["request_id"], line["event"], line["level"]) == ("an-id", "request", "info")
        assert 0 < line["ms"] < 10_000


def test_a_request_is_logged_with_its_prediction_or_its_error_and_no_value(
    make_client: MakeClient, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    client = make_client(log_format="json", log_requests=True)
    stored = client.post("/predict", json=[record, record]).get_json()
    client.post("/predict?record=false", json=record)
    client.post("/predict", json=record | {"age": 999, "sex": "Martian", "my name\n": 1})
    client.get("/a%0Ab" + "c" * 200)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert lines[0]["prediction_id"] == stored[0]["prediction_id"]
    assert "prediction_id" not in lines[1]
    assert (lines[2]["code"], lines[2]["fields"]) == ("invalid_records", "age,sex")
    assert "999" not in str(lines[2]) and "Martian" not in str(lines[2])
    assert lines[3]["route"].startswith("GET /a\\nbcc") and len(lines[3]["route"]) < 120


def test_request_lines_are_text_by_default_and_can_be_turned_off(
    make_client: MakeClient, capfd: pytest.CaptureFixture[str]
) -> None:
    make_client(log_requests=True).get("/health/live", headers={"X-Request-ID": "an-id"})
    line = r"\S+Z \[info\] request \[prediction_service.requests\] request_id=an-id"
    line += r" route=GET /health/live status=200 ms=[\d.]+\n"
    assert re.fullmatch(line, capfd.readouterr().err)
    response = make_client(log_requests=False).get("/health/live")
    assert response.headers["X-Request-ID"]
    assert capfd.readouterr().err == ""


def test_a_log_that_cannot_be_written_fails_no_request(
    make_client: MakeClient, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, but the prediction is stored already."""
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr(request_log, "STDERR", full.fileno())
        client = make_client(log_requests=True)
        assert client.post("/predict", json=record).status_code == 200
        counted = 'income_requests_total{endpoint="predict",status="200",version="none"} 1.0'
        assert counted in client.get("/metrics").text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({}, 200),
        ({"headers": {"Idempotency-Key": "k" * 201}}, 400),
        ({"headers": {"Host": "a.example.org"}}, 403),
        ({"headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
        ({"headers": {"Authorization": "Bearer wrong"}}, 401),
        ({"data": "{", "json": None}, 400),
        ({"json": {"age": -3}}, 422),
        ({"json": [{}] * 51}, 413),
        ({"data": b" " * 20_001, "json": None}, 413),
        ({"content_type": "text/plain"}, 415),
        ({"method": "GET"}, 405),
    ],
    ids=str,
)
def test_a_prediction_without_parameters_gets_the_same_response_as_from_flask(
    guarded: FlaskClient, record: Record, request_: Record, status: int
) -> None:
    """The middleware handles such a prediction. With a parameter, Flask's route handles it."""
    headers = {**WITH_KEY, "X-Request-ID": "an-id", **request_.get("headers", {})}
    options = {"method": "POST", "json": record, **request_, "headers": headers}
    if "content_type" in options or options["json"] is None:
        options["data"] = options.get("data", json.dumps(options.pop("json")))
        options.setdefault("content_type", "application/json")
    plain, within_flask = (
        guarded.open(path, **options) for path in ("/predict", "/predict?explain=false")
    )
    assert plain.status_code == within_flask.status_code == status
    assert dict(plain.headers) == dict(within_flask.headers)
    bodies = [plain.get_json(), within_flask.get_json()]
    for body in bodies:
        body.pop("prediction_id", None)
    assert bodies[0] == bodies[1]
    endpoint = "unknown" if plain.status_code == 405 else "predict"
    counted = f'{{endpoint="{endpoint}",status="{plain.status_code}",version="none"}} 2.0'
    assert counted in guarded.get("/metrics").text
