"""Turns the window into measurements on a schedule, in a process of its own.

    python -m evidently_service.measure

The window's newest rows and the production version's reference -> drift, quality and the HTML
report -> the window's file and folder, from which the web workers answer.
"""

import contextlib
import hashlib
import logging
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from config.contract import Contract, load_contract
from config.events import Label, Prediction
from config.runtime.heartbeat import beat
from config.runtime.logs import set_up
from config.runtime.settings import check_folder, exit_with_message, read_settings
from evidently_service.measure.drift import Drift, as_row, measure_drift, monitored_frame
from evidently_service.measure.drift_impact import measure_effects
from evidently_service.verdict.judge import Judge, share_drifted
from evidently_service.store.records import (
    ColumnDrift,
    Counters,
    Judgement,
    LabelCounts,
    Measurement,
    Quality,
    Run,
    WindowFacts,
)
from evidently_service.reference.monitoring_config import Monitoring, load_monitoring
from evidently_service.measure.performance import estimate_quality, estimation_error, measure_quality
from evidently_service.measure.data_quality import measure_data_quality
from evidently_service.reference.registry import References, Registry, RegistryError, Version
from evidently_service.store.reports import Kept, Reports
from evidently_service.measure.segments import Answered, measure_segments
from evidently_service.settings import Settings
from evidently_service.verdict.thresholds import Reference, Thresholds
from evidently_service.store.window import Window

log = logging.getLogger(__name__)

Labelled = tuple[Prediction, Label]
DELAY_QUANTILES = (0.5, 0.9)


class Inputs(NamedTuple):
    """What a measurement depends on: while this stays, its figures stay."""

    counters: Counters
    labels: LabelCounts
    version: Version | None
    rows: int  # in the window, from which time alone may take some


