"""The parts under soak as processes: service, relay, monitoring.

The soak fills the model folder itself, in place of the follower.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


from config.contract import load_contract
from prediction_service.relay.progress import backlog, dead_letters
from prediction_service.journal.export import journalled_ids
from prediction_service.models.model_folder import ModelFolder
from prediction_service.sinks.mongodb import MongoSink
from prediction_service.settings import Settings
from tests.benchmarks.servers import processes
from tests.conftest import ROOT, accepts_connections, free_port, wait_until
from tests.prediction_service.conftest import environment, install, make_package

START_TIMEOUT_S, STOP_TIMEOUT_S = 60, 30
SERVICE = (
    "gunicorn",
    "-c",
    "python:prediction_service.gunicorn_config",
    "prediction_service.wsgi:app",
)
RELAY = ("prediction_service.relay",)
MONITORING = ("gunicorn", "-c", "evidently_service/gunicorn.conf.py", "evidently_service.wsgi:app")


class Part:
    """A process group that can be started and ended repeatedly."""

    def __init__(
        self, name: str, arguments: tuple[str, ...], env: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._command = [sys.executable, "-m", *arguments]
        self._environment = env
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; append its output to the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with  # see `_end`
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Send SIGKILL to the whole group."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Send SIGTERM and wait. Raises TimeoutExpired."""
        self._end(signal.SIGTERM)

    def kill_worker(self) -> None:
        """Send SIGKILL to one child process."""
        assert self.process
        if workers := processes(self.process.pid)[1:]:
            os.kill(workers[0], signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            # SIGTERM goes to the parent alone: a second one would stop its workers at once.
            (os.killpg if number == signal.SIGKILL else os.kill)(self.process.pid, number)
            self.process.wait(STOP_TIMEOUT_S)


class System:
    """All parts, with their own folders and ports."""

    def __init__(
        self, folder: Path, mongodb_address: str, database: str, journal_max_mb: int = 2000
    ) -> None:
        self.settings = Settings(
            model_dir=str(folder / "model"),
            journal_dir=str(folder / "journal"),
            instance="here",
            prediction_port=free_port(),
            model_check_s=0.2,
            log_requests=False,
            journal_max_mb=journal_max_mb,
            journal_retention_s=2.0,  # so that delivered rows are deleted during the soak
            mongodb_address=mongodb_address,
            mongodb_database=database,
            evidently_address=f"http://127.0.0.1:{free_port()}",
            # Some servers with MongoDB's protocol are slow to find an existing id.
            sink_timeout_s=30.0,
            relay_batch_rows=100,
            relay_batch_age_s=0.2,
            relay_backoff_max_s=1.0,
        )
        self.window = folder / "window"
        self._package = make_package(load_contract(), folder / "package")
        self.models = ModelFolder(self.settings.model_path)
        own = environment(self.settings)
        port = self.settings.evidently_address.rpartition(":")[2]
        monitoring = own | {"EVIDENTLY_PORT": port, "WINDOW_DIR": str(self.window)}
        # A killed service leaves its metric files: the next one must delete them.
        own["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "counts")
        self.service = Part("service", SERVICE, own, folder / "service.log")
        self.relay = Part("relay", RELAY, own, folder / "relay.log")
        self.monitoring = Part("monitoring", MONITORING, monitoring, folder / "monitoring.log")
        self.parts = (self.monitoring, self.relay, self.service)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run all parts while the body runs. The service accepts connections."""
        self.serve("1")
        try:
            for part in self.parts:
                part.start()
            self.wait_for_service()
            yield
        finally:
            for part in self.parts:
                part.kill()

    def serve(self, version: str) -> None:
        """Put another version into the model folder."""
        install(self.models, self._package, version)

    def wait_for_service(self) -> None:
        """Return as soon as the service listens."""
        port = self.settings.prediction_port
        wait_until(
            lambda: accepts_connections(port), "the service to listen", timeout_s=START_TIMEOUT_S
        )

    def fill_disk(self, free_mb: int = 0) -> Path:
        """Use JOURNAL_MAX_MB, except `free_mb`, with a sparse file; return its path."""
        ballast = self.settings.journal_path / "ballast"
        with ballast.open("wb") as file:
            file.truncate((self.settings.journal_max_mb - free_mb) * 10**6)
        return ballast

    def backlog(self) -> dict[str, int]:
        """Return the number of undelivered events by sink."""
        root = self.settings.journal_path
        return {sink: backlog(root, sink, share) for sink, share in self.settings.sinks.items()}

    def dead_letters(self) -> int:
        """Return the number of events that a sink rejected permanently."""
        return sum(dead_letters(self.settings.journal_path).values())

    def recorded(self, mongodb_address: str) -> list[str]:
        """Return every id in the log of record: MongoDB, or the journals without an address."""
        if not mongodb_address:
            root = self.settings.journal_path
            return [i for kind, ids in journalled_ids(root) if kind == "prediction" for i in ids]
        settings = self.settings.model_copy(update={"mongodb_address": mongodb_address})
        with closing(MongoSink(settings)) as sink:
            found = sink.collection.find({"predicted_at": {"$exists": True}}, {"_id": 1})
            return [one["_id"] for one in found.batch_size(10_000)]

    def stored(self, mongodb_address: str) -> dict[str, list[str]]:
        """Return every stored id of the prediction log and of the monitoring's window."""
        with closing(sqlite3.connect(self.window / "window.db")) as connection:
            rows = connection.execute("SELECT prediction_id FROM predictions").fetchall()
        name = "mongodb" if mongodb_address else "journal"
        return {name: self.recorded(mongodb_address), "window": [row for (row,) in rows]}
