"""What each sink has stored of each journal, and what it rejected: `JOURNAL_DIR/relay.db`.

The relay writes it. `journal resend` removes dead letters from it, and the request workers read it
for their gauges.
"""

import math
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from config.runtime.sqlite import open_durable
from prediction_service.journal import JournalUnavailable, StoredEvent, journal_paths, newest

LOCK_WAIT_S = 5.0  # other processes hold the file for milliseconds

SCHEMA = """
CREATE TABLE IF NOT EXISTS cursor (
    sink TEXT, journal TEXT, seq INTEGER NOT NULL, PRIMARY KEY (sink, journal)
);
CREATE TABLE IF NOT EXISTS dead_letter (
    sink TEXT, journal TEXT, seq INTEGER, kind TEXT, body BLOB, reason TEXT, at REAL,
    PRIMARY KEY (sink, journal, seq)
);
CREATE TABLE IF NOT EXISTS dropped (sink TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS left_out (sink TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS misconfigured (sink TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS label_state (state TEXT PRIMARY KEY, n INTEGER NOT NULL);
"""
ADD = "INSERT INTO {} VALUES (?, ?) ON CONFLICT (sink) DO UPDATE SET n = n + excluded.n"


class Progress:
    """The relay's own file, open for writing; safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self._mutex = threading.Lock()
        self._connection = open_durable(progress_path(root), LOCK_WAIT_S)
        self._connection.executescript(SCHEMA)

    def position(self, sink: str, journal: str) -> int:
        """Return the number of the last event that a sink has stored; 0 if none."""
        query = "SELECT seq FROM cursor WHERE sink = ? AND journal = ?"
        with self._mutex:
            row = self._connection.execute(query, (sink, journal)).fetchone()
        return row[0] if row else 0

    def advance(self, sink: str, journal: str, seq: int, n_left_out: int = 0) -> None:
        """Record that a sink has stored everything up to `seq`.

        `n_left_out` of these events are not in its sample. They are counted once, also if the relay
        is killed here.
        """
        with self._mutex, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", (sink, journal, seq)
            )
            if n_left_out:
                connection.execute(ADD.format("left_out"), (sink, n_left_out))

    def forget(self, journal: str) -> None:
        """Remove the positions in a journal that was removed."""
        self._write("DELETE FROM cursor WHERE journal = ?", (journal,))

    def add_dead_letter(
        self, sink: str, journal: str, event: StoredEvent, reason: str, at: float
    ) -> None:
        """Keep an event that a sink rejected at Unix time `at`, in place of an earlier copy."""
        row = (sink, journal, event.seq, event.kind, event.body, reason, at)
        self._write("INSERT OR REPLACE INTO dead_letter VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def dead_letters(self, sink: str) -> list[tuple[str, StoredEvent]]:
        """Return the events that a sink rejected, each with its journal."""
        query = (
            "SELECT journal, seq, kind, CAST(body AS TEXT) ->> 'prediction_id', at, body"
            " FROM dead_letter WHERE sink = ? ORDER BY journal, seq"
        )
        with self._mutex:
            rows = self._connection.execute(query, (sink,)).fetchall()
        return [(journal, StoredEvent(*event)) for journal, *event in rows]

    def remove_dead_letter(self, sink: str, journal: str, seq: int) -> None:
        """Remove an event that the sink has stored after all."""
        condition = "sink = ? AND journal = ? AND seq = ?"
        self._write(f"DELETE FROM dead_letter WHERE {condition}", (sink, journal, seq))

    def count_dropped(self, sink: str, n_events: int) -> None:
        """Count events that were removed before a sink had stored them."""
        self._write(ADD.format("dropped"), (sink, n_events))

    def set_misconfigured(self, sink: str, is_misconfigured: bool) -> None:
        """Record whether a sink rejects the relay itself."""
        if is_misconfigured:
            self._write("INSERT OR REPLACE INTO misconfigured VALUES (?)", (sink,))
        else:
            self._write("DELETE FROM misconfigured WHERE sink = ?", (sink,))

    def set_label_states(self, states: dict[str, int]) -> None:
        """Record how many labels are matched, pending and conflicting."""
        for state in states.items():
            self._write("INSERT OR REPLACE INTO label_state VALUES (?, ?)", state)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._mutex:
            self._connection.execute(statement, values)


def progress_path(root: Path) -> Path:
    """Return the path of the relay's file, beside the instances' folders."""
    return root / "relay.db"


@contextmanager
def open_progress(path: Path, mode: Literal["ro", "rw"] = "ro") -> Iterator[sqlite3.Connection]:
    """Open the relay's file from another process. Raises sqlite3.Error."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=LOCK_WAIT_S, isolation_level=None)
    with closing(connection):
        # Overwrite what is deleted: some builds of SQLite have this off.
        connection.execute("PRAGMA secure_delete = ON")
        yield connection


