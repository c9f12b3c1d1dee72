"""What a durable, validated, monitored prediction costs beside an empty route, and beside MLflow.

    make benchmark-serving

Rounds in random order: closed loop on kept connections, then half of that rate to see the tail. The
ratios are those of one round, so that a machine that others use too slows both sides; they are
given as their median over the rounds, with its 95 % bootstrap interval. Both floors are the same
application; the second is under gunicorn's own worker for kept connections.
"""

import argparse
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
from prediction_service.journal import Journal
from tests.benchmarks.load import Client, Target
from tests.benchmarks.report import at_least, at_most, result, write
from tests.benchmarks.served_model import Records, TrainedModel, train
from tests.benchmarks.servers import (
    Server,
    floor,
    gthread_floor,
    mlflow_server,
    serve_version,
    service,
)

MAX_MB, MAX_START_S = 120, 3
SHARE_OF_FLOOR, P99_OF_FLOOR, GROWTH, SWAPPED = 0.75, 1.3, 1.1, 1.3
CONNECTIONS = 16
DISTINCT_REQUESTS = 2000
RESAMPLES = 2000


class Round(NamedTuple):
    """One server's figures of one round."""

    rate: float  # answers a second, saturated
    cpu_us: float  # of the server's processors, per request
    p99_ms: float  # at half of the saturated rate
    client_cpu_us: float


def measure(client: Client, server: Server, batches: list[Records], seconds: float) -> Round:
    """One round of one server."""
    target = server.target(batches)
    cpu_s = server.cpu_s()
    full = client.drive(target, CONNECTIONS, seconds)
    cpu_us = (server.cpu_s() - cpu_s) / full.answered * 1e6
    half = client.drive(target, CONNECTIONS, seconds, full.rate / 2)
    return Round(full.rate, cpu_us, half.p99_ms, full.client_cpu_s / full.answered * 1e6)


def swap_ratios(
    client: Client, target: Target, swap: Callable[[str], None], options: argparse.Namespace
) -> np.ndarray:
    """The p99 after a swap of the model over that before it, by round (n_rounds,).

    The model is swapped at full load, of which every request has to be answered (UnexpectedAnswer),
    and the p99 is at half of that; it begins a second after the swap, when every worker has it.
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
        ratios.append(after.p99_ms / before.p99_ms)
    return np.array(ratios)


def start_all(stack: ExitStack, folder: Path, workers: int, model: TrainedModel) -> list[Server]:
    """Every server, answering; `stack` ends them."""
    servers = [floor(folder, workers), gthread_floor(workers), service(folder, workers, model)]
    servers.append(mlflow_server(workers, model))
    for server in servers:
        stack.enter_context(server.running(model.records[:1], folder / f"{server.name}.log"))
    return servers


def interval(values: np.ndarray) -> str:
    """The 95 % bootstrap interval of the median of `values` (n_rounds,), in words."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{low:.3f} to {high:.3f}"


def append_us(folder: Path, n_rows: int, n_appends: int = 3000) -> float:
    """Median time of one commit to a journal that holds `n_rows`, in microseconds."""
    journal = Journal(folder, f"rows-{n_rows}", "normal", 10**12)
    features: dict[str, str | int | None] = {f"feature_{i}": "some category" for i in range(12)}
    one = Prediction("0" * 32, 1.7e9, "1", features, 0.25, 0, 0.5)
    for _ in range(n_rows // 10_000):
        journal.append([one] * 10_000)
    times = []
    for _ in range(n_appends):
        begun = time.perf_counter()
        journal.append([one])
        times.append(time.perf_counter() - begun)
    journal.close()
    return float(np.median(times)) * 1e6


def growth(folder: Path, n_rows: int) -> list[dict[str, Any]]:
    """What a commit costs in a short journal, and in one of `n_rows`."""
    short, long = append_us(folder, 10**4), append_us(folder, n_rows)
    return [
        result("journal: a commit after 10^4 rows", short, "us"),
        result(f"journal: a commit after {n_rows} rows", long, "us"),
        at_most("journal: long / short", long / short, "ratio", GROWTH),
    ]


def compare(rounds: dict[str, list[Round]]) -> list[dict[str, Any]]:
    """The ratios, with their intervals."""
    by_name = {name: np.array(values) for name, values in rounds.items()}
    rate, cpu, p99 = (by_name["service"] / by_name["floor"]).T[:3]
    over_gthread = by_name["service"][:, 0] / by_name["floor under gthread"][:, 0]
    over_mlflow = by_name["service"][:, 0] / by_name["mlflow"][:, 0]
    return [
        ratio("service / floor: rate", rate, at_least, SHARE_OF_FLOOR),
        ratio("floor / service: processor time", 1 / cpu),
        ratio("service / floor: p99", p99, at_most, P99_OF_FLOOR),
        ratio("service / floor under gthread: rate", over_gthread),
        ratio("service / mlflow: rate", over_mlflow),
    ]


def ratio(
    name: str, values: np.ndarray, judge: Callable[..., dict[str, Any]] = result, goal: Any = ""
) -> dict[str, Any]:
    """One figure of the ratios of all rounds, `values` (n_rounds,)."""
    return judge(f"{name}, {interval(values)}", float(np.median(values)), "ratio", goal)


def describe(server: Server, rounds: list[Round]) -> list[dict[str, Any]]:
    """One server's own figures."""
    rate, cpu, p99, client = np.median(np.array(rounds), axis=0)
    name = server.name
    memory = result(f"{name}: memory per worker", server.worker_mb(), "MB")
    start = result(f"{name}: start to first answer", server.start_s, "s")
    if name == "service":
        memory = at_most(memory["name"], memory["value"], "MB", MAX_MB)
        start = at_most(start["name"], start["value"], "s", MAX_START_S)
    return [
        result(f"{name}: predictions", rate, "1/s"),
        result(f"{name}: processor time a request", cpu, "us"),
        result(f"{name}: p99 at half of that rate", p99, "ms"),
        result(f"{name}: the client's processor time a request", client, "us"),
        memory,
        start,
    ]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2, help="of each stretch of load (2)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--journal-rows", type=int, default=10**6, help="of the long one (10^6)")
    options = parser.parse_args()
    rounds: dict[str, list[Round]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        model = train(folder, load_contract())
        batches = [[one] for one in model.records[:DISTINCT_REQUESTS]]
        client = stack.enter_context(Client())
        servers = start_all(stack, folder, options.workers, model)
        for _ in range(options.rounds):
            for server in random.sample(servers, len(servers)):
                rounds[server.name].append(measure(client, server, batches, options.seconds))
        results = compare(rounds)
        for server in servers:
            results += describe(server, rounds[server.name])
        (target,) = (one.target(batches) for one in servers if one.name == "service")
        ratios = swap_ratios(client, target, partial(serve_version, folder, model), options)
        results.append(ratio("service: p99 after a swap / before", ratios, at_most, SWAPPED))
        results += growth(folder, options.journal_rows)
    write("benchmark-serving", results, file="serving")


if __name__ == "__main__":
    main()
