"""The window and its latest measurement as Prometheus metrics, read from disk at each scrape.

Nothing is counted in a worker's memory, so every worker answers the same and a restart resets
nothing. A figure that does not exist now (no verdict, no labels) is absent, never zero.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evidently_service.store.records import (
    STATES,
    ColumnDrift,
    DriftEffect,
    Estimate,
    FeatureQuality,
    Interval,
    Measurement,
    Quality,
    Segment,
)
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.window import Window

QUALITY_HELP = {
    "rows": "labelled predictions that the quality was measured on",
    "accuracy": "share of labelled predictions whose class was right",
    "precision": "share of predictions of >50K that were right",
    "recall": "share of people above 50K that were predicted so",
    "f1": "harmonic mean of precision and recall of >50K",
    "roc_auc": "area under the ROC curve of the predicted probability",
    "log_loss": "log loss of the predicted probability, in nats",
    "calibration_error": "mean distance of probability and observed rate over 15 bins",
    "calibration_excess": "mean probability less observed share of >50K: above 0 is too high",
}


class WindowCollector(Collector):
    """Gives the window's metrics to a registry's scrape."""

    def __init__(self, window: Window, monitoring: Monitoring) -> None:
        self.window = window
        self.monitoring = monitoring

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read the window."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics as of now."""
        yield from self._events()
        measurement = self.window.latest()
        yield _states(measurement)
        if run := self.window.last_run():
            yield _gauge("measurement_run_timestamp_seconds", "last run, failed or not", run.at)
            failed = 1 if run.error else 0
            yield _gauge("measurement_failed", "1 if the last run had an error", failed)
        budget = "false alarms to expect in 30 days, of all columns, if nothing drifts"
        allowed = self.monitoring.false_alarms_per_month
        yield _gauge("false_alarm_budget_per_month", budget, allowed)
        if measurement:
            yield from _measured(measurement)
            yield from _performance(measurement)

    def _events(self) -> Iterator[Metric]:
        counters = self.window.counters()
        yield _gauge("window_rows", "predictions in the window", self._rows(counters.ingested))
        ingested = "predictions ever stored, pruned ones included"
        yield CounterMetricFamily("income_window_ingested", ingested, counters.ingested)
        duplicates = "predictions that came again and were not stored twice"
        yield CounterMetricFamily("income_window_duplicates", duplicates, counters.duplicates)
        counts = self.window.label_counts()
        labels = GaugeMetricFamily(
            "income_labels", "labels kept, by what became of them", labels=["state"]
        )
        for state in ("matched", "pending", "conflicting"):
            labels.add_metric([state], getattr(counts, state))
        yield labels

    def _rows(self, ingested: int) -> int:
        """Rows of the window: of now by their number, of the latest measurement by their age."""
        measurement = self.window.latest() if self.monitoring.window_s else None
        return (
            measurement.window.rows if measurement else min(ingested, self.monitoring.window_rows)
        )


def _states(measurement: Measurement | None) -> Metric:
    now = measurement.state if measurement else "not_measured"
    family = GaugeMetricFamily(
        "income_measurement_state", "1 for the state of the latest measurement", labels=["state"]
    )
    for state in STATES:
        family.add_metric([state], 1 if state == now else 0)
    return family


def _measured(measurement: Measurement) -> Iterator[Metric]:
    if measurement.measured_at is not None:
        at = "when the latest measurement was last found true"
        yield _gauge("measurement_timestamp_seconds", at, measurement.measured_at)
    if measurement.duration_s is not None:
        duration = "time that the latest measurement took"
        yield _gauge("measurement_duration_seconds", duration, measurement.duration_s)
    if measurement.model_version is not None:
        reference = GaugeMetricFamily(
            "income_reference_info", "1 for the reference's version", labels=["model_version"]
        )
        reference.add_metric([measurement.model_version], 1)
        yield reference
    if measurement.data_quality:
        yield _data_quality(measurement.data_quality)
    if measurement.segments:
        yield from _segments(measurement.segments)
    yield from _labels(measurement)
    if measurement.state == "ok":
        yield from _verdict(measurement)


def _verdict(measurement: Measurement) -> Iterator[Metric]:
    features, outputs = measurement.features, measurement.prediction
    score = "score / threshold in the newest rows: above 1 is beyond it, by chance or by drift"
    yield _ratios("feature_drift_score", score, "feature", features)
    yield _ratios("prediction_drift_score", score, "output", outputs)
    persistent = "1 if enough windows in a row, without common rows, were beyond the threshold"
    yield _persistent("feature_drift_persistent", persistent, "feature", features)
    yield _persistent("prediction_drift_persistent", persistent, "output", outputs)
    yield _thresholds((*features, *outputs))
    yield _effects(measurement.effects)
    judged = "windows judged against this reference"
    yield _gauge("windows_judged", judged, measurement.judgement.windows)
    share = "features that persistently drift, over all"
    yield _gauge("drift_share", share, measurement.share_drifted or 0.0)
    detected = "1 if the share of features that persistently drift has reached its threshold"
    yield _gauge("drift_detected", detected, int(measurement.drifted))


