"""Erasing a prediction removes it from all files and documents, and changes nothing else."""

import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.events import Label, Prediction
from prediction_service.relay.progress import (
    Progress,
    dead_letters,
    erase_dead_letters,
    open_progress,
    progress_path,
)
from prediction_service.forget import forget, main
from prediction_service.journal import (
    Journal,
    JournalUnavailable,
    newest,
    read_after,
)
from prediction_service.sinks.mongodb import MongoSink
from prediction_service.settings import Settings
from prediction_service.sinks.base import SinkUnavailable
from tests.prediction_service.conftest import Command, made_predictions


def bytes_of(folder: Path) -> bytes:
    """Return the content of every file under a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def settings_of(journal: Journal, **more: Any) -> Settings:
    """Return settings with the journal's folder."""
    return Settings(journal_dir=str(journal.root), **more)


def forgotten(
    prediction_id: str, settings: Settings, sleep: Callable[[float], None] = lambda s: None
) -> dict[str, int]:
    """Erase a prediction; return the number of erased rows by place."""
    erased: Counter[str] = Counter()
    for place, count in forget(prediction_id, settings, sleep):
        erased[place] += count
    return dict(erased)


def test_a_live_journal_keeps_no_event_of_an_erased_id_and_reuses_no_number(
    journal: Journal,
) -> None:
    first, erased, last = made_predictions(3)
    journal.append([first, erased, last, Label(erased.prediction_id, 7.0, 1)])
    found = forgotten(erased.prediction_id, settings_of(journal))
    assert found == {"journal rows": 2, "dead letters": 0}
    assert erased.prediction_id.encode() not in bytes_of(journal.root)
    assert newest(journal.path)[0] == 4
    journal.append(made_predictions(1))
    events = read_after(journal.path, 0, 100)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    kept = [event.prediction_id for event in events if event.kind == "prediction"]
    assert kept[:2] == [first.prediction_id, last.prediction_id]


def test_a_write_ahead_log_that_is_being_read_is_reported_and_emptied_by_the_next_call(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open read transaction keeps a dead letter in the write-ahead log."""
    monkeypatch.setattr("prediction_service.relay.progress.LOCK_WAIT_S", 0.1)
    (erased,) = made_predictions(1)
    journal.append([erased])
    (event,) = read_after(journal.path, 0, 1)
    with closing(Progress(journal.root)) as progress:
        progress.add_dead_letter("mongodb", journal.path.stem, event, "too large", 1.0)
        with open_progress(progress_path(journal.root)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM dead_letter").fetchall()
            with pytest.raises(
                JournalUnavailable, match="another process reads its write-ahead log"
            ):
                erase_dead_letters(journal.root, erased.prediction_id)
        assert erase_dead_letters(journal.root, erased.prediction_id) == 0
        stored = b"".join(path.read_bytes() for path in journal.root.glob("relay.db*"))
        assert stored and erased.prediction_id.encode() not in stored


def test_an_event_that_only_mentions_the_id_stays(journal: Journal) -> None:
    """Erasing changes only the events of the id, and not the file's length."""
    erased, other = made_predictions(2)
    naming = msgspec.structs.replace(other, features={"workclass": erased.prediction_id})
    journal.append([erased, naming])
    size = journal.path.stat().st_size
    assert forgotten(erased.prediction_id, settings_of(journal))["journal rows"] == 1
    assert journal.path.stat().st_size == size
    blank, kept = read_after(journal.path, 0, 10)
    assert (blank.seq, blank.kind, blank.prediction_id, blank.body) == (1, "erased", "", b"null")
    assert msgspec.json.decode(kept.body, type=Prediction) == naming


def test_dead_letters_are_erased(journal: Journal) -> None:
    one, other = made_predictions(2)
    journal.append([one, other])
    with closing(Progress(journal.root)) as progress:
        for event in read_after(journal.path, 0, 10):
            progress.add_dead_letter("mongodb", journal.path.stem, event, "too large", 1.0)
        found = forgotten(one.prediction_id, settings_of(journal))
        assert found["dead letters"] == 1
        assert dead_letters(journal.root) == {"mongodb": 1}
        assert one.prediction_id.encode() not in bytes_of(journal.root)


def test_a_prediction_in_a_batch_that_is_being_sent_is_erased_too(
    journal: Journal, mongodb_uri: str
) -> None:
    """The relay may read the prediction just before the erasure, and store it just after."""
    erased, kept = made_predictions(2)
    journal.append([erased, kept])
    in_hand = read_after(journal.path, 0, 10)
    name = f"test_{uuid.uuid4().hex}"
    settings = settings_of(journal, mongodb_address=mongodb_uri, mongodb_database=name)
    with closing(MongoSink(settings)) as sink:
        found = forgotten(erased.prediction_id, settings, sleep=lambda s: sink.send(in_hand))
        assert found == {"journal rows": 1, "dead letters": 0, "MongoDB documents": 1}
        assert list(sink.predictions()) == [kept]
        sink.send(read_after(journal.path, 0, 10))
        assert list(sink.predictions()) == [kept]
        sink.client.drop_database(name)


def test_a_batch_to_a_slow_mongodb_fails_within_the_timeout(
    journal: Journal, mongodb_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`forget` waits SINK_TIMEOUT_S once: all calls of a batch together must end by then."""
    (one,) = made_predictions(1)
    journal.append([one, Label(one.prediction_id, 7.0, 1)])
    name = f"test_{uuid.uuid4().hex}"
    settings = Settings(mongodb_address=mongodb_uri, mongodb_database=name, sink_timeout_s=1)
    with closing(MongoSink(settings)) as sink:
        store = sink.collection.bulk_write

        def store_late(*arguments: Any, **more: Any) -> Any:
            time.sleep(0.6)
            return store(*arguments, **more)

        monkeypatch.setattr(sink.collection, "bulk_write", store_late)
        with pytest.raises(SinkUnavailable, match="MONGODB_ADDRESS"):
            sink.send(read_after(journal.path, 0, 10))
        sink.client.drop_database(name)


def test_a_mongodb_that_is_down_is_reported_beside_the_erased_rows(
    journal: Journal, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (erased,) = made_predictions(1)
    journal.append([erased])
    down = settings_of(journal, mongodb_address="mongodb://127.0.0.1:1", sink_timeout_s=0.3)
    with pytest.raises(SystemExit, match="Run the command again. MONGODB_ADDRESS"):
        command(main, down, erased.prediction_id)
    printed = capsys.readouterr().out
    assert "journal rows      1 erased" in printed and "No data" not in printed
    assert erased.prediction_id.encode() not in bytes_of(journal.root)


def test_the_command_prints_what_it_erased_and_rejects_an_invalid_id(
    journal: Journal, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (erased,) = made_predictions(1)
    journal.append([erased])
    settings = settings_of(journal, sink_timeout_s=0.1)
    assert "journal rows      1 erased" in command(main, settings, erased.prediction_id)
    nothing = f"No data is stored for {erased.prediction_id}"
    assert nothing in command(main, settings, erased.prediction_id)
    with pytest.raises(SystemExit):
        command(main, settings, "41")
    assert "expected 32 hexadecimal digits" in capsys.readouterr().err
    nowhere = Settings(journal_dir=f"{journal.root}/none")
    with pytest.raises(SystemExit, match="JOURNAL_DIR"):
        command(main, nowhere, erased.prediction_id)
