"""Compare the prediction service with an empty Flask route and with MLflow's scoring server.

    make bench NAME=serving

The floor is an empty Flask route under the same gunicorn worker and settings. Rounds in random
order: closed loop on kept connections, then half of that rate for the tail. Each ratio is of one
round, so other load on the machine slows both sides. The figure is the median over the rounds, with
its 95 % bootstrap interval. Then service and floor alternate at half of the floor's rate.
"""

import argparse
import os
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from config.contract import load_contract
from config.events import Prediction
from config.feature import Value
from prediction_service.journal import Journal, journal_paths
from tests.benchmarks.load import Client, Target
from tests.benchmarks.report import at_least, at_most, result, write
from tests.benchmarks.served_model import TrainedModel, train
from tests.benchmarks.servers import (
    Server,
    floor,
    mlflow_server,
    serve_version,
    service,
)

MAX_MB, MAX_START_S = 120, 3
SHARE_OF_FLOOR, P99_OF_FLOOR, TIMES_MLFLOW, GROWTH, SWAPPED = 0.75, 1.3, 15, 1.1, 1.3
CONNECTIONS = 16
DISTINCT_REQUESTS = 2000
RESAMPLES = 2000
FEATURES: dict[str, Value] = {f"feature_{i}": "some category" for i in range(12)}
EVENT = Prediction("0" * 32, 1.7e9, "1", FEATURES, 0.25, 0, 0.5)


class Round(NamedTuple):
    """The figures of one server in one round."""

    rate: float  # responses a second, saturated
    cpu_us: float  # of the server's processors, per request
    p99_ms: float  # at half of the saturated rate
    p50_ms: float


def measure(client: Client, server: Server, target: Target, seconds: float) -> Round:
    """Measure one server for one round."""
    cpu_s = server.cpu_s()
    full = client.drive(target, CONNECTIONS, seconds)
    cpu_us = (server.cpu_s() - cpu_s) / full.answered * 1e6
    half = client.drive(target, CONNECTIONS, seconds, full.rate / 2)
    return Round(full.rate, cpu_us, half.percentile_ms(99), half.percentile_ms(50))


