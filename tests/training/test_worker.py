"""The worker against a real Prefect server: deployments, code and results in a bucket, failures."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest
import requests
import yaml
from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType

# pylint: disable-next=no-name-in-module  # Prefect makes this name at import
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Pending, Running

from tests.conftest import free_port, gcs_emulator, mlflow_database, prefect_process, wait_until
from tests.conftest import run as command_output
from training.code_bundle import ROOT, code_digest, code_files
from training.orchestration.crashes import FLOWS, NO_HEARTBEAT, REPORTED, report_crashes
from training.orchestration.exporter import read_trainings
from training.orchestration.tasks import io_step
from training.orchestration.worker import (
    HEARTBEAT_S,
    POOL,
    SILENT_RUNS,
    WorkerError,
    crash_silent_runs,
    create_pool,
    deploy,
    end_orphaned_runs,
    run_environment,
    upload_code,
    wait_for_server,
)
from training.registry.mlflow_registry import Registry
from training.retraining.watch import DRIFT_TAG, find_facts
from training.settings import Settings

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]


def deployments() -> dict[str, dict]:
    """Return the deployments by name."""
    with get_client(sync_client=True) as client:
        return {d["name"]: d for d in client.request("POST", "/deployments/filter", json={}).json()}


@pytest.fixture(scope="module")
def deployed(prefect_server) -> dict[str, dict]:  # pylint: disable=unused-argument
    """The deployments of the file, on the server of the tests; `watch` has another period."""
    create_pool()
    deploy(Settings(watch_period_s=7.5), wait_for_server(120))
    return deployments()


def test_the_deployments_are_those_of_the_file_unless_a_setting_overrides_the_period(deployed):
    found = deployed
    schedules = {name: [s["schedule"] for s in d["schedules"]] for name, d in found.items()}
    assert schedules["train"][0]["interval"] == 240 * 60
    assert schedules["watch"][0]["interval"] == 7.5
    assert schedules["retain"][0]["interval"] == 24 * 60 * 60
    assert schedules["ingest"][0]["cron"] == "0 6 2 * *" and not schedules["score"]
    assert {d["work_pool_name"] for d in found.values()} == {POOL}
    assert found["train"]["parameters"] == {"trigger": "schedule", "data": "production"}


def test_runs_get_absolute_paths_of_contract_and_source(monkeypatch):
    """Each run has its own working folder."""
    monkeypatch.setenv("CONTRACT", "config/bank/features.yaml")
    given = run_environment(Settings(source="config/bank/source.yaml"), "http://here")
    assert given["CONTRACT"] == str(Path("config/bank/features.yaml").resolve())
    assert given["SOURCE"] == str(Path("config/bank/source.yaml").resolve())
    monkeypatch.delenv("CONTRACT")
    given = run_environment(Settings(), "http://here")
    assert given["CONTRACT"] == given["SOURCE"] == "", "the code of a run has its own files"


def test_a_run_of_a_dead_worker_holds_no_slot(deployed):
    """A `watch` that died with its worker once blocked all later runs."""
    watch = UUID(deployed["watch"]["id"])
    with get_client(sync_client=True) as client:

        def submit() -> UUID:
            run = client.create_flow_run_from_deployment(watch)
            client.set_flow_run_state(run.id, Pending())
            return run.id

        def state(run: UUID) -> StateType | None:
            return client.read_flow_run(run).state_type

        first = submit()
        client.set_flow_run_state(first, Running())
        assert state(submit()) == StateType.CANCELLED  # one at a time
        assert state(first) == StateType.RUNNING
        end_orphaned_runs()
        assert state(first) == StateType.CRASHED
        assert state(submit()) == StateType.PENDING
        end_orphaned_runs()


def test_a_restarted_worker_replaces_its_automation():
    for _ in range(2):
        crash_silent_runs()
    with get_client(sync_client=True) as client:
        (found,) = client.read_automations_by_name(SILENT_RUNS)
    assert found.enabled


@contextmanager
def own_prefect(folder: Path) -> Iterator[None]:
    """Run Prefect's server with all its services, and use it while the body runs."""
    with prefect_process(folder) as address, temporary_settings({PREFECT_API_URL: address}):
        yield


