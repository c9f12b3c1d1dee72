"""Commands on the stored predictions, for an operator:

python -m prediction_service.journal status [--json] | export [--labelled] | resend [--all]
"""

import argparse
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec

from config.runtime.settings import exit_with_message, read_settings
from prediction_service.journal import JournalUnavailable, folder_bytes, is_live, journal_paths
from prediction_service.journal.export import journalled_ids
from prediction_service.relay.progress import backlog, dead_letters, dropped_events, left_out_events
from prediction_service.relay.resend import resend
from prediction_service.settings import Settings
from prediction_service.sinks.base import SinkUnavailable
from prediction_service.sinks.log_of_record import open_mongodb, stored_labelled, stored_predictions


def count_events(root: Path) -> dict[str, int]:
    """Count rows, labels, predictions and distinct prediction ids over all journals."""
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


def make_status(settings: Settings) -> dict[str, Any]:
    """Return what the journals hold and what still waits for a sink.

    `stored` is the number of distinct predictions in the log of record. Raises SinkUnavailable or
    JournalUnavailable.
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
        "backlog": {sink: backlog(root, sink, share) for sink, share in settings.sinks.items()},
        "dead_letters": dead_letters(root),
        "dropped": dropped_events(root),
        "left_out": left_out_events(root),
    }


def print_status(settings: Settings, as_json: bool) -> None:
    """Print the status as a table or as JSON."""
    status = make_status(settings)
    if as_json:
        print(json.dumps(status))
        return
    for name, value in status.items():
        print(f"{name:16}{value}")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m prediction_service.journal",
        description="Show, export or resend the stored predictions and labels.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser(
        "status", help="print the numbers of rows, ids and duplicates, and the backlog of each sink"
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    export = commands.add_parser("export", help="print the stored predictions as JSON lines")
    export.add_argument(
        "--labelled",
        action="store_true",
        help="print only labelled predictions, in the format of `python -m training ingest`",
    )
    again = commands.add_parser("resend", help="send rejected events to their sinks again")
    again.add_argument(
        "--all", action="store_true", help="send every event that the journals still hold"
    )
    return parser


def main() -> None:
    """Run the command."""
    arguments = make_parser().parse_args()
    settings = read_settings(Settings)
    try:
        if arguments.command == "status":
            print_status(settings, arguments.json)
        elif arguments.command == "export":
            stored = stored_labelled if arguments.labelled else stored_predictions
            for row in stored(settings):
                sys.stdout.buffer.write(msgspec.json.encode(row) + b"\n")
        else:
            for one in resend(settings, arguments.all):
                print(f"{one.sink}: {one.sent} sent, {one.rejected} rejected")
    except (JournalUnavailable, SinkUnavailable) as err:
        raise SystemExit(f"journal: {err}") from err


if __name__ == "__main__":
    exit_with_message(main)
