"""Drift drills: what happens in the world, and which alerts must fire for it or stay silent.

    make drills

Live processes from the Procfile on a model of their own, traffic from the generator, and a real
Prometheus with the project's rules on a clock that is QUICKER times as quick: a rule that lasts for
five minutes lasts for ten seconds here, and measurements and judged windows follow each other at
once. Each drill begins with a window of people as in the reference. An alert that neither must nor
may fire has to stay silent until everything that was sent has been measured and QUIET_S have
passed, which is longer than any rule lasts.
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
from tests.config.test_monitoring_files import RULES, scraping
from tests.conftest import free_port, wait_until

QUICKER = 30  # than the rules' own clock
QUIET_S = 14.0
BASELINE_ROWS = 1000  # of people as in the reference, before anything happens
BOUND_S = 180.0  # until an alert fires, from the first record sent; machines are noisy
MEASURED_S = 120.0
LABELS = ("feature", "output", "sink", "job")  # that tell alerts of one rule apart
STACK = ("gcs", "mlflow", "prefect", "prediction", "follower", "relay")
MONITORING = ("evidently", "measure")
WATCHED = {"prediction:9696": "PREDICTION_PORT", "evidently:3000": "EVIDENTLY_PORT"}


class Drill(NamedTuple):
    """One row of the table. Alerts are patterns: `FeatureDrift(*)` is that of any feature."""

    name: str
    happens: str
    must: tuple[str, ...]  # fire
    may: tuple[str, ...] = ()  # fire as well; everything else stays silent
    windows: int = 3  # judged when the last of those that must has fired; of 1,000 rows each
    scenario: str = "none"
    rows: int = 2500
    falls: bool = False  # then the monitoring is ended, and as many rows come again


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
        windows=6,
        scenario="gradual",
        rows=6000,
    ),
    Drill(
        "label shift",
        "60 % earn above 50K, in place of 24 %",
        ("FeatureDrift(*)", "TargetDrift(*)"),
        ("DatasetDrift",),
        scenario="label_shift",
    ),
    Drill(
        "concept shift",
        "the same people, but managers and specialists earn the other way round",
        ("PerformanceBelowFloor",),
        scenario="concept_shift",
    ),
    Drill(
        "unit change",
        "hours a week come as days",
        ("FeatureDrift(hours_per_week)",),
        ("TargetDrift(*)",),
        scenario="unit_change",
    ),
    Drill(
        "missing field",
        "the occupation is null",
        ("FeatureDrift(occupation)",),
        ("TargetDrift(*)",),
        scenario="missing_field",
    ),
    Drill(
        "unseen category",
        "a native country that the contract does not know",
        ("FeatureDrift(native_country)",),
        ("TargetDrift(*)",),
        scenario="unseen_category",
    ),
    Drill("traffic stop", "1,500 records, then none: nothing new is no drift", (), rows=1500),
    Drill(
        "service down",
        "the monitoring ends while records come in",
        ("ServiceDown(evidently_service)", "MonitoringStale", "SinkBacklog(evidently)"),
        rows=1500,
        falls=True,
    ),
)


class Outcome(NamedTuple):
    """What a drill came to."""

    drill: Drill
    fired: dict[str, float]  # alerts and the seconds from the first record until each fired
    windows: float  # judged by then

    @property
    def problems(self) -> list[str]:
        """How that differs from what was to happen."""
        drill, fired = self.drill, self.fired
        lacking = [one for one in drill.must if not fnmatch.filter(fired, one)]
        allowed = [name for one in drill.must + drill.may for name in fnmatch.filter(fired, one)]
        late = [name for name in allowed if fired[name] > BOUND_S]
        return [
            *(f"{one} did not fire" for one in lacking),
            *(f"{name} fired" for name in fired if name not in allowed),
            *(f"{name} fired after {fired[name]:.0f} s, expected {BOUND_S:.0f}" for name in late),
            *(
                [f"{self.windows:.0f} windows until then, expected {drill.windows}"]
                if self.windows > drill.windows
                else []
            ),
        ]


class Stage:
    """A running stack with a trained model, on which drills run one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = {name: str(free_port()) for name in PORTS}
        settings = {"MEASURE_PERIOD_S": "1", "JUDGE_PERIOD_S": "0"}
        self.env = stack_environment(os.environ | ports | settings, folder / "var", {})
        self.rules = folder / "alerts.yml"
        self.rules.write_text(quicker(RULES.read_text("utf-8")), encoding="utf-8")

    @contextlib.contextmanager
    def opened(self, max_evals: int) -> Iterator[None]:
        """Servers, a model in production and the prediction service, as long as the body runs."""
        with running(self.env, self.folder / "logs", STACK) as stack:
            stack.wait_healthy("mlflow", "prefect", "prediction")
            self.command("training", "train", "--data", "auto", "--max-evals", str(max_evals))
            wait_until(self.serves, 60, "the prediction service to have the model")
            yield

    def run(self, drill: Drill) -> Outcome:
        """One drill, with a window and a Prometheus of its own."""
        folder = self.folder / drill.name.replace(",", "").replace(" ", "-")
        env = self.env | {"WINDOW_DIR": str(folder / "window")}
        targets = {name: f"127.0.0.1:{env[port]}" for name, port in WATCHED.items()}
        with contextlib.ExitStack() as stack:
            monitoring = stack.enter_context(running(env, folder / "logs", MONITORING))
            monitoring.wait_healthy("evidently")
            self.send("none", BASELINE_ROWS, seed=1)
            wait_until(lambda: self.is_measured(BASELINE_ROWS), MEASURED_S, "the calm window")
            address = stack.enter_context(scraping(targets, folder, self.rules))
            alerts = Alerts(address, drill.must)
            wait_until(alerts.are_calm, 60, "Prometheus to scrape all and nothing to fire")
            alerts.begin()
            self.send(drill.scenario, drill.rows)
            alerts.watch(lambda: self.is_measured(BASELINE_ROWS + drill.rows), MEASURED_S)
            if drill.falls:
                monitoring.stop()
                self.send(drill.scenario, drill.rows)
            alerts.watch(alerts.have_all, BOUND_S)
            alerts.watch(lambda: False, QUIET_S)
        return Outcome(drill, alerts.fired, alerts.windows)

    def send(self, scenario: str, rows: int, seed: int = 0) -> None:
        """Traffic, every record with its label."""
        self.command(
            "stream_generator.send_data",
            *("--scenario", scenario, "--rows", str(rows), "--seed", str(seed), "--quiet"),
            *("--concurrency", "4", "--labels", "1", "--label-delay-s", "0"),
        )

    def command(self, module: str, *arguments: str) -> None:
        """Runs a command of the project. Raises CalledProcessError."""
        command = [sys.executable, "-m", module, *arguments]
        with (self.folder / "commands.log").open("ab") as log:
            subprocess.run(command, env=self.env, stdout=log, stderr=log, check=True, timeout=600)

    def serves(self) -> bool:
        """True once the prediction service has a model."""
        return requests.get(f"{self.env['PREDICTION_ADDRESS']}/health/ready", timeout=5).ok

    def drift(self) -> dict:
        """What the monitoring says."""
        return requests.get(f"{self.env['EVIDENTLY_ADDRESS']}/drift", timeout=10).json()

    def is_measured(self, rows: int) -> bool:
        """True if the latest measurement has so many records and as many labels."""
        verdict = self.drift()
        return verdict["window"]["ingested_total"] == verdict["labels"]["matched"] == rows


