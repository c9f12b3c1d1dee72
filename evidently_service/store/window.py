"""The durable window: predictions and their labels, and the measurements made of them.

Between the web workers, which add events, and the measure process, which reads the newest rows
and leaves measurements for the workers to show. One SQLite file, shared by all these processes.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from config.events import Label, Prediction
from evidently_service.store.records import Counters, Judgement, LabelCounts, Measurement, Run

BUSY_TIMEOUT_S = 10.0  # a writer waits for another one; a batch takes milliseconds
MEASUREMENTS_KEPT = 1000
LOG_BYTES = 1 << 26  # that a write-ahead log is cut back to once it has been taken over

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
SELECT predictions.body, prediction_id, labels.labelled_at, labels.label FROM labels JOIN predictions USING (prediction_id)
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
    """The events of one dataset by arrival, each prediction once, each label joined to its own.

    Events may come again and in any order. What a method added is on disk when it returns.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it. Threads may share a Window, processes open their own."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # isolation_level None: transactions are ours; the lock keeps threads out of each other's.
        self._connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._lock = threading.Lock()
        self._connection.execute("PRAGMA journal_mode = WAL")
        # A 2xx lets the relay forget its rows, so they must outlive a power cut: a flush a batch.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        # Rows that go are overwritten; from the first write on, for pages are split and copied.
        self._connection.execute("PRAGMA secure_delete = ON")
        with self._transaction():
            for statement in _statements(SCHEMA):
                self._connection.execute(statement)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def add_predictions(self, predictions: list[Prediction]) -> int:
        """Stores the predictions that are not here yet, all or none; how many were new."""
        rows = [(p.prediction_id, msgspec.json.encode(p)) for p in predictions]
        with self._transaction() as connection:
            added = connection.executemany(ADD_PREDICTION, rows).rowcount
            connection.executemany(MATCH_LABEL, [(identity,) for identity, _ in rows])
            more = [(added, "ingested"), (len(rows) - added, "duplicates")]
            connection.executemany("UPDATE counters SET value = value + ? WHERE name = ?", more)
        return added

    def add_labels(self, labels: list[Label]) -> int:
        """Stores the labels, all or none; how many were new.

        The first label of a prediction wins; one that contradicts it is kept as a conflict.
        """
        rows = [msgspec.structs.asdict(label) for label in labels]
        with self._transaction() as connection:
            added = connection.executemany(ADD_LABEL, rows).rowcount
            connection.executemany(ADD_CONFLICT, rows)
        return added

    def last_predictions(self, rows: int) -> list[Prediction]:
        """The newest predictions by arrival, oldest first."""
        found = self._read(LAST_PREDICTIONS, (rows,))
        return [msgspec.json.decode(body, type=Prediction) for (body,) in reversed(found)]

    def next_predictions(
        self, arrival: int, not_before: float, rows: int
    ) -> list[tuple[int, Prediction]]:
        """The first predictions after an arrival, made at a time or later; each with its own."""
        found = self._read(NEXT_PREDICTIONS, (arrival, not_before, rows))
        return [(number, msgspec.json.decode(b, type=Prediction)) for number, b in found]

    def last_arrival(self) -> int:
        """The newest prediction's arrival, 0 before the first."""
        return self._read("SELECT max(arrival) FROM predictions")[0][0] or 0

    def last_labelled(self, rows: int) -> list[tuple[Prediction, Label]]:
        """The newest labels by arrival with their predictions, oldest first."""
        found = self._read(LAST_LABELLED, (rows,))
        return [
            (msgspec.json.decode(body, type=Prediction), Label(*label))
            for body, *label in reversed(found)
        ]

    def labelled_count(self, rows: int) -> int:
        """How many of the newest predictions have a label."""
        return self._read(COUNT_LABELLED, (rows,))[0][0]

    def counters(self) -> Counters:
        """How many predictions were ever received."""
        return Counters(**dict(self._read("SELECT name, value FROM counters")))

    def label_counts(self) -> LabelCounts:
        """What became of the labels that are kept."""
        counts = dict(self._read("SELECT matched, count(*) FROM labels GROUP BY matched"))
        conflicting = self._read("SELECT count(*) FROM conflicts")[0][0]
        return LabelCounts(counts.get(1, 0), counts.get(0, 0), conflicting)

    def record(self, measurement: Measurement, run: Run) -> None:
        """Keeps a measurement as the latest one, and the run that made it."""
        body = msgspec.json.encode(measurement)
        with self._transaction() as connection:
            connection.execute("INSERT INTO measurements (body) VALUES (?)", (body,))
            connection.execute(NOTE_RUN, (msgspec.json.encode(run),))

    def confirm(self, measurement: Measurement, run: Run) -> None:
        """Puts a measurement in the latest one's place: the same figures, found again later."""
        body = msgspec.json.encode(measurement)
        with self._transaction() as connection:
            connection.execute(CONFIRM_MEASUREMENT, (body,))
            connection.execute(NOTE_RUN, (msgspec.json.encode(run),))

    def latest(self) -> Measurement | None:
        """The latest measurement, or None before the first."""
        found = self._read("SELECT body FROM measurements ORDER BY id DESC LIMIT 1")
        return msgspec.json.decode(found[0][0], type=Measurement) if found else None

    def newest(self, most: int) -> list[Measurement]:
        """The newest measurements, the oldest of them first."""
        found = self._read("SELECT body FROM measurements ORDER BY id DESC LIMIT ?", [most])
        return [msgspec.json.decode(body, type=Measurement) for (body,) in reversed(found)]

    def note_run(self, run: Run) -> None:
        """Keeps how a run without a measurement fared, in place of the run before."""
        with self._transaction() as connection:
            connection.execute(NOTE_RUN, (msgspec.json.encode(run),))

    def last_run(self) -> Run | None:
        """How the measure process last fared, or None if it never ran."""
        found = self._read("SELECT body FROM last_run")
        return msgspec.json.decode(found[0][0], type=Run) if found else None

    def keep_judgement(self, judgement: Judgement) -> None:
        """Keeps what the judged windows have said, in place of what was kept."""
        body = msgspec.json.encode(judgement)
        with self._transaction() as connection:
            connection.execute("REPLACE INTO judgement VALUES (0, ?)", (body,))

    def judgement(self) -> Judgement:
        """What the judged windows have said; a blank one before the first."""
        found = self._read("SELECT body FROM judgement")
        return msgspec.json.decode(found[0][0], type=Judgement) if found else Judgement()

    def prune(self, retention_rows: int) -> None:
        """Removes predictions beyond the newest `retention_rows`, with their labels.

        Labels that have waited that long for their prediction go too, and old measurements.
        """
        sizes = {"retention": retention_rows, "measurements": MEASUREMENTS_KEPT}
        with self._transaction() as connection:
            for statement in _statements(PRUNE):
                connection.execute(statement, sizes)

    def erase(self, prediction_id: str) -> int:
        """Removes a prediction, its label and what contradicted that; how many rows.

        They are overwritten, but for what the file's log keeps while somebody reads it: then this
        raises sqlite3.OperationalError, and may be called again. The running totals stay.
        """
        with self._transaction() as connection:
            removed = sum(
                connection.execute(
                    f"DELETE FROM {table} WHERE prediction_id = ?", (prediction_id,)
                ).rowcount
                for table in ("conflicts", "labels", "predictions")
            )
        if self._read("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            raise sqlite3.OperationalError("the write-ahead log is being read and holds rows")
        return removed

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
            except BaseException:  # also the SystemExit of a TERM: nothing is left half done
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _statements(script: str) -> list[str]:
    return [statement for statement in script.split(";") if statement.strip()]
