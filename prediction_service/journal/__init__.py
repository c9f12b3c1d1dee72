"""Durable append-only journal of predictions and labels; see README.md.

Comes after scoring. The relay reads it. Only this package knows the format of the files.
"""

from prediction_service.journal.files import (
    JournalUnavailable,
    acquire_lock,
    check_exists,
    folder_bytes,
    is_live,
    journal_paths,
    remove_journal,
)
from prediction_service.journal.line import Event, Kind, StoredEvent
from prediction_service.journal.reader import erase, newest, read_after, read_all
from prediction_service.journal.writer import Journal, JournalFull, Sync
