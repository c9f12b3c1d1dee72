"""The journal: every answer and label, committed before the answer leaves.

One SQLite file per worker, `JOURNAL_DIR/<instance>/<uuid>.db`, beside a `.lock` that its worker
holds for as long as it lives; whoever can take the lock knows the journal has no writer any
more. Comes after scoring; the relay reads it. Only this module knows the tables.
"""

import fcntl
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from config.events import Label, Prediction

log = logging.getLogger(__name__)

Event = Prediction | Label
Kind = Literal["prediction", "label", "erased"]

# No AUTOINCREMENT: it would double the cost of a commit. Numbers do not repeat because the newest
# row is never removed from a file.
SCHEMA = """
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    prediction_id TEXT NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL
)
"""
INSERT = "INSERT INTO event (kind, prediction_id, at, body) VALUES (?, ?, ?, ?)"
LOCK_WAIT_S = 5.0  # the relay's removals hold a journal's write lock for milliseconds
ROW_OVERHEAD_BYTES = 80  # a row's columns besides its body
MEASURE_PERIOD_S = 1.0
LONGEST_LOG_PAGES = 4000  # of 4 kB, in the write-ahead log; then a commit empties it
FREED_PAGES = 250  # given back to the file system per removal, so that its lock stays short


class JournalFull(Exception):
    """The journals have reached JOURNAL_MAX_MB; nothing was stored."""


class JournalUnavailable(Exception):
    """The journal cannot be written, as when the disk is full; nothing was stored."""


class StoredEvent(NamedTuple):
    """One row of a journal."""

    seq: int
    kind: Kind
    prediction_id: str
    at: float  # Unix time in seconds
    body: bytes  # the event as JSON


