"""The whole loop on this machine: train, serve, send, shift, see it, train again, see it end.

Conducts the parts from outside, as a user would: commands, HTTP and nothing else. Starts from
nothing in `var/demo`; ends with a table and the same as JSON in `build/demo/summary.json`.
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
from contextlib import contextmanager, suppress
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
    settings_script,
    stack_environment,
    wait_for,
    wait_healthy,
)
from stream_generator.traffic import TrafficError

REQUEST_TIMEOUT_S = 10
REGISTRY = ("gcs", "mlflow", "prefect")
# A window that is judged has 1,000 rows, and two in a row are a verdict.
CALM, SHIFTED, AGAIN = "none", "sudden", "sudden-again"
TRAINING_TIMEOUT_S = 900
SHOWN_METRICS = ("roc_auc", "log_loss", "f1", "ece")
# Quicker than a production stack, so that there is something to see; the user's settings win.
# Every full window is judged: a demo is shorter than the quarter of an hour that a window waits.
DEMO_SETTINGS = {
    "MEASURE_PERIOD_S": "5",
    "JUDGE_PERIOD_S": "0",
    "WATCH_PERIOD_S": "10",
    "MAX_EVALS": "12",
}

console = Console(highlight=False, soft_wrap=True)


class Demo:
    """One run of the demo: its environment, its settings and what it has found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        asked = {"MAX_EVALS": str(options.max_evals)} if options.max_evals else {}
        self.state: Path = options.state_dir
        if not options.only_train:
            self.state = options.state_dir / "demo"
            # The shifted people that it learns from are nobody's: they stay out of the real store.
            asked["TRAINING_STORE"] = str(self.state.resolve() / "store")
        self.env = stack_environment(os.environ | asked, self.state, DEMO_SETTINGS)
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
        shutil.rmtree(self.state, ignore_errors=True)  # what an earlier demo learnt would show
        with running(self.env, self.log_path) as self.honcho:
            with self.stage("start", f"nine processes (their output: {self.log_path})"):
                names = ("mlflow", "prefect", "prediction", "evidently")
                wait_healthy(self.env, self.honcho, self.log_path, names)
            with self.stage("train", "hyperopt search, fit, evaluate, register, gate, promote"):
                train(self.env, self.options)
            self.summary |= production_facts(self.env)
            with self.stage("serve", f"version {self.summary['model_version']} on both services"):
                self.wait(lambda: self.serves(self.summary["model_version"]), "both to have it")
            self.drift_and_back()
            with self.stage("store", "every answered prediction is looked for in the store"):
                self.summary["predictions"] = self.stored()
            self.summary |= {"seconds": self.seconds, "addresses": addresses(self.env)}
            path = self.out_dir / "summary.json"
            path.write_text(json.dumps(self.summary, indent=1), encoding="utf-8")
            console.print(summary_table(self.summary, path))
            if self.options.keep:
                script = self.state / "settings"
                script.write_text(settings_script(self.env, os.environ), encoding="utf-8")
                console.print("Everything stays up; Ctrl-C ends it. For commands in another shell:")
                console.print(f"  . {script}")
                with suppress(KeyboardInterrupt):
                    self.honcho.wait()

    def drift_and_back(self) -> None:
        """Traffic as it was, then of a changed world, until a model has learnt the change."""
        rows = self.options.rows
        with self.stage("traffic", f"{rows} records as they come, half of them labelled later"):
            calm = self.send(CALM, seed=self.options.seed, labels=0.5)
        with self.stage("measure", "drift and quality of that window"):
            before = self.measured()
        with self.stage("drift", f"{rows} records of other people, for whom other rules hold"):
            shifted = self.send(SHIFTED, seed=self.options.seed, labels=1.0)
        with self.stage("measure again", "drift and quality of that window"):
            after = self.measured()
        with self.stage("labels", "what turned out true goes to where trainings find it"):
            self.hand_over_labels()
        with self.stage("watch", "the deployment that starts a training on drift"):
            retraining = self.wait(lambda: drift_run(self.env), "a training started by drift")
        with self.stage("train again", f"flow run {retraining['flow_run']}, judged by new labels"):
            retraining |= self.trained(retraining["id"])
        with self.stage("swap", f"version {retraining['model_version']} on both services"):
            self.wait(lambda: self.serves(retraining["model_version"]), "both to have it")
        with self.stage("same again", f"{rows} more records of the changed world"):
            again = self.send(AGAIN, seed=self.options.seed + 1, labels=1.0)
        with self.stage("measure at last", "drift and quality with the new model"):
            resolved = self.measured()
        self.summary |= {
            "traffic": {CALM: calm, SHIFTED: shifted, AGAIN: again},
            "drift": {
                "before": brief(before),
                "after": brief(after),
                "retrained": brief(resolved),
                "resolved": is_resolved(after, resolved),
            },
            "quality": {
                "before": resulting(before),
                "shifted": resulting(after),
                "retrained": resulting(resolved),
            },
            "retraining": retraining,
        }

    def only_train(self) -> None:
        """The training flow against MLflow and Prefect alone."""
        with running(self.env, self.log_path, REGISTRY) as self.honcho:
            wait_healthy(self.env, self.honcho, self.log_path, ("mlflow", "prefect"))
            with self.stage("train", "hyperopt search, fit, evaluate, register, gate, promote"):
                train(self.env, self.options)

    def serves(self, version: str) -> bool:
        """True when the services answer with a version and compare with its reference."""
        served = get(f"{self.env['PREDICTION_ADDRESS']}/model") or {}
        watched = get(f"{self.env['EVIDENTLY_ADDRESS']}/drift") or {}
        return served.get("model_version") == version == watched.get("model_version")

    def send(self, name: str, seed: int, labels: float) -> dict[str, Any]:
        """Sends one scenario's traffic with the generator; its summary."""
        out = self.out_dir / f"traffic-{name}.json"
        scenario = name.removesuffix("-again")
        command = [sys.executable, "-m", "stream_generator.send_data", "--scenario", scenario]
        command += ["--rows", str(self.options.rows), "--seed", str(seed)]
        command += ["--concurrency", "4", "--labels", str(labels), "--summary", str(out)]
        command += ["--answers", str(self.answers_path(name))]
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

    def hand_over_labels(self) -> None:
        """Without MongoDB, trainings have what the journal exports."""
        if self.env.get("MONGODB_ADDRESS"):
            return
        path = self.out_dir / "labelled.jsonl"
        path.write_text(self.journal("export", "--labelled"), encoding="utf-8")
        command = [sys.executable, "-m", "training", "ingest", str(path)]
        check(subprocess.run(command, env=self.env, check=False).returncode, "ingest of the labels")

    def trained(self, flow_run: str) -> dict[str, Any]:
        """The version that a flow run has promoted. Raises StackError if it has not."""
        url = f"{self.env['PREFECT_API_URL']}/flow_runs/{flow_run}"

        def ended() -> str | None:
            state = (get(url) or {}).get("state_type")
            return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        state = wait_for(ended, self.honcho, self.log_path, "the training", TRAINING_TIMEOUT_S)
        facts = production_facts(self.env)
        if state != "COMPLETED" or facts["model_version"] == self.summary["model_version"]:
            page = f"{self.env['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{flow_run}"
            raise StackError(
                f"the training that drift started ended as {state} and promoted no version:"
                f" `make demo KEEP=1` shows why at {page}, as does {self.log_path}"
            )
        return facts

    def backlog(self) -> int:
        """Rows that the Evidently service has not confirmed yet."""
        return self.journal_status()["backlog"]["evidently"]

    def journal_status(self) -> dict[str, Any]:
        """What the journals hold and what still waits."""
        return json.loads(self.journal("status", "--json"))

    def stored(self) -> dict[str, int]:
        """Sent, answered, stored and duplicate predictions; stored are looked for by their ids."""
        traffic = self.summary["traffic"]
        answered = {line["prediction_id"] for name in traffic for line in self.answers(name)}
        kept = {json.loads(line)["prediction_id"] for line in self.journal("export").splitlines()}
        return {
            "sent": sum(summary["sent"] for summary in traffic.values()),
            "answered": len(answered),
            "stored": len(answered & kept),
            "duplicates": self.journal_status()["duplicates"],
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
    drifted = [f["name"] for f in verdict.get("features", []) if f["persistent"]]
    return {
        "drifted": verdict["drifted"],
        "share_drifted": verdict["share_drifted"],
        "features": drifted,
        "window_rows": verdict["window"]["rows"],
    }


def is_resolved(after: dict[str, Any], now: dict[str, Any]) -> bool:
    """True if there was drift, and windows of the new version's reference have cleared it."""
    return after["drifted"] and not now["drifted"] and now["judgement"]["windows"] > 0


def resulting(verdict: dict[str, Any]) -> dict[str, Any]:
    """How right the version that serves was, as the summary keeps it."""
    quality = verdict["quality"] or {}
    names = ("rows", "roc_auc", "log_loss", "f1")
    return {"model_version": verdict["model_version"]} | {n: quality.get(n) for n in names}


def addresses(env: dict[str, str]) -> dict[str, str]:
    """What to open."""
    return {
        "prediction service": env["PREDICTION_ADDRESS"],
        "drift reports": f"{env['EVIDENTLY_ADDRESS']}/report",
        "MLflow": env["MLFLOW_TRACKING_URI"],
        "Prefect": env["PREFECT_API_URL"].removesuffix("/api"),
    }


def summary_table(summary: dict[str, Any], path: Path) -> Table:
    """The summary for people."""
    metrics, counts = summary["test_metrics"], summary["predictions"]
    traffic, drift, quality = summary["traffic"][CALM], summary["drift"], summary["quality"]
    retraining = summary["retraining"]
    rows = {
        "data": f"{summary['data_source']}: {summary['rows']['train']:,} rows to train on,"
        f" {summary['rows']['test']:,} to test",
        "test metrics": ", ".join(f"{n} {metrics[n]:.4f}" for n in SHOWN_METRICS),
        "model": f"version {summary['model_version']}, run {summary['run_id']}",
        "predictions": ", ".join(f"{value} {name}" for name, value in counts.items()),
        "throughput": f"{traffic['requests_per_s']:.0f} requests/s,"
        f" {traffic['latency_p50_ms']:.1f} ms median latency",
        "drift before": drift_words(drift["before"]),
        "drift after": drift_words(drift["after"]),
        "retraining": f"flow run {retraining['flow_run']}, started by drift, promoted version"
        f" {retraining['model_version']}",
        "drift then": ("resolved, " if drift["resolved"] else "") + drift_words(drift["retrained"]),
        "quality before": quality_words(quality["before"]),
        "quality after": quality_words(quality["shifted"]),
        "quality then": quality_words(quality["retrained"]),
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


def quality_words(quality: dict[str, Any]) -> str:
    """How right a version was, in a line."""
    if quality["roc_auc"] is None:
        return f"version {quality['model_version']}: not enough labels"
    return (
        f"version {quality['model_version']} on {quality['rows']} labelled rows:"
        f" ROC AUC {quality['roc_auc']:.3f}, log loss {quality['log_loss']:.3f}"
    )


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
