"""Measure one window against the production version's reference data.

Events in `store.window` -> drift, quality and the HTML report -> measurements in `store.window` and
reports in `store.reports`, which the web workers show.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import pandas as pd
import structlog

from config.contract import Contract
from config.events import Prediction
from evidently_service.measure.data_quality import invalid_share_rises, measure_data_quality
from evidently_service.measure.distribution import measure_distribution
from evidently_service.measure.drift import Drift, measure_drift
from evidently_service.measure.drift_impact import measure_drift_impacts
from evidently_service.measure.fairness import (
    MAX_LABELS,
    Counted,
    Counts,
    count_rates,
    fairness_gaps,
)
from evidently_service.measure.performance import (
    concept_shift_scores,
    estimate_quality,
    estimation_error,
    measure_quality,
    roc_auc_floor,
    z_limit,
)
from evidently_service.measure.segments import (
    GroupErrors,
    classified,
    classified_frame,
    estimation_spread,
    group_errors,
    measure_segments,
)
from evidently_service.reference.monitoring_config import MONTH_S, Monitoring
from evidently_service.reference.reference_data import Reference, prediction_frame, read_reference
from evidently_service.reference.registry import ReferenceCache, RegistryError, Version
from evidently_service.store.records import (
    ColumnDrift,
    Counters,
    Distribution,
    FairnessGap,
    Judgement,
    LabelCounts,
    LabelledPrediction,
    Measurement,
    Quality,
    Run,
    WindowFacts,
)
from evidently_service.store.reports import Reports
from evidently_service.store.window import Window
from evidently_service.verdict.joint import JointTest
from evidently_service.verdict.judge import DriftJudge, factors_of, share_drifted

log = structlog.get_logger(__name__)

Row = TypeVar("Row", Prediction, LabelledPrediction)

DELAY_QUANTILES = (0.5, 0.9)
MAX_DISTRIBUTIONS = 5  # stored with each measurement, and shown on the page


class Inputs(NamedTuple):
    """The inputs of a measurement; equal inputs give equal figures."""

    counters: Counters
    labels: LabelCounts
    version: Version | None
    rows: int  # in the window; rows also leave it by their age


class ReferenceGroups(NamedTuple):
    """What a version's reference data say about groups."""

    errors: GroupErrors
    counts: Counts


class LatestReport(NamedTuple):
    """When the latest report must be replaced, and whether it shows dataset drift."""

    due_at: float = 0.0  # Unix time in seconds
    drifted: bool = False