class Alerts:
    """What fires in a Prometheus, since `begin`."""

    def __init__(self, address: str, must: tuple[str, ...]) -> None:
        self.address = address
        self.must = must
        self.began_at = 0.0
        self.judged_before = 0.0
        self.fired: dict[str, float] = {}
        self.windows = 0.0  # judged since then, when the last that must fire has fired

    def begin(self) -> None:
        """From here on all counts."""
        self.began_at = time.monotonic()
        self.judged_before = self.judged()

    def judged(self) -> float:
        """The windows judged so far."""
        return value(self.address, "max(income_windows_judged)") or 0.0

    def firing(self) -> Iterator[str]:
        """The alerts that fire now."""
        address = self.address.replace("/query", "/alerts")
        for alert in requests.get(address, timeout=10).json()["data"]["alerts"]:
            labels = alert["labels"]
            if alert["state"] == "firing":
                of = "".join(f"({labels[name]})" for name in LABELS if name in labels)
                yield labels["alertname"] + of

    def are_calm(self) -> bool:
        """True if Prometheus knows all services and no alert fires."""
        return value(self.address, "sum(up)") == 3 and not list(self.firing())

    def look(self) -> None:
        """Notes what fires now."""
        for name in self.firing():
            if name not in self.fired:
                self.fired[name] = time.monotonic() - self.began_at
                if any(fnmatch.fnmatch(name, one) for one in self.must):
                    self.windows = max(self.judged() - self.judged_before, 0.0)

    def have_all(self) -> bool:
        """True if every alert that must fire has."""
        return all(fnmatch.filter(self.fired, one) for one in self.must)

    def watch(self, until: Callable[[], bool], at_most_s: float) -> None:
        """Looks again and again until something is true or the time is over."""
        deadline = time.monotonic() + at_most_s
        while not until() and time.monotonic() < deadline:
            self.look()
            time.sleep(0.25)


