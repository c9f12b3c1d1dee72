"""Run the relay until SIGTERM or SIGINT: `python -m prediction_service.relay`."""

import signal
import threading

from config.runtime.logs import set_up
from config.runtime.settings import exit_with_message, read_settings
from prediction_service.relay.shipping import run
from prediction_service.settings import Settings


def main() -> None:
    """Run the relay as a process."""
    settings = read_settings(Settings)
    set_up(settings.log_format, settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(settings, stop)


if __name__ == "__main__":
    exit_with_message(main)
