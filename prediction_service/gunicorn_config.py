"""Settings of gunicorn:

    gunicorn -c python:prediction_service.gunicorn_config prediction_service.wsgi:app

(or `python -m gunicorn ...` where the work folder is not on the path). The arbiter reads them once,
so a problem with the settings or the contract ends the start with one message.

Slow clients: each connection is a greenlet, up to MAX_CONNECTIONS a worker. A client has
KEEPALIVE_S to send a request's head, which is also how long an idle connection stays open, and
REQUEST_TIMEOUT_S for the body and the response. A worker holds at most MAX_CONNECTIONS bodies of
MAX_BODY_BYTES. Further connections wait in the kernel's queue: on a hostile network, put a reverse
proxy with limits of its own in front.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from config.contract import load_contract
from config.runtime.ports import warn_if_in_use
from config.runtime.settings import check_folder, exit_with_message, read_settings
from prediction_service.http.server import ServerLog, ServiceWorker
from prediction_service.settings import Settings

# Workers count into files of this folder. It must be in the environment before prometheus_client
# is imported, and its files belong to one server's life.
COUNTS = "PROMETHEUS_MULTIPROC_DIR"
MAX_CONNECTIONS = 500  # of a worker; file descriptors are often limited to 1024
KEEPALIVE_S = 75  # longer than reverse proxies keep an idle connection, often 60 s


def configure() -> None:
    """Set gunicorn's settings, which are names of this module."""
    settings = read_settings(Settings)
    check_folder("JOURNAL_DIR", settings.journal_path)
    load_contract()  # an invalid contract is reported here, once
    globals().update(
        bind=f"{settings.bind_address}:{settings.prediction_port}",
        workers=settings.workers,
        graceful_timeout=settings.graceful_timeout_s,
        worker_class=ServiceWorker,
        worker_connections=MAX_CONNECTIONS,
        keepalive=KEEPALIVE_S,
        forwarder_headers="",  # no header of a client may say where the application is mounted
        logger_class=ServerLog,
        control_socket_disable=True,  # it would be a file in the home folder
        preload_app=False,  # each worker opens its own journal and ONNX session, after the fork
    )
    if COUNTS not in os.environ:
        os.environ[COUNTS] = tempfile.mkdtemp(prefix="income-metrics-")


def remove_counts() -> None:
    """Remove the counts of an earlier server from the folder."""
    for path in Path(os.environ[COUNTS]).glob("*.db"):
        path.unlink()


def on_starting(arbiter: Any) -> None:
    """Start counting at 0. Files of dead workers stay until then: their counts are in the sums."""
    warn_if_in_use(arbiter, "PREDICTION_PORT")
    Path(os.environ[COUNTS]).mkdir(parents=True, exist_ok=True)
    remove_counts()


def child_exit(_: Any, worker: Any) -> None:
    """Remove the gauges of a dead worker, also of a killed one; its counts stay."""
    for path in Path(os.environ[COUNTS]).glob(f"gauge_live*_{worker.pid}.db"):
        path.unlink(missing_ok=True)


def on_exit(_: Any) -> None:
    """Remove the counts and their folder."""
    remove_counts()
    Path(os.environ[COUNTS]).rmdir()


exit_with_message(configure)
