"""Measure the window on a schedule, in a process of its own.

python -m evidently_service.measure
"""

from config.runtime.heartbeat import run_periodically
from config.runtime.settings import exit_with_message
from evidently_service.measure.measurement import Measure
from evidently_service.reference.registry import ReferenceCache, Registry
from evidently_service.start import start
from evidently_service.store.reports import Reports


def main() -> None:
    """Measure once each period, until TERM or INT."""
    settings, monitoring, contract, window = start()
    measure = Measure(
        window,
        ReferenceCache(settings.reference_dir, Registry(settings.mlflow_tracking_uri)),
        monitoring,
        contract,
        reports=Reports(settings.report_dir, monitoring.reports_kept),
        judge_period_s=settings.judge_period_s,
    )
    # It may end at any moment: transactions roll back, files are replaced whole.
    run_periodically(measure.run_once, monitoring.measure_period_s, settings.heartbeat_file)


if __name__ == "__main__":
    exit_with_message(main)
