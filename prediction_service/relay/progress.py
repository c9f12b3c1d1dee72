"""How far each sink has got in each journal, and what a sink refused: `JOURNAL_DIR/relay.db`.

Written by the relay, and by `journal replay` where a sink takes what it had refused; the workers
read it for their gauges.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from prediction_service.journal import JournalUnavailable, StoredEvent, journal_paths, newest

LOCK_WAIT_S = 5.0  # others hold the file for milliseconds

SCHEMA = """
CREATE TABLE IF NOT EXISTS cursor (
    sink TEXT, journal TEXT, seq INTEGER NOT NULL, PRIMARY KEY (sink, journal)
);
CREATE TABLE IF NOT EXISTS dead_letter (
    sink TEXT, journal TEXT, seq INTEGER, kind TEXT, body BLOB, reason TEXT, at REAL,
    PRIMARY KEY (sink, journal, seq)
);
CREATE TABLE IF NOT EXISTS label_state (state TEXT PRIMARY KEY, n INTEGER NOT NULL);
"""


class Cursors:
    """The relay's own record; safe to use from its threads."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._mutex = threading.Lock()
        self._connection = sqlite3.connect(
            cursors_path(root), isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA secure_delete = ON")  # of letters that are replaced
        self._connection.executescript(SCHEMA)

    def position(self, sink: str, journal: str) -> int:
        """The number of the last event that a sink has stored; 0 if none."""
        query = "SELECT seq FROM cursor WHERE sink = ? AND journal = ?"
        with self._mutex:
            row = self._connection.execute(query, (sink, journal)).fetchone()
        return row[0] if row else 0

    def advance(self, sink: str, journal: str, seq: int) -> None:
        """Records that a sink has stored everything up to `seq`."""
        self._write("INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", (sink, journal, seq))

    def forget(self, journal: str) -> None:
        """Drops the cursors of a removed journal."""
        self._write("DELETE FROM cursor WHERE journal = ?", (journal,))

    def bury(self, sink: str, journal: str, event: StoredEvent, reason: str, at: float) -> None:
        """Keeps an event that a sink refuses; a second time replaces the first."""
        row = (sink, journal, event.seq, event.kind, event.body, reason, at)
        self._write("INSERT OR REPLACE INTO dead_letter VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def letters(self, sink: str) -> list[tuple[str, StoredEvent]]:
        """What a sink has refused, each with its journal."""
        query = (
            "SELECT journal, seq, kind, CAST(body AS TEXT) ->> 'prediction_id', at, body"
            " FROM dead_letter WHERE sink = ? ORDER BY journal, seq"
        )
        with self._mutex:
            rows = self._connection.execute(query, (sink,)).fetchall()
        return [(journal, StoredEvent(*event)) for journal, *event in rows]

    def drop_letter(self, sink: str, journal: str, seq: int) -> None:
        """Forgets that a sink refused an event, now that it has it."""
        where = "sink = ? AND journal = ? AND seq = ?"
        self._write(f"DELETE FROM dead_letter WHERE {where}", (sink, journal, seq))

    def set_label_states(self, states: dict[str, int]) -> None:
        """Records how many labels are matched, pending and conflicting."""
        for state in states.items():
            self._write("INSERT OR REPLACE INTO label_state VALUES (?, ?)", state)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._mutex:
            self._connection.execute(statement, values)


def cursors_path(root: Path) -> Path:
    """The relay's file, beside the instances' folders."""
    return root / "relay.db"


@contextmanager
def opened(path: Path, mode: Literal["ro", "rw"] = "ro") -> Iterator[sqlite3.Connection]:
    """The relay's file, beside the relay. Raises sqlite3.Error if it cannot be opened.

    What is removed through it is overwritten.
    """
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=LOCK_WAIT_S,
        isolation_level=None,
    )
    with closing(connection):
        connection.execute("PRAGMA secure_delete = ON")  # some builds of SQLite start with it off
        yield connection


def erase_dead_letters(root: Path, prediction_id: str) -> int:
    """Removes what sinks refused of a prediction; how many events.

    The write-ahead log keeps nothing of it either. Raises JournalUnavailable, also when a reader
    kept the log from being emptied.
    """
    path = cursors_path(root)
    if not path.exists():
        return 0
    remove = "DELETE FROM dead_letter WHERE CAST(body AS TEXT) ->> 'prediction_id' = ?"
    try:
        with opened(path, "rw") as connection:
            n_erased = connection.execute(remove, (prediction_id,)).rowcount
            held, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as err:
        raise JournalUnavailable(f"{path} cannot be written: {err}") from err
    if held:
        raise JournalUnavailable(f"{path}: its write-ahead log is being read and still holds rows")
    return n_erased


def backlog(root: Path, sink: str) -> int:
    """How many journalled events a sink still has to store."""
    positions = dict(_read(root, "SELECT journal, seq FROM cursor WHERE sink = ?", (sink,)))
    waiting = 0
    for path in journal_paths(root):
        try:
            waiting += max(0, newest(path)[0] - positions.get(path.stem, 0))
        except JournalUnavailable:  # damaged: the relay says so
            continue
    return waiting


def dead_letters(root: Path) -> dict[str, int]:
    """How many events each sink refused for good."""
    return dict(_read(root, "SELECT sink, count(*) FROM dead_letter GROUP BY sink"))


def label_states(root: Path) -> dict[str, int]:
    """How many labels are matched, pending and conflicting, as the log of record last said."""
    return dict(_read(root, "SELECT state, n FROM label_state"))


def _read(root: Path, query: str, values: tuple[object, ...] = ()) -> list[tuple]:
    """Rows of the relay's file, from whichever process; none before it has run."""
    path = cursors_path(root)
    if not path.exists():
        return []
    try:
        with opened(path) as connection, closing(connection.execute(query, values)) as rows:
            return rows.fetchall()
    except sqlite3.OperationalError:  # the relay is just making it
        return []
