"""The way from drift to retraining: a Prefect flow that asks and, if need be, starts `train`.

Polls `GET /drift` of the Evidently service. Where that gives cause for a training, `decisions` has
the rules, and each decision goes into a ledger in MLflow (`python -m training decisions`). Nothing
is remembered here: what was started is asked of Prefect, what came of it of MLflow. Each run is a
process of its own and most have nothing to do, so what takes long is imported where it is needed.
"""

import time
from datetime import UTC, datetime
from typing import Any, cast

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

from config.runtime.settings import read_settings
from training.retraining.policy import BUDGET_PERIOD_S, Cause, Facts, cause_of, decide
from training.settings import Settings

DRIFT_TAG = "drift"
TRAIN_DEPLOYMENT = "train/train"
REQUEST_TIMEOUT_S = 10
KEY_PERIOD_S = 3600  # then the same facts may lead to a training again, as when one was deleted
LONGEST_RUN_S = 6 * 3600  # a run of longer ago is one whose end nobody could tell


@flow(name="watch", persist_result=False)
def watch() -> str:
    """Starts a training if there is cause for one and no rule against it; the decision."""
    settings, log = read_settings(Settings), get_run_logger()
    verdict = ask(settings.evidently_address)
    cause = cause_of(verdict)
    if cause is None:
        said = f"no training: state {verdict['state']}, no cause"
    else:
        said = act(cause, settings)
    log.info(said)
    return said


def act(cause: Cause, settings: Settings) -> str:
    """Decides, starts what was decided, and writes it down."""
    from training.registry.mlflow_registry import (
        Registry,
    )  # pylint: disable=import-outside-toplevel

    registry = Registry(settings.mlflow_tracking_uri)
    facts, now = find_facts(registry, cause.since, settings), time.time()
    decision = decide(cause, facts, settings, now)
    what = {"rule": decision.rule, "version": str(cause.version)}
    done = "no training"
    if decision.train:
        what["flow_run"] = start(cause, settings, start_key(facts, now)).name
        done = f"training started: flow run {what['flow_run']}"
    registry.ledger.note_decision(what, {"cause": cause.what, "why": decision.why})
    return f"{done}: {cause.what}; {decision.why}"


def start_key(facts: Facts, now: float) -> str:
    """What two runs that decide at the same time have in common: Prefect starts one training."""
    newest = max(facts.started, default=0.0)
    return f"drift-{facts.production}-{newest:.0f}-{now // KEY_PERIOD_S:.0f}"


def start(cause: Cause, settings: Settings, key: str) -> FlowRun:
    """Starts the training; its flow run, which is the earlier one if the key is."""
    run = run_deployment(
        TRAIN_DEPLOYMENT,
        parameters={
            "trigger": "drift",
            "data": "production",
            "force": True,
            "with_feedback": bool(settings.mongodb_address),
            "recent_since": cause.since,
        },
        tags=[DRIFT_TAG],
        idempotency_key=key,
        timeout=0,
        as_subflow=False,
    )
    assert isinstance(run, FlowRun)
    return run


def ask(address: str) -> dict[str, Any]:
    """The drift verdict. An Evidently service that is away raises: the run shows it failed."""
    answer = requests.get(f"{address}/drift", timeout=REQUEST_TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()


def find_facts(registry: Any, since: float, settings: Settings) -> Facts:
    """What the rules need to know: of Prefect, a `registry.Registry` and labelled rows of since
    a Unix time.
    """
    now = time.time()
    runs = drift_runs(now - BUDGET_PERIOD_S)
    started = tuple(at.timestamp() for run in runs if (at := run.expected_start_time))
    version = registry.production()
    made_at = version.creation_timestamp / 1000 if version else 0.0
    open_ones = [
        run.name
        for run, at in zip(runs, started, strict=True)
        if not (run.state and run.state.is_final()) and at > now - LONGEST_RUN_S
    ]
    return Facts(
        production=str(version.version) if version else None,
        # A training may have seen what came before it began, whether or not it was promoted.
        fresh_labels=count_fresh_labels(since, max([made_at, *started]), settings),
        started=started,
        fruitless=sum(at > made_at for at in started),
        running=next(iter(open_ones), None),
    )


def drift_runs(since: float) -> list[FlowRun]:
    """The trainings that drift has started since a Unix time, newest first."""
    asked = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[DRIFT_TAG]),
        expected_start_time=FlowRunFilterExpectedStartTime(
            after_=cast(Any, datetime.fromtimestamp(since, UTC))  # Pydantic converts it
        ),
    )
    order = FlowRunSort.START_TIME_DESC
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=asked, sort=order, limit=100)


def count_fresh_labels(since: float, seen_until: float, settings: Settings) -> int:
    """Rows that a training would find recent, `since` a Unix time, and none has seen: their labels
    came after another.

    By both: labels may come a month late, and old rows do not show what has changed.
    """
    # pylint: disable=import-outside-toplevel
    from training.data.feedback import count_labelled
    from training.data.storage import open_folder
    from training.data.assemble import count_ingested
    from training.data.store import Store

    ingested = count_ingested(Store(open_folder(settings.store_address)), since, seen_until)
    logged = count_labelled(settings, since, seen_until) if settings.mongodb_address else 0
    return ingested + logged
