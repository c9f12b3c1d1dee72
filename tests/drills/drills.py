"""Drift drills: change the traffic, and check which alerts fire and which stay silent.

    make drills

The services run as processes from the Procfile, on a new model. The generator sends the traffic.
A real Prometheus evaluates the project's rules, with durations divided by SPEED_UP: five minutes
become ten seconds. Measurements and judged windows follow each other without a pause.

Each drill begins with a window of rows as in the reference. Alerts that are neither expected nor
allowed must stay silent. The watch ends QUIET_S after the last expected alert, which is longer than
the duration of most rules. A drill that `resolves` then ends its fault and waits for its alerts to
end.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import requests
import yaml
from rich.console import Console
from rich.table import Table

from config.contract import load_contract
from config.events import Label, Prediction
from config.local_stack.stack import PORTS, Stack, http_ok, running, stack_environment
from config.model_registry import ALIAS, MODEL_NAME
from prediction_service.journal import Event, Journal
from prediction_service.journal.export import journalled_predictions
from prediction_service.settings import Settings
from stream_generator.traffic.changes import load_changes
from stream_generator.traffic.registry import production_rows
from tests.config.test_monitoring_files import RULES, debian, query_response, scraping
from tests.conftest import free_port, run, wait_until
from tests.drills.planted import plant_inverted
from training.registry.mlflow_registry import Registry, number_of

SPEED_UP = 30  # of the rules' durations
QUIET_S = 14.0
POST_S = 8.0  # several scrapes, so that Prometheus sees a rate
SLOW_S = 0.4  # from a slow client's header to its body
BASELINE_ROWS = 1000  # as in the reference, before the change
ALERT_TIMEOUT_S = 180.0  # from the first record sent; generous, because machines are noisy
MEASURE_TIMEOUT_S = 120.0
RESOLVE_TIMEOUT_S = 200.0  # ModelVersionRejected looks back two minutes
MISSED_ROWS = 1000  # labelled in the drill of a group whose positives are missed
WORSE_ROWS, UNDO_S = 300, 60.0  # a version that inverts its classes needs 10 labels
BACKLOG_ROWS = 1500  # sent while the monitoring is down
DAY_S = 86_400
# They distinguish the alerts of one rule.
LABELS = (
    *("feature", "output", "check", "segment", "rate"),
    *("sink", "job", "endpoint", "reason", "rule"),
)
STACK = ("gcs", "mlflow", "prefect", "prediction", "follower", "relay")
MONITORING = ("evidently", "measure")
WATCHED = {"prediction:9696": "PREDICTION_PORT", "evidently:3000": "EVIDENTLY_PORT"}
WORKER = {"worker:9697": "METRICS_PORT"}  # runs in some drills; drift must start no training there


class Drill(NamedTuple):
    """One row of the table. Alerts are patterns: `FeatureDrift(*)` matches any feature.

    A scenario describes its own change. `COLUMN` in an alert is the column that it changes.
    """

    name: str
    change: str
    expected: tuple[str, ...]  # alerts
    allowed: tuple[str, ...] = ()  # further alerts; all others must stay silent
    max_windows: int = 3  # of 1,000 rows, judged before the last expected alert fires
    scenario: str = "none"
    rows: int = 2500
    labels: float = 1.0  # share of the rows that get a label
    fault: "Fault | None" = None  # after the rows
    resolves: bool = False  # the expected alerts end after the fault
    worker: bool = False  # runs in the drill
    history: "History | None" = None  # of a metric before the drill


# A context manager: a fault may last while the alerts are watched.
Fault = Callable[["Stage", Stack], contextlib.AbstractContextManager[None]]


class History(NamedTuple):
    """Samples of a metric, written into Prometheus' storage."""

    series: str
    since_s: float  # before the drill
    until_s: float
    step_s: int
    rate: float  # rise a second
    start: float = 0.0

    def text(self, now: float) -> str:
        """Return the samples in the OpenMetrics format."""
        first, end = now - self.since_s, now - self.until_s
        times = range(int(first), int(end), self.step_s)
        lines = [f"{self.series} {self.start + self.rate * (at - first):.1f} {at}" for at in times]
        return "\n".join([*lines, "# EOF\n"])


