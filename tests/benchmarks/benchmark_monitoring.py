"""The monitoring: intake rate, delay of the verdict, memory and disk space.

    make bench NAME=monitoring

The peer is one prediction service at saturation, with one record a request. During the intake the
monitoring gets batches as from the relay, and it measures and writes reports without a pause. The
delay is measured with the periods of config/monitoring.yaml, from the acceptance of a batch to its
measurement.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import requests
import yaml

from config.contract import CONTRACT_PATH, load_contract
from tests.benchmarks.load import Client
from tests.benchmarks.report import at_least, at_most, result, write
from tests.benchmarks.served_model import train
from tests.benchmarks.servers import processes, service
from tests.conftest import free_port, wait_until
from tests.evidently_service.events import made_up_predictions, made_up_rows
from tests.evidently_service.mlflow_registry import RegistryFile

BATCH_ROWS, SENDERS, WORKERS = 500, 2, 2  # RELAY_BATCH_ROWS
REFERENCE_ROWS = 5000
CONNECTIONS, LOAD_S = 16, 10.0
N_DELAYS, MAX_DELAY_S = 6, 10
RETENTION_ROWS, GROWTH_MB = 50_000, 50  # retention_rows of config/monitoring.yaml
GUNICORN = ["gunicorn", "-c", "evidently_service/gunicorn.conf.py", "evidently_service.wsgi:app"]
MEASURE = ["evidently_service.measure"]
NAME = b"number-of-the-batch"

Results = list[dict[str, Any]]


class Monitoring:
    """An Evidently service, gunicorn and the measure process, with a folder of its own."""

    def __init__(self, folder: Path, registry: RegistryFile, **periods: float) -> None:
        file = yaml.safe_load(CONTRACT_PATH.with_name("monitoring.yaml").read_text("utf-8"))
        folder.mkdir()
        path = folder / "monitoring.yaml"
        path.write_text(yaml.safe_dump(file | periods), encoding="utf-8")
        self.address = f"http://127.0.0.1:{free_port()}"
        self.env = os.environ | {
            "EVIDENTLY_PORT": self.address.rpartition(":")[2],
            "EVIDENTLY_WORKERS": str(WORKERS),
            "WINDOW_DIR": str(folder / "window"),
            "MONITORING_FILE": str(path),
            "MLFLOW_TRACKING_URI": registry.uri,
        }
        self.log = folder / "log"
        self.pids: list[int] = []
        self.sent = 0
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator["Monitoring"]:
        """Run both processes while the body runs."""
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self.log.open("wb"))
            for arguments in (GUNICORN, MEASURE):
                command = [sys.executable, "-m", *arguments]
                process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
                stack.enter_context(process)
                stack.callback(process.terminate)
                self.pids.append(process.pid)
            wait_until(self.has_reference, "the first measurement")
            yield self

    def has_reference(self) -> bool:
        """Return True if the service has reference data."""
        with contextlib.suppress(requests.ConnectionError):
            return self.drift()["model_version"] is not None
        return False

    def drift(self) -> dict[str, Any]:
        """Return the drift verdict."""
        return requests.get(f"{self.address}/drift", timeout=10).json()

    def send(self, session: requests.Session, batch: bytes) -> int:
        """Send a batch with new ids; return the number of predictions sent so far."""
        with self.lock:
            self.sent += BATCH_ROWS
            sent = self.sent
        body = batch.replace(NAME, f"{sent:019d}".encode())
        response = session.post(
            f"{self.address}/iterate/income",
            data=body,
            headers={"Content-Type": "application/json"},
            timeout=30,
        )
        response.raise_for_status()
        return sent

    def take_in(self, batches: list[bytes], rows: int) -> float:
        """Send that many predictions from SENDERS threads; return predictions per second."""
        until, started = self.sent + rows, time.monotonic()

        def send_all() -> None:
            with requests.Session() as session:
                while (sent := self.sent) < until:
                    self.send(session, batches[sent // BATCH_ROWS % len(batches)])

        threads = [threading.Thread(target=send_all) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return rows / (time.monotonic() - started)

    def delay_s(self, batch: bytes) -> float:
        """Return the seconds from the acceptance of a batch to its measurement."""
        with requests.Session() as session:
            sent = self.send(session, batch)
        accepted = time.monotonic()
        wait_until(lambda: self.drift()["window"]["ingested_total"] >= sent, "a measurement")
        return time.monotonic() - accepted

    def memory_mb(self) -> float:
        """Return the resident memory of all processes in megabytes."""
        pids = [one for pid in self.pids for one in processes(pid)]
        pages = [int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) for pid in pids]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def disk_mb(self) -> float:
        """Return the size of the window's folder in megabytes."""
        files = Path(self.env["WINDOW_DIR"]).rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def peer_rate(folder: Path) -> float:
    """Return the predictions per second of one prediction service at saturation."""
    model = train(folder, load_contract())
    server = service(folder, WORKERS, model)
    batches = [[one] for one in model.records[:2000]]
    with server.running(batches[0], folder / "service.log"), Client() as client:
        client.drive(server.target(batches), CONNECTIONS, 2.0)
        return client.drive(server.target(batches), CONNECTIONS, LOAD_S).rate


def made_up_batches(n_batches: int = 20) -> list[bytes]:
    """Return batches as the relay sends them; NAME stands for the number of the batch."""
    contract, batches = load_contract(), []
    for seed in range(n_batches):
        events = made_up_predictions(contract, BATCH_ROWS, seed)
        own = (
            msgspec.structs.replace(event, prediction_id=f"{NAME.decode()}-{number}")
            for number, event in enumerate(events)
        )
        batches.append(msgspec.json.encode(list(own)))
    return batches


def intake(monitoring: Monitoring, batches: list[bytes], rows: int, peer: float) -> Results:
    """Return the figures of the intake."""
    monitoring.take_in(batches, 2 * RETENTION_ROWS)  # until it has its full size
    memory = monitoring.memory_mb()
    rate = monitoring.take_in(batches, rows)
    return [
        result("prediction service at saturation", peer, "/s"),
        result("intake while measuring and reporting", rate, "/s"),
        at_least("intake / prediction service", rate / peer, "ratio", 2),
        result("memory, full", memory, "MB"),
        at_most(f"growth over {rows} more rows", monitoring.memory_mb() - memory, "MB", GROWTH_MB),
        # Includes the rows between two measurements and the log of their deletion.
        result("disk at the end", monitoring.disk_mb(), "MB"),
    ]


def delays(monitoring: Monitoring, batches: list[bytes]) -> Results:
    """Return the figures of the delay."""
    monitoring.take_in(batches, 10_000)
    monitoring.delay_s(batches[0])  # uncounted: the first measurement finds the thresholds
    found = [monitoring.delay_s(batch) for batch in batches[:N_DELAYS]]
    measured = float(monitoring.drift()["duration_s"])
    return [
        at_most("batch to measurement, maximum", max(found), "s", MAX_DELAY_S),
        result("one measurement", measured, "s"),
    ]


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="predictions (1000000)")
    options = parser.parse_args()
    batches = made_up_batches()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = peer_rate(folder)
        registry = RegistryFile(folder)
        registry.promote(made_up_rows(load_contract(), REFERENCE_ROWS, seed=10_000))
        busy = {"measure_period_s": 0.001, "html_period_s": 0.001}
        with Monitoring(folder / "busy", registry, **busy).running() as monitoring:
            results = intake(monitoring, batches, options.rows, peer)
        with Monitoring(folder / "usual", registry).running() as monitoring:
            results += delays(monitoring, batches)
    write("monitoring", results)


if __name__ == "__main__":
    main()
