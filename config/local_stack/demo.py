"""The whole loop on this machine: train, serve, send traffic, detect drift, train again.

The demo controls the parts as a user would, by commands and HTTP. It starts with an empty
`var/demo`, or continues after the last finished stage (`--resume`). It ends with a table, and
writes the same data to `build/demo/summary.json`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from config.contract import load_contract
from config.local_stack.observe import (
    addresses,
    backlog,
    current_step,
    drift_runs,
    gate_reason,
    get,
    journal,
    journal_status,
    json_lines,
    production_facts,
    set_watch_period,
    version_facts,
)
from config.local_stack.stack import (
    Stack,
    StackError,
    check_ports,
    running,
    settings_script,
    stack_environment,
)
from config.local_stack.summary import brief, is_resolved, resulting, summary_table
from config.model_registry import CHALLENGER
from config.runtime.settings import SettingsError

REGISTRY = ("gcs", "mlflow", "prefect")
# The judge needs 1,000 rows for a window, and two drifted windows in a row for drift.
CALM, SHIFTED, PROOF, AGAIN = "none", "sudden", "sudden-proof", "sudden-again"
TRAINING_TIMEOUT_S = 900
QUIET_WATCH_PERIOD_S = 60  # after the loop; a run of `watch` takes seconds of a processor
ROWS, SEED = 2500, 0  # records per scenario
# Shorter periods than in production; the user's settings win. The judge takes every full window,
# because the demo is shorter than the usual 15 minutes between two windows.
DEMO_SETTINGS = {
    "MEASURE_PERIOD_S": "5",
    "JUDGE_PERIOD_S": "0",
    "WATCH_PERIOD_S": "15",
    # Of 2,500 changed rows, more than 1,000 may come before the end of the first drifted window.
    "WATCH_MIN_LABELS": "1000",
    # The demo's labels are simulated, and its page needs no key.
    "LEARN_ANONYMOUS_LABELS": "true",
    "MAX_EVALS": "12",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}

console = Console(highlight=False, soft_wrap=True)


class Demo:
    """One run of the demo: environment, options and results of its stages."""

    def __init__(self, options: argparse.Namespace) -> None:
        load_contract()  # raises ContractError before any process starts
        self.options = options
        asked = {"MAX_EVALS": str(options.max_evals)} if options.max_evals else {}
        self.state: Path = options.state_dir
        if not options.only_train:
            self.state = options.state_dir / "demo"
            # The demo's labelled rows are simulated and must not reach the real store.
            asked["TRAINING_STORE"] = str(self.state.resolve() / "store")
        self.env = stack_environment(os.environ | asked, self.state, DEMO_SETTINGS)
        self.out_dir: Path = options.out_dir
        self.logs = self.out_dir / "logs"
        self.progress = self.state / "progress.json"
        self.seconds: dict[str, float] = {}
        self.found: dict[str, Any] = {}  # result of each finished stage
        self.stack: Stack

    def stage(self, name: str, text: str, action: Callable[[], Any]) -> Any:
        """Run a stage and save its result, or return the result that an earlier run saved."""
        if name in self.found:
            console.print(f"[bold]{name}[/] [green]done before[/]")
            return self.found[name]
        found = self.timed(name, text, action)
        self.found[name] = found
        progress = {"found": self.found, "seconds": self.seconds}
        self.progress.write_text(json.dumps(progress), encoding="utf-8")
        return found

    def timed(self, name: str, text: str, action: Callable[[], Any]) -> Any:
        """Run an action; print its description before and its duration after."""
        console.print(f"[bold]{name}[/] {text}")
        start = time.monotonic()
        found = action()
        self.seconds[name] = round(time.monotonic() - start, 1)
        console.print(f"[green]done[/] in {self.seconds[name]} s")
        return found

    def wait(
        self,
        condition: Callable[[], Any],
        what: str,
        timeout_s: float = 120,
        state: Callable[[], str] = lambda: "",
    ) -> Any:
        """Wait as `Stack.wait_for` does, and show `what` with its state in the terminal."""
        with console.status(what) as shown:

            def met() -> Any:
                if console.is_terminal:  # `state` sends a request to Prefect
                    shown.update(f"{what} {state()}")
                return condition()

            return self.stack.wait_for(met, what, timeout_s, state)

    def run(self) -> None:
        """Start the stack and run every stage; with `--keep` leave it running, even on failure."""
        self.prepare()
        with running(self.env, self.logs, report=warn) as self.stack:
            try:
                self.timed(
                    "start",
                    f"ten processes, logs in {self.stack.logs}",
                    lambda: self.wait_healthy("mlflow", "prefect"),
                )
                self.loop()
            except StackError as err:
                if not self.options.keep:
                    raise
                warn(str(err))
                self.stay_up()
                raise StackError("the demo failed: the reason is above") from err
            if self.options.keep:
                if self.env["WATCH_PERIOD_S"] == DEMO_SETTINGS["WATCH_PERIOD_S"]:
                    set_watch_period(self.env, QUIET_WATCH_PERIOD_S)
                self.stay_up()

    def prepare(self) -> None:
        """Delete the state of an earlier demo, or read its progress to resume it."""
        if self.options.resume and self.progress.exists():
            progress = json.loads(self.progress.read_text("utf-8"))
            self.found, self.seconds = progress["found"], progress["seconds"]
            return
        if self.options.resume:
            console.print(f"nothing to resume in {self.state}: starting a new demo")
        shutil.rmtree(self.state, ignore_errors=True)

    def wait_healthy(self, *names: str) -> None:
        """Wait until processes are healthy."""
        with console.status(f"waiting for {' and '.join(names)}"):
            self.stack.wait_healthy(*names)

    def loop(self) -> None:
        """Run every stage, then show and write the summary."""
        trained = self.stage(
            "train", "hyperopt search, fit, evaluate, register, gate, promote", self.train
        )
        version = trained["model_version"]
        self.wait_healthy("prediction", "evidently")
        self.stage("serve", f"version {version} on both services", lambda: self.served(version))
        findings = self.drift_and_back(version)
        findings["predictions"] = self.stage(
            "store", "look up every answered prediction in the journals", self.stored
        )
        summary = trained | findings | {"seconds": self.seconds, "addresses": addresses(self.env)}
        path = self.out_dir / "summary.json"
        path.write_text(json.dumps(summary, indent=1), encoding="utf-8")
        console.print(summary_table(summary, CALM, path))

    def drift_and_back(self, version: str) -> dict[str, Any]:
        """Send traffic as in training, then changed traffic until a model has learnt the change."""
        calm = self.stage(
            "traffic",
            f"{ROWS} records as in training, half of them labelled later",
            lambda: self.send(CALM, SEED, labels=0.5),
        )
        before = self.stage("measure", "drift and quality of that window", self.measured)
        shifted = self.stage(
            "drift",
            f"{ROWS} records with half of the columns changed, and the labels that follow",
            lambda: self.send(SHIFTED, SEED, labels=1.0),
        )
        after = self.stage("measure again", "drift and quality of that window", self.measured)
        self.stage("labels", "hand the true labels over to the training", self.hand_over_labels)
        run = self.stage("watch", "wait for the training that drift starts", self.drift_training)
        retrained = self.stage(
            "train again",
            f"flow run {run['flow_run']}; the gate uses new labels",
            lambda: self.trained(run["id"], version),
        )
        newer = retrained["model_version"]
        proof = self.stage(
            "prove",
            f"{ROWS} records with that change and their labels, for version {newer} as the shadow",
            lambda: self.send(PROOF, SEED + 2, labels=1.0),
        )
        promotion = self.stage(
            "promote", "wait until the labels decide", lambda: self.proved(newer, version)
        )
        newer = promotion["model_version"]
        self.stage("swap", f"version {newer} on both services", lambda: self.served(newer))
        again = self.stage(
            "same again",
            f"{ROWS} more records with the same change",
            lambda: self.send(AGAIN, SEED + 1, labels=1.0),
        )
        resolved = self.stage(
            "measure at last", "drift and quality with the new model", self.measured
        )
        return {
            "traffic": {CALM: calm, SHIFTED: shifted, PROOF: proof, AGAIN: again},
            "promotion": promotion,
            "drift": {
                "change": shifted["change"],
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
            "retraining": run | retrained,
        }

    def stay_up(self) -> None:
        """Leave the stack running until Ctrl-C, and report processes that die."""
        script = self.state / "settings"
        script.write_text(settings_script(self.env, os.environ), encoding="utf-8")
        console.print("The stack keeps running until Ctrl-C. For commands in another shell:")
        console.print(f"  . {script}")
        try:
            while True:
                self.stack.check()
                time.sleep(1)
        except KeyboardInterrupt:
            console.print("stopping every process")

    def only_train(self) -> None:
        """Run the training flow against MLflow and Prefect alone."""
        with running(self.env, self.logs, REGISTRY, report=warn) as self.stack:
            self.wait_healthy("mlflow", "prefect")
            self.timed("train", "hyperopt search, fit, evaluate, register, gate", self.run_training)

    def train(self) -> dict[str, Any]:
        """Train a first version; return its facts from the registry."""
        self.run_training()
        return production_facts(self.env)

    def run_training(self) -> None:
        """Run the training flow."""
        arguments = ["train", "--seed", str(SEED), "--data", self.options.data]
        run_command(self.stack, "training", *arguments)

    def served(self, version: str) -> None:
        """Wait until both services use a version: as model and as reference data."""

        def both() -> bool:
            live = get(f"{self.env['PREDICTION_ADDRESS']}/model") or {}
            watched = get(f"{self.env['EVIDENTLY_ADDRESS']}/drift") or {}
            return live.get("model_version") == version == watched.get("model_version")

        self.wait(both, f"waiting for both services to have version {version}")

    def send(self, name: str, seed: int, labels: float) -> dict[str, Any]:
        """Send one scenario's traffic with the generator; return its summary.

        Raises StackError if the service rejects a record: the drift would not be as described.
        """
        out = self.out_dir / f"traffic-{name}.json"
        run_command(
            self.stack,
            "stream_generator.send_data",
            *("--scenario", name.partition("-")[0], "--concurrency", "4"),
            *("--rows", str(ROWS), "--seed", str(seed), "--labels", str(labels)),
            *("--summary", str(out), "--answers", str(answers_path(self.out_dir, name))),
        )
        found = json.loads(out.read_text("utf-8"))
        if found["rejected"]:
            raise StackError(
                f"{name}: {found['rejected']} of {found['sent']} records were rejected;"
                f" expected none. Reasons: {'; '.join(found['reasons'])}"
            )
        return found

    def measured(self) -> dict[str, Any]:
        """Wait until the relay has delivered all rows; return the next drift verdict."""
        self.wait(lambda: backlog(self.env) == 0, "waiting for the relay to deliver")
        delivered_at = time.time()
        address = f"{self.env['EVIDENTLY_ADDRESS']}/drift"

        def fresh() -> dict[str, Any] | None:
            verdict = get(address) or {}
            newer = (verdict.get("measured_at") or 0) > delivered_at
            return verdict if newer and verdict["state"] == "ok" else None

        def state() -> str:
            verdict = get(address)
            return (
                f"{verdict['state']}, {verdict['window']['rows']} rows" if verdict else "no verdict"
            )

        return self.wait(fresh, "waiting for a measurement of the window", state=state)

    def hand_over_labels(self) -> None:
        """Without MongoDB, export labelled rows from the journals for the next training."""
        if self.env.get("MONGODB_ADDRESS"):
            return
        path = self.out_dir / "labelled.jsonl"
        path.write_text(journal(self.env, "export", "--labelled"), encoding="utf-8")
        run_command(self.stack, "training", "ingest", str(path))

    def drift_training(self) -> dict[str, str]:
        """Wait for the training that drift starts; return its flow run."""

        def begun() -> dict[str, str] | None:
            for run in drift_runs(self.env):
                if run["state_type"] in ("RUNNING", "COMPLETED"):
                    return {"flow_run": run["name"], "id": run["id"]}
            return None

        def state() -> str:
            runs = [f"{run['name']} is {run['state_name']}" for run in drift_runs(self.env)]
            return ", ".join(runs) or "not requested yet"

        return self.wait(begun, "a training started by drift", state=state)

    def trained(self, flow_run: str, before: str) -> dict[str, Any]:
        """Wait for the end of a flow run; return the facts of the production version.

        `rejected` has the gate's reason if that is still the version `before`. Raises StackError
        if the run failed.
        """
        url = f"{self.env['PREFECT_API_URL']}/flow_runs/{flow_run}"

        def ended() -> str | None:
            state = (get(url) or {}).get("state_type")
            return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        state = self.wait(
            ended, "the training", TRAINING_TIMEOUT_S, lambda: current_step(self.env, flow_run)
        )
        if state != "COMPLETED":
            page = f"{self.env['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{flow_run}"
            raise StackError(
                f"the training that drift started: ended as {state}. Read"
                f" {self.stack.logs}/worker.log, or run make demo KEEP=1 and open {page}"
            )
        if challenger := version_facts(self.env, CHALLENGER):
            return challenger
        facts = production_facts(self.env)
        if facts["model_version"] != before:  # with PROMOTION=direct
            return facts
        facts["rejected"] = gate_reason(self.env)
        warn(f"The gate rejected the new version: {facts['rejected']}")
        return facts

    def proved(self, version: str, before: str) -> dict[str, Any]:
        """Wait for the end of a challenger's test; return it with the production version."""

        def shadow() -> dict[str, Any]:
            return get(f"{self.env['EVIDENTLY_ADDRESS']}/shadow") or {}

        self.wait(
            lambda: version_facts(self.env, CHALLENGER) is None,
            "the test of the challenger",
            state=lambda: str(shadow().get("why", "")),
        )
        now, found = production_facts(self.env)["model_version"], shadow()
        tests = [one for one in (found, found.get("last") or {}) if one.get("verdict")]
        test = next((one for one in tests if one["version"] == version != before), None)
        if test is None:  # PROMOTION=direct, or the gate rejected the version
            return {"model_version": now, "verdict": None, "why": "no test", "seconds": 0.0}
        if now == before:
            warn(f"Version {version} was not promoted: {test['why']}")
        seconds = round(test["decided_at"] - test["started_at"], 1)
        facts = {name: test[name] for name in ("labels", "verdict", "why")}
        return {"model_version": now, "seconds": seconds, **facts}

    def stored(self) -> dict[str, int]:
        """Count sent, answered, stored and duplicate predictions; stored ones by their ids."""
        paths = [answers_path(self.out_dir, name) for name in (CALM, SHIFTED, PROOF, AGAIN)]
        answered = {
            line["prediction_id"] for path in paths for line in json_lines(path.read_text())
        }
        kept = {line["prediction_id"] for line in json_lines(journal(self.env, "export"))}
        sending = ("traffic", "drift", "prove", "same again")
        return {
            "sent": sum(self.found[stage]["sent"] for stage in sending),
            "answered": len(answered),
            "stored": len(answered & kept),
            "duplicates": journal_status(self.env)["duplicates"],
        }


