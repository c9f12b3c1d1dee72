"""The shadow process: rows a second, and what serving pays for it on the same machine.

    make bench NAME=shadow

Scoring: a full batch after the other from a window to the stored scores, in this process.

Serving: one prediction service with load at a quarter of its maximum rate. The window gets as many
predictions a second. With the shadow on, its process scores them each second; with it off, it finds
no shadow version. Both take turns, and the figures are medians over the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from config.contract import CONTRACT_PATH, Contract, load_contract
from config.events import Prediction
from config.model_registry import FALLBACK, FILE_SHA256, MODEL_NAME, file_digests
from evidently_service.reference.registry import Registry
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.shadow.shadow import Shadow
from evidently_service.shadow.store import ShadowStore
from evidently_service.store.window import Window
from tests.benchmarks.load import Client
from tests.benchmarks.report import at_least, at_most, result, write
from tests.benchmarks.served_model import TrainedModel, train
from tests.benchmarks.servers import Server, service
from tests.conftest import wait_until
from tests.evidently_service.events import made_up_rows
from tests.evidently_service.mlflow_registry import RegistryFile

SCORED_ROWS = 60_000  # more than retention_rows
CONNECTIONS, WARM_UP_S, TURN_S = 16, 3.0, 5.0
MIN_ROWS_PER_S, MIN_RATIO, MAX_RATIO = 20_000, 0.98, 1.02

Results = list[dict[str, Any]]


def register(folder: Path, model: TrainedModel) -> RegistryFile:
    """Return a registry with two versions of the model: in production, and the fallback."""
    registry = RegistryFile(folder)
    reference = made_up_rows(load_contract(), 2000, seed=1)
    former, current = registry.promote(reference), registry.promote(reference)
    client, digests = registry.client, json.dumps(file_digests(model.package))
    for version in (former, current):
        client.log_artifacts(version.run_id, str(model.package), "models_mlflow")
        client.set_model_version_tag(MODEL_NAME, version.number, FILE_SHA256, digests)
    client.set_registered_model_alias(MODEL_NAME, FALLBACK, former.number)
    return registry


def answered(model: TrainedModel, number: int) -> list[Prediction]:
    """Return that many predictions of version 2 for the records in turn, made now."""
    now, records = time.time(), model.records
    return [
        Prediction(f"{now:.6f}-{n}", now, "2", records[n % len(records)], 0.5, 1, 0.5)
        for n in range(number)
    ]


def scoring(folder: Path, registry: RegistryFile, model: TrainedModel) -> Results:
    """Return the rows that a shadow scores in a second of processor time."""
    contract = load_contract()
    with closing(Window(folder / "scoring.db", segments=contract.segments)) as window:
        shadow = Shadow(window, Registry(registry.uri), Monitoring(), contract)
        shadow.run_once()
        assert shadow.store.test().kind == FALLBACK, shadow.store.test()
        window.add_predictions(varied(answered(model, SCORED_ROWS), contract))
        started = time.process_time()
        shadow.run_once()
        rate = shadow.store.test().rows / (time.process_time() - started)
    return [at_least("rows scored in a second of processor time", rate, "/s", MIN_ROWS_PER_S)]


def varied(predictions: list[Prediction], contract: Contract) -> list[Prediction]:
    """Return predictions whose records all differ: equal ones would be scored once."""
    name = next(one.name for one in contract.inputs if one.kind == "integer")
    return [
        msgspec.structs.replace(one, features=one.features | {name: float(number)})
        for number, one in enumerate(predictions)
    ]


@contextmanager
def fed(window: Window, model: TrainedModel, rate: float) -> Iterator[None]:
    """Add that many predictions a second to the window while the body runs, as the relay does."""
    ended = threading.Event()

    def feed() -> None:
        while not ended.wait(1.0):
            window.add_predictions(answered(model, int(rate)))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def switch(registry: RegistryFile, is_on: bool) -> None:
    """Give version 1 the alias of the shadow, or take it away."""
    if is_on:
        registry.client.set_registered_model_alias(MODEL_NAME, FALLBACK, "1")
    else:
        registry.client.delete_registered_model_alias(MODEL_NAME, FALLBACK)


def is_scoring(window: Window) -> bool:
    """Return whether the shadow process tests a version."""
    return ShadowStore(window).test().kind is not None


def environment(folder: Path, registry: RegistryFile) -> dict[str, str]:
    """Return the settings of a shadow process that runs each second."""
    file = yaml.safe_load(CONTRACT_PATH.with_name("monitoring.yaml").read_text("utf-8"))
    path = folder / "monitoring.yaml"
    path.write_text(yaml.safe_dump(file | {"measure_period_s": 1}), encoding="utf-8")
    settings = {"WINDOW_DIR": str(folder), "MONITORING_FILE": str(path)}
    return os.environ | settings | {"MLFLOW_TRACKING_URI": registry.uri}


def take_turns(
    window: Window, registry: RegistryFile, model: TrainedModel, server: Server, rounds: int
) -> dict[bool, np.ndarray]:
    """Return the median rate and p99 (2,) with the shadow on and off."""
    target = server.target([[one] for one in model.records[:2000]])
    figures: dict[bool, list[tuple[float, float]]] = {True: [], False: []}

    def wait_for(is_on: bool) -> None:
        wait_until(lambda: is_scoring(window) == is_on, "the shadow to change")

    with Client() as client:
        wait_for(True)
        rate = client.drive(target, CONNECTIONS, WARM_UP_S).rate / 4
        with fed(window, model, rate):
            for is_on in (True, False) * rounds:
                switch(registry, is_on)
                wait_for(is_on)
                found = client.drive(target, CONNECTIONS, TURN_S, rate)
                figures[is_on].append((found.rate, found.percentile_ms(99)))
    return {is_on: np.median(found, axis=0) for is_on, found in figures.items()}


def serving(folder: Path, registry: RegistryFile, model: TrainedModel, rounds: int) -> Results:
    """Return rate and p99 with the shadow on, over those with it off."""
    command, server = [sys.executable, "-m", "evidently_service.shadow"], service(folder, 2, model)
    with (
        closing(Window(folder / "window.db", segments=load_contract().segments)) as window,
        (folder / "shadow.log").open("wb") as log,
        subprocess.Popen(
            command, env=environment(folder, registry), stdout=log, stderr=log
        ) as shadow,
        server.running([model.records[0]], folder / "service.log"),
    ):
        try:
            found = take_turns(window, registry, model, server, rounds)
        finally:
            shadow.terminate()
    rate, p99 = found[True] / found[False]
    return [
        result("requests a second, shadow off", float(found[False][0]), "/s"),
        result("p99, shadow off", float(found[False][1]), "ms"),
        at_least("rate, shadow on / off", float(rate), "ratio", MIN_RATIO),
        at_most("p99, shadow on / off", float(p99), "ratio", MAX_RATIO),
    ]


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each kind (5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = train(folder, load_contract())
        registry = register(folder, model)
        results = scoring(folder, registry, model)
        results += serving(folder, registry, model, options.rounds)
    write("shadow", results)


if __name__ == "__main__":
    main()
