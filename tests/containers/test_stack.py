"""What the stack does in containers: it answers, stores, measures, and keeps what it was given."""

import base64
import subprocess
import threading
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import requests
from pymongo.errors import OperationFailure

from tests.config.test_monitoring_files import (
    DASHBOARDS,
    HOME,
    alert_rules,
    expressions,
    label_values,
)
from tests.conftest import wait_until
from tests.containers.conftest import COMPOSE, PORTS, ROOT, Stack

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

OURS = ("gcs", "mlflow", "worker", "prediction", "evidently", "jupyter", "traffic")
BUDGET_MB = 420  # of the prediction service's image, above its base; 165 are for explanations


def running_services(stack: Stack) -> set[str]:
    """What `make up` starts."""
    left_out = {"traffic", "volumes"} | (set() if stack.has_grafana else {"grafana"})
    return set(COMPOSE["services"]) - left_out


def test_the_compose_file_is_valid_without_a_warning(stack):
    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"],
        cwd=ROOT,
        env=stack.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""


def test_everything_comes_up_healthy(stack):
    assert set(stack.containers()) == running_services(stack)
    assert stack.unhealthy() == {}


def test_a_second_start_trains_nothing(stack):
    assert "version 1 is in production: nothing to do" in stack.run("make", "up", timeout_s=600)


def test_a_prediction_through_the_published_port_is_found_in_mongodb(stack, record):
    prediction = stack.predict(record)

    def is_stored() -> bool:
        # The first prediction of all: a question may come while the collection is being made.
        with suppress(OperationFailure):
            return bool(stack.stored(prediction["prediction_id"]))
        return False

    wait_until(is_stored, 30, "MongoDB to have it")


def test_drift_is_seen_in_prometheus(stack):
    command = ["python", "-m", "stream_generator.send_data", "--quiet", "--scenario", "sudden"]
    command += ["--rows", "3500", "--labels", "0.5", "--label-delay-s", "0"]
    stack.compose("run", "--rm", "-T", "traffic", *command, timeout_s=300)
    wait_until(lambda: queried(stack, "income_drift_detected") == 1, 120, "drift in Prometheus")
    assert queried(stack, 'income_feature_drift_score{feature="age"}') > 1
    # The two services are scraped at different times: their counts meet within a scrape.
    counted = "sum(income_predictions_total)"
    wait_until(lambda: (queried(stack, counted) or 0) >= 3500, 60, "the predictions in Prometheus")


def test_every_query_of_the_dashboards_and_the_alerts_returns_data(stack, record):
    values = partial(label_values, stack.url("prometheus", "/api/v1/query"))
    for expression in expressions(values):
        asked = partial(found_in_traffic, stack, record, expression)
        wait_until(asked, 60, f"data for {expression}")


def found_in_traffic(stack: Stack, record: dict[str, Any], expression: str) -> bool:
    """True if an expression has a value while predictions are made: some are rates of them."""
    stack.predict(record)
    return queried(stack, expression) is not None


def queried(stack: Stack, expression: str) -> float | None:
    """The first value of an expression in Prometheus, or None if it has none."""
    url = stack.url("prometheus", "/api/v1/query")
    answer = requests.get(url, params={"query": expression}, timeout=10).json()
    found = answer["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def test_grafana_has_its_dashboards_its_alerts_and_whom_to_tell(stack):
    if not stack.has_grafana:
        pytest.skip("Grafana's image cannot be had here")
    grafana = requests.Session()
    grafana.auth = ("admin", stack.secret("grafana_password"))

    def get(path: str) -> Any:
        response = grafana.get(stack.url("grafana", path), timeout=10)
        response.raise_for_status()
        return response.json()

    found = get("/api/search?type=dash-db")
    assert {one["uid"] for one in found} == {board["uid"] for board in DASHBOARDS}
    assert {one["folderTitle"] for one in found} == {"Income prediction"}
    assert get("/api/dashboards/home")["dashboard"]["title"] == HOME["title"]
    rules = get("/api/v1/provisioning/alert-rules")
    assert {rule["uid"]: rule["noDataState"] for rule in rules} == {
        rule["uid"]: rule["noDataState"] for rule in alert_rules()
    }
    points = get("/api/v1/provisioning/contact-points")
    assert {"income-webhook", "income-e-mail"} <= {point["uid"] for point in points}
    assert len(get("/api/v1/provisioning/policies")["routes"]) == 3
    assert get("/api/datasources/uid/prometheus/health")["status"] == "OK"


def test_no_container_runs_as_root_or_can_write_to_its_root(stack):
    for name, container in stack.containers().items():
        assert stack.compose("exec", "-T", name, "id", "-u").strip() != "0", name
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        write = "touch /written 2>&1; true"
        assert "Read-only" in stack.run("docker", "exec", container["Id"], "sh", "-c", write), name


def test_memory_processes_and_logs_are_bounded_and_a_crash_is_mended(stack):
    for name, container in stack.containers().items():
        host = container["HostConfig"]
        assert host["Memory"] > 0 and host["PidsLimit"] > 0, name
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}, name
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name


