"""Runs that are crashed from outside, because the death of their machine runs no hook.

Prefect's automation and a restarted worker set the state, and `watch` reports it. The module has
few imports, as `watch` starts every 30 seconds.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType

from config.runtime.settings import read_settings
from training.settings import Settings

SILENCE_S = 180  # without a heartbeat until a run is crashed; Prefect's server restarts in less
NO_HEARTBEAT = f"no heartbeat for {SILENCE_S} seconds"
WORKER_STOPPED = "its worker stopped"
FLOWS = ["train", "score", "promote", "ingest", "retain"]  # not `watch`: its next run comes soon
REPORTED = "crash-reported"  # tag
REPORT_PERIOD = timedelta(days=1)


def report_crashes() -> None:
    """Send the message of each such run of the last day to NOTIFY_URL, if set, once."""
    if not read_settings(Settings).notify_url:
        return
    since = datetime.now(UTC) - REPORT_PERIOD
    crashed = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
        end_time=FlowRunFilterEndTime(after_=cast(Any, since)),  # Pydantic converts it
    )
    reported = FlowFilter(name=FlowFilterName(any_=FLOWS))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_filter=reported, flow_run_filter=crashed):
            state = run.state
            if not state or state.message not in (NO_HEARTBEAT, WORKER_STOPPED):
                continue  # its own process, or its worker, has reported it
            if REPORTED not in run.tags:
                # pylint: disable-next=import-outside-toplevel
                from training.orchestration.tasks import notify

                if notify(client.read_flow(run.flow_id).name, run, state):
                    client.update_flow_run(run.id, tags=[*run.tags, REPORTED])