class Outcome(NamedTuple):
    """The alerts of a drill."""

    drill: Drill
    fired: dict[str, float]  # seconds from the first record, by alert
    windows: float  # judged when the last expected alert fired
    unresolved: tuple[str, ...] = ()  # still firing although the fault has ended

    @property
    def problems(self) -> list[str]:
        """Every difference from the expected outcome."""
        drill, fired = self.drill, self.fired
        missing = [one for one in drill.expected if not fnmatch.filter(fired, one)]
        patterns = drill.expected + drill.allowed
        allowed = [name for one in patterns for name in fnmatch.filter(fired, one)]
        late = [name for name in allowed if fired[name] > ALERT_TIMEOUT_S]
        return [
            *(f"{one} did not fire" for one in missing),
            *(f"{name} fired" for name in fired if name not in allowed),
            *(f"{name} did not resolve" for name in self.unresolved),
            *(
                f"{name} fired after {fired[name]:.0f} s, expected {ALERT_TIMEOUT_S:.0f}"
                for name in late
            ),
            *(
                [f"{self.windows:.0f} windows until the last alert, expected {drill.max_windows}"]
                if self.windows > drill.max_windows
                else []
            ),
        ]


class Stage:
    """A running stack with a trained model, for one drill after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        ports = {name: str(free_port()) for name in (*PORTS, "METRICS_PORT")}
        settings = {"MEASURE_PERIOD_S": "1", "JUDGE_PERIOD_S": "0", "WATCH_PERIOD_S": "5"}
        settings |= {"LEARN_ANONYMOUS_LABELS": "true", "WATCH_BUDGET": "0"}
        settings |= {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.env = stack_environment(os.environ | ports | settings, folder / "var", {})
        contract = load_contract()
        self.record = {feature.name: feature.example for feature in contract.inputs}
        self.rules = folder / "alerts.yml"
        self.rules.write_text(speed_up(RULES.read_text("utf-8")), encoding="utf-8")

    @contextlib.contextmanager
    def opened(self, max_evals: int) -> Iterator[None]:
        """Run servers, prediction service and a model in production while the body runs."""
        with running(self.env, self.logs, STACK) as stack:
            stack.wait_healthy("mlflow", "prefect", "prediction")
            self.command("training", "train", "--data", "auto", "--max-evals", str(max_evals))
            wait_until(self.has_model, "the prediction service to have the model")
            yield

    def run(self, drill: Drill) -> Outcome:
        """Run a drill with a new window and a new Prometheus."""
        folder = self.folder / drill.name.replace(",", "").replace(" ", "-")
        env = self.env | {"WINDOW_DIR": str(folder / "window")}
        ports = WATCHED | (WORKER if drill.worker else {})
        targets = {name: f"127.0.0.1:{env[port]}" for name, port in ports.items()}
        with contextlib.ExitStack() as stack:
            processes = MONITORING + (("worker", "shadow") if drill.worker else ())
            monitoring = stack.enter_context(running(env, folder / "logs", processes))
            monitoring.wait_healthy("evidently")
            if drill.worker:
                page = f"http://{targets['worker:9697']}/metrics"
                monitoring.wait_for(lambda: http_ok(page), "the worker", 300)
            if drill.history:
                write_history(drill.history, folder)
            wait_until(self.is_delivered, "the relay to deliver rows of the drill before")
            rows = BASELINE_ROWS + self.drift()["received"]["ingested"]
            self.send("none", BASELINE_ROWS, seed=1)
            wait_until(
                lambda: self.is_measured(rows), "the baseline window", timeout_s=MEASURE_TIMEOUT_S
            )
            address = stack.enter_context(scraping(targets, folder, self.rules))
            changes = load_changes(production_rows(env["MLFLOW_TRACKING_URI"]))
            drill = described(drill, changes.text(drill.scenario))
            alerts = Alerts(address, drill.expected)
            wait_until(
                lambda: alerts.are_silent(len(targets)), "Prometheus to scrape all in silence"
            )
            alerts.begin()
            self.send(drill.scenario, drill.rows, labels=drill.labels)
            alerts.watch(
                lambda: self.is_measured(rows + drill.rows, rows + drill.rows * drill.labels),
                MEASURE_TIMEOUT_S,
            )
            with drill.fault(self, monitoring) if drill.fault else contextlib.nullcontext():
                alerts.watch(alerts.all_fired, ALERT_TIMEOUT_S)
                alerts.watch(lambda: False, QUIET_S)
            if drill.resolves:
                alerts.watch(lambda: not alerts.unresolved(), RESOLVE_TIMEOUT_S)
            unresolved = alerts.unresolved() if drill.resolves else ()
        return Outcome(drill, alerts.fired, alerts.windows, unresolved)

    def send(self, scenario: str, rows: int, seed: int = 0, labels: float = 1.0) -> None:
        """Send records and the labels of a share of them."""
        self.command(
            "stream_generator.send_data",
            *("--scenario", scenario, "--rows", str(rows), "--seed", str(seed), "--quiet"),
            *("--concurrency", "4", "--labels", str(labels), "--label-delay-s", "0"),
        )

    def post(self, record: dict[str, Any], status: int) -> None:
        """Send a record again and again, for several scrapes; the last response has that status."""
        deadline = time.monotonic() + POST_S
        while time.monotonic() < deadline:
            address = f"{self.env['PREDICTION_ADDRESS']}/predict"
            response = requests.post(address, json=record, timeout=5)
            time.sleep(0.05)
        assert response.status_code == status, response.text

    def prediction(self, at: float, probability: float = 0.5) -> Prediction:
        """Return a prediction of the record at a Unix time."""
        return Prediction(uuid.uuid4().hex, at, "1", self.record, probability, 1, 0.5)

    def write(self, *events: Event) -> None:
        """Write events to a journal, which the relay ships like a worker's."""
        journal = Journal(Path(self.env["JOURNAL_DIR"]), "drill", "normal", 10**9)
        journal.append(events)
        journal.close()

    def train(self, **parameters: Any) -> str:
        """Run a training on the worker; return the type of its last state."""
        found = requests.get(
            f"{self.env['PREFECT_API_URL']}/deployments/name/train/train", timeout=10
        )
        url = f"{self.env['PREFECT_API_URL']}/deployments/{found.json()['id']}/create_flow_run"
        run = requests.post(url, json={"parameters": parameters}, timeout=10).json()["id"]

        def ended() -> str | None:
            url = f"{self.env['PREFECT_API_URL']}/flow_runs/{run}"
            state = requests.get(url, timeout=10).json()["state_type"]
            return state if state in ("COMPLETED", "FAILED", "CRASHED") else None

        return wait_until(ended, "the end of the training", timeout_s=300)

    def mlflow(self, method: str, path: str, **fields: str) -> dict[str, Any]:
        """Return the response of MLflow's API on the model."""
        url = f"{self.env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}"
        named = {"name": MODEL_NAME} | fields
        query, body = (named, None) if method == "GET" else (None, named)
        response = requests.request(method, url, timeout=10, params=query, json=body)
        response.raise_for_status()
        return response.json()

    def command(self, module: str, *arguments: str) -> None:
        """Run a command of the project; fail with its output."""
        run(sys.executable, "-m", module, *arguments, env=self.env, timeout_s=600)

    def has_model(self) -> bool:
        """Return True if the prediction service has a model."""
        return requests.get(f"{self.env['PREDICTION_ADDRESS']}/health/ready", timeout=60).ok

    def drift(self) -> dict:
        """Return the drift verdict of the monitoring."""
        return requests.get(f"{self.env['EVIDENTLY_ADDRESS']}/drift", timeout=10).json()

    def shadow_pair(self) -> tuple[str | None, str, str]:
        """Return kind and version of the shadow, and the production version beside it."""
        found = requests.get(f"{self.env['EVIDENTLY_ADDRESS']}/shadow", timeout=10).json()
        return found["kind"], found["version"], found["production"]

    def is_delivered(self) -> bool:
        """Return True if the Evidently service has every journalled row."""
        metrics = requests.get(f"{self.env['PREDICTION_ADDRESS']}/metrics", timeout=10).text
        return 'income_journal_backlog_rows{sink="evidently"} 0.0' in metrics

    def is_measured(self, rows: int, labels: float | None = None) -> bool:
        """Return True if the last measurement has that many records and labels; as many if None."""
        verdict = self.drift()
        found = verdict["window"]["ingested_total"], verdict["labels"]["matched"]
        return found == (rows, rows if labels is None else labels)


