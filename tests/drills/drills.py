"""Drift drills: change the traffic, and check which alerts fire and which stay silent.

    make drills

The services run as processes from the Procfile, on a new model. The generator sends the traffic.
A real Prometheus evaluates the project's rules, with durations divided by SPEED_UP: five minutes
become ten seconds. Measurements and judged windows follow each other without a pause.

Each drill begins with a window of people as in the reference. Alerts that are neither expected nor
allowed must stay silent. The watch ends QUIET_S after the last measurement, which is longer than
the duration of any rule.
"""

import argparse
import contextlib
import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import requests
import yaml
from rich.console import Console
from rich.table import Table

from config.local_stack.stack import PORTS, running, stack_environment
from tests.config.test_monitoring_files import RULES, query_response, scraping
from tests.conftest import free_port, wait_until

SPEED_UP = 30  # of the rules' durations
QUIET_S = 14.0
INVALID_S = 8.0  # several scrapes, so that Prometheus sees a rate
BASELINE_ROWS = 1000  # of people as in the reference, before the change
ALERT_TIMEOUT_S = 180.0  # from the first record sent; generous, because machines are noisy
MEASURE_TIMEOUT_S = 120.0
# They distinguish the alerts of one rule.
LABELS = ("feature", "output", "sink", "job", "endpoint", "reason")
STACK = ("gcs", "mlflow", "prefect", "prediction", "follower", "relay")
MONITORING = ("evidently", "measure")
WATCHED = {"prediction:9696": "PREDICTION_PORT", "evidently:3000": "EVIDENTLY_PORT"}


class Drill(NamedTuple):
    """One row of the table. Alerts are patterns: `FeatureDrift(*)` matches any feature."""

    name: str
    change: str
    expected: tuple[str, ...]  # alerts
    allowed: tuple[str, ...] = ()  # further alerts; all others must stay silent
    max_windows: int = 3  # of 1,000 rows, judged before the last expected alert fires
    scenario: str = "none"
    rows: int = 2500
    sends_invalid: bool = False  # after the rows: records that break the contract
    stops_monitoring: bool = False  # after the rows; then the same number of rows is sent


DRILLS = (
    Drill("none", "people as in the reference", ()),
    Drill(
        "covariate, sudden",
        "older, self-employed, other countries, from one record to the next",
        ("FeatureDrift(*)", "DatasetDrift", "TargetDrift(*)", "PerformanceBelowFloor"),
        scenario="sudden",
    ),
    Drill(
        "covariate, gradual",
        "the same, over 6,000 records",
        ("FeatureDrift(*)", "DatasetDrift"),
        ("TargetDrift(*)", "PerformanceBelowFloor"),
        max_windows=6,
        scenario="gradual",
        rows=6000,
    ),
    Drill(
        "label shift",
        "60 % earn above 50K, instead of 24 %",
        ("FeatureDrift(*)", "TargetDrift(*)"),
        ("DatasetDrift",),
        scenario="label_shift",
    ),
    Drill(
        "concept shift",
        "the same people, with the labels of managers and specialists inverted",
        ("PerformanceBelowFloor",),
        scenario="concept_shift",
    ),
    Drill(
        "unit change",
        "hours a week are sent as days",
        ("FeatureDrift(hours_per_week)",),
        ("TargetDrift(*)",),
        scenario="unit_change",
    ),
    Drill(
        "missing field",
        "the occupation is null",
        ("FeatureDrift(occupation)", "InvalidValues(occupation)"),
        ("TargetDrift(*)",),
        scenario="missing_field",
    ),
    Drill(
        "unseen category",
        "a native country outside of the contract",
        ("FeatureDrift(native_country)", "InvalidValues(native_country)"),
        ("TargetDrift(*)",),
        scenario="unseen_category",
    ),
    Drill(
        "rejected records",
        "records without a field",
        ("RejectedRequests(predict)",),
        rows=1500,
        sends_invalid=True,
    ),
    Drill("traffic stop", "1,500 records, then no more", (), rows=1500),
    Drill(
        "service down",
        "the monitoring stops, and traffic continues",
        ("ServiceDown(evidently_service)", "MonitoringStale", "SinkBacklog(evidently)"),
        rows=1500,
        stops_monitoring=True,
    ),
)


