"""A Prefect flow that polls the drift verdict and starts `train` if `policy` decides so.

The verdict comes from `GET /drift` of the Evidently service. Each decision is written to the ledger
in MLflow (`python -m training decisions`). Before that, the flow acts on the test of a version
(`GET /shadow`) and on the metrics of the prediction service. The flow keeps no state: Prefect knows
the started trainings, MLflow their promotions. Each run is a process of its own, and most runs end
early, so slow imports are local.
"""

import time
from datetime import UTC, datetime
from typing import Any, cast

import requests
from prefect import Flow, flow, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger

from config.model_registry import CHALLENGER
from config.runtime.settings import read_settings
from training.evaluation.serving_bounds import has_problem, read_served
from training.orchestration.crashes import report_crashes
from training.registry.serving import fetch
from training.retraining.policy import BUDGET_PERIOD_S, Cause, Facts, cause_of, decide
from training.settings import Settings

DRIFT_TAG = "drift"
TRAIN_DEPLOYMENT = "train/train"
KEY_PERIOD_S = 3600  # after it, the same facts can start a training again
MAX_RUN_S = 6 * 3600  # an older run without an end was lost


def notify_first_failure(failed: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    """Notify of a failed run, unless the run before it failed too; a hook of flows.

    `watch` runs often, so each later failure of a series would be another message.
    """
    # pylint: disable-next=import-outside-toplevel
    from training.orchestration.tasks import ENDED, FAILURES, first_run, notify_failure

    former = first_run(failed.name, ENDED, FlowRunSort.END_TIME_DESC, excluded=run)
    if former is None or former.state_type not in FAILURES:
        notify_failure(failed, run, state)


NOTIFY: dict[str, Any] = {
    "on_failure": [notify_first_failure],
    "on_crashed": [notify_first_failure],
}


@flow(name="watch", persist_result=False, **NOTIFY)
def watch() -> str:
    """Start a training if there is a cause and no objection; return the decision in words.

    Reports crashed runs before that, and acts on the shadow test and on the figures of serving. The
    run fails if the drift verdict is unavailable.
    """
    settings, log = read_settings(Settings), get_run_logger()
    report_crashes()
    follow_shadow(settings, log)
    guard_serving(settings, log)
    verdict = fetch(settings.evidently_address, "drift").json()
    cause = cause_of(verdict)
    if cause is None:
        outcome = f"no training: the verdict of the monitoring is {verdict['verdict']}"
    else:
        outcome = act(cause, settings)
    log.info("watch_done outcome=%r", outcome)
    return outcome


def follow_shadow(settings: Settings, log: Any) -> None:
    """Carry out the verdict of the shadow test, if there is one; `log` is a logger."""
    try:
        state = fetch(settings.evidently_address, "shadow").json()
    except requests.RequestException as err:
        log.warning("shadow_unavailable error=%r", str(err))
        return
    if state["kind"] and state["verdict"]:
        # pylint: disable-next=import-outside-toplevel
        from training.retraining.verdicts import carry_out

        if outcome := carry_out(state, settings):
            log.warning("shadow_test_ended outcome=%r", outcome)


def guard_serving(settings: Settings, log: Any) -> None:
    """Undo a promotion if the new version has too many errors or is too slow."""
    try:
        served = read_served(fetch(settings.prediction_address, "metrics").text)
    except requests.RequestException as err:
        log.warning("metrics_unavailable error=%r", str(err))
        return
    if has_problem(served):
        # pylint: disable-next=import-outside-toplevel
        from training.retraining.verdicts import undo_by_figures

        if outcome := undo_by_figures(served, settings):
            log.warning("shadow_test_ended outcome=%r", outcome)


def act(cause: Cause, settings: Settings) -> str:
    """Decide, start a training if decided, and write the decision to the ledger."""
    # pylint: disable-next=import-outside-toplevel
    from training.registry.mlflow_registry import Registry

    registry = Registry(settings.mlflow_tracking_uri)
    facts, now = find_facts(registry, cause.since, settings), time.time()
    decision = decide(cause, facts, settings, now)
    tags = {"rule": decision.rule, "version": str(cause.version)}
    outcome = "no training"
    if decision.train:
        tags["flow_run"] = start(cause, settings, start_key(facts, now)).name
        outcome = f"training started: flow run {tags['flow_run']}"
    registry.ledger.write_decision(tags, {"cause": cause.what, "why": decision.why})
    return f"{outcome}: {cause.what}; {decision.why}"


def start_key(facts: Facts, now: float) -> str:
    """Return the idempotency key: Prefect starts one training for concurrent decisions."""
    newest = max(facts.started, default=0.0)
    return f"drift-{facts.production}-{newest:.0f}-{now // KEY_PERIOD_S:.0f}"


def start(cause: Cause, settings: Settings, key: str) -> FlowRun:
    """Start a training and return its flow run, or the existing one with the same key."""
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


def find_facts(registry: Any, since: float, settings: Settings) -> Facts:
    """Return the facts for the rules, with labelled rows since a Unix time.

    registry: a `mlflow_registry.Registry`.
    """
    now = time.time()
    runs = drift_runs(now - BUDGET_PERIOD_S)
    started = tuple(at.timestamp() for run in runs if (at := run.expected_start_time))
    version = registry.production()
    promoted = registry.newest_promoted(version)
    promoted_at = promoted.creation_timestamp / 1000 if promoted else 0.0
    running = [
        run.name
        for run, at in zip(runs, started, strict=True)
        if not (run.state and run.state.is_final()) and at > now - MAX_RUN_S
    ]
    return Facts(
        production=str(version.version) if version else None,
        # A training sees the labels that came before its start, promoted or not.
        fresh_labels=count_fresh_labels(since, max([promoted_at, *started]), settings),
        started=started,
        unpromoted=sum(at > promoted_at for at in started),
        running=next(iter(running), None),
        tested=str(tested.version) if (tested := registry.named(CHALLENGER)) else None,
    )


def drift_runs(since: float) -> list[FlowRun]:
    """Return the trainings that drift started since a Unix time, newest first."""
    query = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[DRIFT_TAG]),
        expected_start_time=FlowRunFilterExpectedStartTime(
            after_=cast(Any, datetime.fromtimestamp(since, UTC))  # Pydantic converts it
        ),
    )
    order = FlowRunSort.START_TIME_DESC
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=query, sort=order, limit=100)


def count_fresh_labels(since: float, seen_until: float, settings: Settings) -> int:
    """Return the number of rows since `since` whose labels came after `seen_until`.

    Both are Unix times. Labels may be a month late, and old rows do not show the change.
    """
    # pylint: disable=import-outside-toplevel
    from training.data.assemble import count_ingested
    from training.data.feedback import count_labelled
    from training.data.storage import Folder
    from training.data.store import Store

    ingested = count_ingested(Store(Folder(settings.store_address)), since, seen_until)
    logged = count_labelled(settings, since, seen_until) if settings.mongodb_address else 0
    return ingested + logged
