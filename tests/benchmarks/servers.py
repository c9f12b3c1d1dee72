"""The servers that the benchmarks compare: an empty route, the service, MLflow's scoring server.

All have the same number of worker processes. The empty route and the service have the same gunicorn
worker and settings, the service and MLflow the same graph. Linux only: time and memory are read
from /proc.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from config.contract import MISSING
from config.model.package import sha256_of
from prediction_service.models.model_folder import Current, ModelFolder
from tests.benchmarks.load import Target
from tests.benchmarks.served_model import Records, TrainedModel
from tests.conftest import free_port

START_LIMIT_S = 60
STOP_LIMIT_S = 20
GUNICORN = ("gunicorn", "--config", "python:prediction_service.gunicorn_config")


def one_or_list(records: Records) -> Any:
    """Return the body of a `/predict` request."""
    return records[0] if len(records) == 1 else records


def as_split_frame(records: Records) -> Any:
    """Return the body for MLflow's scoring server, in the format that it reads fastest."""
    # It rejects null for a string. The graph's own category for a missing value is '?'.
    rows = [[MISSING if value is None else value for value in one.values()] for one in records]
    return {"dataframe_split": {"columns": list(records[0]), "data": rows}}


@dataclass
class Server:
    """A server: its command, its settings and its request format."""

    name: str
    arguments: tuple[str, ...]  # of `python -m`
    environment: dict[str, str]
    path: str = "/predict"
    body: Callable[[Records], Any] = one_or_list  # returns the body before JSON encoding
    port: int = field(default_factory=free_port)
    start_s: float = 0.0  # from the start of the process to the first response
    pid: int = 0

    @contextmanager
    def running(self, records: Records, log: Path) -> Iterator[None]:
        """Run the server; yield after its first response, and end all its processes."""
        command = [sys.executable, "-m", *self.arguments]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts `uvicorn`
        own = {"PREDICTION_PORT": str(self.port), "PATH": path}
        begun = time.monotonic()
        with log.open("wb") as file, subprocess.Popen(
            command,
            env=os.environ | self.environment | own,
            stdout=file,
            stderr=file,
            start_new_session=True,
        ) as process:
            self.pid = process.pid
            try:
                if not self._responds(records, process):
                    raise RuntimeError(f"{command}: no response:\n{log.read_text('utf-8')[-2000:]}")
                self.start_s = time.monotonic() - begun
                yield
            finally:
                stop(process)

    def target(self, batches: list[Records]) -> Target:
        """Return the load's target: requests with one batch of records each."""
        bodies = [json.dumps(self.body(records)).encode() for records in batches]
        return Target(self.port, self.path, bodies)

    def cpu_s(self) -> float:
        """Return the processor time of all its processes so far, in seconds."""
        return cpu_s(self.pid)

    def worker_mb(self) -> float:
        """Return the resident memory of its largest process, in megabytes."""
        return memory_mb(self.pid)[1]

    def _responds(self, records: Records, process: "subprocess.Popen[bytes]") -> bool:
        url = f"http://127.0.0.1:{self.port}{self.path}"
        deadline = time.monotonic() + START_LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                response = requests.post(url, json=self.body(records), timeout=10)
            except requests.ConnectionError:
                time.sleep(0.01)
                continue
            return response.ok
        return False


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its process group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def processes(pid: int) -> list[int]:
    """Return the pids of a process and of all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [pid, *(one for child in children for one in processes(int(child)))]


def cpu_s(pid: int) -> float:
    """Return the processor time of a process and of all that it started so far, in seconds."""
    ticks = 0
    for one in processes(pid):
        after_name = Path(f"/proc/{one}/stat").read_text("ascii").rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])  # in user and in system mode
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> tuple[float, float]:
    """Return the memory of a process with all that it started, in megabytes.

    First the sum in which a shared page counts once, then the resident memory of the largest one.
    """
    sizes = []
    for one in processes(pid):
        text = Path(f"/proc/{one}/smaps_rollup").read_text("ascii")
        kilobytes = dict(re.findall(r"^(Pss|Rss): +(\d+) kB", text, re.M))
        sizes.append((int(kilobytes["Pss"]) * 1.024e-3, int(kilobytes["Rss"]) * 1.024e-3))
    return sum(pss for pss, _ in sizes), max(rss for _, rss in sizes)


def floor(folder: Path, workers: int) -> Server:
    """Return an empty Flask route under the service's gunicorn worker and settings."""
    return Server("floor", (*GUNICORN, "tests.benchmarks.floor:app"), settings(folder, workers))


def service(folder: Path, workers: int, model: TrainedModel) -> Server:
    """Return the prediction service with its journal, metrics and request log."""
    serve_version(folder, model, "1")
    arguments = (*GUNICORN, "prediction_service.wsgi:app")
    return Server("service", arguments, settings(folder, workers))


def serve_version(folder: Path, model: TrainedModel, version: str) -> None:
    """Put the model into the service's folder as another version, as the follower does."""
    models = ModelFolder(folder / "model")
    shutil.copytree(model.package, models.path / version)
    digest = sha256_of(models.path / version / "model.onnx")
    models.switch(Current(version, "0" * 32, version, digest))


def mlflow_server(workers: int, model: TrainedModel) -> Server:
    """Return `mlflow models serve` of the same graph."""
    port = free_port()
    options = ["--model-uri", str(model.logged), "--env-manager", "local", "--host", "127.0.0.1"]
    options += ["--port", str(port), "--workers", str(workers)]
    return Server(
        "mlflow", ("mlflow", "models", "serve", *options), {}, "/invocations", as_split_frame, port
    )


def settings(folder: Path, workers: int) -> dict[str, str]:
    """Return the service's settings, with folders of the benchmark's own."""
    return {
        "WORKERS": str(workers),
        "INSTANCE": "benchmark",
        "MODEL_DIR": str(folder / "model"),
        "JOURNAL_DIR": str(folder / "journal"),
        "JOURNAL_MAX_MB": "100000",
        "GRACEFUL_TIMEOUT_S": "1",
    }
