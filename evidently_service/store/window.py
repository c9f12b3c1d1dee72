"""Store predictions, labels and measurements durably, in one SQLite file.

The web workers add events. The measure process reads the newest rows and adds measurements, which
the workers show. All these processes share the file.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from config.events import Label, Prediction
from config.runtime.sqlite import open_durable
from evidently_service.store.records import Counters, Judgement, LabelCounts, Measurement, Run

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0  # for another process's write; a batch takes milliseconds
MAX_MEASUREMENTS = 1000
MAX_LOG_BYTES = 1 << 26  # of the write-ahead log after a checkpoint

SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    prediction_id TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS labels (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    prediction_id TEXT NOT NULL UNIQUE,
    label INTEGER NOT NULL,
    labelled_at REAL NOT NULL,
    matched INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS labels_by_match ON labels (matched, arrival);
CREATE TABLE IF NOT EXISTS conflicts (
    prediction_id TEXT PRIMARY KEY,
    label INTEGER NOT NULL,
    labelled_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counters VALUES ('ingested', 0), ('duplicates', 0);
CREATE TABLE IF NOT EXISTS measurements (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS last_run (id INTEGER PRIMARY KEY CHECK (id = 0), body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS judgement (id INTEGER PRIMARY KEY CHECK (id = 0), body BLOB NOT NULL);
"""

ADD_PREDICTION = """
INSERT INTO predictions (prediction_id, body) VALUES (?, ?) ON CONFLICT DO NOTHING
"""
ADD_LABEL = """
INSERT INTO labels (prediction_id, label, labelled_at, matched)
VALUES (:prediction_id, :label, :labelled_at,
        EXISTS (SELECT 1 FROM predictions WHERE prediction_id = :prediction_id))
ON CONFLICT DO NOTHING
"""
ADD_CONFLICT = """
INSERT INTO conflicts (prediction_id, label, labelled_at)
SELECT :prediction_id, :label, :labelled_at FROM labels
WHERE prediction_id = :prediction_id AND label <> :label
ON CONFLICT DO NOTHING
"""
MATCH_LABEL = "UPDATE labels SET matched = 1 WHERE prediction_id = ? AND NOT matched"
LAST_PREDICTIONS = "SELECT body FROM predictions ORDER BY arrival DESC LIMIT ?"
NEXT_PREDICTIONS = """
SELECT arrival, body FROM predictions
WHERE arrival > ? AND json_extract(CAST(body AS TEXT), '$.predicted_at') >= ?
ORDER BY arrival LIMIT ?
"""
LAST_LABELLED = """
SELECT predictions.body, prediction_id, labels.labelled_at, labels.label
FROM labels JOIN predictions USING (prediction_id)
WHERE labels.matched ORDER BY labels.arrival DESC LIMIT ?
"""
COUNT_LABELLED = """
SELECT count(labels.arrival) FROM
    (SELECT prediction_id FROM predictions ORDER BY arrival DESC LIMIT ?)
    LEFT JOIN labels USING (prediction_id)
"""
CONFIRM_MEASUREMENT = """
UPDATE measurements SET body = ? WHERE id = (SELECT max(id) FROM measurements)
"""
NOTE_RUN = "REPLACE INTO last_run VALUES (0, ?)"
PRUNE = """
DELETE FROM labels WHERE prediction_id IN
    (SELECT prediction_id FROM predictions
     WHERE arrival <= (SELECT max(arrival) FROM predictions) - :retention);
DELETE FROM predictions WHERE arrival <= (SELECT max(arrival) FROM predictions) - :retention;
DELETE FROM labels WHERE NOT matched AND arrival <= (SELECT max(arrival) FROM labels) - :retention;
DELETE FROM conflicts WHERE prediction_id NOT IN (SELECT prediction_id FROM labels);
DELETE FROM measurements WHERE id <= (SELECT max(id) FROM measurements) - :measurements;
"""