def same_rate(
    client: Client, targets: dict[str, Target], rate: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the service's p99 over the floor's, both at `rate` requests a second.

    Short stretches alternate. Another process on the machine can multiply the p99 of a stretch, so
    the figure is the ratio of the medians over all stretches.
    """
    p99_ms: dict[str, list[float]] = {"floor": [], "service": []}
    for _ in range(options.pairs):
        for name in random.sample(list(p99_ms), 2):
            stretch = client.drive(targets[name], CONNECTIONS, options.seconds, rate)
            p99_ms[name].append(stretch.percentile_ms(99))
    pairs = np.array([p99_ms["service"], p99_ms["floor"]])
    drawn = np.random.default_rng(0).integers(options.pairs, size=(RESAMPLES, options.pairs))
    service, empty = np.median(pairs[:, drawn], axis=2)
    low, high = np.quantile(service / empty, [0.025, 0.975])
    service, empty = np.median(pairs, axis=1)
    name = f"service / floor: p99 at the same rate, {low:.3f} to {high:.3f}"
    return at_most(name, service / empty, "ratio", P99_OF_FLOOR)


def all_rounds(
    client: Client, servers: list[Server], targets: dict[str, Target], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the ratios, then the figures of each server."""
    rounds: dict[str, list[Round]] = defaultdict(list)
    for _ in range(options.rounds):
        for server in random.sample(servers, len(servers)):
            round_ = measure(client, server, targets[server.name], options.seconds)
            rounds[server.name].append(round_)
    results = compare(rounds)
    half = float(np.median([one.rate for one in rounds["floor"]])) / 2
    results.append(same_rate(client, targets, half, options))
    for server in servers:
        results += describe(server, rounds[server.name])
    return results


def swap_ratios(
    client: Client, target: Target, swap: Callable[[str], None], options: argparse.Namespace
) -> np.ndarray:
    """Return the p99 after a swap of the model over the p99 before it, by round (n_rounds,).

    The model is swapped at full load. Raises UnexpectedResponse if a request fails. The p99 is
    measured at half of that load, one second after the swap, when every worker has the model.
    `swap` takes the number of the version.
    """
    ratios = []
    for number in range(options.rounds):
        rate = client.drive(target, CONNECTIONS, options.seconds / 2).rate / 2
        before = client.drive(target, CONNECTIONS, options.seconds, rate)
        timer = threading.Timer(options.seconds / 4, swap, [str(number + 2)])
        timer.start()
        client.drive(target, CONNECTIONS, options.seconds / 4 + 1)
        timer.join()
        after = client.drive(target, CONNECTIONS, options.seconds, rate)
        ratios.append(after.percentile_ms(99) / before.percentile_ms(99))
    return np.array(ratios)


def start_all(stack: ExitStack, folder: Path, workers: int, model: TrainedModel) -> list[Server]:
    """Start every server; `stack` ends them."""
    servers = [floor(folder, workers), service(folder, workers, model)]
    servers.append(mlflow_server(workers, model))
    for server in servers:
        stack.enter_context(server.running(model.records[:1], folder / f"{server.name}.log"))
    return servers


def interval(values: np.ndarray) -> str:
    """Return the 95 % bootstrap interval of the median of `values` (n_rounds,) as text."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{low:.3f} to {high:.3f}"


def filled(folder: Path, n_rows: int) -> Journal:
    """Return a journal of `n_rows`, in as many files as a worker would make."""
    journal = Journal(folder, "benchmark", "normal", max(64, n_rows // 1500) * 10**6)
    journal.run_maintenance(1.0)
    for _ in range(n_rows // 10_000):
        journal.append([EVENT] * 10_000)
    return journal


def append_us(journals: list[Journal], n_appends: int = 5000) -> np.ndarray:
    """Return the median time of an append to each journal (n_journals,), in microseconds."""
    times = np.empty((n_appends, len(journals)))
    for row in times:
        for index, journal in enumerate(journals):
            begun = time.perf_counter()
            journal.append([EVENT])
            row[index] = time.perf_counter() - begun
    return np.median(times, axis=0) * 1e6


def growth(folder: Path, n_rows: int) -> list[dict[str, Any]]:
    """Measure an append to a short journal, and to one of `n_rows`."""
    journals = [filled(folder / f"rows-{n}", n) for n in (10**4, n_rows)]
    os.sync()  # writing back cached rows would slow both
    short, long = append_us(journals)
    n_files = len(journal_paths(journals[1].root))
    for journal in journals:
        journal.close()
    return [
        result("journal: an append after 10^4 rows", short, "us"),
        result(f"journal: an append after {n_rows} rows in {n_files} files", long, "us"),
        at_most("journal: long / short", long / short, "ratio", GROWTH),
    ]


def compare(rounds: dict[str, list[Round]]) -> list[dict[str, Any]]:
    """Return the ratios with their intervals."""
    by_name = {name: np.array(values) for name, values in rounds.items()}
    rate, cpu, p99 = (by_name["service"] / by_name["floor"]).T[:3]
    over_mlflow = by_name["service"][:, 0] / by_name["mlflow"][:, 0]
    return [
        ratio("service / floor: rate", rate, at_least, SHARE_OF_FLOOR),
        ratio("floor / service: processor time", 1 / cpu),
        ratio("service / floor: p99 at half of its own rate", p99),
        ratio("service / mlflow: rate", over_mlflow, at_least, TIMES_MLFLOW),
    ]


def ratio(
    name: str, values: np.ndarray, judge: Callable[..., dict[str, Any]] = result, goal: Any = ""
) -> dict[str, Any]:
    """Return the figure of the ratios of all rounds, `values` (n_rounds,)."""
    return judge(f"{name}, {interval(values)}", float(np.median(values)), "ratio", goal)


def describe(server: Server, rounds: list[Round]) -> list[dict[str, Any]]:
    """Return the figures of one server."""
    rate, cpu, p99, p50 = np.median(np.array(rounds), axis=0)
    name = server.name
    memory = result(f"{name}: memory per worker", server.worker_mb(), "MB")
    start = result(f"{name}: start to first response", server.start_s, "s")
    if name == "service":
        memory = at_most(memory["name"], memory["value"], "MB", MAX_MB)
        start = at_most(start["name"], start["value"], "s", MAX_START_S)
    return [
        result(f"{name}: predictions", rate, "1/s"),
        result(f"{name}: processor time a request", cpu, "us"),
        result(f"{name}: p50 at half of that rate", p50, "ms"),
        result(f"{name}: p99 at half of that rate", p99, "ms"),
        memory,
        start,
    ]


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pairs", type=int, default=16, help="of stretches at the same rate (16)")
    parser.add_argument("--seconds", type=float, default=2, help="of each stretch of load (2)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--journal-rows", type=int, default=10**6, help="of the long one (10^6)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        model = train(folder, load_contract())
        client = stack.enter_context(Client())
        servers = start_all(stack, folder, options.workers, model)
        batches = [[one] for one in model.records[:DISTINCT_REQUESTS]]
        targets = {one.name: one.target(batches) for one in servers}
        results = all_rounds(client, servers, targets, options)
        swap = partial(serve_version, folder, model)
        swapped = swap_ratios(client, targets["service"], swap, options)
        results.append(ratio("service: p99 after a swap / before", swapped, at_most, SWAPPED))
        results += growth(folder, options.journal_rows)
    write("serving", results)


if __name__ == "__main__":
    main()
