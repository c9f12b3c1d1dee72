"""Journal files: their paths, locks, sizes and removal, and opening one for reading."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from prediction_service.journal.line import DECODE_ERRORS, VERSION, decode_version


class JournalUnavailable(Exception):
    """A journal cannot be read or written, for example because the disk is full."""


@contextmanager
def open_journal(path: Path, mode: Literal["rb", "rb+"] = "rb") -> Iterator[BinaryIO]:
    """Open a journal at its first event, whether it has a writer or not.

    A journal that the relay has removed reads as empty, because every sink has its events. Raises
    JournalUnavailable, also for an unknown format version and for an invalid line that the body of
    the `with` statement decodes.
    """
    try:
        with open_or_empty(path, mode) as file:
            skip_version_line(file, path)
            yield file
    except OSError as err:
        raise JournalUnavailable(f"The journal {path} cannot be used: {err}") from err
    except DECODE_ERRORS as err:
        raise JournalUnavailable(
            f"The journal {path} has a damaged line ({err}). Repair the line, or move the file"
            " out of JOURNAL_DIR."
        ) from err


def open_or_empty(path: Path, mode: Literal["rb", "rb+"]) -> BinaryIO:
    """Open a file; an empty one if it does not exist."""
    try:
        return path.open(mode)
    except FileNotFoundError:
        return Path(os.devnull).open(mode)


def skip_version_line(file: BinaryIO, path: Path) -> None:
    """Go to the first event. A file whose version line was cut short has none.

    Raises JournalUnavailable for an unknown version.
    """
    content = file.readline()
    if content.endswith(b"\n"):
        _, version = decode_version(content)
        if version != VERSION:
            raise JournalUnavailable(
                f"The journal {path} has an unknown format version; got {version}, expected"
                f" {VERSION}. Read it with the release that wrote it, or move the file out of"
                " JOURNAL_DIR."
            )


def check_exists(root: Path) -> None:
    """Raise JournalUnavailable without the folder: a wrong path would look like empty journals."""
    if not root.is_dir():
        raise JournalUnavailable(
            f"JOURNAL_DIR: no such folder; got {root}, expected the folder of the prediction"
            " service's journals."
        )


def journal_paths(root: Path) -> list[Path]:
    """Return the journals of all instances."""
    return sorted(root.glob("*/*.jsonl"))


def remove_journal(path: Path) -> None:
    """Remove a journal without a writer.

    The lock goes first: if the process dies in between, the journal is found and removed again.
    """
    lock_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def is_live(path: Path) -> bool:
    """Return whether the journal has a writer. A journal without one never gets one again."""
    if not lock_path(path).exists():
        return False
    try:
        os.close(acquire_lock(lock_path(path)))
    except BlockingIOError:
        return True
    return False


def acquire_lock(path: Path) -> int:
    """Return the descriptor of a locked file; closing it releases the lock, and so does dying.

    Raises BlockingIOError if another process holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def lock_path(path: Path) -> Path:
    """Return the path of a journal's lock."""
    return path.with_suffix(".lock")


def flush_content(descriptor: int) -> None:
    """Make the disk store the content of an open file. Raises OSError."""
    getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has no fdatasync


def flush_folder(folder: Path) -> None:
    """Make the disk store the names in a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(root: Path) -> int:
    """Return the size of all files under a folder."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # removed by the relay after the listing
                continue
    return total