class Window:
    """The events of one dataset by arrival: each prediction once, with its label.

    Duplicates and any order of events are allowed. When a method returns, its rows are on disk.
    """

    def __init__(self, path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """Open or create the file. Threads may share a Window; each process opens its own."""
        # After a 2xx the relay forgets its rows, so they must be on disk before it.
        self._connection = open_durable(path, busy_timeout_s)
        self._connection.execute(f"PRAGMA journal_size_limit = {MAX_LOG_BYTES}")
        self._lock = threading.Lock()
        with self._transaction():
            for statement in _statements(SCHEMA):
                self._connection.execute(statement)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add_predictions(self, predictions: list[Prediction]) -> int:
        """Store the new predictions, all or none; return their number."""
        rows = [(p.prediction_id, msgspec.json.encode(p)) for p in predictions]
        with self._transaction() as connection:
            added = connection.executemany(ADD_PREDICTION, rows).rowcount
            connection.executemany(MATCH_LABEL, [(identity,) for identity, _ in rows])
            counts = [(added, "ingested"), (len(rows) - added, "duplicates")]
            connection.executemany("UPDATE counters SET value = value + ? WHERE name = ?", counts)
        return added

    def add_labels(self, labels: list[Label]) -> int:
        """Store the new labels, all or none; return their number.

        The first label of a prediction wins; a contradicting one is stored as a conflict.
        """
        rows = [msgspec.structs.asdict(label) for label in labels]
        with self._transaction() as connection:
            added = connection.executemany(ADD_LABEL, rows).rowcount
            connection.executemany(ADD_CONFLICT, rows)
        return added

    def last_predictions(self, rows: int) -> list[Prediction]:
        """Return the newest predictions by arrival, oldest first."""
        found = self._read(LAST_PREDICTIONS, (rows,))
        return [msgspec.json.decode(body, type=Prediction) for (body,) in reversed(found)]

    def next_predictions(
        self, arrival: int, not_before: float, rows: int
    ) -> list[tuple[int, Prediction]]:
        """Return (arrival, prediction) after an arrival, for prediction times from `not_before`."""
        found = self._read(NEXT_PREDICTIONS, (arrival, not_before, rows))
        return [(number, msgspec.json.decode(body, type=Prediction)) for number, body in found]

    def last_arrival(self) -> int:
        """Return the newest prediction's arrival, 0 before the first."""
        return self._read("SELECT max(arrival) FROM predictions")[0][0] or 0

    def last_labelled(self, rows: int) -> list[tuple[Prediction, Label]]:
        """Return the newest labels by arrival with their predictions, oldest first."""
        found = self._read(LAST_LABELLED, (rows,))
        return [
            (msgspec.json.decode(body, type=Prediction), Label(*label))
            for body, *label in reversed(found)
        ]

    def labelled_count(self, rows: int) -> int:
        """Return how many of the newest predictions have a label."""
        return self._read(COUNT_LABELLED, (rows,))[0][0]

    def counters(self) -> Counters:
        """Return how many predictions were ever received."""
        return Counters(**dict(self._read("SELECT name, value FROM counters")))

    def label_counts(self) -> LabelCounts:
        """Return the stored labels by state."""
        counts = dict(self._read("SELECT matched, count(*) FROM labels GROUP BY matched"))
        conflicting = self._read("SELECT count(*) FROM conflicts")[0][0]
        return LabelCounts(counts.get(1, 0), counts.get(0, 0), conflicting)

    def record(self, measurement: Measurement, run: Run) -> None:
        """Store a new measurement, and the run that made it."""
        self._store_measurement("INSERT INTO measurements (body) VALUES (?)", measurement, run)

    def confirm(self, measurement: Measurement, run: Run) -> None:
        """Replace the latest measurement by the same figures at a later time."""
        self._store_measurement(CONFIRM_MEASUREMENT, measurement, run)

    def latest(self) -> Measurement | None:
        """Return the latest measurement, or None before the first."""
        query = "SELECT body FROM measurements ORDER BY id DESC LIMIT 1"
        return self._load(query, Measurement)

    def newest(self, limit: int) -> list[Measurement]:
        """Return the newest measurements, oldest first."""
        found = self._read("SELECT body FROM measurements ORDER BY id DESC LIMIT ?", [limit])
        return [msgspec.json.decode(body, type=Measurement) for (body,) in reversed(found)]

    def note_run(self, run: Run) -> None:
        """Store a run without a measurement, in place of the previous run."""
        with self._transaction() as connection:
            connection.execute(NOTE_RUN, (msgspec.json.encode(run),))

    def last_run(self) -> Run | None:
        """Return the last run of the measure process, or None before the first."""
        return self._load("SELECT body FROM last_run", Run)

    def store_judgement(self, judgement: Judgement) -> None:
        """Store a judgement, in place of the previous one."""
        body = msgspec.json.encode(judgement)
        with self._transaction() as connection:
            connection.execute("REPLACE INTO judgement VALUES (0, ?)", (body,))

    def judgement(self) -> Judgement:
        """Return the stored judgement, or an empty one."""
        return self._load("SELECT body FROM judgement", Judgement) or Judgement()

    def prune(self, retention_rows: int) -> None:
        """Delete predictions beyond the newest `retention_rows`, with their labels.

        Also delete unmatched labels beyond that number, and old measurements.
        """
        sizes = {"retention": retention_rows, "measurements": MAX_MEASUREMENTS}
        with self._transaction() as connection:
            for statement in _statements(PRUNE):
                connection.execute(statement, sizes)

    def erase(self, prediction_id: str) -> int:
        """Delete a prediction, its label and its conflict; return the number of rows.

        Deleted rows are overwritten. The totals stay. Raises sqlite3.OperationalError if the
        write-ahead log still holds the rows, because another process reads it. Call again then.
        """
        with self._transaction() as connection:
            erased = sum(
                connection.execute(
                    f"DELETE FROM {table} WHERE prediction_id = ?", (prediction_id,)
                ).rowcount
                for table in ("conflicts", "labels", "predictions")
            )
        if self._read("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            raise sqlite3.OperationalError("the write-ahead log is in use and still holds rows")
        return erased

    def _store_measurement(self, statement: str, measurement: Measurement, run: Run) -> None:
        with self._transaction() as connection:
            connection.execute(statement, (msgspec.json.encode(measurement),))
            connection.execute(NOTE_RUN, (msgspec.json.encode(run),))

    def _load(self, query: str, kind: type[T]) -> T | None:
        found = self._read(query)
        return msgspec.json.decode(found[0][0], type=kind) if found else None

    def _read(self, query: str, parameters: Iterable[object] = ()) -> list[tuple]:
        with self._lock:
            return self._connection.execute(query, tuple(parameters)).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:  # including SystemExit on TERM
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _statements(script: str) -> list[str]:
    return [statement for statement in script.split(";") if statement.strip()]