def erase_dead_letters(root: Path, prediction_id: str) -> int:
    """Remove a prediction's dead letters, also from the write-ahead log; return their number.

    Raises JournalUnavailable, also if a reader keeps the write-ahead log from being emptied.
    """
    path = progress_path(root)
    if not path.exists():
        return 0
    remove = "DELETE FROM dead_letter WHERE CAST(body AS TEXT) ->> 'prediction_id' = ?"
    try:
        with open_progress(path, "rw") as connection:
            n_erased = connection.execute(remove, (prediction_id,)).rowcount
            is_held, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as err:
        raise JournalUnavailable(f"{path} cannot be written: {err}") from err
    if is_held:
        raise JournalUnavailable(
            f"{path}: another process reads its write-ahead log, which still holds erased rows."
            " Run the command again."
        )
    return n_erased


def sample_size(n_events: int, share: float) -> int:
    """Return how many of these events a sample is expected to have; at least 1 of 1."""
    return math.ceil(n_events * share)


def backlog(root: Path, sink: str, share: float = 1.0) -> int:
    """Return how many journalled events a sink still has to store."""
    return sum(backlog_by_instance(root, sink, share).values())


def backlog_by_instance(root: Path, sink: str, share: float = 1.0) -> dict[str, int]:
    """Return how many journalled events of each instance a sink still has to store.

    Of a sample, the expected number: only the relay reads the ids.
    """
    positions = dict(_read(root, "SELECT journal, seq FROM cursor WHERE sink = ?", (sink,)))
    waiting: Counter[str] = Counter()
    for path in journal_paths(root):
        try:
            n_events = newest(path)[0] - positions.get(path.stem, 0)
        except JournalUnavailable:  # the relay logs it
            n_events = 0
        waiting[path.parent.name] += max(0, n_events)
    return {instance: sample_size(n_events, share) for instance, n_events in waiting.items()}


def dead_letters(root: Path) -> dict[str, int]:
    """Return how many events each sink rejected."""
    return dict(_read(root, "SELECT sink, count(*) FROM dead_letter GROUP BY sink"))


def dropped_events(root: Path) -> dict[str, int]:
    """Return how many events were removed before a sink had stored them."""
    return dict(_read(root, "SELECT sink, n FROM dropped"))


def left_out_events(root: Path) -> dict[str, int]:
    """Return how many events were not sent to each sink, because its sample leaves them out."""
    return dict(_read(root, "SELECT sink, n FROM left_out"))


def misconfigured_sinks(root: Path) -> set[str]:
    """Return the sinks that reject the relay itself."""
    return {sink for (sink,) in _read(root, "SELECT sink FROM misconfigured")}


def label_states(root: Path) -> dict[str, int]:
    """Return how many labels are matched, pending and conflicting, as the relay last counted."""
    return dict(_read(root, "SELECT state, n FROM label_state"))


def _read(root: Path, query: str, values: tuple[object, ...] = ()) -> list[tuple]:
    """Return rows of the relay's file from any process; none before the relay has run."""
    path = progress_path(root)
    if not path.exists():
        return []
    try:
        with open_progress(path) as connection, closing(connection.execute(query, values)) as rows:
            return rows.fetchall()
    except sqlite3.OperationalError:  # the relay is creating it
        return []
