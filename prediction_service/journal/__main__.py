"""What is stored: `python -m prediction_service.journal status [--json] | export [--labelled]`."""

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from config.events import Label, LabelledRecord, Prediction, labelled
from config.settings import exit_on_settings_error, read_settings
from prediction_service.cursors import backlog, dead_letters
from prediction_service.journal import folder_bytes, is_live, journal_paths, read_after
from prediction_service.mongodb import MongoSink
from prediction_service.settings import Settings
from prediction_service.sinks import SinkUnavailable

READ_ROWS = 5000


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


def journalled_ids(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The kind and the ids of one batch of events after the other, over all journals."""
    for path in journal_paths(root):
        seq = 0
        while events := read_after(path, seq, READ_ROWS):
            seq = events[-1].seq
            for kind in ("prediction", "label"):
                yield kind, [one.prediction_id for one in events if one.kind == kind]


def journalled_predictions(root: Path) -> Iterator[Prediction]:
    """Every prediction in the journals, each id once."""
    decode = msgspec.json.Decoder(Prediction).decode
    seen: set[bytes] = set()
    for path in journal_paths(root):
        seq = 0
        while events := read_after(path, seq, READ_ROWS):
            seq = events[-1].seq
            for event in events:
                key = bytes.fromhex(event.prediction_id)
                if event.kind == "prediction" and key not in seen:
                    seen.add(key)
                    yield decode(event.body)


def journalled_labels(root: Path) -> dict[str, Label]:
    """The first label of each prediction, but for those that another label disputes."""
    decode = msgspec.json.Decoder(Label).decode
    first: dict[str, Label] = {}
    disputed = set()
    for path in journal_paths(root):
        seq = 0
        while events := read_after(path, seq, READ_ROWS):
            seq = events[-1].seq
            for label in (decode(event.body) for event in events if event.kind == "label"):
                known = first.setdefault(label.prediction_id, label)
                if label.label != known.label:
                    disputed.add(label.prediction_id)
                elif label.labelled_at < known.labelled_at:
                    first[label.prediction_id] = label
    return {key: label for key, label in first.items() if key not in disputed}


def journalled_labelled(root: Path) -> Iterator[LabelledRecord]:
    """Every prediction in the journals whose true class is known and undisputed."""
    labels = journalled_labels(root)
    for prediction in journalled_predictions(root):
        if label := labels.get(prediction.prediction_id):
            yield labelled(prediction, label)


def open_log_of_record(settings: Settings) -> MongoSink | None:
    """MongoDB if it is configured; None where the journals themselves are the log of record."""
    return MongoSink.of(settings) if settings.mongodb_address else None


def report_status(settings: Settings) -> dict[str, Any]:
    """What the journals hold and what still waits. Raises SinkUnavailable.

    `stored` is the number of distinct predictions in the log of record.
    """
    root = settings.journal_path
    paths = journal_paths(root)
    counts = count_events(root)
    mongodb = open_log_of_record(settings)
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
    mongodb = open_log_of_record(settings)
    print_lines(mongodb.predictions() if mongodb else journalled_predictions(settings.journal_path))


def print_labelled(settings: Settings) -> None:
    """Prints its labelled predictions as JSON lines, as `python -m training ingest` reads them."""
    mongodb = open_log_of_record(settings)
    print_lines(mongodb.labelled() if mongodb else journalled_labelled(settings.journal_path))


def print_lines(rows: Iterable[msgspec.Struct]) -> None:
    """Prints each as a line of JSON."""
    for row in rows:
        sys.stdout.buffer.write(msgspec.json.encode(row) + b"\n")


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
    arguments = parser.parse_args()
    settings = read_settings(Settings, os.environ)
    try:
        if arguments.command == "status":
            print_status(settings, arguments.json)
        elif arguments.labelled:
            print_labelled(settings)
        else:
            print_predictions(settings)
    except SinkUnavailable as err:
        raise SystemExit(f"journal: {err}") from err


if __name__ == "__main__":
    exit_on_settings_error(main)
