"""The journal: every answer and label, written before the answer leaves.

Each worker appends to a file of its own, `JOURNAL_DIR/<instance>/<uuid>.jsonl`, a line an event:

    [seq, left, kind, prediction_id, at, event]

`left` is how many events of the same append follow; an append whose last line is not there was
never answered and does not count. Beside the file is a `.lock` that its worker holds; whoever can
take it knows that the journal has no writer any more. Every now and then a worker leaves its file
and begins another, so that the relay removes whole files. Comes after scoring; the relay reads it.
Only this module knows the format.
"""

import bisect
import fcntl
import logging
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import msgspec

from config.events import Label, Prediction

log = logging.getLogger(__name__)

Event = Prediction | Label
Kind = Literal["prediction", "label", "erased"]
Sync = Literal["normal", "full"]
Line = tuple[int, int, Kind, str, float, msgspec.Raw]

MOST_FILES = 64  # that JOURNAL_MAX_MB is divided into
MEASURE_PERIOD_S = 1.0
TAIL_BYTES = 1 << 12  # read first to find the newest event

decode = msgspec.json.Decoder(Line).decode
DAMAGE = (msgspec.DecodeError, UnicodeDecodeError)  # what it raises for a line that is none


class JournalFull(Exception):
    """The journals have reached JOURNAL_MAX_MB; nothing was stored."""


class JournalUnavailable(Exception):
    """A journal cannot be read or written, as when the disk is full; nothing was stored."""


def call_here(function: Callable[[], None]) -> None:
    """Call a function in this thread."""
    function()


class StoredEvent(NamedTuple):
    """One line of a journal."""

    seq: int  # rises in each journal, from 1 on; numbers may be left out
    kind: Kind
    prediction_id: str
    at: float  # Unix time in seconds
    body: bytes  # the event as JSON


class JournalFile:
    """One file, locked and open for appending."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.jsonl"
        self.begun_at = time.monotonic()
        self.n_events = 0
        self.n_bytes = 0
        with ExitStack() as undo:  # what fails is tried again every second, and leaves nothing
            undo.callback(remove_files, self.path)
            self._lock = hold_lock(lock_path(self.path))  # before the journal can be seen
            undo.callback(os.close, self._lock)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o644)
            undo.callback(os.close, self._file)
            flush_folder(folder)  # or the file might be gone after a loss of power
            undo.pop_all()

    def append(self, content: bytes, n_events: int, flush: bool) -> None:
        """Adds whole lines, all or none. Raises OSError."""
        # Their numbers are taken even if they are not kept: the relay may have read them before.
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
        """Has the disk store what was appended. Raises OSError."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Lets go of the lock: the relay may adopt the journal."""
        os.close(self._file)
        os.close(self._lock)


