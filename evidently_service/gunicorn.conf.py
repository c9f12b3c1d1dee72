"""How gunicorn runs the service:

    gunicorn -c evidently_service/gunicorn.conf.py evidently_service.wsgi:app

Read once by the arbiter, so a problem with the settings ends the start with one message.
"""

from pathlib import Path
from typing import Any

from config.contract import load_contract
from config.runtime.ports import warn_if_taken
from config.runtime.settings import check_folder, exit_with_message, read_settings
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.settings import Settings


def configure() -> None:
    """Gunicorn's own names, filled from the settings; checks the monitoring file too."""
    settings = read_settings(Settings)
    check_folder("WINDOW_DIR", settings.window_path.parent)
    load_monitoring(Path(settings.monitoring_file), load_contract())
    globals().update(
        bind=f"{settings.bind_address}:{settings.evidently_port}",
        workers=settings.evidently_workers,
        # Threads: a slow reader of the 4 MB report must not keep a health check waiting.
        worker_class="gthread",
        threads=4,
        keepalive=75,  # the relay and Prometheus come back on the same connection
        graceful_timeout=10,
        preload_app=False,  # each worker opens the window after the fork
        accesslog=None,
        control_socket_disable=True,  # it would live outside the project's folder
    )


def on_starting(arbiter: Any) -> None:
    """Says which setting has a port that is taken."""
    warn_if_taken(arbiter, "EVIDENTLY_PORT")


exit_with_message(configure)
