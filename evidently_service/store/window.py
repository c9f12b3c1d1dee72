"""Store predictions, labels and measurements durably, in one SQLite file.

The web workers add events. The measure process reads the newest rows and adds measurements, which
the workers show. All these processes share the file.

Drift needs the features of the newest predictions: table `predictions`. Quality needs labels, which
come days later. So `outputs` keeps the rest of each prediction much longer, in about 80 bytes a
row. Its key is the id's 16 bytes. Ids begin with the time, so new keys are neighbours.

`shadow` has the probabilities of a second version; see `evidently_service.shadow.store`.

Predictions of people at the page are not measured. `left_out` keeps their keys, so that their
labels are not counted as unknown.
"""

import math
import sqlite3
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from config.events import API, Label, Prediction, earliest
from config.runtime.sqlite import open_durable
from config.segments import Segment, segment_groups
from evidently_service.store.records import (
    Backlog,
    Counters,
    Judgement,
    LabelCounts,
    LabelCoverage,
    LabelledPrediction,
    Measurement,
    Run,
)

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0  # for another process's write; a batch takes milliseconds
MAX_MEASUREMENTS = 1000
MAX_LOG_BYTES = 1 << 26  # of the write-ahead log after a checkpoint
KEY_BYTES = 16
FORGET_INSTANCE_S = 86_400.0  # without a report of its relay
MAX_WAIT_S = 3600.0  # of a label for its prediction; the relay sends both within seconds
MAX_EXPIRED_ROWS = 20_000  # in one transaction, which blocks other writers

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
    matched INTEGER NOT NULL,
    received_at REAL NOT NULL,
    labelled_by TEXT
);
CREATE INDEX IF NOT EXISTS labels_by_match ON labels (matched, arrival);
CREATE TABLE IF NOT EXISTS conflicts (
    prediction_id TEXT PRIMARY KEY,
    label INTEGER NOT NULL,
    labelled_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counters VALUES
    ('ingested', 0), ('duplicates', 0),
    ('labels_matched', 0), ('labels_late', 0), ('labels_unknown', 0);
CREATE TABLE IF NOT EXISTS left_out (key BLOB PRIMARY KEY);
CREATE TABLE IF NOT EXISTS profiles (id INTEGER PRIMARY KEY, body BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS outputs (
    arrival INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    predicted_at REAL NOT NULL,
    probability REAL NOT NULL,
    income_class INTEGER NOT NULL,
    profile INTEGER NOT NULL,
    label INTEGER
);
CREATE TABLE IF NOT EXISTS measurements (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS last_run (id INTEGER PRIMARY KEY CHECK (id = 0), body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS backlog (
    instance TEXT PRIMARY KEY, events INTEGER NOT NULL, at REAL NOT NULL,
    sample REAL NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS judgement (id INTEGER PRIMARY KEY CHECK (id = 0), body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS shadow_test (id INTEGER PRIMARY KEY CHECK (id = 0), body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS shadow (
    arrival INTEGER PRIMARY KEY,
    record BLOB NOT NULL UNIQUE,
    probability REAL NOT NULL,
    pair INTEGER UNIQUE
);
"""
ADDED = (  # table, column and rule of the columns that earlier releases lack
    ("labels", "labelled_by", "TEXT"),
    ("backlog", "sample", "REAL NOT NULL DEFAULT 1"),
)

ADD_PREDICTION = """
INSERT INTO predictions (prediction_id, body) SELECT :prediction_id, :body
WHERE NOT EXISTS (SELECT 1 FROM outputs WHERE key = :key) ON CONFLICT DO NOTHING
"""
ADD_OUTPUTS = """
INSERT INTO outputs
SELECT arrival, :key, :predicted_at, :probability, :income_class,
    (SELECT id FROM profiles WHERE body = :profile),
    (SELECT label FROM labels WHERE prediction_id = :prediction_id)
FROM predictions WHERE prediction_id = :prediction_id AND arrival > :after
ON CONFLICT DO NOTHING
"""
REPLACE_PREDICTION = """
UPDATE predictions SET body = :body WHERE prediction_id = :prediction_id
    AND :predicted_at < (SELECT predicted_at FROM outputs WHERE key = :key)
"""
REPLACE_OUTPUTS = """
UPDATE outputs SET predicted_at = :predicted_at, probability = :probability,
    income_class = :income_class, profile = (SELECT id FROM profiles WHERE body = :profile)
WHERE key = :key AND :predicted_at < predicted_at
"""
KNOWN = """
SELECT (SELECT predicted_at FROM outputs WHERE key = :key),
    coalesce((SELECT label FROM outputs WHERE key = :key),
             (SELECT label FROM labels WHERE prediction_id = :prediction_id)),
    EXISTS (SELECT 1 FROM left_out WHERE key = :key)
"""
ADD_LABEL = """
INSERT INTO labels (prediction_id, label, labelled_at, matched, received_at, labelled_by)
VALUES (:prediction_id, :label, :labelled_at, :matched, :received_at, :labelled_by)
"""
ADD_CONFLICT = """
INSERT INTO conflicts (prediction_id, label, labelled_at)
VALUES (:prediction_id, :label, :labelled_at) ON CONFLICT DO NOTHING
"""
MATCH_LABEL = "UPDATE labels SET matched = 1 WHERE prediction_id = ? AND NOT matched"
LAST_PREDICTIONS = "SELECT body FROM predictions ORDER BY arrival DESC LIMIT ?"
# Without `not_before`, SQLite does not read the JSON: that takes a fifth of the time of scoring.
NEXT_PREDICTIONS = """
SELECT arrival, body FROM predictions WHERE arrival > :arrival AND
    (:not_before IS NULL OR json_extract(CAST(body AS TEXT), '$.predicted_at') >= :not_before)
ORDER BY arrival LIMIT :rows
"""
LAST_LABELLED = """
SELECT predicted_at, probability, income_class, profiles.body, labels.labelled_at, labels.label
FROM labels
CROSS JOIN outputs ON outputs.key = id_key(prediction_id)
CROSS JOIN profiles ON profiles.id = outputs.profile
WHERE labels.matched = 1 ORDER BY labels.arrival DESC LIMIT ?
"""
ARRIVALS = "SELECT (SELECT min(arrival) FROM outputs), (SELECT max(arrival) FROM outputs)"
PREDICTED_AT = "SELECT predicted_at FROM outputs WHERE arrival >= ? ORDER BY arrival LIMIT 1"
COUNT_LABELLED = """
SELECT count(*), count(label) FROM
    (SELECT label FROM outputs WHERE arrival < ? ORDER BY arrival DESC LIMIT ?)
"""
COUNT = "UPDATE counters SET value = value + ? WHERE name = ?"
ADD_MEASUREMENT = "INSERT INTO measurements (body) VALUES (?)"
CONFIRM_MEASUREMENT = """
UPDATE measurements SET body = ? WHERE id = (SELECT max(id) FROM measurements)
"""
PRUNE = """
DELETE FROM predictions WHERE arrival <= (SELECT max(arrival) FROM predictions) - :retention;
DELETE FROM labels WHERE matched = 1 AND arrival <=
    (SELECT arrival FROM labels WHERE matched = 1 ORDER BY arrival DESC LIMIT 1 OFFSET :retention);
DELETE FROM conflicts WHERE rowid <= (SELECT max(rowid) FROM conflicts) - :retention;
DELETE FROM left_out WHERE rowid <= (SELECT max(rowid) FROM left_out) - :retention;
DELETE FROM measurements WHERE id <= (SELECT max(id) FROM measurements) - :measurements;
"""
ERASE_SHADOW = "DELETE FROM shadow WHERE arrival = (SELECT arrival FROM outputs WHERE key = ?)"
PRUNE_PENDING = """
DELETE FROM labels WHERE matched = 0 AND (received_at < :received_at OR arrival <=
    (SELECT arrival FROM labels WHERE matched = 0 ORDER BY arrival DESC LIMIT 1 OFFSET :retention))
"""


class Database:
    """A durable SQLite file, which the stores of a window share."""

    def __init__(self, path: Path) -> None:
        # After a 2xx the relay forgets its rows, so they must be on disk before it.
        self._connection = open_durable(path, BUSY_TIMEOUT_S)
        self._connection.execute(f"PRAGMA journal_size_limit = {MAX_LOG_BYTES}")
        self._connection.create_function("id_key", 1, id_key, deterministic=True)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def load(self, query: str, kind: type[T]) -> T | None:
        """Return the JSON in the only value of a query's first row, if there is one."""
        found = self.read(query)
        return msgspec.json.decode(found[0][0], type=kind) if found else None

    def read(
        self, query: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> list[tuple]:
        """Return the rows of a query."""
        with self._lock:
            return self._connection.execute(query, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the body as a transaction that writes."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:  # including SystemExit on TERM
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


class Profile(msgspec.Struct, frozen=True, array_like=True):
    """What many predictions share; `outputs` refers to it by a number."""

    model_version: str
    groups: dict[str, str]  # by segment


class Window(Database):
    """The events of one dataset by arrival: each prediction once, with its label.

    Duplicates and any order of events are allowed. When a method returns, its rows are on disk.
    """

    def __init__(
        self,
        path: Path,
        *,
        segments: Sequence[Segment] = (),
        label_s: float = math.inf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the file. Threads may share a Window; each process opens its own.

        The outputs are stored with the row's group in each of `segments`. A label that comes more
        than `label_s` seconds after its prediction is late: it is counted and not stored.
        """
        self.segments = segments
        self.label_s = label_s
        self.clock = clock
        super().__init__(path)
        with self.transaction() as connection:
            for statement in _statements(SCHEMA):
                connection.execute(statement)
            for table, column, rule in ADDED:
                names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                if column not in names:  # a file of an earlier release
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {rule}")

    def add_predictions(self, predictions: list[Prediction]) -> int:
        """Store the programs' new predictions, all or none; return their number.

        The prediction of an id with the earliest time replaces a later one, in the later one's
        place.
        """
        rows = [self._row(one) for one in earliest(predictions) if one.source == API]
        others = [one.prediction_id for one in predictions if one.source != API]
        with self.transaction() as connection:
            after = connection.execute("SELECT max(arrival) FROM predictions").fetchone()[0] or 0
            added = connection.executemany(ADD_PREDICTION, rows).rowcount
            _add_outputs(connection, rows, after)
            if added < len(rows):
                connection.executemany(REPLACE_PREDICTION, rows)
                connection.executemany(REPLACE_OUTPUTS, rows)
            ids = [(row["prediction_id"],) for row in rows]
            matched = connection.executemany(MATCH_LABEL, ids).rowcount
            _leave_out(connection, others)
            duplicates = len(predictions) - len(others) - added
            counts = [(added, "ingested"), (duplicates, "duplicates")]
            connection.executemany(COUNT, [*counts, (matched, "labels_matched")])
        return added

    def add_labels(self, labels: list[Label]) -> int:
        """Store the new labels, all or none; return their number, late ones included.

        The first label of a prediction wins; a contradicting one is stored as a conflict.
        """
        received_at = self.clock()
        with self.transaction() as connection:
            return sum(self._add_label(connection, label, received_at) for label in labels)

    def _add_label(self, connection: sqlite3.Connection, label: Label, received_at: float) -> bool:
        row = {**msgspec.structs.asdict(label), "key": id_key(label.prediction_id)}
        predicted_at, first, is_left_out = connection.execute(KNOWN, row).fetchone()
        if is_left_out:
            return False
        if first is not None:
            if first != label.label:
                connection.execute(ADD_CONFLICT, row)
            return False
        is_known = predicted_at is not None
        is_late = is_known and label.labelled_at - predicted_at > self.label_s
        if is_known:
            connection.execute("UPDATE outputs SET label = :label WHERE key = :key", row)
            connection.execute(COUNT, (1, "labels_late" if is_late else "labels_matched"))
        if not is_late:
            connection.execute(ADD_LABEL, {**row, "matched": is_known, "received_at": received_at})
        return True

    def store_backlog(self, waiting: Mapping[str, int | None], sample: float = 1.0) -> None:
        """Store the undelivered events of instances; None removes an instance.

        `sample` is the share of predictions that their relay sends.
        """
        at = self.clock()
        with self.transaction() as connection:
            for instance, events in waiting.items():
                if events is None:
                    connection.execute("DELETE FROM backlog WHERE instance = ?", (instance,))
                else:
                    row = instance, events, at, sample
                    connection.execute("REPLACE INTO backlog VALUES (?, ?, ?, ?)", row)
            connection.execute("DELETE FROM backlog WHERE at < ?", (at - FORGET_INSTANCE_S,))

    def backlog(self) -> list[Backlog]:
        """Return the last report of each instance, the oldest first."""
        query = "SELECT instance, events, at, sample FROM backlog ORDER BY at, instance"
        return [Backlog(*row) for row in self.read(query)]

    def last_predictions(self, rows: int) -> list[Prediction]:
        """Return the newest predictions by arrival, oldest first."""
        found = self.read(LAST_PREDICTIONS, (rows,))
        return [msgspec.json.decode(body, type=Prediction) for (body,) in reversed(found)]

    def next_predictions(
        self, arrival: int, rows: int, not_before: float | None = None
    ) -> list[tuple[int, Prediction]]:
        """Return (arrival, prediction) of the oldest rows after an arrival.

        Of rows with a prediction time from `not_before`.
        """
        limits = {"arrival": arrival, "rows": rows, "not_before": not_before}
        found = self.read(NEXT_PREDICTIONS, limits)
        return [(number, msgspec.json.decode(body, type=Prediction)) for number, body in found]

    def last_arrival(self) -> int:
        """Return the newest prediction's arrival, 0 before the first."""
        return self.read("SELECT max(arrival) FROM predictions")[0][0] or 0

    def last_labelled(self, rows: int) -> list[LabelledPrediction]:
        """Return the newest labels by arrival with their predictions, oldest first."""
        labelled = []
        for predicted_at, probability, income_class, body, *label in self.read(
            LAST_LABELLED, (rows,)
        ):
            of = msgspec.json.decode(body, type=Profile)
            own = (predicted_at, of.model_version, probability, income_class, of.groups)
            labelled.append(LabelledPrediction(*own, *label))
        return labelled[::-1]

    def label_coverage(self, rows: int, predicted_by: float) -> LabelCoverage:
        """Return how many of the newest rows up to a prediction time have a label."""
        oldest = self.read("SELECT predicted_at FROM outputs ORDER BY arrival LIMIT 1")
        end = self._first_after(predicted_by)
        ((n_rows, labelled),) = self.read(COUNT_LABELLED, (end, rows))
        return LabelCoverage(n_rows, labelled, oldest[0][0] if oldest else None)

    def counters(self) -> Counters:
        """Return how many events were ever received."""
        return Counters(**dict(self.read("SELECT name, value FROM counters")))

    def label_counts(self) -> LabelCounts:
        """Return the stored labels by state."""
        counts = dict(self.read("SELECT matched, count(*) FROM labels GROUP BY matched"))
        conflicting = self.read("SELECT count(*) FROM conflicts")[0][0]
        return LabelCounts(counts.get(1, 0), counts.get(0, 0), conflicting)

    def record(self, measurement: Measurement | None, run: Run, is_new: bool = True) -> None:
        """Store a run and its measurement, if it made one.

        A measurement that is not new replaces the latest one: the same figures at a later time.
        """
        with self.transaction() as connection:
            if measurement is not None:
                statement = ADD_MEASUREMENT if is_new else CONFIRM_MEASUREMENT
                connection.execute(statement, (msgspec.json.encode(measurement),))
            connection.execute("REPLACE INTO last_run VALUES (0, ?)", (msgspec.json.encode(run),))

    def latest(self) -> Measurement | None:
        """Return the latest measurement, or None before the first."""
        query = "SELECT body FROM measurements ORDER BY id DESC LIMIT 1"
        return self.load(query, Measurement)

    def newest(self, limit: int) -> list[Measurement]:
        """Return the newest measurements, oldest first."""
        found = self.read("SELECT body FROM measurements ORDER BY id DESC LIMIT ?", [limit])
        return [msgspec.json.decode(body, type=Measurement) for (body,) in reversed(found)]

    def last_run(self) -> Run | None:
        """Return the last run of the measure process, or None before the first."""
        return self.load("SELECT body FROM last_run", Run)

    def store_judgement(self, judgement: Judgement) -> None:
        """Store a judgement, in place of the previous one."""
        body = msgspec.json.encode(judgement)
        with self.transaction() as connection:
            connection.execute("REPLACE INTO judgement VALUES (0, ?)", (body,))

    def judgement(self) -> Judgement:
        """Return the stored judgement, or an empty one."""
        return self.load("SELECT body FROM judgement", Judgement) or Judgement()

    def prune(self, retention_rows: int, label_rows: int, at: float) -> None:
        """Delete what is beyond its limits at a Unix time.

        `retention_rows` limits predictions, labels by state and conflicts, `label_rows` the rows
        that a label can join. Those rows stay for twice `label_s`, so that a late label is known
        to be late. Labels without a prediction are counted.
        """
        limits = {"retention": retention_rows, "measurements": MAX_MEASUREMENTS}
        first_kept = self._first_kept(label_rows, at)
        with self.transaction() as connection:
            for statement in _statements(PRUNE):
                connection.execute(statement, limits)
            pending = {"retention": retention_rows, "received_at": at - MAX_WAIT_S}
            unknown = connection.execute(PRUNE_PENDING, pending).rowcount
            connection.execute(COUNT, (unknown, "labels_unknown"))
            connection.execute("DELETE FROM outputs WHERE arrival < ?", (first_kept,))

    def _first_kept(self, label_rows: int, at: float) -> int:
        first, last = self.read(ARRIVALS)[0]
        if first is None:
            return 0
        # By prediction times, as rows that are sent again are older than the clock.
        expired = self._first_after(min(self._predicted_at(last), at) - 2 * self.label_s)
        return min(max(expired, last - label_rows + 1), first + MAX_EXPIRED_ROWS)

    def _first_after(self, predicted_at: float) -> int:
        """Return the first arrival after a prediction time: rows arrive nearly in this order."""
        first, last = self.read(ARRIVALS)[0]
        if first is None:
            return 0
        return first + bisect_right(range(first, last + 1), predicted_at, key=self._predicted_at)

    def _predicted_at(self, arrival: int) -> float:
        """Return the prediction time of the first row from an arrival on, or infinity."""
        found = self.read(PREDICTED_AT, (arrival,))  # another process may have erased rows
        return found[0][0] if found else math.inf

    def erase(self, prediction_id: str) -> int:
        """Delete a prediction, its outputs, label and conflict; return the number of rows.

        Deleted rows are overwritten. The totals stay. Raises sqlite3.OperationalError if the
        write-ahead log still holds the rows, because another process reads it. Call again then.
        """
        with self.transaction() as connection:
            erased = sum(
                connection.execute(
                    f"DELETE FROM {table} WHERE prediction_id = ?", (prediction_id,)
                ).rowcount
                for table in ("conflicts", "labels", "predictions")
            )
            key = (id_key(prediction_id),)
            erased += connection.execute(ERASE_SHADOW, key).rowcount
            erased += connection.execute("DELETE FROM outputs WHERE key = ?", key).rowcount
            erased += connection.execute("DELETE FROM left_out WHERE key = ?", key).rowcount
        if self.read("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            raise sqlite3.OperationalError("the write-ahead log is in use and still holds rows")
        return erased

    def _row(self, prediction: Prediction) -> dict[str, Any]:
        groups = segment_groups(prediction.features, self.segments)
        return {
            "prediction_id": prediction.prediction_id,
            "body": msgspec.json.encode(prediction),
            "key": id_key(prediction.prediction_id),
            "predicted_at": prediction.predicted_at,
            "probability": prediction.probability,
            "income_class": prediction.income_class,
            "profile": msgspec.json.encode(Profile(prediction.model_version, groups)),
        }


def id_key(prediction_id: str) -> bytes:
    """Return the 16 bytes of an id of 32 hexadecimal digits, or of another id's digest."""
    try:
        key = bytes.fromhex(prediction_id)
    except ValueError:
        key = b""
    return (
        key
        if len(key) == KEY_BYTES
        else blake2b(prediction_id.encode(), digest_size=KEY_BYTES).digest()
    )


def _add_outputs(connection: sqlite3.Connection, rows: list[dict[str, Any]], after: int) -> None:
    """Add the outputs of those rows that are in `predictions` with an arrival after `after`."""
    profiles = {(row["profile"],) for row in rows}
    connection.executemany("INSERT OR IGNORE INTO profiles (body) VALUES (?)", profiles)
    connection.executemany(ADD_OUTPUTS, [{**row, "after": after} for row in rows])


def _leave_out(connection: sqlite3.Connection, ids: list[str]) -> None:
    """Keep the keys of predictions, and drop their labels that have already arrived."""
    keys = [(id_key(one),) for one in ids]
    connection.executemany("INSERT OR IGNORE INTO left_out VALUES (?)", keys)
    connection.executemany(
        "DELETE FROM labels WHERE prediction_id = ? AND NOT matched", ((one,) for one in ids)
    )


def _statements(script: str) -> list[str]:
    return [statement for statement in script.split(";") if statement.strip()]