class Measure:
    """Measures one window against the production version's reference, again and again."""

    def __init__(
        self,
        window: Window,
        references: References,
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
        thresholds = Thresholds(references.folder, monitoring)
        self.judge = Judge(window, thresholds, contract, judge_period_s)
        self._measured: tuple[Inputs, Measurement] | None = None
        self._loaded: Reference | None = None
        self._registry_error: str | None = None
        self._unreported: Drift | None = None
        self._reported = 0.0, False  # when the next report is due, and whether the last had drift

    def run_once(self) -> None:
        """Measures if anything has changed. What fails is logged and kept for /drift to show."""
        at = self.clock()
        try:
            self._measure(Run(at, self._follow()))
            self._report(at)
            self.window.prune(self.monitoring.retention_rows)
        except Exception as err:  # pylint: disable=broad-exception-caught  # the next run may do
            log.exception("measurement failed")
            with contextlib.suppress(sqlite3.Error):  # a full disk: the log alone can say it
                self.window.note_run(Run(at, f"{type(err).__name__}: {err}"))

    def _follow(self) -> str | None:
        """Refreshes the reference; if that fails, why, and the one that is here goes on."""
        try:
            self.references.follow()
        except RegistryError as err:
            if str(err) != self._registry_error:
                log.warning("reference not refreshed error=%s", err)
            self._registry_error = str(err)
        else:
            self._registry_error = None
        return self._registry_error

    def _measure(self, run: Run) -> None:
        version = self.references.version()
        counters = self.window.counters()  # before the rows
        rows = self._rows(run.at)
        inputs = Inputs(counters, self.window.label_counts(), version, len(rows))
        if self._measured and self._measured[0] == inputs:
            measurement = msgspec.structs.replace(self._measured[1], measured_at=run.at)
            self.window.confirm(measurement, run)
        else:
            measurement = self._compare(run.at, inputs, rows)
            self.window.record(measurement, run)
            log.info(
                "measured state=%s drifted=%s share_drifted=%s rows=%d model_version=%s",
                measurement.state,
                measurement.drifted,
                measurement.share_drifted,
                measurement.window.rows,
                measurement.model_version,
            )
        self._measured = inputs, measurement

    def _rows(self, at: float) -> list[Prediction]:
        """The newest rows that are not too old to count."""
        rows = self.window.last_predictions(self.monitoring.window_rows)
        oldest = at - (self.monitoring.window_s or at)
        return [row for row in rows if row.predicted_at >= oldest]

    def _compare(self, at: float, inputs: Inputs, rows: list[Prediction]) -> Measurement:
        """The measurement of the newest rows; without a verdict where they cannot be compared."""
        started = time.perf_counter()
        labelled = self._labelled(inputs.version)
        with_label = self.window.labelled_count(len(rows))
        blank = Measurement(
            dataset=self.monitoring.dataset,
            state="no_reference",
            share_threshold=self.monitoring.share_drifted,
            measured_at=at,
            window=window_facts(rows, inputs.counters),
            labels=inputs.labels,
            false_alarms_per_month=self.monitoring.false_alarms_per_month,
            label_coverage=with_label / len(rows) if rows else None,
            **self._of_predictions(rows, labelled),
            **self._of_labels(labelled),
        )
        if inputs.version is None:
            return blank
        reference = self._reference(inputs.version)
        judgement = self.judge.run(reference)
        blank = msgspec.structs.replace(
            blank,
            state="not_enough_rows",
            model_version=inputs.version.number,
            reference_rows=len(reference.frame),
            judgement=judgement,
        )
        if len(rows) < self.monitoring.min_rows:
            return blank
        drift = self._drift(reference, rows)
        self._unreported = drift
        share = share_drifted(judgement.persistent, self.monitoring)
        return msgspec.structs.replace(
            blank,
            state="ok",
            drifted=share >= self.monitoring.share_drifted,
            share_drifted=share,
            features=with_verdicts(drift.features, judgement),
            prediction=with_verdicts(drift.prediction, judgement),
            effects=measure_effects(reference.frame, drift.window, self.contract),
            duration_s=time.perf_counter() - started,
        )

    def _drift(self, reference: Reference, rows: list[Prediction]) -> Drift:
        """The drift of the window: of the outputs only while one version has answered its rows."""
        monitoring = self.judge.thresholds.apply(reference, len(rows))
        current = monitored_frame(map(as_row, rows), self.contract)
        own = all(row.model_version == reference.version.number for row in rows)
        return measure_drift(reference.frame, current, monitoring, self.contract, own)

    def _labelled(self, version: Version | None) -> list[Labelled]:
        """The newest labels of what the production version has answered; of all, if none is known.

        How right an earlier version was says nothing of the one that serves.
        """
        found = self.window.last_labelled(self.monitoring.window_rows)
        if version is None:
            return found
        return [pair for pair in found if pair[0].model_version == version.number]

    def _of_predictions(self, rows: list[Prediction], labelled: list[Labelled]) -> dict[str, Any]:
        """What the window says without a reference, by field; nothing if it has too few rows."""
        if len(rows) < self.monitoring.min_rows:
            return {}
        return {
            "data_quality": measure_data_quality([row.features for row in rows], self.contract),
            "segments": measure_segments(
                answered(rows),
                answered([prediction for prediction, _ in labelled]),
                np.array([label.label for _, label in labelled], int),
                self.monitoring.min_segment_rows,
            ),
            "estimated": estimate_quality(*outputs(rows)),
        }

    def _of_labels(self, labelled: list[Labelled]) -> dict[str, Any]:
        """What the newest labels say, by field; nothing if they are too few."""
        if len(labelled) < self.monitoring.min_labels:
            return {}
        predictions = [prediction for prediction, _ in labelled]
        answers = outputs(predictions)
        quality = measure_quality(np.array([label.label for _, label in labelled]), *answers)
        since = min(prediction.predicted_at for prediction in predictions)
        # Of the same rows: those that get labels need not be like the window's.
        error = estimation_error(estimate_quality(*answers), quality)
        delay_s = label_delay_s(labelled)
        return {
            "quality": msgspec.structs.replace(quality, since=since),
            "below_floor": is_below(quality, self.monitoring.roc_auc_floor),
            "estimation_error": error,
            "label_delay_s": delay_s,
        }

    def _reference(self, version: Version) -> Reference:
        """The reference, read once per version. Raises RegistryError for one of other columns."""
        if self._loaded is None or self._loaded.version != version:
            path = self.references.path(version)
            content = path.read_bytes()
            rows = msgspec.json.Decoder(dict).decode_lines(content)
            try:
                frame = monitored_frame(rows, self.contract)
            except KeyError as err:
                raise RegistryError(
                    f"{path}: a row has no {err}; promote a version made for this contract"
                ) from err
            self._loaded = Reference(version, frame, hashlib.sha256(content).hexdigest())
        return self._loaded

    def _report(self, at: float) -> None:
        """Keeps the HTML of windows that alerts are about, and writes that of the newest drift.

        It costs more than a measurement, so the newest waits for its period, but not where it
        would contradict the verdict beside it.
        """
        for turned in self.judge.turned:
            assert self._loaded is not None  # it was judged against it
            kept = Kept.of(at, turned.columns, self._loaded.version.number, turned.rows)
            self.reports.keep(self._drift(self._loaded, turned.rows).html(), kept)
        self.judge.turned = []
        if self._unreported is None:
            return
        due_at, was_drifted = self._reported
        drifted = self._unreported.share_drifted >= self.monitoring.share_drifted
        if at < due_at and drifted == was_drifted:
            return
        self.reports.write_latest(self._unreported.html())
        self._unreported = None
        self._reported = at + self.monitoring.html_period_s, drifted


def with_verdicts(
    columns: tuple[ColumnDrift, ...], judgement: Judgement
) -> tuple[ColumnDrift, ...]:
    """The columns' scores now, each with what the judged windows say of it."""
    return tuple(
        msgspec.structs.replace(column, persistent=column.name in judgement.persistent)
        for column in columns
    )


def outputs(predictions: list[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """The predicted classes and the probabilities, both (n_predictions,)."""
    classes = np.array([prediction.income_class for prediction in predictions], int)
    return classes, np.array([prediction.probability for prediction in predictions])


def is_below(quality: Quality, floor: float) -> bool:
    """True if the ROC AUC is below the floor with its whole interval, so hardly by chance."""
    bound = quality.bounds.get("roc_auc")
    return bound is not None and bound.upper < floor


def label_delay_s(labelled: list[Labelled]) -> dict[str, float]:
    """Seconds from a prediction to its label, by quantile; at least one row.

    Of the newest labels: of the newest predictions, only the quick labels would be here yet.
    """
    delays = [label.labelled_at - prediction.predicted_at for prediction, label in labelled]
    found = np.quantile(delays, DELAY_QUANTILES)
    return {str(quantile): float(value) for quantile, value in zip(DELAY_QUANTILES, found)}


def answered(predictions: list[Prediction]) -> Answered:
    """What `segments` looks at."""
    return Answered([prediction.features for prediction in predictions], outputs(predictions)[0])


def window_facts(rows: list[Prediction], counters: Counters) -> WindowFacts:
    """Which rows these are. The counters were read before them."""
    times = [row.predicted_at for row in rows]
    return WindowFacts(
        len(rows), counters.ingested, min(times, default=None), max(times, default=None)
    )


def main() -> None:
    """Measures every period until TERM or INT."""
    settings = read_settings(Settings)
    check_folder("WINDOW_DIR", settings.window_path.parent)
    set_up(settings.log_format, settings.log_level)
    contract = load_contract()
    monitoring = load_monitoring(Path(settings.monitoring_file), contract)
    period_s = settings.measure_period_s or monitoring.measure_period_s
    references = References(settings.reference_dir, Registry(settings.mlflow_tracking_uri))
    window = Window(settings.window_path)
    measure = Measure(
        window,
        references,
        monitoring,
        contract,
        reports=Reports(settings.report_dir, monitoring.reports_kept),
        judge_period_s=settings.judge_period_s,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    while True:
        started = time.monotonic()
        measure.run_once()
        beat(settings.heartbeat_file)
        time.sleep(max(0.0, started + period_s - time.monotonic()))


def _stop(_: int, __: FrameType | None) -> None:
    """Ends the process at once: transactions roll back, and files are replaced whole."""
    sys.exit(0)


if __name__ == "__main__":
    exit_with_message(main)
