"""The journal on real files: what is committed, what is refused, who may adopt it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from config.events import Label, Prediction
from prediction_service.journal import (
    Journal,
    JournalFull,
    JournalUnavailable,
    folder_bytes,
    is_live,
    journal_paths,
    newest,
    read_after,
    remove_files,
    remove_up_to,
)
from prediction_service.settings import Settings
from tests.conftest import wait_until
from tests.prediction_service.conftest import ROOT, environment, made_predictions

WRITER = """
import sys
from pathlib import Path
from prediction_service.journal import Journal
from tests.prediction_service.conftest import made_predictions
journal = Journal(Path(sys.argv[1]), "other", "normal", 10**8)
while True:
    for one in made_predictions(100):
        journal.append([one])
        print(one.prediction_id, flush=True)
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


@pytest.mark.parametrize(("sync", "level"), [("normal", 1), ("full", 2)])
def test_sync_is_sqlites_own_level(tmp_path: Path, sync: str, level: int) -> None:
    opened = Journal(tmp_path, "here", sync, 10**8)  # type: ignore[arg-type]
    connection = opened._connection  # pylint: disable=protected-access
    assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
    opened.close()


def test_what_is_committed_is_moved_into_the_file_behind_the_requests(
    tmp_path: Path,
) -> None:
    """Else a commit in a few hundred has to flush the disk, and one request in a hundred waits."""
    journal = Journal(tmp_path, "here", "normal", 10**8)
    journal.append(made_predictions(500))
    thread = journal.checkpoint_every(0.05)

    def in_body() -> int:
        (tmp_path / "body.db").write_bytes(journal.path.read_bytes())  # without the log beside it
        return newest(tmp_path / "body.db")[0]

    wait_until(lambda: in_body() == 500, 10, "the file's body to hold the events")
    journal.append(made_predictions(500))
    wait_until(lambda: in_body() == 1000, 10, "the next as well")
    journal.close()
    thread.join(5)
    assert not thread.is_alive()


def test_a_full_journal_takes_nothing_until_there_is_room(tmp_path: Path) -> None:
    opened = Journal(tmp_path, "here", "normal", 6_000_000)
    stored = 0
    with pytest.raises(JournalFull, match="JOURNAL_MAX_MB"):
        while stored < 100_000:
            opened.append(made_predictions(500))
            stored += 500
    assert stored > 5000
    assert newest(opened.path)[0] == stored
    assert folder_bytes(tmp_path) < 6_000_000 + 5_000_000, "one write-ahead log more at most"
    opened.max_bytes *= 2
    wait_until(lambda: takes(opened), 5, "room to be measured again")
    opened.close()


def takes(journal: Journal) -> bool:
    """True if the journal stores one more event."""
    try:
        journal.append(made_predictions(1))
    except JournalFull:
        return False
    return True


def test_a_batch_that_cannot_be_written_is_refused_whole(journal: Journal) -> None:
    """A full disk is played by SQLite's own bound on the file's pages."""
    journal.append(made_predictions(1))
    connection = journal._connection  # pylint: disable=protected-access
    connection.execute("PRAGMA max_page_count = 10")
    with pytest.raises(JournalUnavailable, match="full"):
        journal.append(made_predictions(1000))
    assert newest(journal.path)[0] == 1
    connection.execute("PRAGMA max_page_count = 100000")
    journal.append(made_predictions(3))
    assert newest(journal.path)[0] == 4


def test_only_old_rows_up_to_a_number_are_removed(journal: Journal) -> None:
    journal.append(made_predictions(2000))
    assert remove_up_to(journal.path, 500, 1e12, 100) == 100
    assert read_after(journal.path, 0, 1)[0].seq == 101
    assert remove_up_to(journal.path, 5000, 1.0, 5000) == 0, "younger than the time given"
    assert remove_up_to(journal.path, 5000, 1e12, 5000) == 1899, "all but the newest"


def test_numbers_never_repeat_after_a_removal(journal: Journal) -> None:
    journal.append(made_predictions(10))
    assert remove_up_to(journal.path, 10, 1e12, 100) == 9
    journal.append(made_predictions(1))
    assert [event.seq for event in read_after(journal.path, 0, 100)] == [10, 11]


def test_removed_rows_give_their_disk_back(journal: Journal) -> None:
    """The write-ahead log keeps its size, which is bounded."""
    for _ in range(120):
        journal.append(made_predictions(1000))
    before = journal.path.stat().st_size
    while remove_up_to(journal.path, 10**9, 1e12, 500) == 500:
        pass
    wait_until(lambda: journal.path.stat().st_size < before / 2, 10, "the file to shrink")
    assert folder_bytes(journal.root) < before


def test_what_a_killed_worker_committed_is_there_and_may_be_adopted(tmp_path: Path) -> None:
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
    remove_files(path)
    assert not list(path.parent.iterdir())


def test_reading_a_journal_does_not_drop_its_lock(journal: Journal) -> None:
    for _ in range(3):
        assert is_live(journal.path)
        assert newest(journal.path) == (0, 0.0)
    journal.append(made_predictions(1))
    assert is_live(journal.path)


def run_command(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The journal's command, as an operator types it."""
    return subprocess.run(
        [sys.executable, "-m", "prediction_service.journal", *arguments],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_status_and_export_count_an_id_once(settings: Settings, journal: Journal) -> None:
    predictions = made_predictions(4)
    journal.append(predictions)
    journal.append([predictions[0], Label(predictions[0].prediction_id, 1.0, 1)])
    shipped = msgspec.structs.replace(settings, evidently_address="http://127.0.0.1:1")
    status = json.loads(run_command(shipped, "status", "--json").stdout)
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
    }
    assert "duplicates      1" in run_command(settings, "status").stdout
    exported = run_command(settings, "export").stdout.splitlines()
    assert [msgspec.json.decode(line, type=Prediction) for line in exported] == predictions


def test_labelled_predictions_are_exported_as_training_reads_them(
    settings: Settings, journal: Journal
) -> None:
    """A label may come before its prediction, and from another worker; the first one counts."""
    early, late, twice, disputed, unlabelled = made_predictions(5)
    other = Journal(settings.journal_path, "there", "normal", 10**8)
    other.append([Label(early.prediction_id, 10.0, 1), Label("0" * 32, 10.0, 1)])
    other.append([Label(twice.prediction_id, 9.0, 0), Label(disputed.prediction_id, 9.0, 0)])
    journal.append([early, late, twice, disputed, unlabelled])
    journal.append([Label(late.prediction_id, 11.0, 0), Label(twice.prediction_id, 12.0, 0)])
    journal.append([Label(disputed.prediction_id, 12.0, 1)])
    other.close()
    exported = run_command(settings, "export", "--labelled").stdout.splitlines()
    assert [json.loads(line) for line in exported] == [
        {
            "record": one.features,
            "label": label,
            "prediction_id": one.prediction_id,
            "predicted_at": one.predicted_at,
        }
        for one, label in ((early, 1), (late, 0), (twice, 0))
    ]


def test_a_log_of_record_that_is_away_is_one_line(settings: Settings) -> None:
    away = msgspec.structs.replace(
        settings, mongodb_address="mongodb://127.0.0.1:1", sink_timeout_s=0.5
    )
    ended = run_command(away, "export")
    assert ended.returncode == 1
    assert "MONGODB_ADDRESS" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_damaged_journal_is_an_sqlite_error(tmp_path: Path) -> None:
    path = tmp_path / "here" / "x.db"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        read_after(path, 0, 1)
