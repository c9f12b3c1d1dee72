"""Unit costs of a prediction after its response: bytes, delivery, monitoring, batch scoring.

`benchmark_capacity.py` makes the predictions, and runs the stack that the costs are measured on.
The letter before the colon of a figure is its name in the formulas of `capacity_model.py`.
"""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import bson
import numpy as np
import pandas as pd
import requests

from config.contract import Contract
from config.events import Label, Prediction
from config.local_stack.stack import Stack, living_supervisor
from evidently_service.store.window import Window
from prediction_service.journal import Event, Journal, folder_bytes
from prediction_service.models.model_folder import ModelFolder
from prediction_service.relay.progress import Progress, backlog
from prediction_service.relay.shipping import Shipper
from prediction_service.settings import Settings
from prediction_service.sinks.evidently import EvidentlySink
from prediction_service.sinks.mongodb import MongoSink, document_of, label_of
from tests.benchmarks.benchmark_measurement import keep
from tests.benchmarks.report import result
from tests.benchmarks.served_model import Records
from tests.benchmarks.servers import cpu_s, processes
from training.batch_scoring.score import Scorer, score_files
from training.model.onnx_export import Package

PARTS = {  # of the stack, with words that only its command has
    "web worker": "prediction_service.wsgi",
    "follower": "prediction_service.follower",
    "relay": "prediction_service.relay",
    "Evidently service": "evidently_service.wsgi",
    "measure": "evidently_service.measure",
    "shadow": "evidently_service.shadow",
    "MLflow": "mlflow server",
    "Prefect": "prefect server",
    "training worker": " worker ",
}
BATCH_ROWS = 500  # RELAY_BATCH_ROWS
LABELLED, MONGODB_BATCHES, MEASUREMENTS = 10_000, 8, 3
MONGODB_TIMEOUT_S = 60.0  # some servers with MongoDB's protocol are slow to find an existing id
KEPT_ROWS, SCORED_ROWS = 200_000, 100_000
# Estimated, because no MongoDB runs here: keys of 32, 10 and 8 bytes, each with about 10 bytes
# for type and record number, in pages that are 85 % full.
INDEX_BYTES = 100

Results = Iterator[dict[str, Any]]