def value(address: str, expression: str) -> float | None:
    """What Prometheus says to an expression with one series, if anything."""
    with contextlib.suppress(requests.ConnectionError, requests.JSONDecodeError):
        found = requests.get(address, params={"query": expression}, timeout=10).json()
        for one in found["data"]["result"]:
            return float(one["value"][1])
    return None


def quicker(rules: str) -> str:
    """The rules with every time QUICKER times as short, but for the spans of rates."""
    content = yaml.safe_load(rules)
    for rule in content["groups"][0]["rules"]:
        minutes = int(re.fullmatch(r"(\d+)m", rule["for"])[1])  # type: ignore[index]
        rule["for"] = f"{max(minutes * 60 // QUICKER, 1)}s"
        if rule["alert"] == "MonitoringStale":
            seconds = re.compile(r"> (\d+)")
            rule["expr"] = seconds.sub(lambda m: f"> {int(m[1]) // QUICKER}", rule["expr"])
    return yaml.safe_dump(content)


def perform(drills: tuple[Drill, ...], folder: Path, max_evals: int) -> Iterator[Outcome]:
    """Runs drills; what each came to."""
    stage = Stage(folder)
    with stage.opened(max_evals):
        for drill in drills:
            yield stage.run(drill)


def table(outcomes: list[Outcome]) -> Table:
    """The table for people."""
    shown = Table("drill", "what happens", "alerts, after seconds", "windows", "as expected")
    for outcome in outcomes:
        shown.add_row(
            outcome.drill.name,
            outcome.drill.happens,
            ", ".join(f"{name} {s:.0f}" for name, s in outcome.fired.items()) or "none",
            f"{outcome.windows:.0f}",
            "; ".join(outcome.problems) or "yes",
        )
    return shown


def main(say: Callable[..., None] = Console(width=150).print) -> None:
    """Runs every drill; the exit status says whether all went as they should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="names, as a pattern (all)")
    parser.add_argument("--max-evals", type=int, default=3, help="trials of the model's search (3)")
    options = parser.parse_args()
    if not shutil.which("prometheus"):
        sys.exit("no prometheus on PATH: apt-get install prometheus")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # every process is ended
    chosen = tuple(one for one in DRILLS if fnmatch.fnmatch(one.name, options.only))
    with tempfile.TemporaryDirectory() as folder:
        outcomes = []
        for outcome in perform(chosen, Path(folder), options.max_evals):
            say(f"{outcome.drill.name}: {'; '.join(outcome.problems) or 'as expected'}")
            outcomes.append(outcome)
    say(table(outcomes))
    sys.exit(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    main()