def test_only_the_stated_ports_are_published_and_only_on_loopback(stack):
    published = {}
    for name, container in stack.containers().items():
        bindings = container["NetworkSettings"]["Ports"].values()
        published[name] = [(b["HostIp"], b["HostPort"]) for some in bindings for b in some or []]
    wanted = {
        name: [("127.0.0.1", stack.env[PORTS[name]])] if name in PORTS else []
        for name in running_services(stack)
    }
    assert published == wanted


def test_what_publishes_no_port_and_needs_nothing_outside_has_no_way_out(stack):
    project = stack.env["COMPOSE_PROJECT_NAME"]
    networks = {n: set(c["NetworkSettings"]["Networks"]) for n, c in stack.containers().items()}
    front, back = f"{project}_front", f"{project}_back"
    outside = {name for name, joined in networks.items() if front in joined}
    # The worker fetches the census, and the relay's MongoDB may be elsewhere.
    assert outside == (set(PORTS) | {"worker", "relay"}) & running_services(stack)
    assert all(back in joined for name, joined in networks.items())
    assert '"Internal": true' in stack.run("docker", "network", "inspect", back)


def test_no_secret_is_in_the_configuration_of_a_container(stack):
    inspected = str(stack.containers())
    for path in (ROOT / "var" / "secrets").iterdir():
        assert path.read_text("utf-8") not in inspected, path.name


def test_mlflow_and_prefect_and_jupyter_answer_nobody_without_a_password(stack):
    pages = {
        "mlflow": "/api/2.0/mlflow/registered-models/search",
        "prefect": "/api/admin/version",
        "jupyter": "/api/contents",
    }
    logins = {
        "mlflow": basic(f"admin:{stack.secret('mlflow_password')}"),
        "prefect": basic(stack.secret("prefect_auth")),
        "jupyter": f"token {stack.secret('jupyter_token')}",
    }
    for service, path in pages.items():
        url, login = stack.url(service, path), {"Authorization": logins[service]}
        assert requests.get(url, timeout=10).status_code in (401, 403), service
        assert requests.get(url, headers=login, timeout=10).status_code == 200, service


def test_every_page_for_people_is_served(stack):
    """Prefect's was not at first: it could not write its files under a read-only root."""
    password = {"Authorization": basic(f"admin:{stack.secret('mlflow_password')}")}
    pages = {"mlflow": "/", "prefect": "/", "jupyter": "/lab", "evidently": "/report"}
    for service, path in pages.items():
        headers = password if service == "mlflow" else {}
        answer = requests.get(stack.url(service, path), headers=headers, timeout=20)
        assert answer.status_code == 200, service
        assert "text/html" in answer.headers["Content-Type"], service


def basic(login: str) -> str:
    """The header of a user and a password."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def test_prefect_runs_what_is_due_with_code_from_the_bucket(stack):
    login = {"Authorization": basic(stack.secret("prefect_auth"))}
    wanted = {
        "flows": {"name": {"any_": ["watch"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }

    def completed() -> list[dict[str, Any]]:
        url = stack.url("prefect", "/api/flow_runs/filter")
        return requests.post(url, json=wanted, headers=login, timeout=10).json()

    wait_until(completed, 180, "a run of watch, which is due every minute")
    bucket = stack.compose("exec", "-T", "gcs", "find", "/state/gcs", "-name", "watch.py")
    assert "/prefect/code/" in bucket


def test_a_container_refuses_to_start_without_its_secret(stack):
    image = stack.containers()["mlflow"]["Config"]["Image"]
    missing = "MLFLOW_AUTH_ADMIN_PASSWORD_FILE=/run/secrets/none"
    said = stack.run("docker", "run", "--rm", "-e", missing, image, "true", status=2)
    assert "cannot be read: run make secrets" in said


def test_images_say_what_they_are_and_hold_no_tools(stack):
    commit = stack.run("git", "rev-parse", "--short=12", "HEAD").strip()
    for name in (n for n in OURS if n in stack.containers()):
        image = stack.containers()[name]["Config"]["Image"]
        labels = stack.containers()[name]["Config"]["Labels"]
        assert labels["org.opencontainers.image.revision"] == commit, name
        assert labels["org.opencontainers.image.version"], name
        tools = "ls /opt/venv/bin/pip /usr/bin/gcc /usr/bin/make /usr/bin/git 2>/dev/null"
        found = stack.run(
            "docker", "run", "--rm", "--entrypoint", "sh", image, "-c", f"{tools}; true"
        )
        assert found == "", name


def test_the_prediction_image_keeps_its_budget(stack):
    images = ["income-test/prediction-service:local", "python:3.11-slim"]
    if custom := stack.env.get("PYTHON_IMAGE"):
        images[1] = custom
    sizes = stack.run("docker", "image", "inspect", "--format", "{{.Size}}", *images).split()
    assert int(sizes[0]) - int(sizes[1]) <= BUDGET_MB * 10**6


class Traffic:
    """Predictions asked for all the time, each once; those that were answered are kept."""

    def __init__(self, stack: Stack, record: dict[str, Any]) -> None:
        self.stack = stack
        self.record = record
        self.answered: list[str] = []
        self.broken = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self.answered.append(self.stack.predict(self.record)["prediction_id"])
            except requests.RequestException:
                self.broken += 1


def test_no_prediction_is_lost_when_any_container_is_killed(stack, record):
    """The process is killed, not the container: a manual stop would not be mended."""
    with Traffic(stack, record) as traffic:
        for name, container in stack.containers().items():
            before = container["RestartCount"]
            stack.run(
                *("docker", "exec", container["Id"], "sh", "-c"),
                "kill -9 $(cat /proc/1/task/1/children)",
            )
            wait_until(lambda n=name, b=before: restarted(stack, n, b), 60, f"{name} to restart")
            stack.wait_healthy()
        answered_so_far = len(traffic.answered)
        wait_until(lambda: len(traffic.answered) > answered_so_far, 30, "answers after all of it")
    assert len(traffic.answered) > 500 and traffic.broken < len(traffic.answered)
    ids = traffic.answered
    assert len(set(ids)) == len(ids)
    wait_until(lambda: stack.stored(*ids) == len(ids), 60, "MongoDB to have every answered one")


def restarted(stack: Stack, name: str, count: int) -> bool:
    """True once the engine has started the service's container again."""
    return stack.containers()[name]["RestartCount"] > count


