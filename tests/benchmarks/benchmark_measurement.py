"""The time of one measurement of the window and of each of its parts.

    make bench NAME=measurement

It measures random labelled rows of the contract against a reference of 5,000 rows. Each figure is
the median of RUNS runs. The peer of all other parts is Evidently's report. `--kept-rows 10000000`
compares a window that keeps so many predictions for late labels with one that keeps none.
"""

import argparse
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from config.contract import CONTRACT_PATH, load_contract
from evidently_service.measure.drift import measure_drift
from evidently_service.reference.reference_data import monitored_frame, prediction_frame
from evidently_service.measure.drift_impact import measure_drift_impacts
from evidently_service.measure.measurement import Measure, outputs
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.measure.performance import estimate_quality, measure_quality
from evidently_service.measure.data_quality import measure_data_quality
from evidently_service.reference.registry import ReferenceCache
from evidently_service.store.reports import Reports
from evidently_service.measure.segments import classified, measure_segments
from evidently_service.verdict.thresholds import find_thresholds
from evidently_service.store.window import Window
from tests.benchmarks.report import at_most, result, write
from tests.evidently_service.events import labels_of, made_up_predictions, made_up_rows
from tests.evidently_service.mlflow_registry import FakeRegistry

REFERENCE_ROWS, WINDOWS = 5000, (1000, 10_000)
RUNS = 5
PERIOD_MS = 5_000  # measure_period_s of config/monitoring.yaml
MAX_KEPT_MB, MAX_KEPT_MS = 1000, 2000
BATCH_ROWS = 500  # RELAY_BATCH_ROWS
KEEP = "INSERT INTO outputs VALUES (?, ?, ?, ?, ?, 1, ?)"

CONTRACT = load_contract()
MONITORING = load_monitoring(CONTRACT_PATH.with_name("monitoring.yaml"), CONTRACT)


def milliseconds(work: Callable[[], object]) -> float:
    """Return the median milliseconds of RUNS runs, after one uncounted run."""
    work()
    durations = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        durations.append((time.perf_counter() - started) * 1000)
    return median(durations)


def parts(reference_rows: list[dict[str, Any]], n_rows: int) -> dict[str, Callable[[], object]]:
    """Return each part of a measurement as a function."""
    events = made_up_predictions(CONTRACT, n_rows, seed=2)
    features = [event.features for event in events]
    label = np.array([one.label for one in labels_of(events, wrong_every=7)])
    reference = monitored_frame(reference_rows, CONTRACT)
    window = prediction_frame(events, CONTRACT)
    columns = outputs(events)
    groups = classified(events, CONTRACT.segments)
    least = MONITORING.min_segment_rows
    found = find_thresholds(reference, MONITORING, MONITORING.window_rows)
    judging = MONITORING.with_tests(found)
    return {
        "Evidently's report": lambda: measure_drift(reference, window, judging, CONTRACT),
        "data quality": lambda: measure_data_quality(features, CONTRACT),
        "segments": lambda: measure_segments(groups, groups, label, least, CONTRACT.segments),
        "measured performance": lambda: measure_quality(label, *columns),
        "estimated performance": lambda: estimate_quality(*columns),
        "impact of drift": lambda: measure_drift_impacts(reference, window, CONTRACT),
    }


def whole(
    reference_rows: list[dict[str, Any]], n_rows: int, folder: Path, kept_rows: int = 0
) -> float:
    """Return the median milliseconds of a measurement, as the measure process reports them."""
    monitoring = msgspec.structs.replace(MONITORING, window_rows=n_rows)
    references = ReferenceCache(folder / "reference", FakeRegistry(reference_rows))
    with closing(Window(folder / "window.db")) as window:
        keep(folder / "window.db", kept_rows)
        events = made_up_predictions(CONTRACT, n_rows, seed=2)
        window.add_predictions(events)
        window.add_labels(labels_of(events, wrong_every=7))
        measure = Measure(window, references, monitoring, CONTRACT, reports=Reports(folder, 20))
        durations = []
        for run in range(RUNS + 1):
            measure.run_once()
            found = window.latest()
            assert found is not None and found.duration_s is not None
            durations.append(found.duration_s * 1000)
            window.add_predictions(made_up_predictions(CONTRACT, 1, seed=3 + run))
    return median(durations[1:])


