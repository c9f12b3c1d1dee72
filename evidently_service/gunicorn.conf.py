"""Configure gunicorn:

    gunicorn -c evidently_service/gunicorn.conf.py evidently_service.wsgi:app

The arbiter reads this file once. So invalid settings end the start with one message.
"""

from typing import Any

from config.contract import load_contract
from config.runtime.ports import warn_if_in_use
from config.runtime.settings import check_folder, exit_with_message, read_settings
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.settings import Settings


def configure() -> None:
    """Set gunicorn's options from the settings; check the monitoring file too."""
    settings = read_settings(Settings)
    check_folder("WINDOW_DIR", settings.window_path.parent)
    load_monitoring(settings.monitoring_path, load_contract())
    globals().update(
        bind=f"{settings.bind_address}:{settings.evidently_port}",
        workers=settings.evidently_workers,
        # Threads: a slow client of the 4 MB report must not delay a health check.
        worker_class="gthread",
        threads=4,
        keepalive=75,  # the relay and Prometheus reuse their connections
        graceful_timeout=10,
        preload_app=False,  # each worker opens the window after the fork
        accesslog=None,
        control_socket_disable=True,  # its file would be outside the project's folder
    )


def on_starting(arbiter: Any) -> None:
    """Warn with the name of the setting if the port is in use."""
    warn_if_in_use(arbiter, "EVIDENTLY_PORT")


exit_with_message(configure)
