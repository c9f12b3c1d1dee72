"""Erases one prediction and its labels: `python -m prediction_service.forget PREDICTION_ID`.

From the journals, from what the sinks refused, and from MongoDB. The Evidently service has a
command of its own for its window, to be run after this one. The same request sent again under
the same Idempotency-Key makes the prediction anew, and a label sent later is kept as one that
waits for its prediction.
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

from config.runtime.settings import exit_with_message, read_settings
from prediction_service.relay.progress import erase_dead_letters
from prediction_service.journal import JournalUnavailable, erase, journal_paths
from prediction_service.sinks.mongodb import MongoSink
from prediction_service.settings import Settings
from prediction_service.sinks.base import SinkUnavailable

PREDICTION_ID = re.compile("[0-9a-f]{32}")


def forget(
    prediction_id: str, settings: Settings, sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[str, int]]:
    """Places and how much was erased there, as it is done; a place comes more than once.

    The journals come first, so that the relay reads the prediction no more; then the sinks, twice:
    a batch that the relay had in hand is stored, or given up, within SINK_TIMEOUT_S.

    Raises JournalUnavailable or SinkUnavailable; may be repeated.
    """
    for path in journal_paths(settings.journal_path):
        yield "journal rows", erase(path, prediction_id)
    yield from erase_shipped(prediction_id, settings)
    sleep(settings.sink_timeout_s)
    yield from erase_shipped(prediction_id, settings)


def erase_shipped(prediction_id: str, settings: Settings) -> Iterator[tuple[str, int]]:
    """What the relay has made of it: dead letters and, if it is configured, MongoDB's document."""
    yield "dead letters", erase_dead_letters(settings.journal_path, prediction_id)
    if settings.mongodb_address:
        with closing(MongoSink.of(settings)) as mongodb:
            yield "MongoDB documents", mongodb.erase(prediction_id)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m prediction_service.forget")
    parser.add_argument("prediction_id", help="as the answer gave it: 32 hexadecimal digits")
    prediction_id = parser.parse_args().prediction_id
    if not PREDICTION_ID.fullmatch(prediction_id):
        parser.error(f"prediction_id: got {prediction_id!r}, expected 32 hexadecimal digits")
    settings = read_settings(Settings)
    if not settings.journal_path.is_dir():
        raise SystemExit(f"not erased: JOURNAL_DIR={settings.journal_dir} does not exist")
    print(
        f"waiting {settings.sink_timeout_s:g} s (SINK_TIMEOUT_S) for what is on its way", flush=True
    )
    erased: Counter[str] = Counter()
    try:
        for place, count in forget(prediction_id, settings):
            erased[place] += count
    except (JournalUnavailable, SinkUnavailable) as err:
        raise SystemExit(f"not everything is erased, run this again: {err}") from err
    finally:
        for place, count in erased.items():
            print(f"{place:18}{count} erased")
    if not erased.total():
        print(f"nothing is kept of {prediction_id}")


if __name__ == "__main__":
    exit_with_message(main)
