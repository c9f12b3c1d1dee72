"""Expose the window and its latest measurement as Prometheus metrics, read at each scrape.

No worker counts anything in memory. So all workers return the same values, and a restart resets
nothing. A figure that does not exist now (no verdict, no labels) is absent, not zero.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.shadow.store import ShadowStore, ShadowTest
from evidently_service.store.records import (
    STATES,
    Interval,
    LabelCounts,
    Measurement,
    Quality,
    sample_share,
)
from evidently_service.store.window import Window

# Help text by name, without the prefix `income_`.
HELP = {
    "window_rows": "Predictions in the window.",
    "sample_share": "Smallest share of predictions that a relay sends; below 1 all is of a sample.",
    "labels": "Stored labels by state.",
    "measurement_state": "1 for the state of the latest measurement.",
    "measurement_run_timestamp_seconds": "Unix time of the last run, failed or not.",
    "measurement_failed": "1 if the last run failed.",
    "measurement_timestamp_seconds": "Unix time of the last successful measurement.",
    "measurement_duration_seconds": "Duration of the latest measurement in seconds.",
    "false_alarm_budget_per_month": "Expected false alarms in 30 days without drift.",
    "reference_info": "1 for the version of the reference data.",
    "feature_drift_score": "Score over threshold in the current window.",
    "prediction_drift_score": "Score over threshold in the current window.",
    "feature_drift_persistent": "1 if the column has a drift verdict.",
    "prediction_drift_persistent": "1 if the column has a drift verdict.",
    "drift_threshold": "Threshold of a column's score, in the unit of its test.",
    "feature_drift_effect": "Absolute shift of the mean probability by this drift alone.",
    "joint_drift_score": "Score over threshold of all features together, in the last window.",
    "joint_drift_detected": "1 if the features have drifted together, and no column alone.",
    "windows_judged": "Windows judged against this reference data.",
    "drift_share": "Share of features with a drift verdict.",
    "drift_detected": "1 if income_drift_share has reached its threshold; absent if not judged.",
    "data_quality_share": "Share of the window's rows with the problem.",
    "invalid_share_rise": "Share of rows with an invalid value minus that of the reference data.",
    "segment_rows": "The group's predictions in the window.",
    "segment_selection_rate": "Share of the group's predictions in the window that are positive.",
    "segment_quality": "Quality of the group's labelled predictions.",
    "fairness_gap_score": "Rise of the gap between groups over what chance adds, by rate.",
    "label_coverage_ratio": "Labelled share of the newest predictions older than the label delay.",
    "shadow_info": "1 for the pair of versions under test.",
    "shadow_rows": "Distinct records that the shadow version has scored.",
    "shadow_labels": "Labels of these records.",
    "shadow_agreement": "Share of records to which both versions give the same class.",
    "shadow_output_drift": "Drift of the shadow's probabilities, in its reference data's std.",
    "shadow_gain": "Mean log loss of production minus that of the shadow, clipped.",
    "shadow_gain_bound": "End of the gain's interval, which holds at every number of labels.",
    "shadow_segment_gain": "Gain in one segment.",
    "shadow_log_e": "Logarithm of the e-value for a shadow that is better, or worse.",
    "shadow_run_timestamp_seconds": "Unix time of the shadow's last run without an error.",
    "label_horizon_seconds": "Age of the oldest prediction that a label can still join.",
    "label_delay_seconds": "Quantile of the seconds from prediction time to label time.",
    "quality_rows": "Labelled predictions in the measured quality.",
    "quality_accuracy": "Share of labelled predictions with the right class.",
    "quality_precision": "Share of positive predictions that are right.",
    "quality_recall": "Share of positive labels that are predicted.",
    "quality_f1": "Harmonic mean of precision and recall.",
    "quality_roc_auc": "Area under the ROC curve of the predicted probability.",
    "quality_roc_auc_floor": "Area under the ROC curve below which the quality is too low.",
    "concept_shift_score": "Labels against probabilities: z-score over its limit, by check.",
    "quality_log_loss": "Log loss of the predicted probability, in nats.",
    "quality_calibration_error": "Mean distance of probability and observed rate over 15 bins.",
    "quality_calibration_error_by_chance": "Calibration error to expect of a calibrated model.",
    "quality_calibration_slope": "Slope of the labels on the logits; 1 if calibrated.",
    "quality_calibration_intercept": "Intercept of the labels on the logits; 0 if calibrated.",
    "quality_calibration_excess": "Mean probability minus observed share of positive labels.",
    "quality_bound": "Ends of the 95 % interval of a quality.",
    "confusion_rows": "Labelled predictions by true and predicted class; 1 is positive.",
    "estimated_quality": "Quality of the window's predictions, estimated without labels.",
    "estimated_quality_bound": "Ends of the 95 % interval of an estimated quality.",
    "estimation_error": "Estimated minus measured quality of the same labelled predictions.",
}
QUALITY = tuple(name for name in Quality.__struct_fields__ if f"quality_{name}" in HELP)


class Gauges:
    """The gauges of one scrape."""

    def __init__(self) -> None:
        self.families: dict[str, GaugeMetricFamily] = {}

    def add(self, name: str, value: float | None, **labels: str) -> None:
        """Add a value, unless it does not exist now."""
        if value is None:
            return
        if name not in self.families:
            family = GaugeMetricFamily(f"income_{name}", HELP[name], labels=list(labels))
            self.families[name] = family
        self.families[name].add_metric(list(labels.values()), value)


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
        counters = self.window.counters()
        text = "Predictions ever stored, pruned ones included."
        yield CounterMetricFamily("income_window_ingested", text, counters.ingested)
        text = "Duplicate predictions that were received and not stored."
        yield CounterMetricFamily("income_window_duplicates", text, counters.duplicates)
        text = "Labels that joined their prediction."
        yield CounterMetricFamily("income_labels_matched", text, counters.labels_matched)
        text = "Labels that joined no prediction, by reason."
        unmatched = CounterMetricFamily("income_labels_unmatched", text, labels=("reason",))
        unmatched.add_metric(("late",), counters.labels_late)
        unmatched.add_metric(("unknown",), counters.labels_unknown)
        yield unmatched
        gauges = Gauges()
        self._add_gauges(gauges, counters.ingested)
        yield from gauges.families.values()

    def _add_gauges(self, gauges: Gauges, ingested: int) -> None:
        measurement = self.window.latest()
        rows = min(ingested, self.monitoring.window_rows)
        if measurement and self.monitoring.window_s:  # rows then leave the window by their age
            rows = measurement.window.rows
        gauges.add("window_rows", rows)
        gauges.add("sample_share", sample_share(self.window.backlog()))
        label_counts = self.window.label_counts()
        for state in LabelCounts.__struct_fields__:
            gauges.add("labels", getattr(label_counts, state), state=state)
        current = measurement.state if measurement else "not_measured"
        for name in STATES:
            gauges.add("measurement_state", int(name == current), state=name)
        if run := self.window.last_run():
            gauges.add("measurement_run_timestamp_seconds", run.at)
            gauges.add("measurement_failed", 1 if run.error else 0)
        gauges.add("false_alarm_budget_per_month", self.monitoring.false_alarms_per_month)
        _shadow(gauges, ShadowStore(self.window).test())
        if measurement:
            _measured(gauges, measurement)
            _quality(gauges, measurement)
            if measurement.state == "ok":
                _drift(gauges, measurement)


def _measured(gauges: Gauges, measurement: Measurement) -> None:
    gauges.add("measurement_timestamp_seconds", measurement.measured_at)
    gauges.add("measurement_duration_seconds", measurement.duration_s)
    if measurement.model_version is not None:
        gauges.add("reference_info", 1, model_version=measurement.model_version)
    for column in measurement.data_quality:
        for problem in ("missing", "out_of_range", "unseen"):
            share = getattr(column, problem)
            gauges.add("data_quality_share", share, feature=column.feature, problem=problem)
    for name, rise in measurement.invalid_share_rises.items():
        gauges.add("invalid_share_rise", rise, feature=name)
    for one in measurement.segments:
        of_group = {"segment": one.segment, "group": one.group}
        gauges.add("segment_rows", one.rows, **of_group)
        gauges.add("segment_selection_rate", one.selection_rate, **of_group)
        for metric, value in one.quality.items():
            gauges.add("segment_quality", value, **of_group, metric=metric)
    for gap in measurement.fairness_gaps:
        gauges.add("fairness_gap_score", gap.score, segment=gap.segment, rate=gap.rate)
    gauges.add("label_coverage_ratio", measurement.label_coverage)
    gauges.add("label_horizon_seconds", measurement.label_horizon_s)
    for quantile, delay_s in measurement.label_delay_s.items():
        gauges.add("label_delay_seconds", delay_s, quantile=quantile)


def _shadow(gauges: Gauges, test: ShadowTest) -> None:
    gauges.add("shadow_run_timestamp_seconds", test.run_at)
    if test.kind is None:
        return
    gauges.add("shadow_info", 1, kind=test.kind, version=test.version, production=test.production)
    gauges.add("shadow_rows", test.rows)
    gauges.add("shadow_labels", test.labels)
    gauges.add("shadow_agreement", test.agreement)
    gauges.add("shadow_output_drift", test.output_drift)
    if found := test.evidence:
        gauges.add("shadow_gain", found.gain)
        gauges.add("shadow_gain_bound", found.lower, bound="lower")
        gauges.add("shadow_gain_bound", found.upper, bound="upper")
        gauges.add("shadow_log_e", found.log_e_better, direction="better")
        gauges.add("shadow_log_e", found.log_e_worse, direction="worse")
    for segment, one in test.segments.items():
        gauges.add("shadow_segment_gain", one.gain if one.labels else None, segment=segment)


def _drift(gauges: Gauges, measurement: Measurement) -> None:
    for kind, label, columns in (
        ("feature", "feature", measurement.features),
        ("prediction", "output", measurement.prediction),
    ):
        for column in columns:
            gauges.add(f"{kind}_drift_score", column.ratio, **{label: column.name})
            if column.persistent or column.name in measurement.judgement.streaks:
                is_drifted = int(column.persistent)
                gauges.add(f"{kind}_drift_persistent", is_drifted, **{label: column.name})
            gauges.add("drift_threshold", column.threshold, column=column.name)
    for one in measurement.impacts:
        gauges.add("feature_drift_effect", one.impact, feature=one.feature)
    gauges.add("windows_judged", measurement.judgement.windows)
    if joint := measurement.judgement.joint:
        gauges.add("joint_drift_score", joint.ratio)
        gauges.add("joint_drift_detected", int(measurement.verdict == "joint_drift"))
    if measurement.is_judged:
        gauges.add("drift_share", measurement.share_drifted)
        gauges.add("drift_detected", int(measurement.drifted))


def _quality(gauges: Gauges, measurement: Measurement) -> None:
    quality, estimated = measurement.quality or Quality(0), measurement.estimated
    if measurement.quality:
        for name in QUALITY:
            gauges.add(f"quality_{name}", getattr(quality, name))
        gauges.add("quality_roc_auc_floor", measurement.roc_auc_floor)
    for check, score in measurement.concept_shift_scores.items():
        gauges.add("concept_shift_score", score, check=check)
    _bounds(gauges, "quality_bound", quality.bounds)
    if counts := quality.confusion:
        gauges.add("confusion_rows", counts.true_negatives, label="0", income_class="0")
        gauges.add("confusion_rows", counts.false_positives, label="0", income_class="1")
        gauges.add("confusion_rows", counts.false_negatives, label="1", income_class="0")
        gauges.add("confusion_rows", counts.true_positives, label="1", income_class="1")
    if estimated:
        for metric, value in estimated.metrics.items():
            gauges.add("estimated_quality", value, metric=metric)
        _bounds(gauges, "estimated_quality_bound", estimated.bounds)
    for metric, error in measurement.estimation_error.items():
        gauges.add("estimation_error", error, metric=metric)


def _bounds(gauges: Gauges, name: str, intervals: dict[str, Interval]) -> None:
    for metric, interval in intervals.items():
        gauges.add(name, interval.lower, metric=metric, bound="lower")
        gauges.add(name, interval.upper, metric=metric, bound="upper")
