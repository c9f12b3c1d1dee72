"""Rows per second and core in lists of 1000, compared with MLflow's server on the same graph.

    make bench NAME=batch

The rate is rows per second of processor time of the server's processes. It depends neither on the
number of cores nor on other processes. The service validates and journals every row; MLflow's
server does neither.
"""

import argparse
import random
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config.contract import load_contract
from tests.benchmarks.benchmark_serving import ratio
from tests.benchmarks.load import Client
from tests.benchmarks.report import at_least, result, write
from tests.benchmarks.served_model import train
from tests.benchmarks.servers import Server, mlflow_server, service

BATCH_ROWS = 1000
CONNECTIONS = 2
MIN_RATIO = 2.5  # to MLflow's server


class Measured(NamedTuple):
    """The figures of all rounds, by server."""

    rates: dict[str, list[float]]  # rows per second of processor time
    worker_mb: dict[str, float]


def rows_per_core_s(client: Client, server: Server, batches: list, seconds: float) -> float:
    """Return rows per second of processor time in one round."""
    before_s = server.cpu_s()
    answered = client.drive(server.target(batches), CONNECTIONS, seconds).answered
    return answered * BATCH_ROWS / (server.cpu_s() - before_s)


def measure(folder: Path, rounds: int, seconds: float, workers: int) -> Measured:
    """Run all rounds of the service and of MLflow's server, in random order."""
    measured = Measured(defaultdict(list), {})
    with ExitStack() as stack:
        model = train(folder, load_contract())
        starts = range(0, len(model.records) - BATCH_ROWS, BATCH_ROWS)
        batches = [model.records[start : start + BATCH_ROWS] for start in starts]
        client = stack.enter_context(Client())
        servers = [service(folder, workers, model), mlflow_server(workers, model)]
        for server in servers:
            log = folder / f"{server.name}.log"
            stack.enter_context(server.running(model.records[:1], log))
        for _ in range(rounds):
            for server in random.sample(servers, len(servers)):
                rate = rows_per_core_s(client, server, batches, seconds)
                measured.rates[server.name].append(rate)
        measured.worker_mb.update((server.name, server.worker_mb()) for server in servers)
    return measured


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3, help="of load in each round (3)")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rates, memory = measure(Path(scratch), options.rounds, options.seconds, options.workers)
    over_mlflow = np.array(rates["service"]) / np.array(rates["mlflow"])
    results = [ratio("service / mlflow: rows per busy core", over_mlflow, at_least, MIN_RATIO)]
    results += [
        result(f"{name}: rows per busy core", float(np.median(values)), "1/s")
        for name, values in rates.items()
    ]
    results += [result(f"{name}: memory per worker", value, "MB") for name, value in memory.items()]
    write("batch", results)


if __name__ == "__main__":
    main()