@pytest.mark.timeout(600)
def test_a_training_whose_machine_dies_is_crashed_and_the_next_may_start(tmp_path, monkeypatch):
    """Such a run once stayed Running, and `watch` started no training for six hours."""
    monkeypatch.chdir(tmp_path)  # where MLflow writes artifacts
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database(tmp_path))
    monkeypatch.setenv("FLOW_STORAGE", "gs://tests/prefect")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("training.orchestration.worker.SILENCE_S", 3 * HEARTBEAT_S)
    registry = Registry(os.environ["MLFLOW_TRACKING_URI"])
    with gcs_emulator(tmp_path / "bucket") as storage, own_prefect(tmp_path):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage)
        with working(tmp_path, METRICS_PORT=str(port := free_port())) as log:
            crash_silent_runs()  # sooner than the worker's own automation does
            run = start_long_training()
            wait_until(lambda: is_searching(run), log.read_text, timeout_s=180)
            assert find_facts(registry, 0.0, Settings()).running == run.name
            metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
            assert re.search(r"^income_training_age_seconds [1-9]", metrics, re.M), metrics
        state = wait_for_end(run, 300)
        assert (state.type, state.message) == (StateType.CRASHED, NO_HEARTBEAT)
        assert find_facts(registry, 0.0, Settings()).running is None
        assert read_trainings(registry, time.time()).last_failed


@contextmanager
def working(folder: Path, **environ: str) -> Iterator[Path]:
    """Run a worker in a folder while the body runs, then kill it; yield its log.

    It dies with its flow runs, as in the death of their machine. With fewer slots than deployments,
    overdue runs of `watch` once delayed a training.
    """
    env = {"PREFECT_API_URL": wait_for_server(120), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "training", "worker"]
    with (path := folder / "worker.log").open("wb") as log:
        with subprocess.Popen(
            command, cwd=folder, env=os.environ | env | environ, stdout=log, stderr=log
        ) as worker:
            try:
                wait_until(lambda: "started!" in path.read_text("utf-8"), path.read_text)
                arguments = command_output("ps", "-o", "args=", "-p", str(worker.pid))
                assert f"--limit {len(deployments())} " in arguments, "a slot for each deployment"
                yield path
            finally:
                kill_tree(worker.pid)


def wait_for_end(run: FlowRun, timeout_s: float) -> State:
    """Return the final state of a flow run."""

    def final() -> State | None:
        state = read_run(run).state
        return state if state and state.is_final() else None

    return wait_until(final, "the run to end", timeout_s=timeout_s)


def kill_tree(root: int) -> None:
    """Kill a process and its descendants at once, as the death of their machine does."""
    listed = command_output("ps", "-e", "-o", "pid=,ppid=")
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    for pid in tree:
        with suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.kill(pid, signal.SIGKILL)


def start_long_training() -> FlowRun:
    """Start a training as drift does, with a search of some minutes."""
    with get_client(sync_client=True) as client:
        return client.create_flow_run_from_deployment(
            UUID(deployments()["train"]["id"]),
            parameters={"data": "synthetic", "max_evals": 1000, "with_store": False},
            tags=[DRIFT_TAG],
        )


