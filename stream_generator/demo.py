"""The whole loop on this machine: train, serve, send traffic, store, inject drift, see it.

Conducts the parts from outside, as a user would: commands, HTTP and nothing else. Ends with a
table and the same as JSON in `build/demo/summary.json`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

from stream_generator import registry
from stream_generator.stack import (
    StackError,
    check_ports,
    running,
    stack_environment,
    wait_for,
    wait_healthy,
)
from stream_generator.traffic import TrafficError

REQUEST_TIMEOUT_S = 10
REGISTRY = ("gcs", "mlflow", "prefect")
SCENARIOS = ("none", "sudden")
SHOWN_METRICS = ("roc_auc", "log_loss", "f1", "ece")
# Quicker than a production stack, so that there is something to see; the user's settings win.
# Every full window is judged: a demo is shorter than the quarter of an hour that a window waits.
DEMO_SETTINGS = {
    "MEASURE_PERIOD_S": "5",
    "JUDGE_PERIOD_S": "0",
    "WATCH_PERIOD_S": "15",
    "MAX_EVALS": "12",
}

console = Console(highlight=False, soft_wrap=True)


class Demo:
    """One run of the demo: its environment, its settings and what it has found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        asked = {"MAX_EVALS": str(options.max_evals)} if options.max_evals else {}
        self.env = stack_environment(os.environ | asked, options.state_dir, DEMO_SETTINGS)
        self.out_dir: Path = options.out_dir
        self.log_path = self.out_dir / "processes.log"
        self.honcho: subprocess.Popen[bytes]
        self.seconds: dict[str, float] = {}
        self.summary: dict[str, Any] = {}

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """One line when a stage begins and its time when it is done."""
        console.print(f"[bold]{name}[/] {text}")
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)
        console.print(f"[green]done[/] in {self.seconds[name]} s")

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Waits for something of the running stack; see `stack.wait_for`."""
        return wait_for(condition, self.honcho, self.log_path, what)

    def run(self) -> None:
        """Every stage in order."""
        # What the demo shows of drift is its own.
        shutil.rmtree(self.env["WINDOW_DIR"], ignore_errors=True)
        with running(self.env, self.log_path) as self.honcho:
            with self.stage("start", f"nine processes (their output: {self.log_path})"):
                names = ("mlflow", "prefect", "prediction", "evidently")
                wait_healthy(self.env, self.honcho, self.log_path, names)
                forget_drift_runs(self.env)
            with self.stage("train", "hyperopt search, fit, evaluate, register, gate, promote"):
                train(self.env, self.options)
            self.summary |= production_facts(self.env)
            with self.stage("serve", f"version {self.summary['model_version']} on both services"):
                self.wait(self.served, "the prediction service to serve it")
            duplicates = self.journal_status()["duplicates"]
            with self.stage("traffic", f"{self.options.rows} records as they come"):
                calm = self.send("none")
            with self.stage("measure", "drift of that window"):
                before = self.measured()
            with self.stage("drift", f"{self.options.rows} records, shifted suddenly"):
                shifted = self.send("sudden")
            with self.stage("measure again", "drift of that window"):
                after = self.measured()
            with self.stage("watch", "the deployment that starts a training on drift"):
                retraining = self.wait(lambda: drift_run(self.env), "a training started by drift")
            with self.stage("store", "every answered prediction is looked for in the store"):
                stored = self.stored([calm, shifted], duplicates)
            self.summary |= {
                "predictions": stored,
                "traffic": {"none": calm, "sudden": shifted},
                "drift": {"before": brief(before), "after": brief(after)},
                "retraining": retraining,
                "seconds": self.seconds,
                "addresses": addresses(self.env),
            }
            path = self.out_dir / "summary.json"
            path.write_text(json.dumps(self.summary, indent=1), encoding="utf-8")
            console.print(summary_table(self.summary, path))
            if self.options.keep:
                console.print("Everything stays up; Ctrl-C ends it.")
                self.honcho.wait()

    def only_train(self) -> None:
        """The training flow against MLflow and Prefect alone."""
        with running(self.env, self.log_path, REGISTRY) as self.honcho:
            wait_healthy(self.env, self.honcho, self.log_path, ("mlflow", "prefect"))
            train(self.env, self.options)

    def served(self) -> bool:
        """True when the prediction service answers with the production version."""
        answer = get(f"{self.env['PREDICTION_ADDRESS']}/model") or {}
        return answer.get("model_version") == self.summary["model_version"]

    def send(self, scenario: str) -> dict[str, Any]:
        """Sends one scenario's traffic with the generator; its summary."""
        out = self.out_dir / f"traffic-{scenario}.json"
        command = [sys.executable, "-m", "stream_generator.send_data", "--scenario", scenario]
        command += ["--rows", str(self.options.rows), "--seed", str(self.options.seed)]
        command += ["--concurrency", "4", "--labels", "0.5", "--summary", str(out)]
        command += ["--answers", str(self.answers_path(scenario))]
        check(subprocess.run(command, env=self.env, check=False).returncode, "stream generator")
        return json.loads(out.read_text("utf-8"))

    def measured(self) -> dict[str, Any]:
        """The verdict of a measurement that began after the relay had delivered everything."""
        self.wait(lambda: self.backlog() == 0, "the relay to deliver")
        delivered_at = time.time()

        def fresh() -> dict[str, Any] | None:
            verdict = get(f"{self.env['EVIDENTLY_ADDRESS']}/drift") or {}
            newer = (verdict.get("measured_at") or 0) > delivered_at
            return verdict if newer and verdict["state"] == "ok" else None

        return self.wait(fresh, "a measurement of the window")

    def backlog(self) -> int:
        """Rows that the Evidently service has not confirmed yet."""
        return self.journal_status()["backlog"]["evidently"]

    def journal_status(self) -> dict[str, Any]:
        """What the journals hold and what still waits."""
        return json.loads(self.journal("status", "--json"))

    def stored(self, traffic: list[dict[str, Any]], duplicates_before: int) -> dict[str, int]:
        """Sent, answered, stored and duplicate predictions; stored are looked for by their ids."""
        answered = {line["prediction_id"] for name in SCENARIOS for line in self.answers(name)}
        kept = {json.loads(line)["prediction_id"] for line in self.journal("export").splitlines()}
        return {
            "sent": sum(summary["sent"] for summary in traffic),
            "answered": len(answered),
            "stored": len(answered & kept),
            "duplicates": self.journal_status()["duplicates"] - duplicates_before,
        }

    def answers_path(self, scenario: str) -> Path:
        """Where the generator leaves the answered records of a scenario."""
        return self.out_dir / f"answers-{scenario}.jsonl"

    def answers(self, scenario: str) -> list[dict[str, Any]]:
        """The answered records of a scenario."""
        lines = self.answers_path(scenario).read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def journal(self, *arguments: str) -> str:
        """What a command of the prediction service's journal prints."""
        command = [sys.executable, "-m", "prediction_service.journal", *arguments]
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise StackError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
        return done.stdout