def part_pid(logs: Path, part: str) -> int:
    """Return the pid of a part of the running stack. Raises StopIteration if it is absent."""
    pids = processes(living_supervisor(logs) or os.getpid())
    commands = ((pid, Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in pids)
    return next(pid for pid, one in commands if PARTS[part] in one.decode().replace("\0", " "))


def measured_rows(stack: Stack) -> int:
    """Return how many predictions had been stored at the last measurement."""
    drift = requests.get(f"{stack.env['EVIDENTLY_ADDRESS']}/drift", timeout=10).json()
    return int(drift["window"]["ingested_total"])


def wait_measured(stack: Stack, n_rows: int) -> None:
    """Return as soon as a measurement knows so many predictions."""
    stack.wait_for(lambda: measured_rows(stack) >= n_rows, "a measurement")


def labels_of(predictions: list[Prediction]) -> list[Label]:
    """Return a label for each prediction, a minute later."""
    return [Label(one.prediction_id, one.predicted_at + 60, 1) for one in predictions]


def fill(journal: Journal, predictions: list[Prediction]) -> Results:
    """Append predictions and their labels in turns; yield the bytes of both."""
    sizes = {"jp: a prediction in the journal": 0, "jl: a label in the journal": 0}
    for first in range(0, len(predictions), BATCH_ROWS):
        batch = predictions[first : first + BATCH_ROWS]
        turns: list[Sequence[Event]] = [batch, labels_of(batch)]
        for name, events in zip(sizes, turns, strict=True):
            before = folder_bytes(journal.root)
            journal.append(events)
            sizes[name] += folder_bytes(journal.root) - before
    for name, size in sizes.items():
        yield result(name, size / len(predictions), "B")


def stored_bytes(folder: Path, predictions: list[Prediction], contract: Contract) -> Results:
    """Yield the bytes of a labelled prediction in MongoDB and in the window of the monitoring."""
    labels = labels_of(predictions)
    plain = [{"_id": one.prediction_id} | document_of(one) for one in predictions]
    both = [one | label_of(label) for one, label in zip(plain, labels, strict=True)]
    sizes = [np.mean([len(bson.encode(one)) for one in found]) for found in (plain, both)]
    yield result("document of a prediction in MongoDB", float(sizes[0]), "B")
    yield result("d: with its label", float(sizes[1]), "B")
    yield result("i: index entries, estimated", INDEX_BYTES, "B")
    with closing(Window(folder / "kept.db", segments=contract.segments)):
        keep(folder / "kept.db", KEPT_ROWS)
    with closing(Window(folder / "full.db", segments=contract.segments)) as window:
        window.add_predictions(predictions)
        window.add_labels(labels)
    kept, full = ((folder / name).stat().st_size for name in ("kept.db", "full.db"))
    yield result("w: window, a row that a label can join", kept / KEPT_ROWS, "B")
    yield result("f: window, a labelled row with all features", full / len(labels), "B")


def ship(shipper: Shipper, n_batches: int) -> float:
    """Ship batches of BATCH_ROWS; return the processor time of an event in microseconds.

    Raises RuntimeError if the sink did not store them all.
    """
    root, sink, n_events = shipper.settings.journal_path, shipper.sink.name, n_batches * BATCH_ROWS
    before, begun = backlog(root, sink), time.process_time()
    for _ in range(n_batches):
        shipper.ship()
    used_s = time.process_time() - begun
    if (shipped := before - backlog(root, sink)) != n_events:
        raise RuntimeError(f"{sink}: stored {shipped} events, expected {n_events}. Read its log.")
    return used_s / n_events * 1e6


def relay_to_mongodb(root: Path) -> Results:
    """Yield the relay's own cost of an event; nothing without MONGODB_TEST_URI."""
    if address := os.environ.get("MONGODB_TEST_URI"):
        database = f"capacity-{uuid.uuid4().hex[:8]}"
        own = Settings(
            journal_dir=str(root),
            mongodb_address=address,
            mongodb_database=database,
            sink_timeout_s=MONGODB_TIMEOUT_S,
        )
        with closing(MongoSink(own)) as sink:
            shipper = Shipper(sink, Progress(root), own)
            ship(shipper, 2)  # connects
            yield result("m: relay, an event to MongoDB", ship(shipper, MONGODB_BATCHES), "us")
            sink.client.drop_database(database)


def monitor(stack: Stack, root: Path) -> Results:
    """Ship the journal to the Evidently service; yield the costs of both sides."""
    stack.wait_healthy("evidently")
    own = Settings(journal_dir=str(root), evidently_address=stack.env["EVIDENTLY_ADDRESS"])
    service, measure = (part_pid(stack.logs, one) for one in ("Evidently service", "measure"))
    measured_s, rows = [], measured_rows(stack)
    with closing(EvidentlySink(own)) as sink:
        shipper = Shipper(sink, Progress(root), own)
        for _ in range(1 + MEASUREMENTS):
            before_s, rows = cpu_s(measure), rows + BATCH_ROWS
            ship(shipper, 2)  # predictions, then their labels
            wait_measured(stack, rows)
            measured_s.append(cpu_s(measure) - before_s)
        n_batches, before_s = 2 * (LABELLED // BATCH_ROWS - len(measured_s)), cpu_s(service)
        yield result("e: relay, an event to the Evidently service", ship(shipper, n_batches), "us")
        each_s = (cpu_s(service) - before_s) / (n_batches * BATCH_ROWS)
    yield result("v: Evidently service, an event stored", each_s * 1e6, "us")
    yield result("c: one measurement", median(measured_s[1:]) * 1000, "ms")  # the first does more


def scoring(folder: Path, records: Records, contract: Contract) -> Results:
    """Yield the processor time of a row in batch scoring, without Spark."""
    models = ModelFolder(folder / "state" / "model")
    current = models.current()
    assert current
    scorer = Scorer(Package(models.path / current.folder, contract), current.version)
    pd.DataFrame(records * (SCORED_ROWS // len(records))).to_parquet(folder / "rows.parquet")
    begun = time.process_time()
    done = score_files(scorer, str(folder / "rows.parquet"), str(folder / "scored"))
    each_s = (time.process_time() - begun) / done.rows_scored
    yield result("x: a row of batch scoring", each_s * 1e6, "us")