class Journal:
    """One worker's own journal, open for appending. Open it after the fork."""

    def __init__(
        self, root: Path, instance: str, sync: Literal["normal", "full"], max_bytes: int
    ) -> None:
        self.root = root
        self.max_bytes = max_bytes
        folder = root / instance
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{uuid.uuid4().hex}.db"
        self._lock_file = hold_lock(lock_path(self.path))  # before the journal can be seen
        self._connection = create(self.path, sync)
        self._mutex = threading.Lock()
        self._closed = threading.Event()
        self._encode = msgspec.json.Encoder().encode
        self._room = 0
        self._measure_at = 0.0

    def append(self, events: Sequence[Event]) -> None:
        """Commits the events, all or none.

        Raises JournalFull or JournalUnavailable, and then none of them is stored.
        """
        rows = [self._row(event) for event in events]
        with self._mutex:
            self._take_room(sum(len(row[3]) + ROW_OVERHEAD_BYTES for row in rows))
            try:
                self._commit(rows)
            except sqlite3.Error as err:
                raise JournalUnavailable(
                    f"the journal {self.path} cannot be written: {err}"
                ) from err

    @property
    def is_full(self) -> bool:
        """True if the journals have reached their bound."""
        return folder_bytes(self.root) >= self.max_bytes

    def checkpoint_every(self, period_s: float) -> threading.Thread:
        """Moves what is committed into the file's body, in a thread of this process.

        A commit that finds the log too long does it itself, and waits for the disk's flush.
        """
        thread = threading.Thread(target=self._keep_checkpointing, args=[period_s], daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Closes the file and lets go of its lock; the relay may then adopt it."""
        self._closed.set()
        self._connection.close()
        os.close(self._lock_file)

    def _keep_checkpointing(self, period_s: float) -> None:
        while not self._closed.wait(period_s):
            try:
                with opened(self.path, "rw") as connection:
                    # Passive: it waits for nobody, and nobody for it.
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as err:  # a commit will do it, or say why it cannot
                log.warning("journal not checkpointed path=%s reason=%s", self.path, err)

    def _row(self, event: Event) -> tuple[str, str, float, bytes]:
        if isinstance(event, Prediction):
            return "prediction", event.prediction_id, event.predicted_at, self._encode(event)
        return "label", event.prediction_id, event.labelled_at, self._encode(event)

    def _take_room(self, n_bytes: int) -> None:
        """Counts own rows against the bound between measurements of the whole folder."""
        now = time.monotonic()
        if now >= self._measure_at:
            self._room = self.max_bytes - folder_bytes(self.root)
            self._measure_at = now + MEASURE_PERIOD_S
        if n_bytes > self._room:
            raise JournalFull(
                f"the journals hold {self.max_bytes // 10**6} MB (JOURNAL_MAX_MB):"
                " nothing is answered that cannot be kept. Is the relay running, and do the"
                " sinks answer?"
            )
        self._room -= n_bytes

    def _commit(self, rows: list[tuple[str, str, float, bytes]]) -> None:
        if len(rows) == 1:
            self._connection.execute(INSERT, rows[0])  # a transaction of its own
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(INSERT, rows)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def create(path: Path, sync: Literal["normal", "full"]) -> sqlite3.Connection:
    """A new journal file. A row is committed by each statement outside a transaction."""
    draft = path.with_suffix(".new")  # renamed once it has its table: others look in any moment
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # removed rows free disk
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(SCHEMA)
    draft.rename(path)
    connection = sqlite3.connect(
        path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
    )
    connection.execute(f"PRAGMA synchronous = {sync}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LONGEST_LOG_PAGES}")
    return connection


@contextmanager
def opened(path: Path, mode: Literal["ro", "rw"] = "ro") -> Iterator[sqlite3.Connection]:
    """An existing journal, whoever writes it. Raises sqlite3.Error if it cannot be opened.

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


@contextmanager
def erasing(path: Path) -> Iterator[sqlite3.Connection]:
    """A file to erase from; of what was erased, its write-ahead log keeps nothing either.

    Raises JournalUnavailable, also when a reader kept the log from being emptied.
    """
    try:
        with opened(path, "rw") as connection:
            yield connection
            held, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as err:
        raise JournalUnavailable(f"{path} cannot be written: {err}") from err
    if held:
        raise JournalUnavailable(f"{path}: its write-ahead log is being read and still holds rows")


def journal_paths(root: Path) -> list[Path]:
    """All journals of all instances."""
    return sorted(root.glob("*/*.db"))


def read_after(path: Path, seq: int, limit: int) -> list[StoredEvent]:
    """Up to `limit` events that follow `seq`, in order."""
    query = (
        "SELECT seq, kind, prediction_id, at, body FROM event WHERE seq > ? ORDER BY seq LIMIT ?"
    )
    with opened(path) as connection:
        return [StoredEvent(*row) for row in connection.execute(query, (seq, limit))]


def newest(path: Path) -> tuple[int, float]:
    """The number and the time of the newest event; (0, 0.0) for an empty journal."""
    with opened(path) as connection:
        query = "SELECT seq, at FROM event ORDER BY seq DESC LIMIT 1"
        row = connection.execute(query).fetchone()
    return row or (0, 0.0)


def remove_up_to(path: Path, seq: int, before: float, limit: int) -> int:
    """Removes up to `limit` of the oldest events; how many.

    Only events numbered up to `seq` and older than `before` (Unix time), never the newest one.
    """
    with opened(path, "rw") as connection:
        query = (
            "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE seq <= ? ORDER BY seq"
            " LIMIT ?) AND at < ? AND seq < (SELECT max(seq) FROM event)"
        )
        removed = connection.execute(query, (seq, limit, before)).rowcount
        if removed:
            give_back_pages(connection)
    return removed


def erase(path: Path, prediction_id: str) -> int:
    """Blanks a prediction and its labels; how many events. Their numbers stay taken.

    Nothing of what they said is left in the file. Raises JournalUnavailable.
    """
    find = "SELECT seq FROM event WHERE prediction_id = ?"
    blank = "UPDATE event SET kind = 'erased', prediction_id = '', body = x'' WHERE seq = ?"
    with erasing(path) as connection:
        # Found by reading: an update that looks at every row would keep the worker from writing.
        numbers = connection.execute(find, (prediction_id,)).fetchall()
        return connection.executemany(blank, numbers).rowcount if numbers else 0


def give_back_pages(connection: sqlite3.Connection) -> None:
    """Shortens a file of which more than a quarter is free; the rest new rows will fill."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if free * 4 > pages:
        # As a script: `execute` would stop after the first page.
        connection.executescript(f"PRAGMA incremental_vacuum({FREED_PAGES})")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def remove_files(path: Path) -> None:
    """Removes a journal that has no writer; its lock last, so that a rest is found again."""
    for suffix in ("-wal", "-shm", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    lock_path(path).unlink(missing_ok=True)


def is_live(path: Path) -> bool:
    """True while the journal's worker lives. A journal that is dead stays dead."""
    try:
        os.close(hold_lock(lock_path(path)))
    except BlockingIOError:
        return True
    return False


def hold_lock(path: Path) -> int:
    """The descriptor of a locked file; closing it, or dying, lets go. Raises BlockingIOError."""
    # Never on the journal itself: closing another descriptor would drop SQLite's own locks.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def lock_path(path: Path) -> Path:
    """The lock that belongs to a journal."""
    return path.with_suffix(".lock")


def folder_bytes(root: Path) -> int:
    """The size of all files under a folder."""
    total = 0
    for path in root.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # removed by the relay meanwhile
            continue
    return total