def read_run(run: FlowRun) -> FlowRun:
    """Return a flow run as it is now."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run.id)


def is_searching(run: FlowRun) -> bool:
    """Return True if a training has begun its search."""
    wanted = {"flow_runs": {"id": {"any_": [str(run.id)]}}}
    with get_client(sync_client=True) as client:
        tasks = client.request("POST", "/task_runs/filter", json=wanted).json()
    return any(task["name"].startswith("search") for task in tasks)


def test_every_flow_loads_from_the_files_of_its_code_alone(tmp_path):
    """A training crashed in its worker: the bundle lacked the style sheet of the model card."""
    for name in code_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    flows = (
        "training.orchestration.flows, training.retraining.watch, training.evaluation.model_card"
    )
    command_output(sys.executable, "-c", f"import {flows}", cwd=tmp_path)


def test_a_run_fetches_its_code_from_the_bucket_and_leaves_its_result_there(tmp_path, monkeypatch):
    """The worker starts in an empty folder, so the code comes from the bucket. A missing bucket is
    named.
    """
    with gcs_emulator(tmp_path / "bucket") as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        with pytest.raises(WorkerError, match="FLOW_STORAGE: .*got gs://no-such-bucket/x"):
            upload_code(Settings(flow_storage="gs://no-such-bucket/x"))
        settings = Settings(flow_storage="gs://tests/prefect")
        upload_code(settings)
        stored = tmp_path / "bucket" / ".cloudstorage" / "tests" / "prefect"
        kept = stored / "code" / code_digest()
        assert {p.relative_to(kept) for p in kept.rglob("*") if p.is_file()} == set(code_files())
        environ = {
            "FLOW_STORAGE": settings.flow_storage,
            "EVIDENTLY_ADDRESS": f"http://127.0.0.1:{free_port()}",
            "WATCH_PERIOD_S": "3600",
        }
        with working(tmp_path, **environ) as log, get_client(sync_client=True) as client:
            watch = UUID(deployments()["watch"]["id"])
            state = wait_for_end(client.create_flow_run_from_deployment(watch), 180)
    printed = log.read_text("utf-8")
    assert state.is_failed() and "ConnectionError" in str(state.message), printed
    assert "/remote-file-system-income-code/training/retraining/watch.py" in printed


@pytest.mark.parametrize(
    ("error", "tries"), [(ConnectionError("reset"), 2), (ValueError("a bug"), 1)]
)
def test_a_task_is_retried_only_after_a_transient_error(error, tries):
    seen = []

    @io_step
    def flaky() -> int:
        seen.append(1)
        if len(seen) < 2:
            raise error
        return len(seen)

    @flow(name="tries")
    def run() -> None:
        flaky.with_options(retry_delay_seconds=0)(return_state=True)

    run()
    assert len(seen) == tries


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise loads all its plugins
def test_a_run_whose_machine_died_is_reported_to_notify_url_once(
    deployed, notifications, monkeypatch
):
    """The automation sets the state of such a run, so no hook runs. It once ended silently."""
    end_orphaned_runs()
    report_crashes()  # those of earlier tests
    notifications.clear()
    with get_client(sync_client=True) as client:

        def crash(deployment: str, message: str) -> FlowRun:
            run = client.create_flow_run_from_deployment(
                UUID(deployed[deployment]["id"]), tags=["x"]
            )
            client.set_flow_run_state(run.id, Running())
            client.set_flow_run_state(run.id, Crashed(message=message))
            return run

        silent = crash("train", NO_HEARTBEAT)
        crash("train", "a process that ended reports itself")
        crash("watch", NO_HEARTBEAT)
        address = os.environ["NOTIFY_URL"]
        monkeypatch.setenv("NOTIFY_URL", f"json://127.0.0.1:{free_port()}")
        report_crashes()  # no receiver got it
        monkeypatch.setenv("NOTIFY_URL", address)
        for _ in range(2):
            report_crashes()
        assert set(client.read_flow_run(silent.id).tags) >= {"x", REPORTED}
    (notification,) = notifications
    assert f"flow train, run {silent.name}: crashed" in notification["title"]
    assert notification["message"].strip() == NO_HEARTBEAT


def test_all_flows_but_watch_are_reported():
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    assert {one["name"] for one in content["deployments"]} == {*FLOWS, "watch"}
