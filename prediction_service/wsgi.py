"""The application that gunicorn loads in each worker, after the fork."""

import gc
import math
import os

from prometheus_client import CollectorRegistry

from config.contract import load_contract
from config.logs import set_up
from config.settings import read_settings
from prediction_service.app import create_app
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.model_folder import ModelFolder
from prediction_service.predict.native_thread import in_native_thread
from prediction_service.served import ServedModel
from prediction_service.settings import Settings

HOUSEKEEPING_PERIOD_S = 1.0
SHORTEST_FILE_S = 60.0

settings = read_settings(Settings, os.environ)
set_up(settings.log_format)
metrics = Metrics(CollectorRegistry())
served = ServedModel(ModelFolder(settings.model_path), load_contract(), metrics.note_served)
served.refresh()  # before the first request
served.follow(settings.model_check_s)
journal = Journal(
    settings.journal_path,
    settings.instance,
    settings.journal_sync,
    settings.journal_max_mb * 10**6,
    # Only whole files are removed, and never the one that is being written.
    max(SHORTEST_FILE_S, settings.journal_retention_s) if settings.mongodb_address else math.inf,
)
journal.keep_house(HOUSEKEEPING_PERIOD_S, in_native_thread)
app = create_app(settings, served, journal, metrics)
# Objects of the start live as long as the worker. A full collection that visited them would delay
# one request in a thousand by 10 ms.
gc.collect()
gc.freeze()
