"""What explanations cost a worker, in time and memory, and the image, in disk.

    make bench NAME=explanations

One worker of the service on a model of the real size. What is not asked for costs nothing but the
disk: XGBoost is imported with a worker's first explanation.
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

PACKAGES = ("xgboost-cpu", "scipy")  # that the serving image has for explanations alone


def disk_mb(package: str) -> float:
    """The size of an installed package, in megabytes."""
    paths = [Path(str(file.locate())) for file in files(package) or ()]
    return sum(path.stat().st_size for path in paths if path.exists()) / 1e6


def answer_ms(session: requests.Session, address: str, records: Records) -> np.ndarray:
    """Milliseconds of each answer (n_records,), one record after the other."""
    taken = []
    for record in records:
        begun = time.perf_counter()
        session.post(address, json=record, timeout=60).raise_for_status()
        taken.append((time.perf_counter() - begun) * 1000)
    return np.array(taken)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, requests.Session() as session:
        folder = Path(scratch)
        model = train(folder, load_contract())
        server, records = service(folder, 1, model), model.records[: options.answers]
        with server.running(records[:1], folder / "log"):
            address = f"http://127.0.0.1:{server.port}/predict"
            plain, before_mb = answer_ms(session, address, records), server.worker_mb()
            address += "?explain=true"
            first = answer_ms(session, address, records[:1])
            explained, after_mb = answer_ms(session, address, records), server.worker_mb()
    results = [
        result("an answer", float(np.median(plain)), "ms"),
        result("an answer with its explanation", float(np.median(explained)), "ms"),
        result("the first explanation of a worker", float(first[0]), "ms"),
        result("memory of a worker that explains nothing", before_mb, "MB"),
        result("memory of a worker that explains", after_mb, "MB"),
        *(result(f"disk: {package}", disk_mb(package), "MB") for package in PACKAGES),
    ]
    write("explanations", results)


if __name__ == "__main__":
    main()
