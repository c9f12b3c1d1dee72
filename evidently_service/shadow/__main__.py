"""Score and judge the shadow version on a schedule, in a process of its own.

python -m evidently_service.shadow
"""

import os

from config.runtime.heartbeat import run_periodically
from config.runtime.settings import exit_with_message
from evidently_service.reference.registry import Registry
from evidently_service.shadow.shadow import Shadow
from evidently_service.start import start


def main() -> None:
    """Run once each period of the measurement, until TERM or INT."""
    os.nice(19)  # seconds do not matter here, and milliseconds matter to a service beside it
    settings, monitoring, contract, window = start()
    registry, anonymous = Registry(settings.mlflow_tracking_uri), settings.learn_anonymous_labels
    shadow = Shadow(window, registry, monitoring, contract, anonymous=anonymous)
    # It may end at any moment: transactions roll back, files are replaced whole.
    run_periodically(shadow.run_once, monitoring.measure_period_s, settings.heartbeat_file)


if __name__ == "__main__":
    exit_with_message(main)
