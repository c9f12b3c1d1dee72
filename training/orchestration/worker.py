"""The worker: makes the deployments of `prefect.yaml` and runs what is due, each run a process.

The flows' code and what they return are kept in a bucket (FLOW_STORAGE): a run fetches the code
that its deployment was made with, so that a new version of it needs a deployment, not an image.
"""

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import yaml
from prefect import get_client
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
from training.data.bucket import GCSFS, storage_options
from training.orchestration.tasks import PrefectUnavailable, find_prefect
from training.settings import Settings
from training.code_bundle import ROOT, code_digest, code_files

SERVER_WAIT_S = 120
POOL = "income"
CODE_BLOCK, RESULTS_BLOCK = "income-code", "income-results"
DEPLOY_TIMEOUT_S = 120
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


class WorkerError(Exception):
    """The worker cannot start; the message names the setting and what happened."""


def run_worker(with_healthcheck: bool) -> None:
    """Deploys, then becomes Prefect's own worker.

    Raises WorkerError or PrefectUnavailable if a server is missing.
    """
    settings = read_settings(Settings)
    server = wait_for_server()
    keep_code(settings)
    make_pool()
    deployments = deploy(settings, server)
    drop_overdue_runs()
    end_orphaned_runs()
    # A slot for each deployment, which runs once at a time: no run takes the slot of another's.
    worker = [*PREFECT, "worker", "start", "--pool", POOL, "--limit", str(deployments)]
    worker += ["--install-policy", "never"]
    worker += ["--with-healthcheck"] if with_healthcheck else []
    os.execve(sys.executable, worker, os.environ | run_environment(settings, server))


def deploy(settings: Settings, server: str) -> int:
    """Make the deployments of `prefect.yaml`, with the settings' periods; return their number."""
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
        raise WorkerError("prefect.yaml could not be deployed: Prefect's reason is above")
    return len(content["deployments"])


def run_environment(settings: Settings, server: str) -> dict[str, str]:
    """What a run needs besides: its working folder is one of its own, and its results stay."""
    census = settings.census_folder
    return GCSFS | {
        "PREFECT_API_URL": server,
        "DATA_DIR": str(Path(settings.data_dir).resolve()),
        "TRAINING_STORE": settings.store_address,
        "FEED": settings.feed_address,
        "CENSUS_DATA_DIR": str(census.resolve()) if census else "",
        # A run fetched before it is due would hold the one slot of its deployment.
        "PREFECT_WORKER_PREFETCH_SECONDS": "0",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": f"remote-file-system/{RESULTS_BLOCK}",
    }


def keep_code(settings: Settings) -> None:
    """Puts the code under its digest, and names it and the results' place to Prefect.

    A deployment made while a run fetches its code does not change what that run gets.
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
            f"FLOW_STORAGE={settings.flow_storage}: the flows' code cannot be written there:"
            f" {err or type(err).__name__}. Name a bucket that exists"
        ) from err
    code.save(CODE_BLOCK, overwrite=True)
    results = RemoteFileSystem(basepath=f"{root}/results", settings=options)
    results.save(RESULTS_BLOCK, overwrite=True)


def make_pool() -> None:
    """The pool of process runs, where there is none yet."""
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template)
        client.create_work_pool(pool, overwrite=True)


def drop_overdue_runs() -> None:
    """Removes scheduled runs that came due while nobody ran them: one answer now is enough."""
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
    """Set the pool's runs that count as running to Crashed: their worker has died, or its machine.

    Each of them would hold the slot of its deployment. A pool has one worker, which starts now.
    """
    states = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    orphaned = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    crashed: State[Any] = Crashed(message="the worker that ran it, or its machine, was stopped")
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=orphaned, work_pool_filter=pool):
            client.set_flow_run_state(run.id, crashed)


def wait_for_server() -> str:
    """The address of Prefect's server, once it answers: both may be started at once.

    Raises WorkerError, or PrefectUnavailable if it does not answer.
    """
    try:
        address = find_prefect()
    except PrefectUnavailable as err:
        print(f"{err}; looking for it for {SERVER_WAIT_S} s", file=sys.stderr, flush=True)
        address = find_prefect(SERVER_WAIT_S)
    if not address:
        raise WorkerError("PREFECT_API_URL is not set: it is Prefect's address, http://.../api")
    return address