class Measure:
    """Measures one window repeatedly, and writes its reports."""

    def __init__(
        self,
        window: Window,
        references: ReferenceCache,
        monitoring: Monitoring,
        contract: Contract,
        *,
        reports: Reports,
        judge_period_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.window = window
        self.references = references
        self.monitoring = monitoring
        self.contract = contract
        self.reports = reports
        self.clock = clock
        joint = JointTest(monitoring, contract)
        self.judge = DriftJudge(window, monitoring, contract, judge_period_s, joint)
        self._measured: tuple[Inputs, Measurement] | None = None
        self._reference: Reference | None = None
        self._known = ReferenceGroups({}, {})
        self._unreported: Drift | None = None
        self._latest_report = LatestReport()

    def run_once(self) -> None:
        """Measure if anything has changed. Log an error, and store it for /drift."""
        at = self.clock()
        try:
            try:
                self._measure(self._read_registry(at))
                self._write_reports(at)
            finally:  # also after an error: the window must not grow
                retained, labels = self.monitoring.retention_rows, self.monitoring.label_rows
                self.window.prune(retained, labels, at)
        except Exception as err:  # pylint: disable=broad-exception-caught  # the next run may pass
            log.exception("measurement_failed")
            with contextlib.suppress(sqlite3.Error):  # the disk may be full: the log has the error
                self.window.record(None, self._failed_run(at, f"{type(err).__name__}: {err}"))

    def _read_registry(self, at: float) -> Run:
        """Return this run; with an error if MLflow is unavailable, and the last known decision."""
        try:
            self.references.refresh()
            source = self.references.source
            return Run(at, None, source.last_decision(), source.last_promotion())
        except RegistryError as err:
            last = self.window.last_run()
            if last is None or last.error != str(err):
                log.warning("reference_not_refreshed", error=str(err))
            return self._failed_run(at, str(err))

    def _failed_run(self, at: float, error: str) -> Run:
        last = self.window.last_run() or Run(at)
        return msgspec.structs.replace(last, at=at, error=error)

    def _measure(self, run: Run) -> None:
        version = self.references.version()
        counters = self.window.counters()  # before the rows
        rows = self._window_rows(run.at)
        inputs = Inputs(counters, self.window.label_counts(), version, len(rows))
        if self._measured and self._measured[0] == inputs:
            measurement = msgspec.structs.replace(self._measured[1], measured_at=run.at)
            self.window.record(measurement, run, is_new=False)
        else:
            measurement = self._compare(run.at, inputs, rows)
            self.window.record(measurement, run)
            log.info(
                "measurement_done",
                state=measurement.state,
                verdict=measurement.verdict,
                share_drifted=measurement.share_drifted,
                rows=measurement.window.rows,
                model_version=measurement.model_version,
            )
        self._measured = inputs, measurement

    def _window_rows(self, at: float) -> list[Prediction]:
        """Return the newest rows that are not older than `window_s`."""
        rows = self.window.last_predictions(self.monitoring.window_rows)
        oldest = at - (self.monitoring.window_s or at)
        return [row for row in rows if row.predicted_at >= oldest]

    def _compare(self, at: float, inputs: Inputs, rows: list[Prediction]) -> Measurement:
        """Return the measurement, without a drift verdict if the rows cannot be compared."""
        started = time.perf_counter()
        labels = self.window.last_labelled(max(self.monitoring.window_rows, MAX_LABELS))
        newest = labels[-self.monitoring.window_rows :]
        labelled = of_version(newest, inputs.version)
        reference = self._read_reference(inputs.version) if inputs.version else None
        floor = self._roc_auc_floor(reference)
        measurement = Measurement(
            dataset=self.monitoring.dataset,
            state="no_reference",
            share_threshold=self.monitoring.share_drifted,
            measured_at=at,
            window=window_facts(rows, inputs.counters),
            labels=inputs.labels,
            roc_auc_floor=floor,
            false_alarms_per_month=self.monitoring.false_alarms_per_month,
            **self._label_coverage(at, newest),
            **self._figures_of_predictions(rows, labelled),
            **self._figures_of_labels(labelled, floor, reference),
        )
        if reference is None:
            return measurement
        judgement = self.judge.run(reference)
        measurement = msgspec.structs.replace(
            measurement,
            state="not_enough_rows",
            model_version=reference.version.number,
            reference_rows=len(reference.frame),
            fairness_gaps=self._fairness_gaps(
                of_version(rows, reference.version),
                of_version(labels[-MAX_LABELS:], reference.version),
            ),
            judgement=msgspec.structs.replace(judgement, spreads={}),  # which only the judge reads
            calibration_windows=self.monitoring.calibration_windows,
            open_rows=self.judge.open_rows,
            **self._broken_features(measurement, reference),
        )
        if len(rows) < self.monitoring.min_rows:
            return measurement
        drift = self._drift(reference, rows, judgement)
        self._unreported = drift
        share = share_drifted(judgement.persistent, self.monitoring)
        measurement = msgspec.structs.replace(
            measurement,
            state="ok",
            drifted=share >= self.monitoring.share_drifted,
            share_drifted=share,
            features=with_verdicts(drift.features, judgement),
            not_compared=not_compared(drift, self.monitoring),
            prediction=with_verdicts(drift.prediction, judgement),
            impacts=measure_drift_impacts(reference.frame, drift.window, self.contract),
        )
        return msgspec.structs.replace(
            measurement,
            distributions=self._distributions(measurement, reference.frame, drift.window),
            duration_s=time.perf_counter() - started,
        )

    def _broken_features(self, measured: Measurement, reference: Reference) -> dict[str, Any]:
        """Return the rises of the invalid shares, and the features beyond their limit."""
        rises = invalid_share_rises(measured.data_quality, reference.frame, self.contract)
        limit = self.monitoring.max_invalid_share_rise
        broken = tuple(name for name, rise in rises.items() if rise > limit)
        return {"invalid_share_rises": rises, "broken_features": broken}

    def _distributions(
        self, measured: Measurement, reference: pd.DataFrame, window: pd.DataFrame
    ) -> tuple[Distribution, ...]:
        """Return the distributions of the features beyond with the largest impacts."""
        columns = measured.beyond
        names = [one.feature for one in measured.impacts if one.feature in columns]
        return tuple(
            measure_distribution(self.contract[name], reference[name], window[name])
            for name in names[:MAX_DISTRIBUTIONS]
        )

    def _drift(self, reference: Reference, rows: list[Prediction], judgement: Judgement) -> Drift:
        """Return the drift; of the outputs only if the reference's version predicted all rows."""
        current = prediction_frame(rows, self.contract)
        factors = factors_of(judgement, self.monitoring)
        monitoring = self.judge.thresholds.apply(reference, current, factors)
        with_outputs = all(row.model_version == reference.version.number for row in rows)
        return measure_drift(reference.frame, current, monitoring, self.contract, with_outputs)

    def _label_coverage(self, at: float, newest: list[LabelledPrediction]) -> dict[str, Any]:
        """Return share and horizon of the labels.

        The share is over the newest predictions that are older than nine labels in ten at their
        arrival. Over all newest predictions it would be 0 if labels take longer than the window.
        """
        delay_s = label_delay_s(newest)["0.9"] if newest else 0.0
        found = self.window.label_coverage(self.monitoring.window_rows, at - delay_s)
        horizon_s = min(at - found.oldest_at, self.monitoring.label_s) if found.oldest_at else None
        return {"label_coverage": found.share, "label_horizon_s": horizon_s}

    def _figures_of_predictions(
        self, rows: list[Prediction], labelled: list[LabelledPrediction]
    ) -> dict[str, Any]:
        """Return the fields that need no reference data; none if the window has too few rows."""
        if len(rows) < self.monitoring.min_rows:
            return {}
        window = classified(rows, self.contract.segments)
        probability = np.array([row.probability for row in rows])
        spread = estimation_spread(self._known.errors, window.groups)
        return {
            "data_quality": measure_data_quality([row.features for row in rows], self.contract),
            "segments": measure_segments(
                window,
                classified(labelled, self.contract.segments),
                np.array([one.label for one in labelled], int),
                self.monitoring.min_segment_rows,
                self.contract.segments,
            ),
            "estimated": estimate_quality(window.income_class, probability, spread=spread),
        }

    def _fairness_gaps(
        self, rows: list[Prediction], labelled: list[LabelledPrediction]
    ) -> tuple[FairnessGap, ...]:
        """Return the gaps of the selection rate in the window, and of tpr and fpr by labels.

        Each only over enough rows. All rows are of the reference's own version.
        """
        segments, min_rows = self.contract.segments, self.monitoring.min_segment_rows
        production = []
        if len(rows) >= self.monitoring.min_rows:
            counts = count_rates(classified(rows, segments), min_rows)
            production.append(Counted(counts, float(np.ptp([row.predicted_at for row in rows]))))
        if len(labelled) >= self.monitoring.min_labels:
            label = np.array([one.label for one in labelled])
            counts = count_rates(classified(labelled, segments), min_rows, label)
            production.append(Counted(counts, float(np.ptp([one.labelled_at for one in labelled]))))
        return fairness_gaps(production, self._known.counts, self.monitoring.false_alarms_per_month)

    def _roc_auc_floor(self, reference: Reference | None) -> float | None:
        """Return the monitoring file's floor, or that of the reference data, if any."""
        if self.monitoring.roc_auc_floor is not None or reference is None:
            return self.monitoring.roc_auc_floor
        probability = reference.frame["probability"].to_numpy()
        return roc_auc_floor(reference.label, probability, self.monitoring.min_labels)

    def _figures_of_labels(
        self, labelled: list[LabelledPrediction], floor: float | None, reference: Reference | None
    ) -> dict[str, Any]:
        """Return the fields that need labels; none if there are too few.

        Those on concept shift need reference data too.
        """
        if len(labelled) < self.monitoring.min_labels:
            return {}
        label = np.array([one.label for one in labelled])
        classes, probability = outputs(labelled)
        quality = measure_quality(label, classes, probability)
        since = min(one.predicted_at for one in labelled)
        estimated = estimate_quality(classes, probability)  # of these rows, which have labels
        figures = {
            "quality": msgspec.structs.replace(quality, since=since),
            "below_floor": is_below_floor(quality, floor),
            "estimation_error": estimation_error(estimated, quality),
            "label_delay_s": label_delay_s(labelled),
        }
        if reference is None:
            return figures
        windows = MONTH_S / self.monitoring.judge_period_s
        limit = z_limit(self.monitoring.false_alarms_per_month, windows)
        known = reference.frame["probability"].to_numpy()
        scores = concept_shift_scores(label, probability, known, limit)
        return figures | {
            "concept_shift": max(scores.values()) > 1,
            "concept_shift_scores": scores,
        }

    def _read_reference(self, version: Version) -> Reference:
        """Return the reference data, read once per version. Raises RegistryError."""
        if self._reference is None or self._reference.version != version:
            path = self.references.path(version)
            self._reference = read_reference(path, version, self.contract)
            segments, min_rows = self.contract.segments, self.monitoring.min_segment_rows
            known = classified_frame(self._reference.frame, segments)
            self._known = ReferenceGroups(
                group_errors(self._reference, segments, self.monitoring.min_labels),
                count_rates(known, min_rows) | count_rates(known, min_rows, self._reference.label),
            )
        return self._reference

    def _write_reports(self, at: float) -> None:
        """Save the report of each newly drifted window, and replace the latest report.

        A report costs more than a measurement. So the latest one is replaced once per
        `html_period_s`, or at once if it would contradict the new scores.
        """
        for window in self.judge.newly_drifted:
            assert self._reference is not None  # the windows were judged against it
            drift = self._drift(self._reference, window.rows, self.window.judgement())
            self.reports.save(
                drift.html(),
                at,
                columns=window.columns,
                version=self._reference.version.number,
                rows=window.rows,
            )
        self.judge.newly_drifted = []
        if self._unreported is None:
            return
        drifted = self._unreported.share_drifted >= self.monitoring.share_drifted
        if at < self._latest_report.due_at and drifted == self._latest_report.drifted:
            return
        self.reports.write_latest(self._unreported.html())
        self._unreported = None
        self._latest_report = LatestReport(at + self.monitoring.html_period_s, drifted)


def with_verdicts(
    columns: tuple[ColumnDrift, ...], judgement: Judgement
) -> tuple[ColumnDrift, ...]:
    """Return the columns' current scores, each with its drift verdict."""
    return tuple(
        msgspec.structs.replace(column, persistent=column.name in judgement.persistent)
        for column in columns
    )


def of_version(rows: list[Row], version: Version | None) -> list[Row]:
    """Return the rows of the production version's predictions; all without one.

    The quality of an earlier version says nothing about the live model.
    """
    if version is None:
        return rows
    return [one for one in rows if one.model_version == version.number]


def outputs(
    predictions: Sequence[Prediction] | Sequence[LabelledPrediction],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted classes and the probabilities, both (n_predictions,)."""
    classes = np.array([prediction.income_class for prediction in predictions], int)
    return classes, np.array([prediction.probability for prediction in predictions])


def is_below_floor(quality: Quality, floor: float | None) -> bool:
    """Return True if there is a floor and the ROC AUC's whole 95 % interval is below it."""
    bound = quality.bounds.get("roc_auc")
    return bound is not None and floor is not None and bound.upper < floor


def label_delay_s(labelled: list[LabelledPrediction]) -> dict[str, float]:
    """Return the seconds from prediction time to label time, by quantile; at least one row.

    These are the newest labels. The newest predictions would have their quick labels only.
    """
    delays = [one.labelled_at - one.predicted_at for one in labelled]
    values = np.quantile(delays, DELAY_QUANTILES)
    return {str(quantile): float(value) for quantile, value in zip(DELAY_QUANTILES, values)}


def window_facts(rows: list[Prediction], counters: Counters) -> WindowFacts:
    """Return size and times of the window. The counters were read before the rows."""
    times = [row.predicted_at for row in rows]
    return WindowFacts(
        len(rows), counters.ingested, min(times, default=None), max(times, default=None)
    )


def not_compared(drift: Drift, monitoring: Monitoring) -> tuple[str, ...]:
    """Return the features without a score: too few values in the window or the reference data."""
    compared = {column.name for column in drift.features}
    return tuple(name for name in monitoring.features if name not in compared)