def test_a_prediction_is_forgotten_everywhere(stack, record):
    kept, erased = (stack.predict(record)["prediction_id"] for _ in range(2))
    wait_until(lambda: stack.stored(kept, erased) == 2, 30, "MongoDB to have them")
    wait_until(lambda: erased in windowed(stack), 30, "the Evidently service to have it")
    stack.run("make", "forget", f"ID={erased}")
    assert stack.stored(kept) and not stack.stored(erased)
    assert kept in windowed(stack) and erased not in windowed(stack)
    assert erased not in stack.compose(
        "exec",
        "-T",
        "relay",
        "python",
        "-m",
        "prediction_service.journal",
        "export",
    )


def windowed(stack: Stack) -> str:
    """Every row of the Evidently service's window, as text."""
    code = (
        "import sqlite3; window = sqlite3.connect('/state/window/window.db');"
        "print(window.execute('select prediction_id from predictions').fetchall())"
    )
    return stack.compose("exec", "-T", "measure", "python", "-c", code)


def test_a_backup_brings_back_what_was_lost_and_predictions_go_on_meanwhile(stack, record):
    version = production_version(stack)
    before = stack.predict(record)["prediction_id"]
    wait_until(lambda: stack.stored(before), 30, "MongoDB to have it")
    with Traffic(stack, record) as traffic:
        archive = stack.run("make", "backup", timeout_s=300).split()[-1]
    assert traffic.answered and traffic.broken == 0
    try:
        with stack.predictions() as predictions:
            predictions.delete_many({})
        answer = requests.delete(
            stack.url("mlflow", "/api/2.0/mlflow/registered-models/delete"),
            json={"name": "income-classifier"},
            auth=("admin", stack.secret("mlflow_password")),
            timeout=10,
        )
        answer.raise_for_status()
        stack.run("make", "restore", f"FROM={archive}", timeout_s=300)
    finally:
        (ROOT / archive).unlink()
    assert stack.stored(before)
    assert production_version(stack) == version
    stack.wait_healthy()


def production_version(stack: Stack) -> str:
    """The version in production, as MLflow says."""
    answer = requests.get(
        stack.url("mlflow", "/api/2.0/mlflow/registered-models/alias"),
        params={"name": "income-classifier", "alias": "production"},
        auth=("admin", stack.secret("mlflow_password")),
        timeout=10,
    )
    answer.raise_for_status()
    return answer.json()["model_version"]["version"]


def test_every_container_stops_when_it_is_asked_to(stack, record):
    """None is killed after its grace period, and the relay ships what waits before it goes."""
    last = [stack.predict(record)["prediction_id"] for _ in range(20)]
    services = running_services(stack) - {"mongo"}
    stack.compose("stop", *services, timeout_s=300)
    ended = {n: c["State"]["ExitCode"] for n, c in stack.containers().items() if n in services}
    assert not [name for name, code in ended.items() if code == 137], ended
    assert stack.stored(*last) == len(last)
    stack.compose("start", *services, timeout_s=300)
    stack.wait_healthy()
    assert stack.predict(record)["prediction_id"] not in last
