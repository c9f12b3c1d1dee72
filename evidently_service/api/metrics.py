"""Expose the window and its latest measurement as Prometheus metrics, read at each scrape.

No worker counts anything in memory. So all workers return the same values, and a restart resets
nothing. A figure that does not exist now (no verdict, no labels) is absent, not zero.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.records import (
    STATES,
    Confusion,
    Estimate,
    FeatureQuality,
    Interval,
    LabelCounts,
    Measurement,
    Quality,
    Segment,
)
from evidently_service.store.window import Window

QUALITY_HELP = {
    "rows": "Labelled predictions in the measured quality.",
    "accuracy": "Share of labelled predictions with the right class.",
    "precision": "Share of predictions of >50K that are right.",
    "recall": "Share of labels of >50K that are predicted.",
    "f1": "Harmonic mean of precision and recall of >50K.",
    "roc_auc": "Area under the ROC curve of the predicted probability.",
    "log_loss": "Log loss of the predicted probability, in nats.",
    "calibration_error": "Mean distance of probability and observed rate over 15 bins.",
    "calibration_excess": "Mean probability minus observed share of >50K; above 0 is too high.",
}
Samples = Iterable[tuple[Iterable[str], float]]


class WindowCollector(Collector):
    """Collects the window's metrics for a registry."""

    def __init__(self, window: Window, monitoring: Monitoring) -> None:
        self.window = window
        self.monitoring = monitoring

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not read the window."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all current metrics."""
        measurement = self.window.latest()
        yield from self._events(measurement)
        yield _family(
            "measurement_state",
            "1 for the state of the latest measurement.",
            "state",
            samples=_states(measurement),
        )
        if run := self.window.last_run():
            text = "Unix time of the last run of the measure process, failed or not."
            yield _gauge("measurement_run_timestamp_seconds", text, run.at)
            text = "1 if the last run of the measure process failed."
            yield _gauge("measurement_failed", text, 1 if run.error else 0)
        text = "Expected false alarms in 30 days, of all columns, without drift."
        yield _gauge("false_alarm_budget_per_month", text, self.monitoring.false_alarms_per_month)
        if measurement:
            yield from _measured(measurement)
            yield from _performance(measurement)

    def _events(self, measurement: Measurement | None) -> Iterator[Metric]:
        counters = self.window.counters()
        rows = min(counters.ingested, self.monitoring.window_rows)
        if measurement and self.monitoring.window_s:  # rows then leave the window by their age
            rows = measurement.window.rows
        yield _gauge("window_rows", "Predictions in the window.", rows)
        text = "Predictions ever stored, pruned ones included."
        yield CounterMetricFamily("income_window_ingested", text, counters.ingested)
        text = "Duplicate predictions that were received and not stored."
        yield CounterMetricFamily("income_window_duplicates", text, counters.duplicates)
        counts = self.window.label_counts()
        samples = [([state], getattr(counts, state)) for state in LabelCounts.__struct_fields__]
        yield _family("labels", "Stored labels by state.", "state", samples=samples)


def _states(measurement: Measurement | None) -> Samples:
    current = measurement.state if measurement else "not_measured"
    return [([state], int(state == current)) for state in STATES]


def _measured(measurement: Measurement) -> Iterator[Metric]:
    if measurement.measured_at is not None:
        text = "Unix time of the last successful measurement."
        yield _gauge("measurement_timestamp_seconds", text, measurement.measured_at)
    if measurement.duration_s is not None:
        text = "Duration of the latest measurement in seconds."
        yield _gauge("measurement_duration_seconds", text, measurement.duration_s)
    if (version := measurement.model_version) is not None:
        text = "1 for the version of the reference data."
        yield _family("reference_info", text, "model_version", samples=[([version], 1)])
    if measurement.data_quality:
        yield _data_quality(measurement.data_quality)
    if measurement.segments:
        yield from _segments(measurement.segments)
    if measurement.label_coverage is not None:
        text = "Share of the window's predictions with a label."
        yield _gauge("label_coverage_ratio", text, measurement.label_coverage)
    if delays := measurement.label_delay_s:
        text = "Seconds from prediction time to label time of the newest labels, by quantile."
        yield _family("label_delay_seconds", text, "quantile", samples=_by_key(delays))
    if measurement.state == "ok":
        yield from _verdict(measurement)


