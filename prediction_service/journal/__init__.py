"""Durable append-only journal of predictions and labels."""

from prediction_service.journal.writer import *  # noqa: F401, F403  # pylint: disable=wildcard-import
