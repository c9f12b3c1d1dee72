"""The stack in containers: predictions, storage, monitoring, isolation, backup."""

import base64
import re
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
    WITHOUT_DATA,
    alert_rules,
    expressions,
    label_values,
    query_response,
)
from tests.conftest import free_port, wait_until
from tests.containers.conftest import COMPOSE, PORTS, ROOT, Stack

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

OURS = ("gcs", "mlflow", "worker", "prediction", "evidently", "jupyter", "traffic")
BUDGET_MB = 420  # of the prediction service's image without its base; explanations take 165


def running_services(stack: Stack) -> set[str]:
    """Return the services that `make up` starts."""
    left_out = {"traffic", "volumes"} | (set() if stack.has_grafana else {"grafana"})
    return set(COMPOSE["services"]) - left_out


def test_the_compose_file_is_valid_without_a_warning(stack):
    assert stack.run("sh", "-c", "docker compose config --quiet 2>&1") == ""


def test_every_container_becomes_healthy(stack):
    assert set(stack.containers()) == running_services(stack)
    assert stack.unhealthy() == {}


def test_a_second_start_trains_nothing(stack):
    assert "version 1 is in production: nothing to do" in stack.run("make", "up", timeout_s=600)


def test_a_prediction_through_the_published_port_reaches_mongodb(stack, record):
    prediction = stack.predict(record)

    def is_stored() -> bool:
        # MongoDB may fail this query while the first prediction creates the collection.
        with suppress(OperationFailure):
            return bool(stack.stored(prediction["prediction_id"]))
        return False

    wait_until(is_stored, "the prediction in MongoDB")


def test_drift_reaches_prometheus(stack):
    command = ["python", "-m", "stream_generator.send_data", "--quiet", "--scenario", "sudden"]
    command += ["--rows", "3500", "--labels", "0.5", "--label-delay-s", "0"]
    stack.compose("run", "--rm", "-T", "traffic", *command, timeout_s=300)
    wait_until(lambda: query(stack, "income_drift_detected") == 1, "drift in Prometheus")
    assert query(stack, 'income_feature_drift_score{feature="age"}') > 1
    # Prometheus scrapes the two services at different times.
    counted = "sum(income_predictions_total)"
    wait_until(lambda: (query(stack, counted) or 0) >= 3500, "the predictions in Prometheus")


def test_every_query_of_the_dashboards_and_the_alerts_returns_data(stack, record):
    values = partial(label_values, stack.url("prometheus", "/api/v1/query"))
    for expression in expressions(values):
        if re.search(WITHOUT_DATA, expression):
            continue
        has_data = partial(has_data_in_traffic, stack, record, expression)
        wait_until(has_data, f"data for {expression}")


def has_data_in_traffic(stack: Stack, record: dict[str, Any], expression: str) -> bool:
    """Send records, because some expressions are rates; return True if there is data."""
    stack.predict(record)
    rejected = requests.post(stack.url("prediction", "/predict"), json={}, timeout=10)
    assert rejected.status_code == 422
    return query(stack, expression) is not None


