"""What gunicorn loads in each worker, after the fork: settings, model, journal and the app."""

import gc
import math

from prometheus_client import CollectorRegistry

from config.contract import load_contract
from config.runtime.logs import set_up
from config.runtime.settings import read_settings
from prediction_service.app import create_app
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.models.model_folder import ModelFolder
from prediction_service.models.live_model import LiveModel
from prediction_service.predict.model import Model
from prediction_service.settings import Settings

HOUSEKEEPING_PERIOD_S = 1.0
SHORTEST_FILE_S = 60.0
LOG_PERIOD_S = 0.2

settings = read_settings(Settings)
set_up(settings.log_format)
metrics = Metrics(CollectorRegistry())
served = LiveModel(
    ModelFolder(settings.model_path), load_contract(), Model, metrics.set_live_version
)
served.refresh()  # before the first request
served.follow(settings.model_check_s)
journal = Journal(
    settings.journal_path,
    settings.instance,
    settings.journal_sync,
    settings.journal_max_mb * 10**6,
    # Only whole files are removed, and none that is being written.
    max(SHORTEST_FILE_S, settings.journal_retention_s) if settings.mongodb_address else math.inf,
)
journal.run_maintenance(HOUSEKEEPING_PERIOD_S)
app = create_app(settings, served, journal, metrics)
if settings.log_requests:
    app.extensions["request_log"].flush_every(LOG_PERIOD_S)
# What is loaded by now lives as long as the worker. Were it looked through with every full
# collection, one request in a thousand would wait some 10 ms longer.
gc.collect()
gc.freeze()