def _ratios(name: str, text: str, label: str, columns: tuple[ColumnDrift, ...]) -> Metric:
    family = _family(name, text, label)
    for column in columns:
        family.add_metric([column.name], column.ratio)
    return family


def _persistent(name: str, text: str, label: str, columns: tuple[ColumnDrift, ...]) -> Metric:
    family = _family(name, text, label)
    for column in columns:
        family.add_metric([column.name], int(column.persistent))
    return family


def _thresholds(columns: tuple[ColumnDrift, ...]) -> Metric:
    text = "the score from which a column's newest rows are beyond it, as its test counts"
    family = _family("drift_threshold", text, "column")
    for column in columns:
        family.add_metric([column.name], column.threshold)
    return family


def _effects(effects: tuple[DriftEffect, ...]) -> Metric:
    text = "how far the feature's drift has moved the mean probability, in probability; of each "
    text += "feature alone, so not to be summed"
    family = _family("feature_drift_effect", text, "feature")
    for one in effects:
        family.add_metric([one.feature], one.effect)
    return family


def _data_quality(features: tuple[FeatureQuality, ...]) -> Metric:
    text = "share of the window's rows in which the feature's value breaks the contract so"
    family = _family("data_quality_share", text, "feature", "problem")
    for feature in features:
        for problem in ("missing", "out_of_range", "unseen"):
            if (share := getattr(feature, problem)) is not None:
                family.add_metric([feature.feature, problem], share)
    return family


def _labels(measurement: Measurement) -> Iterator[Metric]:
    if measurement.label_coverage is not None:
        coverage = "share of the window's predictions that have a label"
        yield _gauge("label_coverage_ratio", coverage, measurement.label_coverage)
    if measurement.label_delay_s:
        delay = "from a prediction to its label, of the newest labels, by quantile"
        family = _family("label_delay_seconds", delay, "quantile")
        for quantile, value in measurement.label_delay_s.items():
            family.add_metric([quantile], value)
        yield family


def _segments(segments: tuple[Segment, ...]) -> Iterator[Metric]:
    names = "segment", "group"
    rows = _family("segment_rows", "predictions of the group in the window", *names)
    text = "share of the group's predictions in the window that are >50K"
    selection = _family("segment_selection_rate", text, *names)
    text = "of the group's labelled predictions: accuracy; tpr, of those above 50K predicted so;"
    text += " fpr, of those not above predicted so"
    quality = _family("segment_quality", text, *names, "metric")
    for one in segments:
        rows.add_metric([one.segment, one.group], one.rows)
        selection.add_metric([one.segment, one.group], one.selection_rate)
        for metric, value in one.quality.items():
            quality.add_metric([one.segment, one.group, metric], value)
    yield from (rows, selection, quality)


def _performance(measurement: Measurement) -> Iterator[Metric]:
    if measurement.quality:
        yield from _quality(measurement.quality)
    if measurement.estimated:
        yield from _estimated(measurement.estimated)
    if measurement.estimation_error:
        text = "estimated less measured, of the same labelled predictions"
        family = _family("estimation_error", text, "metric")
        for name, error in measurement.estimation_error.items():
            family.add_metric([name], error)
        yield family


def _quality(quality: Quality) -> Iterator[Metric]:
    for name, text in QUALITY_HELP.items():
        if (value := getattr(quality, name)) is not None:
            yield _gauge(f"quality_{name}", text, value)
    yield _bounds("quality_bound", "ends of the 95 % interval of a quality", quality.bounds)
    if counts := quality.confusion:
        text = "labelled predictions by true and predicted class, 1 is >50K"
        family = _family("confusion_rows", text, "label", "income_class")
        family.add_metric(["0", "0"], counts.true_negatives)
        family.add_metric(["0", "1"], counts.false_positives)
        family.add_metric(["1", "0"], counts.false_negatives)
        family.add_metric(["1", "1"], counts.true_positives)
        yield family


def _estimated(estimate: Estimate) -> Iterator[Metric]:
    text = (
        "quality of the window's predictions as their probabilities promise it (CBPE), before "
        "labels; it cannot see concept shift"
    )
    family = _family("estimated_quality", text, "metric")
    for name, value in estimate.metrics.items():
        family.add_metric([name], value)
    yield family
    text = "ends of the 95 % interval in which labels would find it if the probabilities are right"
    yield _bounds("estimated_quality_bound", text, estimate.bounds)


def _bounds(name: str, text: str, intervals: dict[str, Interval]) -> Metric:
    family = _family(name, text, "metric", "bound")
    for metric, interval in intervals.items():
        family.add_metric([metric, "lower"], interval.lower)
        family.add_metric([metric, "upper"], interval.upper)
    return family


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"income_{name}", text, labels=labels)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"income_{name}", text, value)
