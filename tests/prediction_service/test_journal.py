"""The journal on real files: committed and rejected batches, damaged files and old ones."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from config.events import Label, Prediction
from config.runtime.settings import SettingsError
from prediction_service.journal import (
    Journal,
    JournalFull,
    JournalUnavailable,
    erase,
    folder_bytes,
    is_live,
    journal_paths,
    newest,
    read_after,
    remove_journal,
)
from prediction_service.journal.__main__ import main
from prediction_service.journal.export import Period, journalled_predictions
from prediction_service.journal.line import VERSION_LINE
from prediction_service.journal.writer import JournalFile
from prediction_service.settings import Settings
from tests.conftest import wait_until
from tests.prediction_service.conftest import ROOT, Command, made_predictions

WRITER = """
import itertools, sys
from pathlib import Path
from config.events import Label
from prediction_service.journal import Journal
journal = Journal(Path(sys.argv[1]), "other", "normal", 10**8)
for number in itertools.count():
    journal.append([Label(str(number), 0.0, 1)])
    print(number, flush=True)
"""


def test_events_are_read_back_in_order(journal: Journal) -> None:
    predictions = made_predictions(5)
    label = Label(predictions[0].prediction_id, 7.0, 1)
    journal.append(predictions[:1])
    journal.append([*predictions[1:], label])
    events = read_after(journal.path, 0, 100)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert [msgspec.json.decode(one.body, type=Prediction) for one in events[:5]] == predictions
    assert msgspec.json.decode(events[5].body, type=Label) == label
    assert (events[5].kind, events[5].at) == ("label", 7.0)
    assert [event.seq for event in read_after(journal.path, 2, 2)] == [3, 4]
    assert newest(journal.path) == (6, 7.0)


def flushes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each flush, by the size of the flushed file."""
    sizes: list[int] = []
    fdatasync = os.fdatasync

    def noted(descriptor: int) -> None:
        fdatasync(descriptor)
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", noted)
    return sizes


