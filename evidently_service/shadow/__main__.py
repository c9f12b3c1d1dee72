"""Score and judge the shadow version on a schedule, in a process of its own.

python -m evidently_service.shadow
"""

import os

from config.contract import load_contract
from config.runtime.heartbeat import run_periodically
from config.runtime.logs import set_up
from config.runtime.settings import check_folder, exit_with_message, read_settings
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.reference.registry import Registry
from evidently_service.settings import Settings
from evidently_service.shadow.shadow import Shadow
from evidently_service.store.window import Window


def main() -> None:
    """Run once each period of the measurement, until TERM or INT."""
    os.nice(19)  # seconds do not matter here, and milliseconds matter to a service beside it
    settings = read_settings(Settings)
    check_folder("WINDOW_DIR", settings.window_path.parent)
    set_up(settings.log_format, settings.log_level)
    contract = load_contract()
    monitoring = load_monitoring(settings.monitoring_path, contract)
    period_s = settings.measure_period_s or monitoring.measure_period_s
    window = Window(settings.window_path, segments=contract.segments, label_s=monitoring.label_s)
    registry, anonymous = Registry(settings.mlflow_tracking_uri), settings.learn_anonymous_labels
    shadow = Shadow(window, registry, monitoring, contract, anonymous=anonymous)
    # It may end at any moment: transactions roll back, files are replaced whole.
    run_periodically(shadow.run_once, period_s, settings.heartbeat_file)


if __name__ == "__main__":
    exit_with_message(main)
