"""The WSGI app that gunicorn loads in each worker, after the fork."""

from prometheus_client import CollectorRegistry

from evidently_service.api.app import create_app
from evidently_service.start import start

settings, monitoring, contract, window = start()
app = create_app(settings, monitoring, contract, window, CollectorRegistry())
