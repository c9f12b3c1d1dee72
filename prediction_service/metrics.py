"""The service's metrics: counted in each worker, summed over all of them when scraped.

With PROMETHEUS_MULTIPROC_DIR set (see `gunicorn_config`) every worker writes its counts to a file
there and any worker answers for all. What is a state of files, not of a worker, is looked up
at the scrape.
"""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from prediction_service.relay.progress import backlog, dead_letters, label_states
from prediction_service.journal import folder_bytes
from prediction_service.models.live_model import ServedModel

LATENCY_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)


class Metrics:
    """What the requests count, on a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        predictions = Counter(
            "income_predictions_total",
            "Answered records by predicted class (1: above 50,000 US dollars a year).",
            ["income_class"],
            registry=registry,
        )
        self.predictions_by_class = [predictions.labels("0"), predictions.labels("1")]
        self.latency = Histogram(
            "income_prediction_latency_seconds",
            "Time from the body's arrival to the committed answer of one /predict request.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.invalid_records = Counter(
            "income_invalid_records_total",
            "Records refused because they break the contract or are not JSON.",
            registry=registry,
        )
        self._requests = Counter(
            "income_requests_total",
            "Requests by endpoint and HTTP status.",
            ["endpoint", "status"],
            registry=registry,
        )
        self._by_outcome: dict[tuple[str, int], Counter] = {}
        self._workers = Gauge(
            "income_workers",
            "Living worker processes by the model version that they serve.",
            ["version"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._served: str | None = None

    def note_served(self, version: str) -> None:
        """Counts this worker as one that serves the version, and no other."""
        if self._served is not None:
            self._workers.labels(self._served).set(0)
        self._workers.labels(version).set(1)
        self._served = version

    def count_request(self, endpoint: str, status: int) -> None:
        """Counts one answered request."""
        counter = self._by_outcome.get((endpoint, status))
        if counter is None:
            counter = self._requests.labels(endpoint, str(status))
            self._by_outcome[endpoint, status] = counter
        counter.inc()

    def count_answers(
        self, n_requests: int, n_positive: int, n_records: int, seconds: float
    ) -> None:
        """Counts `/predict` requests that were answered together, and their records."""
        if n_positive:
            self.predictions_by_class[1].inc(n_positive)
        if n_positive < n_records:
            self.predictions_by_class[0].inc(n_records - n_positive)
        for _ in range(n_requests):
            self.latency.observe(seconds)


class StateCollector:
    """Gauges that are read from the model, the model folder and the journals at each scrape."""

    def __init__(self, served: ServedModel, journal_root: Path, sinks: tuple[str, ...]) -> None:
        self.served = served
        self.journal_root = journal_root
        self.sinks = sinks

    def collect(self) -> Iterator[Metric]:
        """The gauges, as prometheus_client asks for them."""
        yield self._model_info()
        yield self._refused()
        waiting = GaugeMetricFamily(
            "income_journal_backlog_rows",
            "Journalled events that a sink has not stored yet.",
            labels=["sink"],
        )
        for sink in self.sinks:
            waiting.add_metric([sink], backlog(self.journal_root, sink))
        yield waiting
        yield GaugeMetricFamily(
            "income_journal_bytes",
            "Disk used by the journals of all workers, bounded by JOURNAL_MAX_MB.",
            value=folder_bytes(self.journal_root),
        )
        refused = GaugeMetricFamily(
            "income_journal_dead_letters",
            "Journalled events that a sink refused for good, kept in relay.db.",
            labels=["sink"],
        )
        for sink, n_events in dead_letters(self.journal_root).items():
            refused.add_metric([sink], n_events)
        yield refused
        labels = GaugeMetricFamily(
            "income_feedback_labels",
            "Labels in MongoDB: matched to a prediction, pending, or conflicting with an earlier.",
            labels=["state"],
        )
        for state, n_labels in label_states(self.journal_root).items():
            labels.add_metric([state], n_labels)
        yield labels

    def _model_info(self) -> Metric:
        info = GaugeMetricFamily(
            "income_model_info",
            "1 for the model version that the answering worker serves.",
            labels=["version", "run_id", "data_source"],
        )
        if model := self.served.model:
            facts = model.facts
            info.add_metric(
                [model.version, facts.get("run_id", ""), facts.get("data_source", "")], 1
            )
        return info

    def _refused(self) -> Metric:
        gauge = GaugeMetricFamily(
            "income_model_version_refused",
            "1 for a version that the registry names and this service refuses to serve.",
            labels=["version"],
        )
        if refusal := self.served.refusal():
            gauge.add_metric([refusal.version], 1)
        return gauge


def exposition(metrics: Metrics, state: StateCollector, multiprocess_dir: str | None) -> bytes:
    """All metrics in Prometheus' text format, counts summed over the workers if there are any."""
    scraped = CollectorRegistry()
    if multiprocess_dir:
        MultiProcessCollector(scraped, multiprocess_dir)
    else:
        scraped.register(metrics.registry)
    scraped.register(state)
    return generate_latest(scraped)
