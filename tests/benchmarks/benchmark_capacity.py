"""Unit costs of every part, and the capacity plan that follows from them.

    make bench NAME=capacity

Costs are processor time, bytes and memory, which other load on the machine changes little. First
the whole stack trains a model, for the memory of each part. Then the service runs beside an empty
Flask route, and a simulation of its workers is compared with their rate. At last the relay delivers
to the MongoDB that MONGODB_TEST_URI names, and to the Evidently service. The last tables are
Markdown, for docs/scaling.md.
"""

import argparse
import json
import os
import resource
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import requests

from config.contract import load_contract
from config.local_stack.demo import run_command
from config.local_stack.stack import PORTS, Stack, running, stack_environment
from prediction_service.journal import Journal
from prediction_service.journal.export import journalled_predictions
from tests.benchmarks import capacity_costs as costs
from tests.benchmarks import capacity_model as model
from tests.benchmarks.census import read_census
from tests.benchmarks.load import Client, Target
from tests.benchmarks.report import result, write
from tests.benchmarks.served_model import Records, records_of
from tests.benchmarks.servers import GUNICORN, Server, floor, memory_mb, settings
from tests.conftest import free_port

MONITORING = ("gcs", "mlflow", "evidently", "measure")
CONNECTIONS, SIMULATED = 16, 200_000
TOLERANCE = 0.15  # of the model's maximum rate


class Stretch(NamedTuple):
    """Figures of one stretch of load."""

    rate: float
    cpu_s: float  # of the server's processors, per request
    client_s: float
    p99_ms: float
    processors: float  # that other programs left, on average


def idle_s() -> float:
    """Return the time that the machine's processors have been idle so far, in seconds."""
    fields = Path("/proc/stat").read_text("ascii").split(maxsplit=6)
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def drive(client: Client, server: Server, target: Target, *load: Any) -> Stretch:
    """Load a server; `load` is connections, seconds and rate, as in `Client.drive`."""
    used_s, unused_s = server.cpu_s(), idle_s()
    done = client.drive(target, *load)
    used_s, unused_s = server.cpu_s() - used_s, idle_s() - unused_s
    left = min((used_s + done.client_cpu_s + unused_s) / done.seconds, os.cpu_count() or 1)
    costs = used_s / done.answered, done.client_cpu_s / done.answered
    return Stretch(done.rate, *costs, done.percentile_ms(99), left)


def start_servers(stack: ExitStack, folder: Path, records: Records) -> list[Server]:
    """Start the empty route, and the service with one and with two workers."""
    own = settings(folder / "state", 1) | {"JOURNAL_DIR": str(folder / "journal")}
    app = (*GUNICORN, "prediction_service.wsgi:app")
    two = own | {"WORKERS": "2", "INSTANCE": "two"}
    servers = [floor(folder, 2), Server("1 worker", app, own), Server("2 workers", app, two)]
    for server in servers:
        stack.enter_context(server.running(records[:1], folder / f"{server.name}.log"))
    return servers


def serve(folder: Path, records: Records, options: argparse.Namespace) -> dict[str, Stretch]:
    """Return the medians of all stretches: `1 worker, 8` has eight connections."""
    found: dict[str, list[Stretch]] = defaultdict(list)
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        servers = start_servers(stack, folder, records)
        targets = [server.target([[record] for record in records]) for server in servers]
        for target in targets:
            client.drive(target, CONNECTIONS, 0.2)  # loads what is loaded late
        for _ in range(options.rounds):
            for server, target in zip(servers, targets, strict=True):
                for count in (1, 8, 16) if server.name == "1 worker" else (16,):
                    full = drive(client, server, target, count, options.seconds, None)
                    found[f"{server.name}, {count}"].append(full)
                half = drive(client, server, target, CONNECTIONS, options.seconds, full.rate / 2)
                found[f"{server.name}, half"].append(half)
        target = Target(servers[-1].port, "/feedback", label_bodies(folder / "journal"))
        for _ in range(options.rounds):
            stretch = drive(client, servers[-1], target, CONNECTIONS, options.seconds, None)
            found["label"].append(stretch)
    return {name: Stretch(*np.median(stretches, axis=0)) for name, stretches in found.items()}


def label_bodies(root: Path) -> list[bytes]:
    """Return a label for each prediction in the journals."""
    ids = (one.prediction_id for one in journalled_predictions(root))
    return [json.dumps({"prediction_id": one, "label": 1}).encode() for one in ids]


