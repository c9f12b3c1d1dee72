"""Erasing one prediction: nothing of it is left in any file or document, and nothing else moves."""

import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from config.events import Label
from prediction_service.cursors import Cursors, dead_letters
from prediction_service.forget import forget
from prediction_service.journal import Journal, newest, read_after
from prediction_service.mongodb import MongoSink
from prediction_service.settings import Settings
from prediction_service.sinks import SinkUnavailable
from tests.prediction_service.conftest import ROOT, environment, made_predictions


def bytes_of(folder: Path) -> bytes:
    """The content of every file under a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def settings_of(journal: Journal, **more: Any) -> Settings:
    """Settings with the journal's folder."""
    return Settings(journal_dir=str(journal.root), **more)


def test_nothing_of_it_is_left_in_a_live_journal_and_numbers_stay_taken(journal: Journal) -> None:
    first, erased, last = made_predictions(3)
    journal.append([first, erased, last, Label(erased.prediction_id, 7.0, 1)])
    found = forget(erased.prediction_id, settings_of(journal), sleep=lambda s: None)
    assert found == {"journals": 2, "dead letters": 0}
    assert erased.prediction_id.encode() not in bytes_of(journal.root)
    assert newest(journal.path)[0] == 4
    journal.append(made_predictions(1))
    events = read_after(journal.path, 0, 100)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    kept = [event.prediction_id for event in events if event.kind == "prediction"]
    assert kept[:2] == [first.prediction_id, last.prediction_id]


def test_what_a_sink_refused_is_erased(journal: Journal) -> None:
    one, other = made_predictions(2)
    journal.append([one, other])
    with closing(Cursors(journal.root)) as cursors:
        for event in read_after(journal.path, 0, 10):
            cursors.bury("mongodb", journal.path.stem, event, "too large", 1.0)
        found = forget(one.prediction_id, settings_of(journal), sleep=lambda s: None)
        assert found["dead letters"] == 1
        assert dead_letters(journal.root) == {"mongodb": 1}
        assert one.prediction_id.encode() not in bytes_of(journal.root)


def test_a_batch_that_was_on_its_way_is_erased_as_well(journal: Journal, mongodb_uri: str) -> None:
    """The relay may have read the prediction just before, and store it just after."""
    erased, kept = made_predictions(2)
    journal.append([erased, kept])
    in_hand = read_after(journal.path, 0, 10)
    name = f"test_{uuid.uuid4().hex}"
    settings = settings_of(journal, mongodb_address=mongodb_uri, mongodb_database=name)
    with closing(MongoSink.of(settings)) as sink:
        found = forget(erased.prediction_id, settings, sleep=lambda s: sink.send(in_hand))
        assert found == {"journals": 1, "dead letters": 0, "MongoDB": 1}
        assert list(sink.predictions()) == [kept]
        sink.send(read_after(journal.path, 0, 10))
        assert list(sink.predictions()) == [kept]
        sink.client.drop_database(name)


def test_a_store_that_is_away_is_told_and_the_journals_are_done(journal: Journal) -> None:
    (erased,) = made_predictions(1)
    journal.append([erased])
    nobody = "mongodb://127.0.0.1:1"
    away = Settings(journal_dir=str(journal.root), mongodb_address=nobody, sink_timeout_s=0.3)
    with pytest.raises(SinkUnavailable, match="MONGODB_ADDRESS"):
        forget(erased.prediction_id, away, sleep=lambda s: None)
    assert erased.prediction_id.encode() not in bytes_of(journal.root)


def test_the_command_says_what_it_erased_and_refuses_what_is_no_id(journal: Journal) -> None:
    (erased,) = made_predictions(1)
    journal.append([erased])
    settings = Settings(journal_dir=str(journal.root), sink_timeout_s=0.1)

    def run(prediction_id: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prediction_service.forget", prediction_id],
            cwd=ROOT,
            env=environment(settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert "journals      1 erased" in run(erased.prediction_id).stdout
    assert "journals      0 erased" in run(erased.prediction_id).stdout
    refused = run("41")
    assert refused.returncode == 2 and "expected 32 hexadecimal digits" in refused.stderr