class Outcome(NamedTuple):
    """The alerts of a drill."""

    drill: Drill
    fired: dict[str, float]  # seconds from the first record, by alert
    windows: float  # judged when the last expected alert fired

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
        ports = {name: str(free_port()) for name in PORTS}
        settings = {"MEASURE_PERIOD_S": "1", "JUDGE_PERIOD_S": "0"}
        self.env = stack_environment(os.environ | ports | settings, folder / "var", {})
        self.rules = folder / "alerts.yml"
        self.rules.write_text(speed_up(RULES.read_text("utf-8")), encoding="utf-8")

    @contextlib.contextmanager
    def opened(self, max_evals: int) -> Iterator[None]:
        """Run servers, prediction service and a model in production while the body runs."""
        with running(self.env, self.folder / "logs", STACK) as stack:
            stack.wait_healthy("mlflow", "prefect", "prediction")
            self.command("training", "train", "--data", "auto", "--max-evals", str(max_evals))
            wait_until(self.has_model, 60, "the prediction service to have the model")
            yield

    def run(self, drill: Drill) -> Outcome:
        """Run a drill with a new window and a new Prometheus."""
        folder = self.folder / drill.name.replace(",", "").replace(" ", "-")
        env = self.env | {"WINDOW_DIR": str(folder / "window")}
        targets = {name: f"127.0.0.1:{env[port]}" for name, port in WATCHED.items()}
        with contextlib.ExitStack() as stack:
            monitoring = stack.enter_context(running(env, folder / "logs", MONITORING))
            monitoring.wait_healthy("evidently")
            self.send("none", BASELINE_ROWS, seed=1)
            wait_until(
                lambda: self.is_measured(BASELINE_ROWS), MEASURE_TIMEOUT_S, "the baseline window"
            )
            address = stack.enter_context(scraping(targets, folder, self.rules))
            alerts = Alerts(address, drill.expected)
            wait_until(alerts.are_silent, 60, "Prometheus to scrape all without an alert")
            alerts.begin()
            self.send(drill.scenario, drill.rows)
            alerts.watch(lambda: self.is_measured(BASELINE_ROWS + drill.rows), MEASURE_TIMEOUT_S)
            if drill.sends_invalid:
                alerts.watch(self.send_invalid, INVALID_S)
            if drill.stops_monitoring:
                monitoring.stop()
                self.send(drill.scenario, drill.rows)
            alerts.watch(alerts.all_fired, ALERT_TIMEOUT_S)
            alerts.watch(lambda: False, QUIET_S)
        return Outcome(drill, alerts.fired, alerts.windows)

    def send(self, scenario: str, rows: int, seed: int = 0) -> None:
        """Send records and the label of each."""
        self.command(
            "stream_generator.send_data",
            *("--scenario", scenario, "--rows", str(rows), "--seed", str(seed), "--quiet"),
            *("--concurrency", "4", "--labels", "1", "--label-delay-s", "0"),
        )

    def send_invalid(self) -> None:
        """Send some records that are rejected."""
        for _ in range(20):
            response = requests.post(
                f"{self.env['PREDICTION_ADDRESS']}/predict", json={}, timeout=5
            )
            assert response.status_code == 422, response.text

    def command(self, module: str, *arguments: str) -> None:
        """Run a command of the project. Raises CalledProcessError."""
        command = [sys.executable, "-m", module, *arguments]
        with (self.folder / "commands.log").open("ab") as log:
            subprocess.run(command, env=self.env, stdout=log, stderr=log, check=True, timeout=600)

    def has_model(self) -> bool:
        """Return True if the prediction service has a model."""
        return requests.get(f"{self.env['PREDICTION_ADDRESS']}/health/ready", timeout=5).ok

    def drift(self) -> dict:
        """Return the drift verdict of the monitoring."""
        return requests.get(f"{self.env['EVIDENTLY_ADDRESS']}/drift", timeout=10).json()

    def is_measured(self, rows: int) -> bool:
        """Return True if the last measurement has that many records and labels."""
        verdict = self.drift()
        return verdict["window"]["ingested_total"] == verdict["labels"]["matched"] == rows


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

    def are_silent(self) -> bool:
        """Return True if Prometheus scrapes all services and no alert fires."""
        return value(self.address, "sum(up)") == 3 and not list(self.firing())

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


def value(address: str, expression: str) -> float | None:
    """Return the value of an expression with one series, or None without data."""
    found = query_response(address, expression)["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def speed_up(rules: str) -> str:
    """Return the rules with every duration divided by SPEED_UP, except the ranges of rates."""
    content = yaml.safe_load(rules)
    for rule in content["groups"][0]["rules"]:
        minutes = int(re.fullmatch(r"(\d+)m", rule["for"])[1])  # type: ignore[index]
        rule["for"] = f"{max(minutes * 60 // SPEED_UP, 1)}s"
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
