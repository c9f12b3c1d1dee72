"""The way from drift to retraining: a Prefect flow that asks and, if need be, starts `train`.

Polls `GET /drift` of the Evidently service. Nothing is remembered here: whether drift started a
training lately is asked of Prefect itself. Each run is a process, so little is imported.
"""

import os
from datetime import UTC, timedelta
from typing import Any

import requests
from prefect import flow, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.types import DateTime

from config.settings import read_settings
from training.settings import Settings

DRIFT_TAG = "drift"
TRAIN_DEPLOYMENT = "train/train"
REQUEST_TIMEOUT_S = 10


@flow(name="watch", persist_result=False)
def watch() -> str:
    """Starts one training when drift is reported and none was started lately; the decision."""
    log = get_run_logger()
    settings = read_settings(Settings, os.environ)
    verdict = ask(settings.evidently_address)
    if not verdict.get("drifted"):
        decision = f"no training: state {verdict.get('state')}, no drift"
    elif started_lately(settings.watch_cooldown_s):
        decision = f"no training: drift, but one was started within {settings.watch_cooldown_s} s"
    else:
        run = run_deployment(
            TRAIN_DEPLOYMENT,
            parameters={
                "trigger": "drift",
                "data": "production",
                "force": True,
                "with_feedback": bool(settings.mongodb_address),
            },
            tags=[DRIFT_TAG],
            timeout=0,
            as_subflow=False,
        )
        assert isinstance(run, FlowRun)
        decision = f"training started: flow run {run.name}, share {verdict['share_drifted']:.2f}"
    log.info(decision)
    return decision


def ask(address: str) -> dict[str, Any]:
    """The drift verdict. An Evidently service that is away raises: the run shows it failed."""
    answer = requests.get(f"{address}/drift", timeout=REQUEST_TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()


def started_lately(cooldown_s: float) -> bool:
    """True if drift started a training within the cool-down."""
    since = DateTime.now(UTC) - timedelta(seconds=cooldown_s)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[DRIFT_TAG]),
                expected_start_time=FlowRunFilterExpectedStartTime(after_=since),
            ),
            sort=FlowRunSort.START_TIME_DESC,
            limit=1,
        )
    return bool(runs)
