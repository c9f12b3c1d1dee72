"""How gunicorn runs the service:

    gunicorn -c python:prediction_service.gunicorn_config prediction_service.wsgi:app

(or `python -m gunicorn ...` where the work folder is not on the path). Read once by the
arbiter, so a problem with the settings or the contract ends the start with one message.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from config.contract import load_contract
from config.runtime.ports import warn_if_in_use
from config.runtime.settings import check_folder, exit_with_message, read_settings
from prediction_service.settings import Settings
from prediction_service.worker import MOST_CONNECTIONS

# Workers count into files of this folder. It must be in the environment before prometheus_client
# is imported, and its files are of one server's life.
COUNTS = "PROMETHEUS_MULTIPROC_DIR"


def configure() -> None:
    """Reads the settings into gunicorn's names."""
    settings = read_settings(Settings)
    check_folder("JOURNAL_DIR", settings.journal_path)
    load_contract()  # what is wrong in it is said here, once
    globals().update(
        bind=f"{settings.bind_address}:{settings.prediction_port}",
        workers=settings.workers,
        graceful_timeout=settings.graceful_timeout_s,
        worker_class="prediction_service.worker.KeptWorker",
        worker_connections=MOST_CONNECTIONS,
        keepalive=75,
        forwarder_headers="",  # no header of a client may say where the application is mounted
        logger_class="prediction_service.server_log.ServerLog",
        control_socket_disable=True,  # it would be a file in the home folder
        preload_app=False,  # each worker opens its own journal and ONNX session, after the fork
    )
    if COUNTS not in os.environ:
        os.environ[COUNTS] = tempfile.mkdtemp(prefix="income-metrics-")


def remove_counts() -> None:
    """Removes the counts of an earlier server from the folder."""
    for path in Path(os.environ[COUNTS]).glob("*.db"):
        path.unlink()


def on_starting(arbiter: Any) -> None:
    """Starts counting at 0. Files of dead workers stay until then: their counts are in the sums."""
    warn_if_in_use(arbiter, "PREDICTION_PORT")
    Path(os.environ[COUNTS]).mkdir(parents=True, exist_ok=True)
    remove_counts()


def child_exit(_: Any, worker: Any) -> None:
    """Forgets the gauges of a dead worker, killed ones included; its counts stay."""
    for path in Path(os.environ[COUNTS]).glob(f"gauge_live*_{worker.pid}.db"):
        path.unlink(missing_ok=True)


def on_exit(_: Any) -> None:
    """Leaves nothing behind."""
    remove_counts()
    Path(os.environ[COUNTS]).rmdir()


exit_with_message(configure)