def train(env: dict[str, str], options: argparse.Namespace) -> None:
    """Runs the training flow."""
    command = [sys.executable, "-m", "training", "train", "--seed", str(options.seed)]
    command += ["--data", options.data]
    check(subprocess.run(command, env=env, check=False).returncode, "training")


def production_facts(env: dict[str, str]) -> dict[str, Any]:
    """What the registry says of the production version and the run that made it."""
    uri = env["MLFLOW_TRACKING_URI"]
    try:
        version = registry.production_version(uri)
        answer = registry.get(uri, "/api/2.0/mlflow/runs/get", {"run_id": version["run_id"]})
    except TrafficError as err:
        raise StackError(f"no version is in production; the gate's reason is above. {err}") from err
    run = answer.json()["run"]["data"]
    metrics = {item["key"]: item["value"] for item in run["metrics"]}
    params = {item["key"]: item["value"] for item in run["params"]}
    tags = {item["key"]: item["value"] for item in run["tags"]}
    return {
        "data_source": tags["data_source"],
        "rows": {name: int(params[f"{name}_rows"]) for name in ("train", "test")},
        "test_metrics": {
            name.removeprefix("test_"): value
            for name, value in metrics.items()
            if name.startswith("test_")
        },
        "model_version": str(version["version"]),
        "run_id": version["run_id"],
    }


def drift_runs(env: dict[str, str]) -> list[dict[str, Any]]:
    """The flow runs that `watch` started."""
    wanted = {"flow_runs": {"tags": {"all_": ["drift"]}}, "limit": 50}
    answer = requests.post(
        f"{env['PREFECT_API_URL']}/flow_runs/filter", json=wanted, timeout=REQUEST_TIMEOUT_S
    )
    answer.raise_for_status()
    return answer.json()


