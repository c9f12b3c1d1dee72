"""Start a process of the service: its settings, and the window that all processes share."""

from typing import NamedTuple

import msgspec

from config.contract import Contract, load_contract
from config.runtime.logs import set_up
from config.runtime.settings import check_folder, read_settings
from evidently_service.reference.monitoring_config import Monitoring, load_monitoring
from evidently_service.settings import Settings
from evidently_service.store.window import Window


class Service(NamedTuple):
    """What each process needs."""

    settings: Settings
    monitoring: Monitoring
    contract: Contract
    window: Window


def start() -> Service:
    """Read and check settings, monitoring file and contract; set up the log; open the window."""
    settings = read_settings(Settings)
    check_folder("WINDOW_DIR", settings.window_path.parent)
    set_up(settings.log_format, settings.log_level)
    contract = load_contract()
    monitoring = load_monitoring(settings.monitoring_path, contract)
    if settings.measure_period_s:
        monitoring = msgspec.structs.replace(monitoring, measure_period_s=settings.measure_period_s)
    window = Window(settings.window_path, segments=contract.segments, label_s=monitoring.label_s)
    return Service(settings, monitoring, contract, window)