def answers_path(folder: Path, scenario: str) -> Path:
    """Return the path of the generator's predictions for a scenario."""
    return folder / f"answers-{scenario}.jsonl"


def run_command(stack: Stack, module: str, *arguments: str) -> None:
    """Run a command of the project, and report processes of the stack that die.

    Raises StackError if the command fails.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, env=stack.env) as run:
        try:
            while (code := run.poll()) is None:
                stack.check()
                time.sleep(0.25)
        except BaseException:
            run.terminate()
            raise
    if code:
        raise StackError(f"python -m {module} {arguments[0]} ended with status {code}")


def warn(text: str) -> None:
    """Print a warning."""
    console.print(text, style="yellow", markup=False)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m config.local_stack.demo", description=__doc__)
    parser.add_argument("--data", choices=["auto", "synthetic"], default="auto")
    parser.add_argument("--max-evals", type=int, help="trials of a search (MAX_EVALS, or 12)")
    parser.add_argument(
        "--state-dir", type=Path, default=Path("var"), help="state of the servers (var)"
    )
    parser.add_argument("--out-dir", type=Path, default=Path("build/demo"), help="(build/demo)")
    parser.add_argument("--keep", action="store_true", help="leave the stack running until Ctrl-C")
    parser.add_argument(
        "--resume", action="store_true", help="continue after the last finished stage"
    )
    parser.add_argument("--only-train", action="store_true", help="stop after the training flow")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the demo. Print expected errors without a traceback, and leave no process running."""
    options = parse(None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A process that a shell starts in the background ignores Ctrl-C without this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        demo = Demo(options)
        check_ports(demo.env, demo.logs)
        if options.only_train:
            demo.only_train()
        else:
            demo.run()
    except (SettingsError, StackError) as err:
        print(err, file=sys.stderr)
        print_how_to_resume(options)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: every process has stopped", file=sys.stderr)
        print_how_to_resume(options)
        sys.exit(130)


def print_how_to_resume(options: argparse.Namespace) -> None:
    """Print how to resume this demo, if it has finished a stage."""
    if not options.only_train and (options.state_dir / "demo" / "progress.json").exists():
        print("make demo RESUME=1 continues after the last finished stage", file=sys.stderr)


if __name__ == "__main__":
    main()