def forget_drift_runs(env: dict[str, str]) -> None:
    """Removes what an earlier demo left, which would hold this one's training back."""
    for run in drift_runs(env):
        url = f"{env['PREFECT_API_URL']}/flow_runs/{run['id']}"
        requests.delete(url, timeout=REQUEST_TIMEOUT_S).raise_for_status()


def drift_run(env: dict[str, str]) -> dict[str, str] | None:
    """The training that drift started, once it runs."""
    for run in drift_runs(env):
        if run["state_type"] in ("RUNNING", "COMPLETED"):
            return {"flow_run": run["name"], "id": run["id"], "state": run["state_type"].lower()}
    return None


def get(url: str) -> dict[str, Any] | None:
    """The JSON of a page, or None if it does not answer 200."""
    try:
        answer = requests.get(url, timeout=REQUEST_TIMEOUT_S)
    except requests.RequestException:
        return None
    return answer.json() if answer.status_code == 200 else None


def brief(verdict: dict[str, Any]) -> dict[str, Any]:
    """The part of a drift verdict that the summary keeps."""
    drifted = [f["name"] for f in verdict.get("features", []) if f["drifted"]]
    return {
        "drifted": verdict["drifted"],
        "share_drifted": verdict["share_drifted"],
        "features": drifted,
        "window_rows": verdict["window"]["rows"],
    }


def addresses(env: dict[str, str]) -> dict[str, str]:
    """What to open."""
    return {
        "prediction service": env["PREDICTION_ADDRESS"],
        "drift report": f"{env['EVIDENTLY_ADDRESS']}/report",
        "MLflow": env["MLFLOW_TRACKING_URI"],
        "Prefect": env["PREFECT_API_URL"].removesuffix("/api"),
    }


def summary_table(summary: dict[str, Any], path: Path) -> Table:
    """The summary for people."""
    metrics, counts = summary["test_metrics"], summary["predictions"]
    traffic = summary["traffic"]["none"]
    rows = {
        "data": f"{summary['data_source']}: {summary['rows']['train']:,} rows to train on,"
        f" {summary['rows']['test']:,} to test",
        "test metrics": ", ".join(f"{n} {metrics[n]:.4f}" for n in SHOWN_METRICS),
        "model": f"version {summary['model_version']}, run {summary['run_id']}",
        "predictions": ", ".join(f"{value} {name}" for name, value in counts.items()),
        "throughput": f"{traffic['requests_per_s']:.0f} requests/s,"
        f" {traffic['latency_p50_ms']:.1f} ms median latency",
        "drift before": drift_words(summary["drift"]["before"]),
        "drift after": drift_words(summary["drift"]["after"]),
        "retraining": f"flow run {summary['retraining']['flow_run']}, started by drift",
        "seconds": ", ".join(f"{name} {value}" for name, value in summary["seconds"].items()),
        **summary["addresses"],
        "all of it": str(path),
    }
    table = Table(show_header=False, title="Income prediction pipeline")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def drift_words(drift: dict[str, Any]) -> str:
    """A drift verdict in a line."""
    names = ", ".join(drift["features"]) or "none"
    found = "drift" if drift["drifted"] else "no drift"
    return f"{found}: {drift['share_drifted']:.0%} of the features ({names})"


def check(code: int, what: str) -> None:
    """Raises StackError if a command failed."""
    if code:
        raise StackError(f"the {what} ended with status {code}: its output is above")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m stream_generator.demo", description=__doc__)
    parser.add_argument("--data", choices=["auto", "synthetic"], default="auto")
    parser.add_argument("--max-evals", type=int, help="trials of a search (MAX_EVALS, else 12)")
    parser.add_argument("--rows", type=int, default=2500, help="records per scenario (2500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state-dir", type=Path, default=Path("var"), help="servers' state (var)")
    parser.add_argument("--out-dir", type=Path, default=Path("build/demo"), help="(build/demo)")
    parser.add_argument("--keep", action="store_true", help="leave everything up until Ctrl-C")
    parser.add_argument("--only-train", action="store_true", help="end after the training flow")
    return parser.parse_args(arguments)


def main() -> None:
    """Runs the demo; an expected failure is a few clear lines, and nothing is left running."""
    options = parse(None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell that starts this in the background has told it to ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        demo = Demo(options)
        check_ports(demo.env)
        if options.only_train:
            demo.only_train()
        else:
            demo.run()
    except StackError as err:
        print(err, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: every process was ended", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
