"""Read the events of a journal, in order or from any number on, and erase those of a prediction.

Every function here raises JournalUnavailable for a file that cannot be read.
"""

import bisect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from prediction_service.journal.files import (
    JournalUnavailable,
    check_exists,
    flush_content,
    journal_paths,
    open_journal,
)
from prediction_service.journal.line import DECODE_ERRORS, StoredEvent, decode_line

TAIL_BYTES = 1 << 12  # read first to find the newest event


def read_all(root: Path, limit: int) -> Iterator[list[StoredEvent]]:
    """Yield the events of all journals in batches; a batch has 1 to `limit` events of one file.

    Raises JournalUnavailable without the folder.
    """
    check_exists(root)
    for path in journal_paths(root):
        seq = 0
        while events := read_after(path, seq, limit):
            seq = events[-1].seq
            yield events


def read_after(path: Path, seq: int, limit: int) -> list[StoredEvent]:
    """Return up to `limit` events that follow number `seq`, in order.

    Events before a damaged line are returned. The error comes once the damaged line is next.
    """
    events: list[StoredEvent] = []
    try:
        with open_journal(path) as file:
            seek_after(file, seq)
            for together in read_appends(file):
                events += together
                if len(events) >= limit:
                    break
    except JournalUnavailable:
        if not events:
            raise
    return events[:limit]


def read_appends(file: BinaryIO) -> Iterator[list[StoredEvent]]:
    """Yield the events of each complete append."""
    together: list[StoredEvent] = []
    for content in file:
        if not content.endswith(b"\n"):
            return
        seq, left, kind, prediction_id, at, body = decode_line(content)
        together.append(StoredEvent(seq, kind, prediction_id, at, bytes(body)))
        if left == 0:
            yield together
            together = []


def seek_after(file: BinaryIO, seq: int) -> None:
    """Go to the event that follows number `seq`, by binary search: it may be the millionth.

    `file` is at its first event.
    """
    start = file.tell()

    def go_to_line(offset: int) -> None:
        """Go to the first line that starts at `offset` or after it."""
        file.seek(max(0, offset - 1))
        if offset:
            file.readline()

    def seq_from(index: int) -> int:
        """Return the number in that line, or a huge one for an incomplete or damaged line."""
        go_to_line(start + index)
        content = file.readline()
        try:
            return decode_line(content)[0] if content.endswith(b"\n") else sys.maxsize
        except DECODE_ERRORS:  # the events before it are found all the same
            return sys.maxsize

    n_bytes = file.seek(0, os.SEEK_END) - start
    go_to_line(start + bisect.bisect_right(range(n_bytes), seq, key=seq_from))


def newest(path: Path) -> tuple[int, float]:
    """Return the number and the Unix time of the newest event; (0, 0.0) for an empty journal."""
    with open_journal(path) as file:
        first = file.tell()
        end = file.seek(0, os.SEEK_END)
        start, length = end, TAIL_BYTES
        while start > first:
            start = max(first, end - length)
            file.seek(start)
            lines = file.read(end - start).split(b"\n")[:-1]  # the last one is being written
            for content in reversed(lines[1:] if start > first else lines):
                seq, left, _, _, at, _ = decode_line(content)
                if left == 0:
                    return seq, at
            length *= 8
    return 0, 0.0


def erase(path: Path, prediction_id: str) -> int:
    """Overwrite a prediction and its labels; return the number of events.

    Their numbers stay taken, and the file keeps its length.
    """
    n_erased = 0
    with open_journal(path, "rb+") as file:
        offset = file.tell()
        for content in file:
            if prediction_id.encode() in content and content.endswith(b"\n"):
                seq, left, _, its_id, at, _ = decode_line(content)
                if its_id == prediction_id:
                    blank = msgspec.json.encode((seq, left, "erased", "", at, None))
                    os.pwrite(file.fileno(), blank.ljust(len(content) - 1), offset)
                    n_erased += 1
            offset += len(content)
        if n_erased:
            flush_content(file.fileno())
    return n_erased