def query(stack: Stack, expression: str) -> float | None:
    """Return the first value of an expression in Prometheus, or None without data."""
    found = query_response(stack.url("prometheus", "/api/v1/query"), expression)["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def test_grafana_has_its_dashboards_alerts_and_contact_points(stack):
    if not stack.has_grafana:
        pytest.skip("Grafana's image is not available")
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


def test_no_container_runs_as_root_or_can_write_to_its_root_folder(stack):
    for name, container in stack.containers().items():
        assert stack.compose("exec", "-T", name, "id", "-u").strip() != "0", name
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        write = "touch /written 2>&1; true"
        assert "Read-only" in stack.run("docker", "exec", container["Id"], "sh", "-c", write), name


def test_memory_processes_and_logs_are_limited_and_containers_restart(stack):
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


def test_only_services_that_need_it_have_internet_access(stack):
    project = stack.env["COMPOSE_PROJECT_NAME"]
    networks = {n: set(c["NetworkSettings"]["Networks"]) for n, c in stack.containers().items()}
    front, back = f"{project}_front", f"{project}_back"
    outside = {name for name, joined in networks.items() if front in joined}
    # The worker downloads the census. MongoDB may run elsewhere, so the relay needs access too.
    assert outside == (set(PORTS) | {"worker", "relay"}) & running_services(stack)
    assert all(back in joined for name, joined in networks.items())
    assert '"Internal": true' in stack.run("docker", "network", "inspect", back)


def test_no_secret_is_in_the_configuration_of_a_container(stack):
    inspected = str(stack.containers())
    for path in (ROOT / "var" / "secrets").iterdir():
        assert path.read_text("utf-8") not in inspected, path.name


def test_each_container_has_only_its_own_secrets(stack):
    """Read the environment of the first process and every secret file, as an intruder would.

    The web workers, which are published, once held MLflow's administrator and MongoDB's password.
    """
    secrets = {path.name: path.read_text("utf-8") for path in (ROOT / "var/secrets").iterdir()}
    read = "cat /proc/1/environ /proc/self/environ; find /run/secrets -type f -exec cat {} + ; true"
    for name, container in stack.containers().items():
        command = ["docker", "exec", container["Id"], "sh", "-c", f"({read}) 2>/dev/null"]
        found = stack.run(*command)
        own = set(COMPOSE["services"][name].get("secrets", ())) & set(secrets)
        assert {one for one, value in secrets.items() if value in found} == own, name


def test_the_users_of_mongodb_have_the_rights_of_their_role(stack):
    if not stack.has_mongodb_users:
        pytest.skip("the image of MongoDB has no users")
    for user in ("worker", "jupyter"):
        with stack.predictions(user, f"mongo_{user}_password") as predictions:
            predictions.find_one()
            with pytest.raises(OperationFailure, match="not authorized"):
                predictions.delete_one({"_id": "none"})


def test_the_evidently_service_accepts_events_from_the_relay_alone(stack):
    for path in ("/iterate/income", "/labels/income"):
        response = requests.post(stack.url("evidently", path), json=[], timeout=10)
        assert response.status_code == 401, path


def test_mlflow_and_prefect_and_jupyter_require_credentials(stack):
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


def test_every_page_is_served(stack):
    """Prefect once served none: it could not write its files to a read-only root folder."""
    password = {"Authorization": basic(f"admin:{stack.secret('mlflow_password')}")}
    pages = {"mlflow": "/", "prefect": "/", "jupyter": "/lab", "evidently": "/report"}
    for service, path in pages.items():
        headers = password if service == "mlflow" else {}
        response = requests.get(stack.url(service, path), headers=headers, timeout=20)
        assert response.status_code == 200, service
        assert "text/html" in response.headers["Content-Type"], service


def basic(login: str) -> str:
    """Return the Authorization header of `user:password`."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def test_prefect_runs_due_flows_with_code_from_the_bucket(stack):
    login = {"Authorization": basic(stack.secret("prefect_auth"))}
    wanted = {
        "flows": {"name": {"any_": ["watch"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }

    def completed() -> list[dict[str, Any]]:
        url = stack.url("prefect", "/api/flow_runs/filter")
        return requests.post(url, json=wanted, headers=login, timeout=10).json()

    wait_until(completed, "a run of watch", timeout_s=180)  # due every minute
    bucket = stack.compose("exec", "-T", "gcs", "find", "/state/gcs", "-name", "watch.py")
    assert "/prefect/code/" in bucket


def test_a_container_does_not_start_without_its_secret(stack):
    image = stack.containers()["mlflow"]["Config"]["Image"]
    missing = "MLFLOW_AUTH_ADMIN_PASSWORD_FILE=/run/secrets/none"
    output = stack.run("docker", "run", "--rm", "-e", missing, image, "true", status=2)
    assert "/run/secrets/none: No such file or directory. Run `make secrets`." in output


def test_images_have_version_labels_and_no_build_tools(stack):
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


def test_the_prediction_image_fits_its_budget(stack):
    images = ["income-test/prediction-service:local", "python:3.11-slim"]
    if custom := stack.env.get("PYTHON_IMAGE"):
        images[1] = custom
    sizes = stack.run("docker", "image", "inspect", "--format", "{{.Size}}", *images).split()
    assert int(sizes[0]) - int(sizes[1]) <= BUDGET_MB * 10**6


class Traffic:
    """Requests predictions without a pause or a retry; keeps the ids of responses."""

    def __init__(self, stack: Stack, record: dict[str, Any]) -> None:
        self.stack = stack
        self.record = record
        self.ids: list[str] = []
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
                self.ids.append(self.stack.predict(self.record)["prediction_id"])
            except requests.RequestException:
                self.broken += 1


def test_no_prediction_is_lost_when_any_container_is_killed(stack, record):
    """Kill the process, not the container: Docker does not restart after a manual stop."""
    with Traffic(stack, record) as traffic:
        for name, container in stack.containers().items():
            before = container["RestartCount"]
            stack.run(
                *("docker", "exec", container["Id"], "sh", "-c"),
                "kill -9 $(cat /proc/1/task/1/children)",
            )
            wait_until(lambda n=name, b=before: restarted(stack, n, b), f"{name} to restart")
            stack.wait_healthy()
        ids = traffic.ids
        n_before = len(ids)
        wait_until(lambda: len(ids) > n_before, "predictions after the last kill")
    assert len(ids) > 500 and traffic.broken < len(ids)
    assert len(set(ids)) == len(ids)
    wait_until(lambda: stack.stored(*ids) == len(ids), "every prediction in MongoDB")


def restarted(stack: Stack, name: str, count: int) -> bool:
    """Return True if the engine has restarted the service's container."""
    return stack.containers()[name]["RestartCount"] > count


def test_a_prediction_is_erased_everywhere(stack, record):
    kept, erased = (stack.predict(record)["prediction_id"] for _ in range(2))
    wait_until(lambda: stack.stored(kept, erased) == 2, "the predictions in MongoDB")
    wait_until(lambda: erased in window(stack), "the prediction in the window")
    stack.run("make", "forget", f"ID={erased}")
    assert stack.stored(kept) and not stack.stored(erased)
    assert kept in window(stack) and erased not in window(stack)
    assert erased not in stack.compose(
        "exec",
        "-T",
        "relay",
        "python",
        "-m",
        "prediction_service.journal",
        "export",
    )


def window(stack: Stack) -> str:
    """Return the ids in the Evidently service's window, as text."""
    code = (
        "import sqlite3; window = sqlite3.connect('/state/window/window.db');"
        "print(window.execute('select prediction_id from predictions').fetchall())"
    )
    return stack.compose("exec", "-T", "measure", "python", "-c", code)


def test_a_killed_second_container_loses_no_answered_prediction(stack, record):
    """It shares journals, model folder and relay with the first."""
    port = free_port()
    published = f"--publish=127.0.0.1:{port}:9696"
    name = stack.compose("run", "--detach", "--no-deps", published, "prediction").strip()
    addresses = [stack.url("prediction", "/predict"), f"http://127.0.0.1:{port}/predict"]
    answers: list[dict[str, Any]] = []

    def both_serve() -> bool:
        """A worker that has not loaded the model yet responds with status 503."""
        with suppress(requests.ConnectionError):
            found = [requests.post(one, json=record, timeout=10) for one in addresses]
            answers.extend(one.json() for one in found if one.ok)
            return all(one.ok for one in found)
        return False

    try:
        wait_until(lambda: both_serve() and len(answers) >= 100, "both containers to serve")
    finally:
        stack.run("docker", "rm", "--force", name)  # which kills it
    ids = [answer["prediction_id"] for answer in answers]
    wait_until(lambda: stack.stored(*ids) == len(ids), "every prediction in MongoDB")
    assert {answer["model_version"] for answer in answers} == {production_version(stack)}


def test_mlflow_and_prefect_keep_their_rows_in_postgresql(stack):
    for database, table in (("mlflow", "model_versions"), ("prefect", "deployment")):
        query = f"SELECT count(*) > 0 FROM {table}"
        psql = ("psql", "--username=postgres", "--no-align", "--tuples-only", f"--command={query}")
        found = stack.compose("exec", "-T", "postgres", *psql, f"--dbname={database}")
        assert found.strip() == "t", database
    stored = stack.compose("exec", "-T", "mlflow", "ls", "/state/mlflow").split()
    assert stored == ["auth.db"]


def test_a_backup_restores_lost_data_while_predictions_continue(stack, record):
    version = production_version(stack)
    before = stack.predict(record)["prediction_id"]
    wait_until(lambda: stack.stored(before), "the prediction in MongoDB")
    with Traffic(stack, record) as traffic:
        archive = stack.run("make", "backup", timeout_s=300).split()[-1]
    assert traffic.ids and traffic.broken == 0
    try:
        with stack.predictions() as predictions:
            predictions.delete_many({})
        response = requests.delete(
            stack.url("mlflow", "/api/2.0/mlflow/registered-models/delete"),
            json={"name": "income-classifier"},
            auth=("admin", stack.secret("mlflow_password")),
            timeout=10,
        )
        response.raise_for_status()
        stack.run("make", "restore", f"FROM={archive}", timeout_s=300)
    finally:
        (ROOT / archive).unlink()
    assert stack.stored(before)
    assert production_version(stack) == version
    stack.wait_healthy()


def production_version(stack: Stack) -> str:
    """Return the production version in MLflow."""
    response = requests.get(
        stack.url("mlflow", "/api/2.0/mlflow/registered-models/alias"),
        params={"name": "income-classifier", "alias": "production"},
        auth=("admin", stack.secret("mlflow_password")),
        timeout=10,
    )
    response.raise_for_status()
    return response.json()["model_version"]["version"]


def test_every_container_stops_within_its_grace_period(stack, record):
    """No container is killed, and the relay delivers its backlog before it ends."""
    last = [stack.predict(record)["prediction_id"] for _ in range(20)]
    services = running_services(stack) - {"mongo"}
    stack.compose("stop", *services, timeout_s=300)
    ended = {n: c["State"]["ExitCode"] for n, c in stack.containers().items() if n in services}
    assert not [name for name, code in ended.items() if code == 137], ended
    assert stack.stored(*last) == len(last)
    stack.compose("start", *services, timeout_s=300)
    stack.wait_healthy()
    assert stack.predict(record)["prediction_id"] not in last
