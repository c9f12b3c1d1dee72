"""The WSGI app that gunicorn loads in each worker, after the fork."""

from prometheus_client import CollectorRegistry

from config.contract import load_contract
from config.runtime.logs import set_up
from config.runtime.settings import read_settings
from evidently_service.api.app import create_app
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.settings import Settings
from evidently_service.store.window import Window

settings = read_settings(Settings)
set_up(settings.log_format, settings.log_level)
contract = load_contract()
monitoring = load_monitoring(settings.monitoring_path, contract)
window = Window(settings.window_path, segments=contract.segments, label_s=monitoring.label_s)
app = create_app(settings, monitoring, contract, window, CollectorRegistry())