@pytest.mark.parametrize(("sync", "n_flushes"), [("normal", 0), ("full", 3)])
def test_only_full_sync_waits_for_the_disk_with_each_append(
    tmp_path: Path, sync: Any, n_flushes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = flushes(monkeypatch)
    opened = Journal(tmp_path, "here", sync, 10**8)
    sizes = []
    for _ in range(3):
        opened.append(made_predictions(2))
        sizes.append(opened.path.stat().st_size)
    opened.close()
    assert flushed == sizes[:n_flushes]


def test_a_system_without_fdatasync_stores_rotates_and_erases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no such call. The worker's maintenance once ended there with its first flush."""
    monkeypatch.delattr(os, "fdatasync")
    with closing(Journal(tmp_path, "here", "full", 10**8, max_file_age_s=0.0)) as journal:
        first, stored = journal.path, made_predictions(1)
        journal.append(stored)
        journal.run_maintenance(0.01)
        wait_until(lambda: journal.path != first, "another file")
    assert erase(first, stored[0].prediction_id) == 1


def test_an_unexpected_error_does_not_end_the_maintenance(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = flushes(monkeypatch)
    calls: list[Callable[[], Any]] = []

    def fail_once(function: Callable[[], Any]) -> Any:
        calls.append(function)
        if len(calls) == 1:
            raise RuntimeError("a surprise")
        return function()

    journal.append(made_predictions(1))
    with capture_logs() as lines:
        journal.run_maintenance(0.01, fail_once)
        wait_until(lambda: flushed, "a flush")
    assert lines[0]["event"] == "journal_maintenance_failed"
    assert lines[0]["error"].startswith("RuntimeError at ")


def test_a_worker_replaces_a_long_file_and_an_old_one(tmp_path: Path) -> None:
    """The replaced file has no writer, so the relay may remove it. No event is lost."""
    journal = Journal(tmp_path, "here", "normal", max_bytes=64 * 100_000)
    journal.run_maintenance(0.01)
    predictions = []
    while len(journal_paths(tmp_path)) < 4:  # fails if the journals are full
        predictions += made_predictions(10)
        journal.append(predictions[-10:])
    last = journal.path
    journal.close()
    assert not any(is_live(path) for path in journal_paths(tmp_path))
    events = [event for path in journal_paths(tmp_path) for event in read_after(path, 0, 10**6)]
    assert sorted(one.prediction_id for one in events) == sorted(
        one.prediction_id for one in predictions
    )
    old = Journal(tmp_path, "there", "normal", 10**9, max_file_age_s=0.2)
    old.run_maintenance(0.01)
    first = old.path
    time.sleep(0.5)
    assert old.path == first, "nothing has been written"
    old.append(made_predictions(1))
    wait_until(lambda: old.path != first, "another file")
    assert not is_live(first) and is_live(old.path) and last != first
    old.close()


def test_a_full_journal_stores_nothing_until_there_is_room(tmp_path: Path) -> None:
    opened = Journal(tmp_path, "here", "normal", 6_000_000)
    stored = 0
    with pytest.raises(JournalFull, match="JOURNAL_MAX_MB"):
        while stored < 100_000:
            opened.append(made_predictions(500))
            stored += 500
    assert stored > 5000
    assert newest(opened.path)[0] == stored
    assert folder_bytes(tmp_path) < 6_000_000 + 5_000_000, "one append more at most"
    opened.max_bytes += 500_000
    assert stores(opened)
    (tmp_path / "ballast").write_bytes(b"x" * 10**6)
    opened.run_maintenance(0.01)
    wait_until(lambda: not stores(opened), "the ballast to be measured")
    (tmp_path / "ballast").unlink()
    wait_until(lambda: stores(opened), "the room to be measured")
    opened.close()


def stores(journal: Journal) -> bool:
    """Return whether the journal stores one more event."""
    try:
        journal.append(made_predictions(1))
    except JournalFull:
        return False
    return True


def test_a_batch_is_rejected_completely_if_the_disk_fills_up(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up stores only the first part of the batch."""
    journal.append(made_predictions(1))
    pwrite, room = os.pwrite, [1000]

    def write_while_there_is_room(descriptor: int, content: bytes, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        n_written = pwrite(descriptor, content[: room[0]], offset)
        room[0] -= n_written
        return n_written

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", write_while_there_is_room)
        with pytest.raises(JournalUnavailable, match="No space left"):
            journal.append(made_predictions(1000))
    assert newest(journal.path)[0] == 1
    journal.append(made_predictions(3))
    numbers = [event.seq for event in read_after(journal.path, 0, 10)]
    assert numbers == [
        1,
        1002,
        1003,
        1004,
    ], "no number is used twice: the relay may have shipped it"


def test_numbers_that_the_relay_saw_before_a_failed_flush_are_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay may have shipped the numbers. It would skip other events with these numbers."""
    journal = Journal(tmp_path, "here", "full", 10**8)
    journal.append(made_predictions(2))
    shipped: list[int] = []

    def failing(_: int) -> None:
        shipped.extend(event.seq for event in read_after(journal.path, 2, 10))
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing)
        with pytest.raises(JournalUnavailable, match="Input/output"):
            journal.append(made_predictions(3))
    assert shipped == [3, 4, 5] and newest(journal.path)[0] == 2
    stored = made_predictions(1)
    journal.append(stored)
    (event,) = read_after(journal.path, max(shipped), 10)
    assert event.prediction_id == stored[0].prediction_id
    journal.close()


def test_a_file_that_cannot_be_created_leaves_no_file_and_no_descriptor(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker retries every second. It would end if each attempt leaked a descriptor."""
    held, files = os.listdir("/proc/self/fd"), sorted(journal.path.parent.iterdir())

    def failing(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            JournalFile(journal.path.parent)
    assert len(os.listdir("/proc/self/fd")) == len(held)
    assert sorted(journal.path.parent.iterdir()) == files


@pytest.mark.parametrize("n_cut", [1, 5000, 150_000])
def test_an_incomplete_append_is_not_read(journal: Journal, n_cut: int) -> None:
    """A worker that is killed while it writes has sent no response."""
    journal.append(made_predictions(3))
    journal.append(made_predictions(1000))
    os.truncate(journal.path, journal.path.stat().st_size - n_cut)
    assert newest(journal.path) == (3, 1.7e9 + 2)
    assert [event.seq for event in read_after(journal.path, 0, 10)] == [1, 2, 3]
    assert not read_after(journal.path, 3, 10)


def test_reading_continues_after_any_event(journal: Journal) -> None:
    predictions = made_predictions(300)
    for start in range(0, 300, 100):
        journal.append(predictions[start : start + 99])
        journal.append(predictions[start + 99 : start + 100])
    for seq in range(301):
        expected = list(range(seq + 1, 301))[:7]
        assert [event.seq for event in read_after(journal.path, seq, 7)] == expected
    assert not read_after(journal.path, 10**9, 7)


def test_the_file_of_a_killed_worker_has_all_acknowledged_events_and_can_be_removed(
    tmp_path: Path,
) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as writer:
        assert writer.stdout
        acknowledged = [writer.stdout.readline().strip() for _ in range(200)]
        (path,) = journal_paths(tmp_path)
        assert is_live(path)
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split()[:-1]  # the last line may be cut
    assert not is_live(path)
    assert set(acknowledged) <= {event.prediction_id for event in read_after(path, 0, 10**6)}
    remove_journal(path)
    assert not list(path.parent.iterdir())


def test_status_and_export_count_a_duplicate_id_once(
    settings: Settings, journal: Journal, command: Command
) -> None:
    predictions = made_predictions(4)
    journal.append(predictions)
    journal.append([predictions[0], Label(predictions[0].prediction_id, 1.0, 1)])
    shipped = settings.model_copy(update={"evidently_address": "http://127.0.0.1:1"})
    status = json.loads(command(main, shipped, "status", "--json"))
    assert status.pop("bytes") > 0
    assert status == {
        "log_of_record": "journal",
        "stored": 4,
        "journals": 1,
        "live_journals": 1,
        "rows": 6,
        "predictions": 5,
        "labels": 1,
        "prediction_ids": 4,
        "duplicates": 1,
        "backlog": {"evidently": 6},
        "dead_letters": {},
        "dropped": {},
        "left_out": {},
    }
    assert "duplicates      1" in command(main, settings, "status")
    exported = command(main, settings, "export").splitlines()
    assert [msgspec.json.decode(line, type=Prediction) for line in exported] == predictions


@pytest.mark.parametrize("arguments", [["status"], ["export"], ["resend", "--all"]])
def test_a_command_on_a_missing_folder_names_its_setting(
    command: Command, tmp_path: Path, arguments: list[str]
) -> None:
    """With a wrong JOURNAL_DIR, every count was 0 and nothing was exported, silently."""
    settings = Settings(journal_dir=f"{tmp_path}/none", evidently_address="http://127.0.0.1:1")
    with pytest.raises(SystemExit, match="JOURNAL_DIR: no such folder; got .*/none, expected"):
        command(main, settings, *arguments)


def test_an_export_of_a_period_has_no_retry_of_an_earlier_prediction(journal: Journal) -> None:
    (first,) = made_predictions(1)
    retry = msgspec.structs.replace(first, predicted_at=first.predicted_at + 60)
    journal.append([retry, first])
    assert not list(journalled_predictions(journal.root, Period(since=first.predicted_at + 30)))


def test_labelled_predictions_are_exported_as_training_reads_them(
    settings: Settings, journal: Journal, command: Command
) -> None:
    """A label may arrive before its prediction, and in another worker; the first one counts."""
    early, late, twice, conflicting, unlabelled = made_predictions(5)
    other = Journal(settings.journal_path, "there", "normal", 10**8)
    other.append([Label(early.prediction_id, 10.0, 1), Label("0" * 32, 10.0, 1)])
    other.append([Label(twice.prediction_id, 9.0, 0), Label(conflicting.prediction_id, 9.0, 0)])
    journal.append([early, late, twice, conflicting, unlabelled])
    journal.append([Label(late.prediction_id, 11.0, 0), Label(twice.prediction_id, 12.0, 0)])
    journal.append([Label(conflicting.prediction_id, 12.0, 1)])
    other.close()
    with pytest.raises(SettingsError, match="LEARN_ANONYMOUS_LABELS"):
        command(main, settings, "export", "--labelled")
    trusting = settings.model_copy(update={"learn_anonymous_labels": True})
    exported = command(main, trusting, "export", "--labelled").splitlines()
    assert [json.loads(line) for line in exported] == [
        {
            "record": one.features,
            "label": label,
            "prediction_id": one.prediction_id,
            "predicted_at": one.predicted_at,
        }
        for one, label in ((early, 1), (late, 0), (twice, 0))
    ]


@pytest.mark.parametrize("first", [b"0" * 32, b'["journal","1"]'])
def test_a_damaged_journal_is_reported_by_every_reader(journal: Journal, first: bytes) -> None:
    journal.append(made_predictions(1))
    journal.path.write_bytes(journal.path.read_bytes().replace(VERSION_LINE, first + b"\n"))
    for read in (
        lambda: read_after(journal.path, 0, 1),
        lambda: newest(journal.path),
        lambda: erase(journal.path, "0" * 32),
    ):
        with pytest.raises(JournalUnavailable, match=f"{journal.path.name} has a damaged line"):
            read()


@pytest.mark.parametrize("damage", [b'"', b"\xff"])
def test_events_before_a_damaged_line_are_read(journal: Journal, damage: bytes) -> None:
    predictions = made_predictions(100)
    for one in predictions:
        journal.append([one])
    content = journal.path.read_bytes()
    where = content.index(predictions[60].prediction_id.encode())
    journal.path.write_bytes(content[:where] + damage + content[where + 1 :])
    for seq in range(60):
        assert [event.seq for event in read_after(journal.path, seq, 3)] == [
            number for number in range(seq + 1, seq + 4) if number <= 60
        ]
    with pytest.raises(JournalUnavailable, match=journal.path.name):
        read_after(journal.path, 60, 3)


def test_a_journal_that_was_removed_reads_as_empty(journal: Journal) -> None:
    """A command that reads all files must not fail because the relay removed one of them."""
    gone = journal.path.with_name("gone.jsonl")
    assert not read_after(gone, 0, 10) and newest(gone) == (0, 0.0) and erase(gone, "0" * 32) == 0
    assert not is_live(gone) and not list(gone.parent.glob("gone*")), "no file is created"


# --- the format version ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_kept", [len(VERSION_LINE), len(VERSION_LINE) - 1, 0])
def test_a_file_with_only_a_version_line_is_empty(journal: Journal, n_kept: int) -> None:
    """The line is incomplete if the worker was killed while it created the file."""
    os.truncate(journal.path, n_kept)
    assert newest(journal.path) == (0, 0.0)
    assert not read_after(journal.path, 0, 10)
    assert erase(journal.path, "0" * 32) == 0


@pytest.mark.parametrize("n_events", [0, 2000])
def test_an_unknown_version_is_reported_with_the_remedy_by_every_reader(
    journal: Journal, n_events: int
) -> None:
    """The lines of another version may look valid but have another meaning."""
    if n_events:
        journal.append(made_predictions(n_events))
    content = journal.path.read_bytes()
    journal.path.write_bytes(content.replace(b'["journal",1]', b'["journal",2]', 1))
    expected = f"{journal.path.name} has an unknown format version; got 2, expected 1. Read it with"
    for read in (
        lambda: read_after(journal.path, 0, 10),
        lambda: read_after(journal.path, n_events, 10),
        lambda: newest(journal.path),
        lambda: erase(journal.path, "0" * 32),
    ):
        with pytest.raises(JournalUnavailable, match=expected):
            read()


def test_the_example_of_the_readme_is_a_valid_journal(tmp_path: Path) -> None:
    readme = (ROOT / "prediction_service" / "journal" / "README.md").read_text("utf-8")
    lines = [line.strip() for line in readme.splitlines() if line.startswith("    [")]
    path = tmp_path / "example.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    prediction, label, erased = read_after(path, 0, 10)
    assert msgspec.json.decode(prediction.body, type=Prediction).income_class == 0
    assert msgspec.json.decode(label.body, type=Label).label == 1
    assert (erased.kind, erased.seq, erased.body) == ("erased", 3, b"null")
