"""The cost of explanations: time and memory of a worker, disk space of the image.

    make bench NAME=explanations

One worker serves a model of production size. A worker imports XGBoost with its first explanation,
so without explanations they cost disk space only.
"""

import argparse
import tempfile
import time
from importlib.metadata import files
from pathlib import Path

import numpy as np
import requests

from config.contract import load_contract
from tests.benchmarks.report import result, write
from tests.benchmarks.served_model import Records, train
from tests.benchmarks.servers import service

PACKAGES = ("xgboost-cpu", "scipy")  # the serving image needs them for explanations only


def disk_mb(package: str) -> float:
    """Return the size of an installed package in megabytes."""
    paths = [Path(str(file.locate())) for file in files(package) or ()]
    return sum(path.stat().st_size for path in paths if path.exists()) / 1e6


def latency_ms(session: requests.Session, address: str, records: Records) -> np.ndarray:
    """Return milliseconds of each response (n_records,), one request after the other."""
    durations = []
    for record in records:
        begun = time.perf_counter()
        session.post(address, json=record, timeout=180).raise_for_status()
        durations.append((time.perf_counter() - begun) * 1000)
    return np.array(durations)


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, requests.Session() as session:
        folder = Path(scratch)
        model = train(folder, load_contract())
        server, records = service(folder, 1, model), model.records[: options.requests]
        with server.running(records[:1], folder / "log"):
            address = f"http://127.0.0.1:{server.port}/predict"
            plain, before_mb = latency_ms(session, address, records), server.worker_mb()
            address += "?explain=true"
            first = latency_ms(session, address, records[:1])
            explained, after_mb = latency_ms(session, address, records), server.worker_mb()
    results = [
        result("a prediction", float(np.median(plain)), "ms"),
        result("a prediction with its explanation", float(np.median(explained)), "ms"),
        result("the first explanation of a worker", float(first[0]), "ms"),
        result("memory of a worker without explanations", before_mb, "MB"),
        result("memory of a worker with explanations", after_mb, "MB"),
        *(result(f"disk: {package}", disk_mb(package), "MB") for package in PACKAGES),
    ]
    write("explanations", results)


if __name__ == "__main__":
    main()
