"""The cost of a window that keeps predictions for late labels, compared with one that keeps none.

    make bench NAME=measurement

It measures random labelled rows of the contract against a reference of 5,000 rows. Times of a
measurement are the median of RUNS runs.
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

from config.contract import CONTRACT_PATH, load_contract
from evidently_service.measure.measurement import Measure
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.reference.registry import ReferenceCache, Registry
from evidently_service.store.reports import Reports
from evidently_service.store.window import Window
from tests.benchmarks.report import at_most, result, write
from tests.evidently_service.events import labels_of, made_up_predictions, made_up_rows
from tests.evidently_service.mlflow_registry import RegistryFile

REFERENCE_ROWS = 5000
RUNS = 5
MAX_KEPT_MB, MAX_KEPT_MS = 1000, 2000
BATCH_ROWS = 500  # RELAY_BATCH_ROWS
KEEP = "INSERT INTO outputs VALUES (?, ?, ?, ?, ?, 1, ?)"
CONTRACT = load_contract()
MONITORING = load_monitoring(CONTRACT_PATH.with_name("monitoring.yaml"), CONTRACT)


def measurement_ms(folder: Path, kept_rows: int) -> float:
    """Return the median time of a measurement, as the measure process reports it."""
    registry = RegistryFile(folder)
    registry.promote(made_up_rows(CONTRACT, REFERENCE_ROWS, seed=1))
    references = ReferenceCache(folder / "reference", Registry(registry.uri))
    with closing(Window(folder / "window.db")) as window:
        keep(folder / "window.db", kept_rows)
        events = made_up_predictions(CONTRACT, MONITORING.window_rows, seed=2)
        window.add_predictions(events)
        window.add_labels(labels_of(events, wrong_every=7))
        measure = Measure(window, references, MONITORING, CONTRACT, reports=Reports(folder, 20))
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
    for kept in (0, n_rows):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            value = measurement_ms(folder, kept)
            yield at_most(f"{kept} rows kept: one measurement", value, "ms", MAX_KEPT_MS)
            size = (folder / "window.db").stat().st_size / 1e6
            yield at_most(f"{kept} rows kept: window.db", size, "MB", MAX_KEPT_MB)
            with closing(Window(folder / "window.db")) as window:
                yield result(f"{kept} rows kept: labels and coverage", reads(window), "ms")
                yield from intake(window, f"{kept} rows kept")


def reads(window: Window) -> float:
    """Return the median milliseconds of what a measurement reads of the kept rows."""

    def read() -> None:
        window.last_labelled(MONITORING.window_rows)
        window.label_coverage(MONITORING.window_rows, time.time())

    read()  # uncounted
    return median(timed(read) for _ in range(RUNS))


def intake(window: Window, name: str) -> Iterator[dict[str, Any]]:
    """Yield the times of a batch of predictions and of its labels."""
    batches = [made_up_predictions(CONTRACT, BATCH_ROWS, seed) for seed in range(10, 16)]
    of_rows = [timed(window.add_predictions, batch) for batch in batches]
    of_labels = [timed(window.add_labels, labels_of(batch, 7)) for batch in batches]
    yield result(f"{name}: {BATCH_ROWS} predictions", median(of_rows), "ms")
    yield result(f"{name}: {BATCH_ROWS} labels", median(of_labels), "ms")


def timed(work: Callable[..., object], *arguments: object) -> float:
    """Return the milliseconds of a call."""
    started = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept-rows", type=int, default=10**7, help="for late labels (10^7)")
    write("measurement", list(kept_figures(parser.parse_args().kept_rows)))
