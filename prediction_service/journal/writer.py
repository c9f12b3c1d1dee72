"""Append events to a journal file of this worker's own, before the response leaves."""

import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from config.runtime.logs import where
from prediction_service.journal.files import (
    JournalUnavailable,
    acquire_lock,
    flush_content,
    flush_folder,
    folder_bytes,
    lock_path,
    remove_journal,
)
from prediction_service.journal.line import VERSION_LINE, Event, to_line

log = structlog.get_logger(__name__)

Sync = Literal["normal", "full"]

MAX_FILES = 64  # JOURNAL_MAX_MB is divided into that many files

Call = Callable[[Callable[[], Any]], Any]  # calls a function and returns its result


class JournalFull(Exception):
    """The journals have reached JOURNAL_MAX_MB; nothing was stored."""


class JournalFile:
    """One file, locked and open for appending."""

    def __init__(self, folder: Path) -> None:
        """Create the file. Raises OSError, and then no file and no descriptor is left."""
        self.path = folder / f"{uuid.uuid4().hex}.jsonl"
        self.created_at = time.monotonic()
        self.n_events = 0
        self.n_bytes = 0
        with ExitStack() as undo:
            undo.callback(remove_journal, self.path)
            self._lock = acquire_lock(lock_path(self.path))  # before the journal can be seen
            undo.callback(os.close, self._lock)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o644)
            undo.callback(os.close, self._file)
            self.append(VERSION_LINE, 0, flush=False)
            flush_folder(folder)  # otherwise the file might be gone after a power failure
            undo.pop_all()

    def append(self, content: bytes, n_events: int, flush: bool) -> None:
        """Add whole lines, all or none. Raises OSError."""
        # The numbers stay taken after an error: the relay may have read and shipped them.
        self.n_events += n_events
        rest, end = memoryview(content), self.n_bytes
        try:
            while rest:
                n_written = os.pwrite(self._file, rest, end)
                rest, end = rest[n_written:], end + n_written
            if flush:
                self.flush()
        except OSError:
            os.ftruncate(self._file, self.n_bytes)
            raise
        self.n_bytes = end

    def flush(self) -> None:
        """Make the disk store what was appended. Raises OSError."""
        flush_content(self._file)

    def close(self) -> None:
        """Release the lock. The relay may remove the file once it is shipped."""
        os.close(self._file)
        os.close(self._lock)


class Journal:
    """One worker's journal, open for appending. Open it after the fork."""

    def __init__(
        self,
        root: Path,
        instance: str,
        sync: Sync,
        max_bytes: int,
        max_file_age_s: float = math.inf,
    ) -> None:
        """Create the first file.

        `max_bytes` is the maximum of all files under `root`. A file that is older than
        `max_file_age_s` is replaced by a new one, if `run_maintenance` was called.
        """
        self.root = root
        self.max_bytes = max_bytes
        self._folder = root / instance
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sync = sync
        self._max_file_age_s = max_file_age_s
        self._file = JournalFile(self._folder)
        self._used_bytes = folder_bytes(root)  # as measured last, plus own appends since then
        self._mutex = threading.Lock()
        self._closed = threading.Event()
        self._maintenance: threading.Thread | None = None
        self._encode = msgspec.json.Encoder().encode_lines

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self._file.path

    @property
    def is_full(self) -> bool:
        """Whether the journals have reached their maximum, measured now."""
        return folder_bytes(self.root) >= self.max_bytes

    def append(self, events: Sequence[Event]) -> None:
        """Store the events, all or none.

        Raises JournalFull or JournalUnavailable, and then none of them is stored.
        """
        with self._mutex:
            last = self._file.n_events + len(events)
            numbered = enumerate(events, self._file.n_events + 1)
            content = self._encode([to_line(seq, last - seq, event) for seq, event in numbered])
            self._check_room(len(content))
            try:
                self._file.append(content, len(events), flush=self._sync == "full")
            except OSError as err:
                raise JournalUnavailable(
                    f"The journal {self.path} cannot be written: {err}"
                ) from err
            self._used_bytes += len(content)

    def run_maintenance(self, period_s: float, call: Call = lambda function: function()) -> None:
        """Every `period_s` seconds, in a thread: measure, flush, and start a new file if due.

        `call` calls what waits for the disk; under gevent, a native thread should do it.
        """
        self._maintenance = threading.Thread(
            target=self._run_maintenance, args=[period_s, call], name="journal", daemon=True
        )
        self._maintenance.start()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._closed.set()
        if self._maintenance:
            self._maintenance.join()
        self._file.close()

    def _run_maintenance(self, period_s: float, call: Call) -> None:
        while not self._closed.wait(period_s):
            try:
                self._measure(call)
                call(self._file.flush)
                if self._is_due():
                    self._start_another_file()
            except OSError as err:  # such as a full disk; a request that fails reports it itself
                log.warning("journal_maintenance_failed", path=str(self.path), error=str(err))
            except Exception as err:  # pylint: disable=broad-exception-caught
                # The thread must live: without it a full journal stays full.
                log.error("journal_maintenance_failed", path=str(self.path), error=where(err))

    def _measure(self, call: Call) -> None:
        used_bytes = call(lambda: folder_bytes(self.root))  # takes milliseconds: not in a request
        with self._mutex:
            self._used_bytes = used_bytes

    def _is_due(self) -> bool:
        file = self._file
        is_old = time.monotonic() - file.created_at >= self._max_file_age_s
        return bool(file.n_events) and (is_old or file.n_bytes >= self.max_bytes // MAX_FILES)

    def _start_another_file(self) -> None:
        another = JournalFile(self._folder)
        with self._mutex:
            former, self._file = self._file, another
        try:
            former.flush()
        finally:
            former.close()

    def _check_room(self, n_bytes: int) -> None:
        if self._used_bytes + n_bytes > self.max_bytes:
            raise JournalFull(
                f"JOURNAL_MAX_MB: the journals are full; got {self._used_bytes // 10**6} MB,"
                f" expected at most {self.max_bytes // 10**6} MB. Check that the relay runs and"
                " that its sinks respond. Without MongoDB nothing is deleted: raise"
                " JOURNAL_MAX_MB."
            )
