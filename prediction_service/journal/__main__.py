"""What is stored, and what sinks refused:

python -m prediction_service.journal status [--json] | export [--labelled] | replay [--all]
"""

import argparse
import json
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from config.runtime.settings import exit_with_message, read_settings
from prediction_service.relay.progress import backlog, dead_letters
from prediction_service.journal import JournalUnavailable, folder_bytes, is_live, journal_paths
from prediction_service.journal.export import (
    journalled_ids,
    open_mongodb,
    stored_labelled,
    stored_predictions,
)
from prediction_service.relay.resend import resend
from prediction_service.settings import Settings
from prediction_service.sinks.base import SinkUnavailable


def count_events(root: Path) -> dict[str, int]:
    """Rows, labels, predictions and distinct prediction ids over all journals."""
    counts = {"rows": 0, "predictions": 0, "labels": 0}
    with sqlite3.connect("") as seen:  # a temporary file: the ids may not fit in memory
        seen.execute("CREATE TABLE id (id TEXT PRIMARY KEY) WITHOUT ROWID")
        for kind, ids in journalled_ids(root):
            counts["rows"] += len(ids)
            counts[f"{kind}s"] += len(ids)
            if kind == "prediction":
                seen.executemany("INSERT OR IGNORE INTO id VALUES (?)", ((one,) for one in ids))
        distinct = seen.execute("SELECT count(*) FROM id").fetchone()[0]
    seen.close()
    return counts | {
        "prediction_ids": distinct,
        "duplicates": counts["predictions"] - distinct,
    }


def report_status(settings: Settings) -> dict[str, Any]:
    """What the journals hold and what still waits. Raises SinkUnavailable.

    `stored` is the number of distinct predictions in the log of record.
    """
    root = settings.journal_path
    paths = journal_paths(root)
    counts = count_events(root)
    mongodb = open_mongodb(settings)
    return {
        "log_of_record": "mongodb" if mongodb else "journal",
        "stored": mongodb.n_predictions() if mongodb else counts["prediction_ids"],
        "journals": len(paths),
        "live_journals": sum(is_live(path) for path in paths),
        **counts,
        "bytes": folder_bytes(root),
        "backlog": {sink: backlog(root, sink) for sink in settings.sinks},
        "dead_letters": dead_letters(root),
    }


def print_status(settings: Settings, as_json: bool) -> None:
    """Prints the status as a table or as JSON."""
    status = report_status(settings)
    if as_json:
        print(json.dumps(status))
        return
    for name, value in status.items():
        print(f"{name:16}{value}")


def print_predictions(settings: Settings) -> None:
    """Prints the log of record as JSON lines."""
    print_lines(stored_predictions(settings))


def print_labelled(settings: Settings) -> None:
    """Prints its labelled predictions as JSON lines, as `python -m training ingest` reads them."""
    print_lines(stored_labelled(settings))


def print_lines(rows: Iterable[msgspec.Struct]) -> None:
    """Prints each as a line of JSON."""
    for row in rows:
        sys.stdout.buffer.write(msgspec.json.encode(row) + b"\n")


def print_resent(settings: Settings, everything: bool) -> None:
    """Sends events to their sinks once more and prints how many."""
    for one in resend(settings, everything):
        print(f"{one.sink}: {one.sent} sent, {one.refused} refused")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m prediction_service.journal")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="rows, ids, duplicates, backlog of each sink")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    export = commands.add_parser("export", help="the log of record's predictions, as JSON lines")
    export.add_argument(
        "--labelled",
        action="store_true",
        help="those whose true class is known, as `python -m training ingest` reads them",
    )
    replay = commands.add_parser("replay", help="send once more what the sinks had refused")
    replay.add_argument("--all", action="store_true", help="all that the journals still hold")
    arguments = parser.parse_args()
    settings = read_settings(Settings)
    try:
        if arguments.command == "status":
            print_status(settings, arguments.json)
        elif arguments.command == "replay":
            print_resent(settings, arguments.all)
        elif arguments.labelled:
            print_labelled(settings)
        else:
            print_predictions(settings)
    except (JournalUnavailable, SinkUnavailable) as err:
        raise SystemExit(f"journal: {err}") from err


if __name__ == "__main__":
    exit_with_message(main)