def serving_figures(found: dict[str, Stretch]) -> costs.Results:
    """Yield the costs of requests, and the model beside what was measured."""
    yield result("floor: an empty Flask route", found["floor, 16"].cpu_s * 1e6, "us")
    yield result("p: a prediction", found["2 workers, 16"].cpu_s * 1e6, "us")
    yield result("l: a label", found["label"].cpu_s * 1e6, "us")
    batch_s, each_s = model.fit_service(found["1 worker, 1"].cpu_s, found["1 worker, 8"].cpu_s)
    yield result("model: a batch", batch_s * 1e6, "us")
    yield result("model: each request in it", each_s * 1e6, "us")

    def service(n_requests: int) -> float:
        return batch_s + each_s * n_requests

    for n_workers, name in ((1, "1 worker"), (2, "2 workers")):
        yield from check_model(n_workers, service, found[f"{name}, 16"], found[f"{name}, half"])
    maximum = model.max_rate(2, service, CONNECTIONS // 2)
    for share in (model.BUSY, 0.7, 0.9):
        wait_ms, _ = p99_ms(2, service, share * maximum)
        yield result(f"model: p99 of the wait at {share:.0%} of its maximum", wait_ms, "ms")


def check_model(
    n_workers: int, service: Callable[[int], float], full: Stretch, half: Stretch
) -> costs.Results:
    """Yield the measured and the model's figures of so many workers."""
    name = f"{n_workers} worker{'s' * (n_workers > 1)}"
    batch = CONNECTIONS // n_workers
    expected = model.max_rate(n_workers, service, batch, full.client_s, full.processors)
    ratio = full.rate / expected
    met = bool(abs(ratio - 1) <= TOLERANCE)
    yield result(f"{name}: processors that other programs left", full.processors, "")
    yield result(f"{name}: the client's part of a request", full.client_s * 1e6, "us")
    yield result(f"{name}: maximum rate, measured", full.rate, "/s")
    yield result(f"{name}: maximum rate, model", expected, "/s")
    yield result(f"{name}: measured / model", ratio, "ratio", f"1 +- {TOLERANCE}", met)
    yield result(f"{name}: p99 at half of that rate, measured", half.p99_ms, "ms")
    _, response_ms = p99_ms(n_workers, service, half.rate)
    yield result(f"{name}: p99 at half of that rate, model", response_ms, "ms")


def p99_ms(n_workers: int, service: Callable[[int], float], rate: float) -> tuple[float, float]:
    """Return the simulated p99 of the wait and of the response."""
    waits = model.simulate(rate, SIMULATED, n_workers, service, max_batch=500, seed=0)
    wait_ms, response_ms = np.percentile(waits, 99, axis=1) * 1000
    return float(wait_ms), float(response_ms)


def whole_stack(stack: Stack, records: Records, load_s: float) -> costs.Results:
    """Train a model and serve it; yield the memory of each part."""
    stack.wait_healthy("mlflow", "prefect", "prediction", "evidently")
    run_command(stack, "training", "train", "--data", "auto", "--max-evals", "2")
    maximum = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1.024e-3
    url = f"{stack.env['PREDICTION_ADDRESS']}/predict"
    stack.wait_for(lambda: requests.post(url, json=records[0], timeout=10).ok, "a prediction")
    bodies = [json.dumps(record).encode() for record in records]
    target = Target(int(stack.env["PREDICTION_PORT"]), "/predict", bodies)
    with Client() as client:
        sent = client.drive(target, CONNECTIONS, load_s, 2000.0).answered
    costs.wait_measured(stack, sent)
    for part in costs.PARTS:
        pss, rss = memory_mb(costs.part_pid(stack.logs, part))
        yield result(f"{part}: resident memory of a process", rss, "MB")
        yield result(f"{part}, all processes: memory, shared pages once", pss, "MB")
    yield result("training: resident memory, maximum", maximum, "MB")


def figures(folder: Path, options: argparse.Namespace) -> costs.Results:
    """Yield every figure."""
    yield result("load before", os.getloadavg()[0], "")
    contract = load_contract()
    rows = read_census(contract).test[list(contract.input_names)]
    records = records_of(rows.head(2000))
    own = {name: str(free_port()) for name in PORTS} | {"MEASURE_PERIOD_S": "1"}
    env = stack_environment(os.environ | own, folder / "state", {})
    with running(env, folder / "logs") as stack:
        yield from whole_stack(stack, records, options.seconds)
    yield from serving_figures(serve(folder, records, options))
    predictions = list(islice(journalled_predictions(folder / "journal"), costs.LABELLED))
    yield from costs.stored_bytes(folder, predictions, contract)
    root = folder / "shipped"
    with closing(Journal(root, "benchmark", "normal", 10**10)) as journal:
        yield from costs.fill(journal, predictions)
        yield from costs.relay_to_mongodb(root)
        with running(env, folder / "logs", MONITORING) as stack:
            yield from costs.monitor(stack, root)
    yield from costs.scoring(folder, records, contract)
    yield result("load after", os.getloadavg()[0], "")


def main() -> None:
    """Measure, write the figures and print the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each stretch of load (1)")
    with tempfile.TemporaryDirectory() as scratch:
        results = list(figures(Path(scratch), parser.parse_args()))
    write("capacity", results)
    for one in results:
        met = {True: ", as the goal", False: ", beyond the goal", None: ""}[one["met"]]
        print(f"| {one['name']} | {model.rounded(one['value'], 3)} {one['unit']}{met} |")
    cost = model.costs_of(results)
    print(model.markdown("a second", model.by_rate(cost), model.RATES))
    print(model.markdown("rows", model.by_rows(cost), model.KEPT))


if __name__ == "__main__":
    main()