class Journal:
    """One worker's own journal, open for appending. Open it after the fork."""

    def __init__(
        self, root: Path, instance: str, sync: Sync, max_bytes: int, longest_s: float = math.inf
    ) -> None:
        """`longest_s`: after so many seconds `keep_house` begins another file."""
        self.root = root
        self.max_bytes = max_bytes
        self._folder = root / instance
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sync = sync
        self._longest_s = longest_s
        self._file = JournalFile(self._folder)
        self._mutex = threading.Lock()
        self._closed = threading.Event()
        self._housekeeper: threading.Thread | None = None
        self._encode = msgspec.json.Encoder().encode_lines
        self._room = 0
        self._measure_at = 0.0

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self._file.path

    def append(self, events: Sequence[Event]) -> None:
        """Stores the events, all or none.

        Raises JournalFull or JournalUnavailable, and then none of them is stored.
        """
        with self._mutex:
            last = self._file.n_events + len(events)
            numbered = enumerate(events, self._file.n_events + 1)
            content = self._encode([line(seq, last - seq, event) for seq, event in numbered])
            self._take_room(len(content))
            try:
                self._file.append(content, len(events), flush=self._sync == "full")
            except OSError as err:
                raise JournalUnavailable(
                    f"the journal {self.path} cannot be written: {err}"
                ) from err

    @property
    def is_full(self) -> bool:
        """True if the journals have reached their bound."""
        return folder_bytes(self.root) >= self.max_bytes

    def keep_house(
        self, period_s: float, call: Callable[[Callable[[], None]], None] = call_here
    ) -> None:
        """Has the disk store what was appended, and begins other files, in a thread.

        `call` calls a function that blocks for as long as the disk takes.
        """
        self._housekeeper = threading.Thread(
            target=self._keep_house, args=[period_s, call], name="journal", daemon=True
        )
        self._housekeeper.start()

    def close(self) -> None:
        """Closes the file and lets go of its lock; the relay may then adopt it."""
        self._closed.set()
        if self._housekeeper:
            self._housekeeper.join()
        self._file.close()

    def _keep_house(self, period_s: float, call: Callable[[Callable[[], None]], None]) -> None:
        while not self._closed.wait(period_s):
            try:
                call(self._file.flush)
                if self._is_long():
                    self._begin_another()
            except OSError as err:  # an answer that cannot be stored says so itself
                log.warning("journal not kept path=%s reason=%s", self.path, err)

    def _is_long(self) -> bool:
        file = self._file
        is_old = time.monotonic() - file.begun_at >= self._longest_s
        return bool(file.n_events) and (is_old or file.n_bytes >= self.max_bytes // MOST_FILES)

    def _begin_another(self) -> None:
        another = JournalFile(self._folder)
        with self._mutex:
            former, self._file = self._file, another
        try:
            former.flush()
        finally:
            former.close()

    def _take_room(self, n_bytes: int) -> None:
        """Counts own bytes against the bound between measurements of the whole folder."""
        now = time.monotonic()
        if now >= self._measure_at:
            self._room = self.max_bytes - folder_bytes(self.root)
            self._measure_at = now + MEASURE_PERIOD_S
        if n_bytes > self._room:
            raise JournalFull(
                f"the journals hold {self.max_bytes // 10**6} MB (JOURNAL_MAX_MB): nothing is"
                " answered that cannot be kept. Is the relay running, and do the sinks answer?"
                " Without MongoDB nothing is removed: raise JOURNAL_MAX_MB"
            )
        self._room -= n_bytes


def line(seq: int, left: int, event: Event) -> tuple[int, int, Kind, str, float, Event]:
    """What a journal's line says of an event."""
    if isinstance(event, Prediction):
        return seq, left, "prediction", event.prediction_id, event.predicted_at, event
    return seq, left, "label", event.prediction_id, event.labelled_at, event


@contextmanager
def opened(path: Path, mode: Literal["rb", "rb+"] = "rb") -> Iterator[BinaryIO]:
    """A journal, whoever writes it. Raises JournalUnavailable, also for a line that is none.

    One that the relay has removed meanwhile is empty: every sink has what it held.
    """
    try:
        try:
            file = path.open(mode)
        except FileNotFoundError:
            file = Path(os.devnull).open(mode)
        with file:
            yield file
    except OSError as err:
        raise JournalUnavailable(f"the journal {path} cannot be used: {err}") from err
    except DAMAGE as err:
        raise JournalUnavailable(
            f"the journal {path} has a damaged line ({err}): mend it, or move the file elsewhere"
        ) from err


def journal_paths(root: Path) -> list[Path]:
    """All journals of all instances."""
    return sorted(root.glob("*/*.jsonl"))


def read_after(path: Path, seq: int, limit: int) -> list[StoredEvent]:
    """Up to `limit` events that follow `seq`, in order. Raises JournalUnavailable.

    What stands before a damaged line is read; the line is told once it is the next.
    """
    events: list[StoredEvent] = []
    try:
        with opened(path) as file:
            find(file, seq)
            for append in appends(file):
                events += append
                if len(events) >= limit:
                    break
    except JournalUnavailable:
        if not events:
            raise
    return events[:limit]


def appends(file: BinaryIO) -> Iterator[list[StoredEvent]]:
    """The events of one append after the other, of those that are there as a whole."""
    together: list[StoredEvent] = []
    for content in file:
        if not content.endswith(b"\n"):
            return
        number, left, kind, prediction_id, at, body = decode(content)
        together.append(StoredEvent(number, kind, prediction_id, at, bytes(body)))
        if left == 0:
            yield together
            together = []


def find(file: BinaryIO, seq: int) -> None:
    """Goes to the line that follows `seq`, by halving: it may be the millionth."""

    def go_to_line(offset: int) -> None:
        """Goes to the first line that begins at the offset or after it."""
        file.seek(max(0, offset - 1))
        if offset:
            file.readline()

    def number_from(offset: int) -> int:
        """The number of that line."""
        go_to_line(offset)
        content = file.readline()
        try:
            return decode(content)[0] if content.endswith(b"\n") else sys.maxsize
        except DAMAGE:  # what stands before it is found all the same
            return sys.maxsize

    end = file.seek(0, os.SEEK_END)
    go_to_line(bisect.bisect_right(range(end), seq, key=number_from))


def newest(path: Path) -> tuple[int, float]:
    """The number and the time of the newest event; (0, 0.0) for an empty journal.

    Raises JournalUnavailable.
    """
    with opened(path) as file:
        end = file.seek(0, os.SEEK_END)
        start, length = end, TAIL_BYTES
        while start > 0:
            start = max(0, end - length)
            file.seek(start)
            lines = file.read(end - start).split(b"\n")[:-1]  # the rest is being written
            for content in reversed(lines[1:] if start else lines):
                seq, left, _, _, at, _ = decode(content)
                if left == 0:
                    return seq, at
            length *= 8
    return 0, 0.0


def erase(path: Path, prediction_id: str) -> int:
    """Blanks a prediction and its labels in their place; how many events.

    Their numbers stay taken; nothing of what they said is left in the file. Raises
    JournalUnavailable.
    """
    n_erased, offset = 0, 0
    with opened(path, "rb+") as file:
        for content in file:
            if prediction_id.encode() in content and content.endswith(b"\n"):
                seq, left, _, its_id, at, _ = decode(content)
                if its_id == prediction_id:
                    blank = msgspec.json.encode((seq, left, "erased", "", at, None))
                    os.pwrite(file.fileno(), blank.ljust(len(content) - 1), offset)
                    n_erased += 1
            offset += len(content)
        if n_erased:
            os.fdatasync(file.fileno())
    return n_erased


def remove_files(path: Path) -> None:
    """Removes a journal that has no writer; its lock first, so that a rest is found again."""
    lock_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def is_live(path: Path) -> bool:
    """True while the journal has a writer. A journal that is dead stays dead."""
    if not lock_path(path).exists():
        return False
    try:
        os.close(hold_lock(lock_path(path)))
    except BlockingIOError:
        return True
    return False


def hold_lock(path: Path) -> int:
    """The descriptor of a locked file; closing it, or dying, lets go. Raises BlockingIOError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def flush_folder(folder: Path) -> None:
    """Has the disk store the names in a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_path(path: Path) -> Path:
    """The lock that belongs to a journal."""
    return path.with_suffix(".lock")


def folder_bytes(root: Path) -> int:
    """The size of all files under a folder."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # removed by the relay meanwhile
                continue
    return total
