"""Answers requests with the production model, and ships what it answered.

Three kinds of process share MODEL_DIR and JOURNAL_DIR: `follower` (registry -> model folder),
the gunicorn workers (request -> answer, journalled) and `relay` (journal -> sinks).
"""

from config.runtime.telemetry import turn_off

turn_off()
