"""Prefect's worker, with figures about trainings and promotions for Prometheus.

The worker becomes this process if METRICS_PORT is set. Each scrape asks Prefect's server and the
ledger in MLflow, so a restart changes no figure.
"""

import runpy
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.runtime.settings import read_settings
from training.orchestration.tasks import ENDED, FAILURES, first_run
from training.registry.mlflow_registry import Registry
from training.settings import Settings

RECENT_S = 300.0  # `watch` repeats its decision every 30 seconds


class Trainings(NamedTuple):
    """The state of trainings and promotions. Times are Unix times."""

    running_since: float | None  # start of the oldest one that runs
    last_failed: bool | None  # None before the first one has ended
    blocked_by: str | None  # rule by which drift starts no training now
    undone_at: float | None = None  # the last promotion that was undone


class TrainingCollector(Collector):
    """Collects the gauges at each scrape."""

    def __init__(self, read: Callable[[], Trainings]) -> None:
        self.read = read

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering asks no server."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges. Errors of servers fail the scrape."""
        found = self.read()
        since = found.running_since
        yield GaugeMetricFamily(
            "income_training_age_seconds",
            "Seconds since the start of the running training; 0 without one.",
            value=0.0 if since is None else time.time() - since,
        )
        if found.last_failed is not None:
            yield GaugeMetricFamily(
                "income_training_failed",
                "1 if the last training that ended failed or crashed.",
                value=int(found.last_failed),
            )
        blocked = GaugeMetricFamily(
            "income_retraining_blocked",
            "1 for the rule by which drift starts no training now.",
            labels=["rule"],
        )
        if found.blocked_by:
            blocked.add_metric([found.blocked_by], 1)
        yield blocked
        if found.undone_at is not None:
            yield GaugeMetricFamily(
                "income_promotion_undone_timestamp_seconds",
                "Unix time at which a promotion was last undone.",
                value=found.undone_at,
            )


def read_trainings(registry: Registry, now: float) -> Trainings:
    """Return the state of trainings in Prefect and in the ledger."""
    running = first_run("train", (StateType.RUNNING,), FlowRunSort.START_TIME_ASC)
    ended = first_run("train", ENDED, FlowRunSort.END_TIME_DESC)
    since = running.start_time if running else None
    decision = registry.ledger.last_decision()
    is_blocked = decision and decision.rule != "train" and decision.until > now - RECENT_S
    return Trainings(
        since.timestamp() if since else None,
        ended.state_type in FAILURES if ended else None,
        decision.rule if decision and is_blocked else None,
        registry.ledger.last_undone(),
    )


def main() -> None:
    """Serve the gauges, and run Prefect's command line with the arguments of this process."""
    settings = read_settings(Settings)
    registry, served = Registry(settings.mlflow_tracking_uri), CollectorRegistry()
    served.register(TrainingCollector(lambda: read_trainings(registry, time.time())))
    start_http_server(settings.metrics_port or 0, registry=served)
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