def keep(path: Path, n_rows: int) -> None:
    """Add rows that a label can join: a third of them has one.

    Half of the ids begin with the time. The others are random, as with an Idempotency-Key: they
    need more space.
    """
    draw = random.Random(0)
    rows = (
        (
            number - n_rows,  # before the first arrival
            (number.to_bytes(6) if number % 2 else draw.randbytes(6)) + draw.randbytes(10),
            1_699_000_000.25 + number / 20,
            draw.random(),
            number % 2,
            None if number % 3 else 1,
        )
        for number in range(n_rows)
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA cache_size = -1000000")
        connection.executemany(KEEP, rows)
        connection.commit()


def kept_figures(n_rows: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of a window that keeps so many rows for late labels."""
    reference_rows = made_up_rows(CONTRACT, REFERENCE_ROWS, seed=1)
    for kept in (0, n_rows):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            value = whole(reference_rows, WINDOWS[0], folder, kept)
            yield at_most(f"{kept} rows kept: one measurement", value, "ms", MAX_KEPT_MS)
            size = (folder / "window.db").stat().st_size / 1e6
            yield at_most(f"{kept} rows kept: window.db", size, "MB", MAX_KEPT_MB)
            with closing(Window(folder / "window.db")) as window:
                yield result(f"{kept} rows kept: labels and coverage", reads(window), "ms")
                yield from intake(window, f"{kept} rows kept")


def reads(window: Window) -> float:
    """Return the median milliseconds of what a measurement reads of the kept rows."""

    def read() -> None:
        window.last_labelled(WINDOWS[0])
        window.label_coverage(WINDOWS[0], time.time())

    return milliseconds(read)


def intake(window: Window, name: str) -> Iterator[dict[str, Any]]:
    """Yield the times of a batch of predictions and of its labels."""
    batches = [made_up_predictions(CONTRACT, BATCH_ROWS, seed) for seed in range(10, 16)]
    of_rows = [timed(window.add_predictions, batch) for batch in batches]
    of_labels = [timed(window.add_labels, labels_of(batch, 7)) for batch in batches]
    yield result(f"{name}: {BATCH_ROWS} predictions", median(of_rows), "ms")
    yield result(f"{name}: {BATCH_ROWS} labels", median(of_labels), "ms")


def timed(work: Callable[[Any], object], argument: object) -> float:
    """Return the milliseconds of a call."""
    started = time.perf_counter()
    work(argument)
    return (time.perf_counter() - started) * 1000


def figures() -> Iterator[dict[str, Any]]:
    """Yield every figure, by size of the window."""
    reference_rows = made_up_rows(CONTRACT, REFERENCE_ROWS, seed=1)
    for n_rows in WINDOWS:
        works = parts(reference_rows, n_rows)
        durations = {name: milliseconds(work) for name, work in works.items()}
        for name, value in durations.items():
            yield result(f"{n_rows} rows: {name}", value, "ms")
        report = durations.pop("Evidently's report")
        name = f"{n_rows} rows: all except Evidently's report"
        yield at_most(name, sum(durations.values()), "ms", round(report))
        with tempfile.TemporaryDirectory() as folder:
            value = whole(reference_rows, n_rows, Path(folder))
        yield at_most(f"{n_rows} rows: one measurement", value, "ms", PERIOD_MS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept-rows", type=int, default=0, help="rows kept for late labels (0)")
    options = parser.parse_args()
    write("measurement", list(kept_figures(options.kept_rows) if options.kept_rows else figures()))
