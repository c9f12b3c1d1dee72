"""Erases one prediction and its labels: `python -m prediction_service.forget PREDICTION_ID`.

From the journals, from what the sinks refused, and from MongoDB. The Evidently service has a
command of its own for its window. The same request sent again under the same Idempotency-Key
makes the prediction anew.
"""

import argparse
import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

from config.settings import exit_on_settings_error, read_settings
from prediction_service.cursors import erase_dead_letters
from prediction_service.journal import erase, journal_paths
from prediction_service.mongodb import MongoSink
from prediction_service.settings import Settings
from prediction_service.sinks import SinkUnavailable

PREDICTION_ID = re.compile("[0-9a-f]{32}")


def forget(
    prediction_id: str, settings: Settings, sleep: Callable[[float], None] = time.sleep
) -> dict[str, int]:
    """What was erased, by place. May be repeated. Raises SinkUnavailable, sqlite3.Error.

    The journals come first, so that the relay reads the prediction no more; then the sinks, twice:
    a batch that the relay had in hand is stored, or given up, within SINK_TIMEOUT_S.
    """
    root = settings.journal_path
    erased = {
        "journals": sum(erase(path, prediction_id) for path in journal_paths(root)),
        "dead letters": erase_dead_letters(root, prediction_id),
    }
    if settings.mongodb_address:
        with closing(MongoSink.of(settings)) as mongodb:
            erased["MongoDB"] = mongodb.erase(prediction_id)
    sleep(settings.sink_timeout_s)
    erased["dead letters"] += erase_dead_letters(root, prediction_id)
    if settings.mongodb_address:
        with closing(MongoSink.of(settings)) as mongodb:
            erased["MongoDB"] += mongodb.erase(prediction_id)
    return erased


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m prediction_service.forget")
    parser.add_argument("prediction_id", help="as the answer gave it: 32 hexadecimal digits")
    prediction_id = parser.parse_args().prediction_id
    if not PREDICTION_ID.fullmatch(prediction_id):
        parser.error(f"prediction_id: got {prediction_id!r}, expected 32 hexadecimal digits")
    settings = read_settings(Settings, os.environ)
    print(
        f"waiting {settings.sink_timeout_s:g} s (SINK_TIMEOUT_S) for what is on its way", flush=True
    )
    try:
        erased = forget(prediction_id, settings)
    except (SinkUnavailable, sqlite3.Error) as err:
        raise SystemExit(f"not everything is erased, run this again: {err}") from err
    for place, count in erased.items():
        print(f"{place:14}{count} erased")


if __name__ == "__main__":
    exit_on_settings_error(main)
