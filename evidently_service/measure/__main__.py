"""Measure the window on a schedule: `python -m evidently_service.measure`."""

from config.runtime.settings import exit_with_message
from evidently_service.measure.measurement import main

if __name__ == "__main__":
    exit_with_message(main)
