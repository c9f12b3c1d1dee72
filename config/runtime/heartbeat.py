"""Show that a process without a port is alive, by a file that it touches in each round."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def touch_heartbeat(path: str) -> None:
    """Set the file's modification time to now; do nothing if the path is empty."""
    if path:
        Path(path).touch()


def run_periodically(once: Callable[[], None], period_s: float, heartbeat: str) -> NoReturn:
    """Call `once` each period and touch the heartbeat, until TERM or INT ends the process.

    They end it at once, in the middle of a call: it must leave nothing half written.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    while True:
        started = time.monotonic()
        once()
        touch_heartbeat(heartbeat)
        time.sleep(max(0.0, started + period_s - time.monotonic()))