class Alerts:
    """The alerts that a Prometheus has fired after `begin`."""

    def __init__(self, address: str, expected: tuple[str, ...]) -> None:
        self.address = address
        self.expected = expected
        self.began_at = 0.0
        self.judged_before = 0.0
        self.fired: dict[str, float] = {}
        self.windows = 0.0  # judged between `begin` and the last expected alert

    def begin(self) -> None:
        """Start the clock and the count of windows."""
        self.began_at = time.monotonic()
        self.judged_before = self.judged()

    def judged(self) -> float:
        """Return the number of windows judged so far."""
        return value(self.address, "max(income_windows_judged)") or 0.0

    def firing(self) -> Iterator[str]:
        """Yield the name of each alert that fires now."""
        address = self.address.replace("/query", "/alerts")
        for alert in requests.get(address, timeout=10).json()["data"]["alerts"]:
            labels = alert["labels"]
            if alert["state"] == "firing":
                of = "".join(f"({labels[name]})" for name in LABELS if name in labels)
                yield labels["alertname"] + of

    def are_silent(self, n_targets: int) -> bool:
        """Return True if Prometheus scrapes itself and all targets, and no alert fires."""
        return value(self.address, "sum(up)") == n_targets + 1 and not list(self.firing())

    def unresolved(self) -> tuple[str, ...]:
        """Return the expected alerts that fire now."""
        now = list(self.firing())
        return tuple(name for one in self.expected for name in fnmatch.filter(now, one))

    def update(self) -> None:
        """Record the alerts that fire now."""
        for name in self.firing():
            if name not in self.fired:
                self.fired[name] = time.monotonic() - self.began_at
                if any(fnmatch.fnmatch(name, one) for one in self.expected):
                    self.windows = max(self.judged() - self.judged_before, 0.0)

    def all_fired(self) -> bool:
        """Return True if every expected alert has fired."""
        return all(fnmatch.filter(self.fired, one) for one in self.expected)

    def watch(self, until: Callable[[], bool | None], timeout_s: float) -> None:
        """Record alerts until the condition is true or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not until() and time.monotonic() < deadline:
            self.update()
            time.sleep(0.25)


@contextlib.contextmanager
def invalid_records(stage: Stage, _: Stack) -> Iterator[None]:
    """Send records without a field."""
    stage.post({}, 422)
    yield


@contextlib.contextmanager
def monitoring_down(stage: Stage, monitoring: Stack) -> Iterator[None]:
    """Stop the monitoring and send more rows."""
    monitoring.stop()
    stage.send("none", BACKLOG_ROWS)
    yield


class ForeignHandler(BaseHTTPRequestHandler):
    """Has no page."""

    def do_POST(self) -> None:  # pylint: disable=invalid-name  # the base class's name
        """Respond with 404."""
        self.send_error(404)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:  # pylint: disable=arguments-differ
        """Log nothing."""


@contextlib.contextmanager
def foreign_server(stage: Stage, monitoring: Stack) -> Iterator[None]:
    """Replace the Evidently service by a server that knows none of its paths."""
    monitoring.stop()
    address = "127.0.0.1", int(stage.env["EVIDENTLY_PORT"])
    with ThreadingHTTPServer(address, ForeignHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stage.send("none", BACKLOG_ROWS)
        yield
        server.shutdown()


@contextlib.contextmanager
def full_journal(stage: Stage, _: Stack) -> Iterator[None]:
    """Take up the room of the journals by a sparse file."""
    filler = Path(stage.env["JOURNAL_DIR"]) / "filler"
    with filler.open("wb") as file:
        file.truncate(Settings().journal_max_mb * 10**6)
    try:
        stage.post(stage.record, 503)
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def dead_letter(stage: Stage, _: Stack) -> Iterator[None]:
    """Journal an event that the Evidently service rejects; forget it afterwards."""
    event = stage.prediction(time.time(), probability=2.0)
    stage.write(event)
    yield
    stage.command("prediction_service.forget", event.prediction_id)


@contextlib.contextmanager
def late_labels(stage: Stage, _: Stack) -> Iterator[None]:
    """Journal the labels of predictions that are older than `label_days`."""
    now = time.time()
    events = [stage.prediction(now - 40 * DAY_S) for _ in range(300)]
    stage.write(*events, *(Label(event.prediction_id, now, 1) for event in events))
    yield


@contextlib.contextmanager
def missed_women(stage: Stage, _: Stack) -> Iterator[None]:
    """Journal labels that say: the model is right about each man, and wrong about each woman."""
    journal = Path(stage.env["JOURNAL_DIR"])
    newest = sorted(journalled_predictions(journal), key=lambda one: one.predicted_at)
    stage.write(
        *(
            Label(
                one.prediction_id,
                time.time(),
                one.income_class ^ (one.features["sex"] == "Female"),
            )
            for one in newest[-MISSED_ROWS:]
        )
    )
    yield


@contextlib.contextmanager
def slow_clients(stage: Stage, _: Stack) -> Iterator[None]:
    """Send records whose body comes long after the header."""
    body = json.dumps(stage.record).encode()
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    address = "127.0.0.1", int(stage.env["PREDICTION_PORT"])

    def send(_: int) -> None:
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
            time.sleep(SLOW_S)
            client.sendall(body)
            assert client.recv(100).startswith(b"HTTP/1.1 200")

    with ThreadPoolExecutor(10) as clients:
        list(clients.map(send, range(150)))
    yield


@contextlib.contextmanager
def clients_return(stage: Stage, _: Stack) -> Iterator[None]:
    """Send nothing; afterwards send labelled records again."""
    yield
    stage.send("none", 1500)


@contextlib.contextmanager
def unchecked_version(stage: Stage, _: Stack) -> Iterator[None]:
    """Register a version without checksums and make it production; afterwards go back."""
    alias = {"alias": ALIAS}
    found = stage.mlflow("GET", "registered-models/alias", **alias)["model_version"]
    of = {"source": f"runs:/{found['run_id']}/unchecked", "run_id": found["run_id"]}
    wrong = stage.mlflow("POST", "model-versions/create", **of)["model_version"]["version"]
    stage.mlflow("POST", "registered-models/alias", **alias, version=wrong)
    yield
    stage.mlflow("POST", "registered-models/alias", **alias, version=found["version"])


@contextlib.contextmanager
def worse_version(stage: Stage, _: Stack) -> Iterator[None]:
    """Promote a version that inverts its classes, and send labels: it is undone by itself."""
    registry = Registry(stage.env["MLFLOW_TRACKING_URI"])
    good = registry.production()
    assert good is not None
    bad = plant_inverted(registry, good)
    words = ("--why", "a drill", "--force", "--now")
    stage.command("training", "promote", bad, *words)  # returns when the services use it
    pair = ("fallback", str(good.version), bad)
    wait_until(lambda: stage.shadow_pair() == pair, "the former version to be the shadow")
    stage.send("none", WORSE_ROWS)
    sent_at = time.monotonic()
    wait_until(
        lambda: number_of(registry.production()) == good.version,
        "production to go back",
        timeout_s=UNDO_S,
    )
    print(f"undone {time.monotonic() - sent_at:.0f} s after {WORSE_ROWS} labelled rows")
    yield


@contextlib.contextmanager
def training_fails(stage: Stage, _: Stack) -> Iterator[None]:
    """Train on a source that does not exist; afterwards on the first version's rows."""
    assert stage.train(data="nowhere") == "FAILED"
    yield
    assert stage.train(max_evals=1, n_folds=2) == "COMPLETED"


