"""The worker: creates the deployments of `prefect.yaml` and runs each due run in a process.

FLOW_STORAGE has the flows' code and results. A run downloads the code of its deployment, so new
code needs a new deployment, but no new image.
"""

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import yaml
from prefect import get_client
from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.filesystems import RemoteFileSystem
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

from config.runtime.settings import read_settings
from training.data.storage import GCSFS, storage_options
from training.errors import ExpectedError
from training.orchestration.crashes import NO_HEARTBEAT, SILENCE_S, WORKER_STOPPED
from training.orchestration.tasks import PrefectUnavailable, find_prefect
from training.settings import Settings, absolute
from training.code_bundle import ROOT, code_digest, code_files

POOL = "income"
CODE_BLOCK, RESULTS_BLOCK = "income-code", "income-results"
DEPLOY_TIMEOUT_S = 120
HEARTBEAT_S = 30  # between two heartbeats of a run; Prefect accepts nothing shorter
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
SILENT_RUNS = "income-silent-runs"  # automation of Prefect
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


class WorkerError(ExpectedError):
    """The worker cannot start; the message names the setting and the reason."""


def run_worker(with_healthcheck: bool, server_wait_s: float) -> None:
    """Create the deployments, then replace this process by Prefect's worker.

    Raises WorkerError or PrefectUnavailable if a server is unavailable.
    """
    settings = read_settings(Settings)
    server = wait_for_server(server_wait_s)
    upload_code(settings)
    create_pool()
    deployments = deploy(settings, server)
    crash_silent_runs()
    drop_overdue_runs()
    end_orphaned_runs()
    # Each deployment runs once at a time, so each has a slot.
    program = "training.orchestration.exporter" if settings.metrics_port else "prefect"
    worker = [sys.executable, "-m", program, "--no-prompt", "worker", "start"]
    worker += ["--pool", POOL, "--limit", str(deployments), "--install-policy", "never"]
    worker += ["--with-healthcheck"] if with_healthcheck else []
    os.execve(sys.executable, worker, os.environ | run_environment(settings, server))


def deploy(settings: Settings, server: str) -> int:
    """Create the deployments of `prefect.yaml`, with the settings' periods; return their number."""
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    minutes = settings.train_period_minutes
    seconds = {"train": minutes and minutes * 60, "watch": settings.watch_period_s}
    for deployment in content["deployments"]:
        if period := seconds.get(deployment["name"]):
            deployment["schedules"] = [{"interval": period}]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(content, file)
        file.flush()
        command = [*PREFECT, "deploy", "--all", "--prefect-file", file.name]
        env = os.environ | {"PREFECT_API_URL": server}
        done = subprocess.run(command, cwd=ROOT, env=env, check=False, timeout=DEPLOY_TIMEOUT_S)
    if done.returncode:
        raise WorkerError("prefect.yaml: deployment failed. Prefect's message is above.")
    return len(content["deployments"])


def run_environment(settings: Settings, server: str) -> dict[str, str]:
    """Return the environment of runs, with absolute paths: each run has its own working folder."""
    census = settings.census_folder
    return GCSFS | {
        "PREFECT_API_URL": server,
        "DATA_DIR": str(Path(settings.data_dir).resolve()),
        "TRAINING_STORE": settings.store_address,
        "FEED": settings.feed_address,
        "CENSUS_DATA_DIR": str(census.resolve()) if census else "",
        "CONTRACT": absolute(os.environ.get("CONTRACT", "")),
        "SOURCE": absolute(settings.source),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        # A run that is fetched early would hold the only slot of its deployment.
        "PREFECT_WORKER_PREFETCH_SECONDS": "0",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": f"remote-file-system/{RESULTS_BLOCK}",
    }


def upload_code(settings: Settings) -> None:
    """Upload the code under its digest, and save the addresses of code and results in Prefect.

    Because of the digest, a new deployment does not change the code that a run is downloading.
    """
    os.environ.update(GCSFS)
    options = storage_options()
    root = settings.flow_storage.rstrip("/")
    code = RemoteFileSystem(basepath=f"{root}/code/{code_digest()}", settings=options)
    try:
        for path in code_files():
            code.write_path(str(path), (ROOT / path).read_bytes())
    except Exception as err:  # each kind of storage has errors of its own
        raise WorkerError(
            f"FLOW_STORAGE: the flows' code cannot be written; got {settings.flow_storage}:"
            f" {err or type(err).__name__}. Set an existing bucket."
        ) from err
    code.save(CODE_BLOCK, overwrite=True)
    results = RemoteFileSystem(basepath=f"{root}/results", settings=options)
    results.save(RESULTS_BLOCK, overwrite=True)


def create_pool() -> None:
    """Create the work pool, or update it."""
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template)
        client.create_work_pool(pool, overwrite=True)


def crash_silent_runs() -> None:
    """Create the automation that sets a run without heartbeats to Crashed, or replace it.

    The run's machine or container is dead. Otherwise the run stays Running, so it holds the slot of
    its deployment, and `watch` starts no training.
    """
    automation = AutomationCore(
        name=SILENT_RUNS,
        description=f"Crash runs without a heartbeat for {SILENCE_S} seconds.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            after={HEARTBEAT},
            expect={HEARTBEAT, *ENDS},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_S),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=NO_HEARTBEAT)],
    )
    with get_client(sync_client=True) as client:
        for former in client.read_automations_by_name(SILENT_RUNS):
            client.delete_automation(former.id)
        client.create_automation(automation)


def drop_overdue_runs() -> None:
    """Remove scheduled runs that came due while no worker ran; the next run replaces them."""
    overdue = FlowRunFilter(
        tags=FlowRunFilterTags(all_=["auto-scheduled"]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(
            before_=cast(Any, datetime.now(UTC))  # Pydantic converts it
        ),
    )
    order = FlowRunSort.EXPECTED_START_TIME_ASC
    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(flow_run_filter=overdue, sort=order, limit=100):
            for run in runs:
                client.delete_flow_run(run.id)


def end_orphaned_runs() -> None:
    """Set running runs of the pool to Crashed: their worker died.

    Each of them would hold the slot of its deployment. The only worker of the pool is this one.
    """
    states = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    orphaned = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    crashed: State[Any] = Crashed(message=WORKER_STOPPED)
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=orphaned, work_pool_filter=pool):
            client.set_flow_run_state(run.id, crashed)


def wait_for_server(wait_s: float) -> str:
    """Return the address of Prefect's server once it responds; both may start at the same time.

    Raises WorkerError without an address, PrefectUnavailable after `wait_s` seconds.
    """
    try:
        address = find_prefect()
    except PrefectUnavailable as err:
        print(f"{err} Retrying for {wait_s} s.", file=sys.stderr, flush=True)
        address = find_prefect(wait_s)
    if not address:
        raise WorkerError("PREFECT_API_URL: not set; expected Prefect's address, http://.../api.")
    return address
