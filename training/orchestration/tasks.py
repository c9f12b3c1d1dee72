"""How flow runs behave: what is tried again, who waits for whom, who is told of a failure."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from apprise import Apprise
from prefect import Flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.logging.loggers import flow_run_logger
from prefect.settings import get_current_settings

from config.runtime.settings import read_settings
from training.data.census import CensusUnavailable
from training.data.feedback import FeedbackUnavailable
from training.data.storage import FilesUnavailable
from training.registry.mlflow_registry import RegistryUnavailable, may_pass
from training.settings import Settings

PROMOTION = "income-promotion"
TURN_TIMEOUT_S = 1800
PAUSES_S = [2.0, 10.0, 60.0]
# What the world does to a step; everything else would only fail again.
OUTSIDE = (
    CensusUnavailable,
    RegistryUnavailable,
    FilesUnavailable,
    FeedbackUnavailable,
    ConnectionError,
    TimeoutError,
    requests.RequestException,
)
LEASE_S = 120  # a run that was killed in its turn keeps the others waiting no longer


class PrefectUnavailable(Exception):
    """Prefect's server does not answer; the message names the setting."""


def find_prefect(wait_s: float = 0) -> str:
    """The address of Prefect's server, once it answers; empty where a run brings its own.

    Raises PrefectUnavailable if it does not answer within `wait_s` seconds.
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
                    f"Prefect does not answer at PREFECT_API_URL={address}: start it (make demo"
                    f" KEEP=1 runs one) or set the address. {err}"
                ) from err
            time.sleep(0.5)
    return address or ""


def io_failed(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """True if a step failed for something outside, so that trying again may help."""
    err = state.result(raise_on_failure=False)
    return isinstance(err, OUTSIDE) or may_pass(err)


step = task(cache_policy=NO_CACHE, persist_result=False)
io_step = task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(PAUSES_S),
    retry_delay_seconds=PAUSES_S,
    retry_condition_fn=io_failed,
)


@contextmanager
def promotion_turn() -> Iterator[None]:
    """Holds the one place for judging and promoting: two runs must not replace one champion.

    Raises TimeoutError if another run holds it for too long.
    """
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):  # by another run
        client.upsert_global_concurrency_limit_by_name(PROMOTION, 1)
    with concurrency(PROMOTION, timeout_seconds=TURN_TIMEOUT_S, lease_duration=LEASE_S):
        yield


def tell_of_failure(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    """Sends a failed or crashed run to NOTIFY_URL, if there is one; a hook of the flows."""
    settings = read_settings(Settings)
    if not settings.notify_url:
        return
    title = f"Income prediction: flow {flow.name}, run {run.name}: {state.type.value.lower()}"
    sent = Apprise(settings.notify_url).notify(title=title, body=state.message or "")
    if not sent:
        flow_run_logger(run, flow).warning("the failure could not be sent to NOTIFY_URL")