def halted(process: str) -> Fault:
    """Return the fault that halts a process with its children; afterwards it goes on."""

    @contextlib.contextmanager
    def fault(stage: Stage, monitoring: Stack) -> Iterator[None]:
        logs = (stage.logs if process in STACK else monitoring.logs) / "supervisord.log"
        started = logs.read_text("utf-8").rpartition(f"'{process}' with pid ")[2]
        group = int(started.split()[0])
        os.killpg(group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(group, signal.SIGCONT)

    return fault


DRILLS = (
    Drill("none", "rows as in the reference", ()),
    Drill(
        "sudden",
        "",
        ("FeatureDrift(*)", "DatasetDrift", "TargetDrift(*)", "ConceptShift(*)"),
        ("PerformanceBelowFloor", "FairnessGap(*)"),
        scenario="sudden",
    ),
    Drill(
        "gradual",
        "",
        ("FeatureDrift(*)", "DatasetDrift"),
        ("TargetDrift(*)", "ConceptShift(*)", "PerformanceBelowFloor", "FairnessGap(*)"),
        max_windows=6,
        scenario="gradual",
        rows=6000,
    ),
    Drill(
        "covariate shift",
        "",
        ("FeatureDrift(COLUMN)", "TargetDrift(*)"),
        ("FeatureDrift(*)", "DatasetDrift"),  # no ConceptShift: the labels are as promised
        scenario="covariate_shift",
    ),
    Drill(
        "label shift",
        "",
        ("FeatureDrift(*)", "TargetDrift(*)", "ConceptShift(calibration)"),
        ("DatasetDrift",),
        scenario="label_shift",
    ),
    Drill(
        "concept shift",
        "",
        ("ConceptShift(roc_auc)", "PerformanceBelowFloor"),
        ("ConceptShift(*)", "FairnessGap(*)"),
        scenario="concept_shift",
    ),
    Drill(
        "mixed records",
        "",
        ("JointDrift",),
        ("ConceptShift(*)", "PerformanceBelowFloor", "TargetDrift(*)", "FairnessGap(*)"),
        scenario="mixed_records",
    ),
    Drill(
        "unit change",
        "",
        ("FeatureDrift(COLUMN)",),
        ("TargetDrift(*)", "ConceptShift(*)"),
        scenario="unit_change",
    ),
    Drill(
        "missing field",
        "",
        ("FeatureDrift(COLUMN)", "InvalidValues(COLUMN)"),
        ("TargetDrift(*)", "ConceptShift(*)"),
        scenario="missing_field",
    ),
    Drill(
        "unseen category",
        "",
        ("FeatureDrift(COLUMN)", "InvalidValues(COLUMN)"),
        ("TargetDrift(*)", "ConceptShift(*)"),
        scenario="unseen_category",
    ),
    Drill(
        "rejected records",
        "records without a field",
        ("RejectedRequests(predict)",),
        rows=1500,
        fault=invalid_records,
    ),
    Drill(
        "traffic stop",
        "a day ago 20 requests a second came, now none",
        ("TrafficStopped",),
        rows=1500,
        fault=clients_return,
        resolves=True,
        history=History(
            'income_requests_total{endpoint="predict"}', DAY_S + 1200, DAY_S - 3600, 10, 20.0
        ),
    ),
    Drill(
        "labels stop",
        "labels came for a week, and now for none of 1,500 records",
        ("LabelCoverage",),
        rows=1500,
        labels=0.0,
        fault=clients_return,
        resolves=True,
        history=History("income_label_coverage_ratio", 7 * DAY_S, 600, 240, 0.0, start=1.0),
    ),
    Drill(
        "unchecked version",
        "a version without checksums becomes production",
        ("ModelVersionRejected", "ModelVersionSkew"),
        ("MonitoringStale",),  # while the thresholds of the version are found
        rows=1500,
        fault=unchecked_version,
        resolves=True,
    ),
    Drill(
        "failed training",
        "a training on a source that does not exist",
        ("TrainingFailed",),
        rows=1500,
        fault=training_fails,
        resolves=True,
        worker=True,
    ),
    Drill(
        "blocked training",
        "",  # and WATCH_BUDGET allows no training
        ("RetrainingBlocked(budget)", "FeatureDrift(*)", "DatasetDrift", "TargetDrift(*)"),
        ("ConceptShift(*)", "PerformanceBelowFloor", "FairnessGap(*)"),
        scenario="sudden",
        worker=True,
    ),
    Drill(
        "worker down",
        "the worker hangs",
        ("WorkerDown",),
        rows=1500,
        fault=halted("worker"),
        resolves=True,
        worker=True,
    ),
    Drill(
        "follower down",
        "the follower hangs",
        ("FollowerStale",),
        rows=1500,
        fault=halted("follower"),
        resolves=True,
    ),
    Drill(
        "registry down",
        "MLflow hangs",
        ("RegistryUnavailable",),
        ("MonitoringStale",),
        rows=1500,
        fault=halted("mlflow"),
        resolves=True,
    ),
    Drill(
        "worse version",
        "a new version inverts its classes, and labels arrive",
        ("PromotionUndone",),
        (
            "ConceptShift(*)",
            "PerformanceBelowFloor",
            "TargetDrift(*)",
            "ModelVersionSkew",
            "FairnessGap(*)",
        ),
        rows=1500,
        fault=worse_version,
        worker=True,
    ),
    Drill(
        "rejected event",
        "the Evidently service rejects an event for ever",
        ("DeadLetters(evidently)",),
        rows=1500,
        fault=dead_letter,
    ),
    Drill(
        "late labels",
        "one label in six is of a prediction 40 days before",
        ("LabelsUnmatched(late)",),
        rows=1500,
        fault=late_labels,
    ),
    Drill(
        "missed women",
        "1,000 labels say that the model is wrong about women alone",
        ("FairnessGap(sex)(tpr)",),
        ("ConceptShift(*)", "PerformanceBelowFloor", "FairnessGap(*)"),
        rows=1500,
        labels=0.0,
        fault=missed_women,
    ),
    Drill(
        "slow clients",
        "one request in eleven takes 0.4 s to arrive",
        ("Latency",),
        rows=1500,
        fault=slow_clients,
    ),
    Drill(
        "full journal",
        "the journals reach their maximum, so predictions get 503",
        ("JournalFilling", "ErrorRate"),
        rows=1500,
        fault=full_journal,
    ),
    Drill(
        "service down",
        "the monitoring stops, and traffic continues",
        ("ServiceDown(evidently_service)", "MonitoringStale", "SinkBacklog(evidently)"),
        rows=1500,
        fault=monitoring_down,
    ),
    Drill(
        "another server",
        "another server has the address of the Evidently service",
        ("ServiceDown(evidently_service)", "MonitoringStale", "SinkMisconfigured(evidently)"),
        ("SinkBacklog(evidently)",),
        rows=1500,
        fault=foreign_server,
    ),
)


def described(drill: Drill, change: str) -> Drill:
    """Return a drill with the change of its scenario, and with the column that it changes."""
    if drill.scenario == "none":
        return drill
    column = change.split()[0]
    expected = tuple(one.replace("COLUMN", column) for one in drill.expected)
    return drill._replace(change=change, expected=expected)


def value(address: str, expression: str) -> float | None:
    """Return the value of an expression with one series, or None without data."""
    found = query_response(address, expression)["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def write_history(history: History, folder: Path) -> None:
    """Write samples into the storage of the Prometheus that `scraping` starts in a folder."""
    path = folder / "history.txt"
    path.write_text(history.text(time.time()), "utf-8")
    command = [debian("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
    subprocess.run([*command, str(path), str(folder / "tsdb")], check=True, timeout=180)


def speed_up(rules: str) -> str:
    """Return the rules with every duration divided by SPEED_UP, except most ranges of rates."""
    content = yaml.safe_load(rules)
    for rule in content["groups"][0]["rules"]:
        minutes = int(re.fullmatch(r"(\d+)m", rule["for"])[1])  # type: ignore[index]
        rule["for"] = f"{max(minutes * 60 // SPEED_UP, 1)}s"
        if rule["alert"] == "TrafficStopped":
            rule["expr"] = rule["expr"].replace("[15m]", "[30s]")
        if rule["alert"] == "MonitoringStale":
            seconds = re.compile(r"> (\d+)")
            rule["expr"] = seconds.sub(lambda m: f"> {int(m[1]) // SPEED_UP}", rule["expr"])
    return yaml.safe_dump(content)


def perform(drills: tuple[Drill, ...], folder: Path, max_evals: int) -> Iterator[Outcome]:
    """Run drills; yield the outcome of each."""
    stage = Stage(folder)
    with stage.opened(max_evals):
        for drill in drills:
            yield stage.run(drill)


def table(outcomes: list[Outcome]) -> Table:
    """Return the outcomes as a table."""
    shown = Table("drill", "change", "alerts, after seconds", "windows", "as expected")
    for outcome in outcomes:
        shown.add_row(
            outcome.drill.name,
            outcome.drill.change,
            ", ".join(f"{name} {s:.0f}" for name, s in outcome.fired.items()) or "none",
            f"{outcome.windows:.0f}",
            "; ".join(outcome.problems) or "yes",
        )
    return shown


def main(show: Callable[..., None] = Console(width=150).print) -> None:
    """Run the drills. Exit 1 if an outcome is not the expected one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="pattern of names (all)")
    parser.add_argument("--max-evals", type=int, default=3, help="trials of the model's search (3)")
    options = parser.parse_args()
    if not shutil.which("prometheus"):
        sys.exit("prometheus: not on PATH. Install it: apt-get install prometheus")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no process running
    chosen = tuple(one for one in DRILLS if fnmatch.fnmatch(one.name, options.only))
    with tempfile.TemporaryDirectory() as folder:
        outcomes = []
        for outcome in perform(chosen, Path(folder), options.max_evals):
            show(f"{outcome.drill.name}: {'; '.join(outcome.problems) or 'as expected'}")
            outcomes.append(outcome)
    show(table(outcomes))
    sys.exit(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    main()
