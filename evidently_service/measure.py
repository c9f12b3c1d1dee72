"""Turns the window into measurements on a schedule, in a process of its own.

    python -m evidently_service.measure

The window's newest rows and the production version's reference -> drift, quality and the HTML
report -> the window's file and folder, from which the web workers answer.
"""

import contextlib
import logging
import os
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
import pandas as pd

from config.contract import Contract, load_contract
from config.events import Label, Prediction
from config.heartbeat import beat
from config.settings import exit_on_settings_error, read_settings
from evidently_service.drift import Drift, measure_drift, monitored_frame
from evidently_service.effect import measure_effects
from evidently_service.measurement import (
    Counters,
    LabelCounts,
    Measurement,
    Run,
    WindowFacts,
)
from evidently_service.monitoring import Monitoring, load_monitoring
from evidently_service.performance import estimate_quality, estimation_error, measure_quality
from evidently_service.quality import measure_data_quality
from evidently_service.registry import References, Registry, RegistryError, Version
from evidently_service.segments import Answered, measure_segments
from evidently_service.settings import Settings
from evidently_service.window import Window

log = logging.getLogger(__name__)

Labelled = tuple[Prediction, Label]
DELAY_QUANTILES = (0.5, 0.9)


class Inputs(NamedTuple):
    """What a measurement depends on: while this stays, its figures stay."""

    counters: Counters
    labels: LabelCounts
    version: Version | None


class Measure:
    """Measures one window against the production version's reference, again and again."""

    def __init__(
        self,
        window: Window,
        references: References,
        monitoring: Monitoring,
        contract: Contract,
        *,
        report_path: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.window = window
        self.references = references
        self.monitoring = monitoring
        self.contract = contract
        self.report_path = report_path
        self.clock = clock
        self._measured: tuple[Inputs, Measurement] | None = None
        self._reference: tuple[Version, pd.DataFrame] | None = None
        self._registry_error: str | None = None
        self._unreported: Drift | None = None
        self._report_due_at = 0.0
        self._reported_drifted = False

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
        inputs = Inputs(self.window.counters(), self.window.label_counts(), version)
        if self._measured and self._measured[0] == inputs:
            measurement = msgspec.structs.replace(self._measured[1], measured_at=run.at)
            self.window.confirm(measurement, run)
        else:
            measurement = self._compare(run.at, inputs)
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

    def _compare(self, at: float, inputs: Inputs) -> Measurement:
        """The measurement of the newest rows; without a verdict where they cannot be compared."""
        started = time.perf_counter()
        rows = self.window.last_predictions(self.monitoring.window_rows)
        labelled = self.window.last_labelled(self.monitoring.window_rows)
        with_label = self.window.labelled_count(self.monitoring.window_rows)
        blank = Measurement(
            dataset=self.monitoring.dataset,
            state="no_reference",
            share_threshold=self.monitoring.share_drifted,
            measured_at=at,
            window=window_facts(rows, inputs.counters),
            labels=inputs.labels,
            label_coverage=min(1.0, with_label / len(rows)) if rows else None,
            **self._of_predictions(rows, labelled),
            **self._of_labels(labelled),
        )
        if inputs.version is None:
            return blank
        reference = self._reference_frame(inputs.version)
        blank = msgspec.structs.replace(
            blank,
            state="not_enough_rows",
            model_version=inputs.version.number,
            reference_rows=len(reference),
        )
        if len(rows) < self.monitoring.min_rows:
            return blank
        current = monitored_frame(map(as_row, rows), self.contract)
        drift = measure_drift(reference, current, self.monitoring, self.contract)
        self._unreported = drift
        return msgspec.structs.replace(
            blank,
            state="ok",
            drifted=drift.share_drifted >= self.monitoring.share_drifted,
            share_drifted=drift.share_drifted,
            features=drift.features,
            prediction=drift.prediction,
            effects=measure_effects(reference, current, self.contract),
            duration_s=time.perf_counter() - started,
        )

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
        answers = outputs([prediction for prediction, _ in labelled])
        quality = measure_quality(np.array([label.label for _, label in labelled]), *answers)
        # Of the same rows: those that get labels need not be like the window's.
        error = estimation_error(estimate_quality(*answers), quality)
        delay_s = label_delay_s(labelled)
        return {"quality": quality, "estimation_error": error, "label_delay_s": delay_s}

    def _reference_frame(self, version: Version) -> pd.DataFrame:
        """The reference, read once per version. Raises RegistryError for one of other columns."""
        if self._reference is None or self._reference[0] != version:
            path = self.references.path(version)
            rows = msgspec.json.Decoder(dict).decode_lines(path.read_bytes())
            try:
                self._reference = version, monitored_frame(rows, self.contract)
            except KeyError as err:
                raise RegistryError(
                    f"{path}: a row has no {err}; promote a version made for this contract"
                ) from err
        return self._reference[1]

    def _report(self, at: float) -> None:
        """Writes the HTML of the newest drift, whole or not at all.

        It costs more than a measurement, so it waits for its period, but not where it would
        contradict the verdict beside it.
        """
        if self._unreported is None:
            return
        drifted = self._unreported.share_drifted >= self.monitoring.share_drifted
        if at < self._report_due_at and drifted == self._reported_drifted:
            return
        self.report_path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.report_path.with_suffix(".tmp")
        fresh.write_text(self._unreported.html(), encoding="utf-8")
        os.replace(fresh, self.report_path)
        self._unreported = None
        self._reported_drifted = drifted
        self._report_due_at = at + self.monitoring.html_period_s


def as_row(prediction: Prediction) -> dict[str, object]:
    """A prediction as one flat row: its features and the model's outputs."""
    outputs = {"probability": prediction.probability, "income_class": prediction.income_class}
    return {**prediction.features, **outputs}


def outputs(predictions: list[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """The predicted classes and the probabilities, both (n_predictions,)."""
    classes = np.array([prediction.income_class for prediction in predictions], int)
    return classes, np.array([prediction.probability for prediction in predictions])


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
    settings = read_settings(Settings, os.environ)
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    contract = load_contract()
    monitoring = load_monitoring(Path(settings.monitoring_file), contract)
    period_s = settings.measure_period_s or monitoring.measure_period_s
    references = References(settings.reference_dir, Registry(settings.mlflow_tracking_uri))
    window = Window(settings.window_path)
    measure = Measure(window, references, monitoring, contract, report_path=settings.report_path)
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
    exit_on_settings_error(main)
