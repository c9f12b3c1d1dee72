"""Predict with the production model, and ship the predictions to MongoDB and to the monitoring.

Three kinds of process share MODEL_DIR and JOURNAL_DIR: `follower` (registry -> model folder), the
gunicorn workers (request -> prediction in the journal -> response) and `relay` (journal -> sinks).
"""

from config.runtime.telemetry import turn_off

turn_off()