def _verdict(measurement: Measurement) -> Iterator[Metric]:
    score = "Score over threshold in the sliding window; above 1 may be chance or drift."
    persistent = "1 if the drift verdict holds for the column: judged windows in a row confirm it."
    for kind, label, columns in (
        ("feature", "feature", measurement.features),
        ("prediction", "output", measurement.prediction),
    ):
        ratios = [([one.name], one.ratio) for one in columns]
        yield _family(f"{kind}_drift_score", score, label, samples=ratios)
        verdicts = [([one.name], int(one.persistent)) for one in columns]
        yield _family(f"{kind}_drift_persistent", persistent, label, samples=verdicts)
    text = "Threshold of a column's score, in the unit of its test."
    thresholds = [
        ([one.name], one.threshold) for one in (*measurement.features, *measurement.prediction)
    ]
    yield _family("drift_threshold", text, "column", samples=thresholds)
    text = "Absolute shift of the mean probability by the feature's drift alone; not to be summed."
    impacts = [([one.feature], one.impact) for one in measurement.impacts]
    yield _family("feature_drift_effect", text, "feature", samples=impacts)
    text = "Windows judged against this reference data."
    yield _gauge("windows_judged", text, measurement.judgement.windows)
    text = "Share of features with a drift verdict."
    yield _gauge("drift_share", text, measurement.share_drifted or 0.0)
    text = "1 if the share of features with a drift verdict has reached its threshold."
    yield _gauge("drift_detected", text, int(measurement.drifted))


def _data_quality(features: tuple[FeatureQuality, ...]) -> Metric:
    samples = (
        ([feature.feature, problem], share)
        for feature in features
        for problem in ("missing", "out_of_range", "unseen")
        if (share := getattr(feature, problem)) is not None
    )
    text = "Share of the window's rows whose value of the feature has the problem."
    return _family("data_quality_share", text, "feature", "problem", samples=samples)


def _segments(segments: tuple[Segment, ...]) -> Iterator[Metric]:
    names = "segment", "group"
    rows = [([one.segment, one.group], one.rows) for one in segments]
    yield _family("segment_rows", "The group's predictions in the window.", *names, samples=rows)
    rates = [([one.segment, one.group], one.selection_rate) for one in segments]
    text = "Share of the group's predictions in the window that are >50K."
    yield _family("segment_selection_rate", text, *names, samples=rates)
    text = "Quality of the group's labelled predictions: accuracy, true and false positive rate."
    quality = (
        ([one.segment, one.group, metric], value)
        for one in segments
        for metric, value in one.quality.items()
    )
    yield _family("segment_quality", text, *names, "metric", samples=quality)


def _performance(measurement: Measurement) -> Iterator[Metric]:
    if measurement.quality:
        yield from _quality(measurement.quality)
    if measurement.estimated:
        yield from _estimated(measurement.estimated)
    if errors := measurement.estimation_error:
        text = "Estimated minus measured quality of the same labelled predictions."
        yield _family("estimation_error", text, "metric", samples=_by_key(errors))


def _quality(quality: Quality) -> Iterator[Metric]:
    for name, text in QUALITY_HELP.items():
        if (value := getattr(quality, name)) is not None:
            yield _gauge(f"quality_{name}", text, value)
    yield _bounds("quality_bound", "Ends of the 95 % interval of a quality.", quality.bounds)
    if quality.confusion:
        text = "Labelled predictions by true and predicted class; 1 is >50K."
        samples = _confusion(quality.confusion)
        yield _family("confusion_rows", text, "label", "income_class", samples=samples)


def _confusion(counts: Confusion) -> Samples:
    return [
        (["0", "0"], counts.true_negatives),
        (["0", "1"], counts.false_positives),
        (["1", "0"], counts.false_negatives),
        (["1", "1"], counts.true_positives),
    ]


def _estimated(estimate: Estimate) -> Iterator[Metric]:
    text = "Quality of the window's predictions, estimated without labels by CBPE."
    text += " Blind to concept shift."
    yield _family("estimated_quality", text, "metric", samples=_by_key(estimate.metrics))
    text = "Ends of the 95 % interval of an estimated quality, if the probabilities are right."
    yield _bounds("estimated_quality_bound", text, estimate.bounds)


def _bounds(name: str, text: str, intervals: dict[str, Interval]) -> Metric:
    samples = (
        ([metric, bound], getattr(interval, bound))
        for metric, interval in intervals.items()
        for bound in ("lower", "upper")
    )
    return _family(name, text, "metric", "bound", samples=samples)


def _by_key(values: dict[str, float]) -> Samples:
    return [([key], value) for key, value in values.items()]


def _family(name: str, text: str, *labels: str, samples: Samples) -> Metric:
    family = GaugeMetricFamily(f"income_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(list(values), value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"income_{name}", text, value)
