"""Open an SQLite file that several processes write, so that each commit survives a power cut."""

import sqlite3
import time
from pathlib import Path

SWITCH_RETRY_S = 0.01


def open_durable(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Open or create a file in write-ahead log mode, in autocommit, for several threads.

    Raises sqlite3.OperationalError if another process holds the file for `busy_timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )
    _use_write_ahead_log(connection, busy_timeout_s)
    connection.execute("PRAGMA synchronous = FULL")
    # Overwrite deleted rows. Set before the first write, since SQLite also copies pages.
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def _use_write_ahead_log(connection: sqlite3.Connection, timeout_s: float) -> None:
    # SQLite does not apply its own timeout to this switch, which a new file needs.
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(SWITCH_RETRY_S)
