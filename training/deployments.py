"""The deployments of the training part: `train` on a schedule and on demand, `watch`, `retain`."""

import os
import time
from datetime import UTC, timedelta
from typing import Any

import requests
from prefect import Flow, get_client, serve
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import get_current_settings
from prefect.types import DateTime

from config.settings import read_settings
from training.flow import retain, train
from training.settings import Settings
from training.watch import watch

SERVER_WAIT_S = 120

MOST_RUNS = 2  # one training beside one watch


def serve_deployments() -> None:
    """Serves every deployment until it is stopped. Raises TimeoutError without a server."""
    settings = read_settings(Settings, os.environ)
    wait_for_server()
    drop_overdue_runs()
    scheduled = deployment(
        train,
        interval=timedelta(minutes=settings.train_period_minutes),
        parameters={"trigger": "schedule", "data": "production"},
    )
    watching = deployment(watch, interval=timedelta(seconds=settings.watch_period_s))
    retaining = deployment(retain, interval=timedelta(days=1))
    # No concurrency limit on the server: a run that was killed would keep its place there. And no
    # pause at the end: the server may be gone by then, and the next start schedules anew.
    serve(
        scheduled,
        watching,
        retaining,
        pause_on_shutdown=False,
        print_starting_message=False,
        limit=MOST_RUNS,
    )


def deployment(of: Flow[..., Any], **options: Any) -> RunnerDeployment:
    """A deployment that is named as its flow."""
    made = of.to_deployment(name=of.name, **options)
    assert isinstance(made, RunnerDeployment)  # no coroutine, outside an event loop
    return made


def drop_overdue_runs() -> None:
    """Removes scheduled runs that came due while nobody served them: one answer now is enough."""
    overdue = FlowRunFilter(
        tags=FlowRunFilterTags(all_=["auto-scheduled"]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=DateTime.now(UTC)),
    )
    order = FlowRunSort.EXPECTED_START_TIME_ASC
    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(flow_run_filter=overdue, sort=order, limit=100):
            for run in runs:
                client.delete_flow_run(run.id)


def wait_for_server() -> None:
    """Returns when Prefect's server answers: both may be started at once, in any order."""
    address = get_current_settings().api.url
    deadline = time.monotonic() + SERVER_WAIT_S
    while time.monotonic() < deadline:
        try:
            requests.get(f"{address}/health", timeout=5).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.5)
    raise TimeoutError(f"no Prefect server at PREFECT_API_URL={address} in {SERVER_WAIT_S} s")
