"""Erase one prediction and its labels: `python -m prediction_service.forget PREDICTION_ID`.

Erases it from the journals, the dead letters and MongoDB. The Evidently service has a command of
its own for its window; run that one afterwards.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

from config.runtime.settings import exit_with_message, read_settings
from prediction_service.journal import JournalUnavailable, check_exists, erase, journal_paths
from prediction_service.predict.parsing import is_prediction_id
from prediction_service.relay.progress import erase_dead_letters
from prediction_service.settings import Settings
from prediction_service.sinks.base import SinkUnavailable
from prediction_service.sinks.mongodb import MongoSink

DESCRIPTION = """
Erase one prediction and its labels from the journals, the dead letters and MongoDB. Afterwards
erase it from the Evidently service with that service's own command. A later request with the same
body and Idempotency-Key creates the prediction again, and a later label is stored as pending.
"""


def forget(
    prediction_id: str, settings: Settings, sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[str, int]]:
    """Erase a prediction; yield each place with the number of erased rows. A place may repeat.

    The journals come first, so that the relay no longer reads the prediction. The sinks come
    twice, SINK_TIMEOUT_S apart: by then a batch that the relay had already read is stored or has
    failed. Raises JournalUnavailable or SinkUnavailable; may be repeated.
    """
    for path in journal_paths(settings.journal_path):
        yield "journal rows", erase(path, prediction_id)
    yield from erase_shipped(prediction_id, settings)
    sleep(settings.sink_timeout_s)
    yield from erase_shipped(prediction_id, settings)


def erase_shipped(prediction_id: str, settings: Settings) -> Iterator[tuple[str, int]]:
    """Erase what the relay has stored: dead letters and, if configured, MongoDB's document."""
    yield "dead letters", erase_dead_letters(settings.journal_path, prediction_id)
    if settings.mongodb_address:
        with closing(MongoSink(settings)) as mongodb:
            yield "MongoDB documents", mongodb.erase(prediction_id)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m prediction_service.forget", description=DESCRIPTION
    )
    parser.add_argument("prediction_id", help="the prediction's id, 32 hexadecimal digits")
    prediction_id = parser.parse_args().prediction_id
    if not is_prediction_id(prediction_id):
        parser.error(f"prediction_id: got {prediction_id!r}, expected 32 hexadecimal digits")
    settings = read_settings(Settings)
    try:
        check_exists(settings.journal_path)
    except JournalUnavailable as err:
        raise SystemExit(f"{err} Nothing was erased.") from err
    print(
        f"Waiting {settings.sink_timeout_s:g} s (SINK_TIMEOUT_S) for batches that the relay sends.",
        flush=True,
    )
    erased: Counter[str] = Counter()
    try:
        for place, count in forget(prediction_id, settings):
            erased[place] += count
    except (JournalUnavailable, SinkUnavailable) as err:
        raise SystemExit(f"The erasure is incomplete. Run the command again. {err}") from err
    finally:
        for place, count in erased.items():
            print(f"{place:18}{count} erased")
    if not erased.total():
        print(f"No data is stored for {prediction_id}.")


if __name__ == "__main__":
    exit_with_message(main)
