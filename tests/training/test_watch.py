"""`watch` against a real Prefect server and a small Evidently stand-in on loopback."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from prefect import flow, get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.testing.utilities import prefect_test_harness

from tests.conftest import free_port
from training.worker import drop_overdue_runs
from training.watch import DRIFT_TAG, started_lately, watch

CALM = {"state": "ok", "drifted": False, "share_drifted": 0.0}
SHIFTED = {"state": "ok", "drifted": True, "share_drifted": 0.5}


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    """A real Prefect server on a database of its own."""
    with prefect_test_harness(server_startup_timeout=60):
        yield


@pytest.fixture
def evidently(monkeypatch) -> Iterator[dict]:
    """Answers GET /drift with the verdict in the yielded dict."""
    verdict: dict = {}

    class Handler(BaseHTTPRequestHandler):
        """One page."""

        def do_GET(self) -> None:  # pylint: disable=invalid-name  # http.server's own name
            """The verdict."""
            body = json.dumps(verdict).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:  # pylint: disable=arguments-differ
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("EVIDENTLY_ADDRESS", f"http://127.0.0.1:{server.server_port}")
        yield verdict
        server.shutdown()


@flow(name="train")
def training_stand_in(trigger: str, data: str, force: bool, with_feedback: bool) -> None:
    """Has the parameters that `watch` gives to `train`."""
    assert (trigger, data, force) == ("drift", "production", True) and with_feedback


def runs_tagged(tag: str) -> list:
    """The flow runs with a tag."""
    wanted = {"flow_runs": {"tags": {"all_": [tag]}}}
    with get_client(sync_client=True) as client:
        return client.request("POST", "/flow_runs/filter", json=wanted).json()


def drift_runs() -> list:
    """The flow runs that drift started."""
    return runs_tagged(DRIFT_TAG)


def remove_drift_runs():
    """Removes what an earlier test started."""
    with get_client(sync_client=True) as client:
        for run in drift_runs():
            client.request("DELETE", f"/flow_runs/{run['id']}")


def test_a_calm_window_starts_nothing(evidently):
    evidently.update(CALM)
    assert watch().startswith("no training: state ok, no drift")
    assert not drift_runs()


@pytest.mark.parametrize("with_mongodb", [False, True])
def test_drift_starts_one_training_and_the_cool_down_holds_the_next_back(
    evidently, monkeypatch, with_mongodb
):
    """With labelled production rows where MongoDB has them."""
    remove_drift_runs()
    monkeypatch.setenv("MONGODB_ADDRESS", "mongodb://127.0.0.1:1" if with_mongodb else "")
    evidently.update(SHIFTED)
    deployment = training_stand_in.to_deployment(name="train")
    assert isinstance(deployment, RunnerDeployment)
    deployment.apply()
    assert watch().startswith("training started: flow run")
    (run,) = drift_runs()
    assert run["parameters"] == {
        "trigger": "drift",
        "data": "production",
        "force": True,
        "with_feedback": with_mongodb,
    }
    assert "one was started within" in watch()
    assert len(drift_runs()) == 1


def schedule(tag: str, at: datetime) -> None:
    """A flow run with this tag that is due then."""
    with get_client(sync_client=True) as client:
        flow_id = str(client.create_flow(training_stand_in))
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": at.isoformat()}}
        run = {"flow_id": flow_id, "tags": [tag], "state": state}
        client.request("POST", "/flow_runs/", json=run)


def test_a_training_before_the_cool_down_does_not_count():
    remove_drift_runs()
    schedule(DRIFT_TAG, datetime.now(UTC) - timedelta(hours=2))
    assert not started_lately(cooldown_s=3600)
    assert started_lately(cooldown_s=3 * 3600)


def test_runs_that_came_due_while_nobody_served_them_are_dropped():
    """After a night's stop, a hundred of them would keep the first fresh one waiting."""
    for hours in (-2, -1, 1):
        schedule("auto-scheduled", datetime.now(UTC) + timedelta(hours=hours))
    schedule("asked-for", datetime.now(UTC) - timedelta(hours=1))
    drop_overdue_runs()
    assert len(runs_tagged("auto-scheduled")) == 1  # the one that is not due yet
    assert len(runs_tagged("asked-for")) == 1


def test_an_evidently_service_that_is_away_fails_the_run(monkeypatch):
    monkeypatch.setenv("EVIDENTLY_ADDRESS", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(requests.ConnectionError):
        watch()
