"""The service's metrics: counted in each worker, summed over all workers when scraped.

With PROMETHEUS_MULTIPROC_DIR (see `gunicorn_config`) each worker writes its counts to a file in
that folder, so any worker can report all of them. Gauges of the journals and of the model folder
are read at each scrape.
"""

import collections
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from prediction_service.journal import Journal, folder_bytes
from prediction_service.models.live_model import LiveModel
from prediction_service.models.model_folder import REACHED
from prediction_service.relay.progress import (
    backlog,
    dead_letters,
    dropped_events,
    label_states,
    left_out_events,
    misconfigured_sinks,
)

Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)

NO_VERSION = "none"  # before the first model
LATENCY_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)


class FinishedRequest(NamedTuple):
    """A request whose response is ready."""

    finished_at: float  # Unix time in seconds
    seconds: float  # since its arrival
    request_id: str
    endpoint: str
    route: str
    status: int
    logged: Mapping[str, str]  # further fields of its log line


class Metrics:
    """Counters of one worker, in the registry that the caller passes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        predictions = Counter(
            "income_predictions_total",
            "Number of stored predictions by class (1: the positive label).",
            ["income_class"],
            registry=registry,
        )
        self.predictions_by_class = [predictions.labels("0"), predictions.labels("1")]
        self._latency = Histogram(
            "income_prediction_latency_seconds",
            "Seconds from a /predict request's arrival in the worker to its response, by version.",
            ["version"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.invalid_records = Counter(
            "income_invalid_records_total",
            "Number of records rejected because they break the contract or are not JSON.",
            registry=registry,
        )
        self._requests = Counter(
            "income_requests_total",
            "Number of requests by endpoint, HTTP status and live model version.",
            ["endpoint", "status", "version"],
            registry=registry,
        )
        self._workers = Gauge(
            "income_workers",
            "Number of running worker processes by their live model version.",
            ["version"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._live_version = NO_VERSION
        self._observe_latency = self._latency.labels(NO_VERSION).observe

    def set_live_version(self, version: str) -> None:
        """Count this worker and its requests under its live version, no longer the former one."""
        if self._live_version != NO_VERSION:
            self._workers.labels(self._live_version).set(0)
        self._workers.labels(version).set(1)
        self._observe_latency = self._latency.labels(version).observe
        self._live_version = version

    def count_requests(self, requests: list[FinishedRequest]) -> None:
        """Count finished requests."""
        outcomes = collections.Counter((one.endpoint, str(one.status)) for one in requests)
        for outcome, count in outcomes.items():
            self._requests.labels(*outcome, self._live_version).inc(count)
        for one in requests:
            if one.status == 200 and one.endpoint == "predict":
                self._observe_latency(one.seconds)

    def count_predictions(self, n_positive: int, n_records: int) -> None:
        """Count the stored predictions of `/predict` requests that were scored together."""
        if n_positive:
            self.predictions_by_class[1].inc(n_positive)
        if n_positive < n_records:
            self.predictions_by_class[0].inc(n_records - n_positive)


class StateCollector:
    """Gauges of the live model, the model folder and the journals, read at each scrape."""

    def __init__(self, live: LiveModel, journal: Journal, sinks: Mapping[str, float]) -> None:
        """`sinks`: the share of predictions that each sink gets, by its name."""
        self.live = live
        self.journal = journal
        self.sinks = sinks

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges, as prometheus_client asks for them."""
        yield self._model_info()
        yield self._rejected()
        yield from self._follower()
        yield self._by_sink(
            GaugeMetricFamily,
            "income_journal_backlog_rows",
            "Number of journalled events that a sink has not stored yet; expected, of a sample.",
            {sink: backlog(self.journal.root, sink, share) for sink, share in self.sinks.items()},
        )
        yield GaugeMetricFamily(
            "income_journal_bytes",
            "Bytes of the journals of all workers.",
            value=folder_bytes(self.journal.root),
        )
        yield GaugeMetricFamily(
            "income_journal_max_bytes",
            "Maximum bytes of the journals of all workers.",
            value=self.journal.max_bytes,
        )
        letters = GaugeMetricFamily(
            "income_journal_dead_letters",
            "Number of journalled events that a sink rejected; they are in relay.db.",
            labels=["sink"],
        )
        n_letters = dict.fromkeys(self.sinks, 0) | dead_letters(self.journal.root)
        for sink, n_events in n_letters.items():
            letters.add_metric([sink], n_events)
        yield letters
        yield self._by_sink(
            CounterMetricFamily,
            "income_journal_dropped",
            "Number of journalled events removed for lack of room before a sink had stored them.",
            dropped_events(self.journal.root),
        )
        yield self._by_sink(
            CounterMetricFamily,
            "income_journal_left_out",
            "Number of journalled predictions and labels outside of the sample that a sink gets.",
            left_out_events(self.journal.root),
        )
        yield self._by_sink(
            GaugeMetricFamily,
            "income_sink_misconfigured",
            "1 for a sink that rejects the relay: its address or a permission is wrong.",
            dict.fromkeys(misconfigured_sinks(self.journal.root), 1),
        )
        labels = GaugeMetricFamily(
            "income_feedback_labels",
            "Number of labels in MongoDB: matched to a prediction, pending, or conflicting.",
            labels=["state"],
        )
        for state, n_labels in label_states(self.journal.root).items():
            labels.add_metric([state], n_labels)
        yield labels

    def _by_sink(
        self, kind: type[Family], name: str, text: str, values: Mapping[str, int]
    ) -> Family:
        """Return a metric with a value for each configured sink, 0 by default."""
        family = kind(name, text, labels=["sink"])
        for sink in self.sinks:
            family.add_metric([sink], values.get(sink, 0))
        return family

    def _follower(self) -> Iterator[Metric]:
        folder = self.live.folder
        if (reported_at := folder.reported_at()) is not None:
            text = "Unix time of the follower's last report."
            yield GaugeMetricFamily("income_follower_report_timestamp_seconds", text, reported_at)
        if status := folder.status():
            text = "1 if the follower's last report says that it has reached MLflow."
            yield GaugeMetricFamily("income_registry_reached", text, status.registry == REACHED)

    def _model_info(self) -> Metric:
        info = GaugeMetricFamily(
            "income_model_info",
            "1 for the live model version of the worker that was scraped.",
            labels=["version", "run_id", "data_source"],
        )
        if model := self.live.model:
            facts = model.facts
            info.add_metric(
                [model.version, facts.get("run_id", ""), facts.get("data_source", "")], 1
            )
        return info

    def _rejected(self) -> Metric:
        gauge = GaugeMetricFamily(
            "income_model_version_rejected",
            "1 for a model version that the registry names and this service rejects.",
            labels=["version"],
        )
        if rejection := self.live.rejection():
            gauge.add_metric([rejection.version], 1)
        return gauge


def exposition(metrics: Metrics, state: StateCollector, multiprocess_dir: str | None) -> bytes:
    """Return all metrics in Prometheus' text format, summed over several workers."""
    scraped = CollectorRegistry()
    if multiprocess_dir:
        MultiProcessCollector(scraped, multiprocess_dir)
    else:
        scraped.register(metrics.registry)
    scraped.register(state)
    return generate_latest(scraped)
