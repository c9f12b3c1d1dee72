"""Measure the window on a schedule, in a process of its own.

python -m evidently_service.measure
"""

from config.contract import load_contract
from config.runtime.heartbeat import run_periodically
from config.runtime.logs import set_up
from config.runtime.settings import check_folder, exit_with_message, read_settings
from evidently_service.measure.measurement import Measure
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.reference.registry import ReferenceCache, Registry
from evidently_service.settings import Settings
from evidently_service.store.reports import Reports
from evidently_service.store.window import Window


def main() -> None:
    """Measure once each period, until TERM or INT."""
    settings = read_settings(Settings)
    check_folder("WINDOW_DIR", settings.window_path.parent)
    set_up(settings.log_format, settings.log_level)
    contract = load_contract()
    monitoring = load_monitoring(settings.monitoring_path, contract)
    period_s = settings.measure_period_s or monitoring.measure_period_s
    measure = Measure(
        Window(settings.window_path, segments=contract.segments, label_s=monitoring.label_s),
        ReferenceCache(settings.reference_dir, Registry(settings.mlflow_tracking_uri)),
        monitoring,
        contract,
        reports=Reports(settings.report_dir, monitoring.reports_kept),
        judge_period_s=settings.judge_period_s,
    )
    # It may end at any moment: transactions roll back, files are replaced whole.
    run_periodically(measure.run_once, period_s, settings.heartbeat_file)


if __name__ == "__main__":
    exit_with_message(main)
