"""Retries of tasks, the turn for promotion, and notification of failed flow runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from apprise import Apprise
from prefect import Flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.logging import get_run_logger
from prefect.logging.loggers import flow_run_logger
from prefect.settings import get_current_settings

from config.runtime.settings import read_settings
from training.data.errors import SourceUnavailable
from training.data.feedback import FeedbackUnavailable
from training.data.storage import FilesUnavailable
from training.errors import ExpectedError
from training.registry.mlflow_registry import RegistryUnavailable, is_transient
from training.settings import Settings

PROMOTION = "income-promotion"  # concurrency limit of Prefect
TURN_TIMEOUT_S = 1800
LEASE_S = 120  # after it, a killed run no longer holds the turn
RETRY_DELAYS_S = [2.0, 10.0, 60.0]
FAILURES = (StateType.FAILED, StateType.CRASHED)
ENDED = (StateType.COMPLETED, *FAILURES)
TRANSIENT_ERRORS = (
    SourceUnavailable,
    RegistryUnavailable,
    FilesUnavailable,
    FeedbackUnavailable,
    ConnectionError,
    TimeoutError,
    requests.RequestException,
)


class PrefectUnavailable(ExpectedError):
    """Prefect's server is unavailable; the message names the setting."""


def find_prefect(wait_s: float = 0) -> str:
    """Return the address of Prefect's server, or an empty text if a run starts its own.

    Raises PrefectUnavailable if it does not respond within `wait_s` seconds.
    """
    address = get_current_settings().api.url
    deadline = time.monotonic() + wait_s
    while address:
        try:
            requests.get(f"{address}/health", timeout=5).raise_for_status()
            break
        except requests.RequestException as err:
            if time.monotonic() >= deadline:
                raise PrefectUnavailable(
                    f"PREFECT_API_URL: Prefect does not respond; got {address}. Start it"
                    f" (`make demo KEEP=1` runs one) or set its address. {err}"
                ) from err
            time.sleep(0.5)
    return address or ""


def is_transient_failure(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Return True if a task failed with a transient error, which a retry may fix."""
    err = state.result(raise_on_failure=False)
    return isinstance(err, TRANSIENT_ERRORS) or is_transient(err)


step = task(cache_policy=NO_CACHE, persist_result=False)
io_step = task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=is_transient_failure,
)


@contextmanager
def promotion_turn() -> Iterator[None]:
    """Hold the turn for the gate and promotion, so that two runs cannot replace one champion.

    Raises TimeoutError if another run holds it for TURN_TIMEOUT_S.
    """
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(PROMOTION, 1)
    with concurrency(PROMOTION, timeout_seconds=TURN_TIMEOUT_S, lease_duration=LEASE_S):
        yield


def first_run(
    flow_name: str,
    states: tuple[StateType, ...],
    order: FlowRunSort,
    excluded: FlowRun | None = None,
) -> FlowRun | None:
    """Return the first run of a flow in one of these states, or None."""
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
        id=FlowRunFilterId(not_any_=[excluded.id]) if excluded else None,
    )
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
            flow_run_filter=wanted,
            sort=order,
            limit=1,
        )
    return found[0] if found else None


def notify_failure(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    """Send the message of a failed or crashed flow run to NOTIFY_URL, if set; a hook of flows."""
    if not notify(flow.name, run, state):
        flow_run_logger(run, flow).warning("notification_failed setting=NOTIFY_URL")


def notify(flow_name: str, run: FlowRun, state: State[Any]) -> bool:
    """Send the message of a failed or crashed flow run; return False if that fails."""
    what = f"flow {flow_name}, run {run.name}: {state.type.value.lower()}"
    return send(what, state.message or "")


def announce(what: str, body: str) -> None:
    """Send a message from a flow run, and log a failure."""
    if not send(what, body):
        get_run_logger().warning("notification_failed setting=NOTIFY_URL")


def send(what: str, body: str) -> bool:
    """Send a message to NOTIFY_URL; return False if that fails, and True without NOTIFY_URL."""
    settings = read_settings(Settings)
    if not settings.notify_url:
        return True
    title = f"Income prediction: {what}"
    return bool(Apprise(settings.notify_url).notify(title=title, body=body))
