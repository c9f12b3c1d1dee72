"""The application that gunicorn loads in each worker, after the fork."""

import gc
import math
import time
from pathlib import Path

from gevent.monkey import is_module_patched
from prometheus_client import CollectorRegistry

from config.contract import Contract, load_contract
from config.runtime.logs import set_up
from config.runtime.settings import read_settings
from prediction_service.http.app import create_app
from prediction_service.http.arrival import ArrivalClock
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.models.model_folder import ModelFolder
from prediction_service.models.live_model import LiveModel
from prediction_service.predict.model import Model
from prediction_service.predict.native_thread import in_native_thread
from prediction_service.settings import Settings

MAINTENANCE_PERIOD_S = 1.0
MIN_FILE_AGE_S = 60.0
LOG_DELAY_S = 0.01


def load_model(package: Path, version: str, contract: Contract) -> Model:
    """Return a package's model. It is loaded beside the loop that serves requests."""
    return in_native_thread(lambda: Model(package, version, contract))


settings = read_settings(Settings)
set_up(settings.log_format, settings.log_level)
metrics = Metrics(CollectorRegistry())
live_model = LiveModel(
    ModelFolder(settings.model_path), load_contract(), load_model, metrics.set_live_version
)
live_model.refresh()  # before the first request
live_model.follow(settings.model_check_s)
journal = Journal(
    settings.journal_path,
    settings.instance,
    settings.journal_sync,
    settings.journal_max_mb * 10**6,
    # Only whole files are removed, and never the one that is being written.
    max(MIN_FILE_AGE_S, settings.journal_retention_s) if settings.mongodb_address else math.inf,
)
journal.run_maintenance(MAINTENANCE_PERIOD_S, in_native_thread)
arrived_at = ArrivalClock() if is_module_patched("threading") else time.time
app = create_app(
    settings, live_model, journal, metrics, log_delay_s=LOG_DELAY_S, arrived_at=arrived_at
)
# Objects of the start live as long as the worker. A full collection that visited them would delay
# one request in a thousand by 10 ms.
gc.collect()
gc.freeze()
