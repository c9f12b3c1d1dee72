"""The deployments of the training part: `train` on a schedule and on demand, and `watch`."""

import os
import time
from datetime import timedelta

import requests
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import get_current_settings

from config.settings import read_settings
from training.flow import train
from training.settings import Settings
from training.watch import watch

SERVER_WAIT_S = 120

# A run that would have to wait is dropped: the next one asks the same question.
ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
)


def serve_deployments() -> None:
    """Serves `train` and `watch` until it is stopped. Raises TimeoutError without a server."""
    settings = read_settings(Settings, os.environ)
    wait_for_server()
    scheduled = train.to_deployment(
        name="train",
        interval=timedelta(minutes=settings.train_period_minutes),
        parameters={"trigger": "schedule", "data": "production"},
        concurrency_limit=ONE_AT_A_TIME,
    )
    watching = watch.to_deployment(
        name="watch",
        interval=timedelta(seconds=settings.watch_period_s),
        concurrency_limit=ONE_AT_A_TIME,
    )
    # Called outside an event loop, Prefect answers the deployments themselves.
    assert isinstance(scheduled, RunnerDeployment) and isinstance(watching, RunnerDeployment)
    serve(scheduled, watching, print_starting_message=False)


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
