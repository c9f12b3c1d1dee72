"""The relay on real journals, a real MongoDB server and a real HTTP server that fails."""

import json
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs
from werkzeug import Request, Response

from config.events import BACKLOG_HEADER, SAMPLE_HEADER, Label, Prediction
from prediction_service.backoff import Backoff
from prediction_service.http.app import create_app
from prediction_service.metrics import Metrics
from prediction_service.models.live_model import LiveModel
from prediction_service.relay import shipping
from prediction_service.relay.progress import (
    Progress,
    backlog,
    progress_path,
    dead_letters,
    dropped_events,
    label_states,
    left_out_events,
    misconfigured_sinks,
)
from prediction_service.journal.__main__ import main
from prediction_service.journal import (
    Journal,
    StoredEvent,
    erase,
    folder_bytes,
    journal_paths,
    newest,
    read_after,
)
from prediction_service.sinks.evidently import EvidentlySink
from prediction_service.sinks.mongodb import MongoSink
from prediction_service.relay.shipping import (
    Shipper,
    count_labels,
    make_indexes,
    remove_shipped,
    run,
    run_maintenance,
)
from prediction_service.relay.resend import Resent, resend
from prediction_service.settings import Settings
from prediction_service.sinks.base import SinkUnavailable, is_in_sample
from tests.conftest import free_port, served, wait_until
from tests.prediction_service.conftest import Command, Start, made_predictions


class Evidently:
    """A stand-in for the Evidently service on a real HTTP server. It rejects `poison`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.received: list[str] = []
        self.labels: list[str] = []
        self.poison = ""
        self.poison_status = 422
        self.status = 200
        self.delay_s = 0.0
        self.n_requests = 0
        self.keys: set[str | None] = set()
        self.backlogs: list[dict[str, int | None]] = []
        self.samples: set[str | None] = set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Store the ids of one request, or reject it."""
        request = Request(environ)
        self.keys.add(request.headers.get("Authorization"))
        if header := request.headers.get(BACKLOG_HEADER):
            self.backlogs.append(json.loads(header))
            self.samples.add(request.headers.get(SAMPLE_HEADER))
        self.n_requests += 1
        ids = [event["prediction_id"] for event in request.get_json()]
        time.sleep(self.delay_s)
        status = self.poison_status if self.poison in ids else 200
        status = status if self.status == 200 else self.status
        if status == 200:
            {"/iterate": self.received, "/labels": self.labels}[request.path].extend(ids)
        return Response(status=status)(environ, start_response)

    def has_received(self, n_rows: int) -> bool:
        """Return whether at least `n_rows` predictions have arrived."""
        return len(self.received) >= n_rows

    def listening(self) -> AbstractContextManager[str]:
        """Respond as long as the body runs."""
        return served(self, self.port)


@pytest.fixture
def evidently() -> Evidently:
    """Return an Evidently service that is not listening yet."""
    return Evidently()


@pytest.fixture
def to_evidently(settings: Settings, evidently: Evidently) -> Settings:
    """Return settings with the HTTP sink only."""
    address = f"http://127.0.0.1:{evidently.port}"
    return settings.model_copy(update={"evidently_address": address})


@pytest.fixture
def to_both(to_evidently: Settings, mongodb_uri: str) -> Iterator[Settings]:
    """Return settings with both sinks and a database of the test's own."""
    name = f"test_{uuid.uuid4().hex}"
    both = {"mongodb_address": mongodb_uri, "mongodb_database": name, "sink_timeout_s": 10}
    yield to_evidently.model_copy(update=both)
    with closing(MongoSink(to_evidently.model_copy(update=both))) as sink:
        sink.client.drop_database(name)


@contextmanager
def relaying(settings: Settings) -> Iterator[None]:
    """Run a relay in a thread; stop it and let it drain when the body ends."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=[settings, stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def waiting(settings: Settings) -> dict[str, int]:
    """Return the backlog of each sink."""
    root = settings.journal_path
    return {sink: backlog(root, sink, share) for sink, share in settings.sinks.items()}


def stored_ids(settings: Settings) -> list[str]:
    """Return the ids in MongoDB."""
    with closing(MongoSink(settings)) as mongodb:
        return [one.prediction_id for one in mongodb.predictions()]


def test_a_sink_that_is_down_delays_no_other_sink_and_catches_up(
    to_both: Settings, evidently: Evidently, journal: Journal
) -> None:
    predictions = made_predictions(700)
    ids = sorted(one.prediction_id for one in predictions)
    journal.append(predictions)
    journal.append([Label(ids[0], 1.0, 1)])
    assert waiting(to_both) == {"mongodb": 701, "evidently": 701}, "before any relay has run"
    with relaying(to_both):
        wait_until(lambda: waiting(to_both)["mongodb"] == 0, "MongoDB to have all")
        assert waiting(to_both)["evidently"] == 701
        with evidently.listening():
            wait_until(lambda: waiting(to_both)["evidently"] == 0, "Evidently to catch up")
    assert sorted(stored_ids(to_both)) == sorted(evidently.received) == ids
    assert evidently.labels == [ids[0]]
    assert newest(journal.path)[0] == 701


def in_sample(predictions: list[Prediction], share: float) -> set[str]:
    """Return the ids in the sample of a share."""
    return {one.prediction_id for one in predictions if is_in_sample(one.prediction_id, share)}


def test_a_sample_is_a_stable_share_of_the_ids() -> None:
    """With another hash after an upgrade, labels would miss the predictions of their ids."""
    assert [one for one in "abcdefgh" if is_in_sample(one, 0.5)] == list("acefgh")
    ids = [f"{number:032x}" for number in range(20_000)]
    smaller, larger = ({one for one in ids if is_in_sample(one, share)} for share in (0.2, 0.3))
    assert smaller < larger
    assert len(smaller) == pytest.approx(4000, abs=4 * 57)  # four standard deviations
    assert all(is_in_sample(one, 1.0) for one in ids)


@pytest.mark.parametrize("batch_rows", [500, 1])
def test_the_monitoring_gets_a_sample_with_its_labels_and_mongodb_gets_every_event(
    to_both: Settings,
    evidently: Evidently,
    journal: Journal,
    batch_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Most batches of one row have no row for the monitoring."""
    monkeypatch.setattr(shipping, "REPORT_PERIOD_S", 0.05)
    changes = {"evidently_sample": 0.2, "relay_batch_rows": batch_rows}
    settings = to_both.model_copy(update=changes)
    predictions = made_predictions(60)
    journal.append(predictions)
    journal.append([Label(one.prediction_id, 1.0, 1) for one in predictions])
    assert waiting(settings) == {"mongodb": 120, "evidently": 24}, "expected, of the sample"
    with relaying(settings):
        wait_until(lambda: waiting(settings)["mongodb"] == 0, "MongoDB to have all")
        with evidently.listening():
            wait_until(lambda: waiting(settings)["evidently"] == 0, "the sample")
            wait_until(lambda: evidently.samples, "a report")
    sample = in_sample(predictions, 0.2)
    assert 0 < len(sample) < 60
    assert sorted(evidently.received) == sorted(evidently.labels) == sorted(sample)
    assert len(stored_ids(settings)) == 60
    assert left_out_events(journal.root) == {"evidently": 2 * (60 - len(sample))}
    assert evidently.samples == {"0.2"}
    with evidently.listening():
        assert list(resend(settings, everything=True))[1] == Resent("evidently", 2 * len(sample), 0)
    assert set(evidently.received) == sample


def test_the_relay_reports_the_backlog_of_each_instance_also_without_traffic(
    to_evidently: Settings, evidently: Evidently, journal: Journal, monkeypatch
) -> None:
    """The monitoring once could not distinguish a dead relay from a quiet hour."""
    monkeypatch.setattr(shipping, "REPORT_PERIOD_S", 0.05)
    journal.append(made_predictions(3))
    (path,) = journal_paths(to_evidently.journal_path)
    name = path.parent.name
    with evidently.listening(), relaying(to_evidently):
        wait_until(lambda: evidently.backlogs.count({name: 0}) > 1, "two reports")
        assert len(evidently.received) == 3
        path.unlink()
        wait_until(lambda: {name: None} in evidently.backlogs, "the end of the instance")


def test_the_relay_sends_its_key_to_the_evidently_service(
    to_evidently: Settings, evidently: Evidently, journal: Journal
) -> None:
    predictions = made_predictions(1)
    journal.append(predictions)
    journal.append([Label(predictions[0].prediction_id, 1.0, 1)])
    settings = to_evidently.model_copy(update={"evidently_api_key": SecretStr("income_abc")})
    with evidently.listening(), relaying(settings):
        wait_until(lambda: evidently.labels and evidently.received, "both kinds of events")
    assert evidently.keys == {"Bearer income_abc"}


@pytest.mark.parametrize(("status", "share"), [(422, 0.3), (500, 1.0), (500, 0.3)])
def test_an_event_at_fault_becomes_a_dead_letter_and_blocks_no_other_event(
    to_evidently: Settings, evidently: Evidently, journal: Journal, status: int, share: float
) -> None:
    """A batch that got a server error once was retried for ever, and the journals filled up."""
    to_evidently = to_evidently.model_copy(update={"evidently_sample": share})
    predictions = made_predictions(100)
    while not is_in_sample(predictions[41].prediction_id, share):
        predictions = made_predictions(100)
    evidently.poison, evidently.poison_status = predictions[41].prediction_id, status
    journal.append(predictions)
    with evidently.listening(), relaying(to_evidently):
        wait_until(lambda: waiting(to_evidently) == {"evidently": 0})
    sample = in_sample(predictions, share)
    assert set(evidently.received) == sample - {evidently.poison}
    assert dead_letters(to_evidently.journal_path) == {"evidently": 1}
    left_out = left_out_events(to_evidently.journal_path).get("evidently", 0)
    assert left_out == 100 - len(sample)
    with closing(sqlite3.connect(progress_path(to_evidently.journal_path))) as connection:
        ((seq, body, reason),) = connection.execute("SELECT seq, body, reason FROM dead_letter")
    assert seq == 42
    assert json.loads(body)["prediction_id"] == evidently.poison
    assert f"status {status}" in reason


def test_the_only_event_of_a_journal_is_found_at_fault_and_delays_no_other_journal(
    to_evidently: Settings, evidently: Evidently, journal: Journal
) -> None:
    (alone,) = made_predictions(1)
    evidently.poison, evidently.poison_status = alone.prediction_id, 500
    journal.append([alone])
    with closing(Journal(to_evidently.journal_path, "there", "normal", 10**8)) as other:

        def is_found() -> bool:
            other.append(made_predictions(1))  # its storage proves that the sink works
            return dead_letters(to_evidently.journal_path) == {"evidently": 1}

        with evidently.listening(), relaying(to_evidently):
            other.append(made_predictions(1))
            wait_until(lambda: evidently.has_received(1), "the other journal")
            assert not dead_letters(to_evidently.journal_path)
            wait_until(is_found, "the event at fault")


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_sink_that_is_down_for_long_gets_no_dead_letters(
    to_evidently: Settings, evidently: Evidently, journal: Journal, share: float
) -> None:
    """An event outside of the sample does not prove that the sink works."""
    to_evidently = to_evidently.model_copy(update={"evidently_sample": share})
    predictions = made_predictions(30)
    journal.append(predictions)
    evidently.status = 500
    with evidently.listening(), relaying(to_evidently):
        wait_until(lambda: evidently.n_requests >= 15, "more attempts than ATTEMPTS")
        evidently.status = 200
        wait_until(lambda: waiting(to_evidently) == {"evidently": 0})
    assert set(evidently.received) == in_sample(predictions, share)
    assert not dead_letters(to_evidently.journal_path)


@pytest.mark.parametrize("status", [301, 403])
def test_a_sink_that_rejects_the_relay_is_reported_and_loses_no_event(
    to_evidently: Settings, evidently: Evidently, journal: Journal, status: int
) -> None:
    """The configuration is at fault, not an event: the sink rejects batches of every size."""
    journal.append(made_predictions(3))
    evidently.status = status
    with evidently.listening(), relaying(to_evidently), capture_logs() as logs:
        wait_until(lambda: misconfigured_sinks(to_evidently.journal_path) == {"evidently"})
        wait_until(lambda: evidently.n_requests > 7, "more attempts than ATTEMPTS")
        evidently.status = 200
        wait_until(lambda: waiting(to_evidently) == {"evidently": 0})
    assert len(evidently.received) == 3, "no part of a batch was tried alone"
    assert not dead_letters(to_evidently.journal_path)
    assert not misconfigured_sinks(to_evidently.journal_path)
    failure, *_ = [one for one in logs if one["event"] == "sink_unavailable"]
    assert f"got status {status}, expected 2xx" in failure["error"]


class SlowSink:
    """A sink that stores single events and times out with more. It calls `on_send` before each."""

    name = "slow"
    is_record = False
    share = 1.0

    def __init__(self) -> None:
        self.received: list[str] = []
        self.on_send: Callable[[], object] = lambda: None

    def send(self, events: list[StoredEvent]) -> None:
        """Store a single event."""
        self.on_send()
        if len(events) > 1:
            raise SinkUnavailable("timeout")
        self.received += [one.prediction_id for one in events if one.kind != "erased"]

    def close(self) -> None:
        """Do nothing."""


def test_an_event_erased_while_a_batch_is_halved_is_not_sent(
    settings: Settings, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command `forget` waits for one send only. Halving takes several."""
    monkeypatch.setattr("prediction_service.relay.shipping.ATTEMPTS", 0)
    monkeypatch.setattr("random.randrange", lambda n_events: n_events - 1)
    predictions = made_predictions(4)
    ids = [one.prediction_id for one in predictions]
    journal.append(predictions)
    sink = SlowSink()
    sink.on_send = lambda: erase(journal.path, ids[0])
    with closing(Progress(settings.journal_path)) as progress:
        shipper = Shipper(sink, progress, settings)
        wait_until(lambda: not shipper.ship())
    assert set(sink.received) == set(ids[1:])


def test_a_journal_that_is_removed_while_it_fails_is_forgotten(
    settings: Settings, journal: Journal
) -> None:
    """A failing journal without a file would stay overdue for ever, and the relay never pause."""
    journal.append(made_predictions(2))
    with closing(Progress(settings.journal_path)) as progress:
        shipper = Shipper(SlowSink(), progress, settings)
        shipper.ship()
        journal.path.unlink()
        with capture_logs() as logs:
            shipper.ship()
    assert [one["event"] for one in logs] == ["sink_available"]
    assert shipper.pause_s() == settings.relay_batch_age_s


def test_dead_letters_of_the_monitoring_have_a_maximum(
    to_evidently: Settings, evidently: Evidently, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead letters count for JOURNAL_MAX_MB, so without a maximum they could stop predictions."""
    monkeypatch.setattr("prediction_service.relay.shipping.MAX_DEAD_LETTERS", 3)
    evidently.status = 422
    journal.append(made_predictions(5))
    with evidently.listening(), relaying(to_evidently):
        wait_until(lambda: waiting(to_evidently) == {"evidently": 0})
    assert dead_letters(to_evidently.journal_path) == {"evidently": 3}
    assert dropped_events(to_evidently.journal_path) == {"evidently": 2}


def test_resent_dead_letters_are_removed_once_the_sink_stores_them(
    to_evidently: Settings, evidently: Evidently, journal: Journal
) -> None:
    predictions = made_predictions(3)
    journal.append(predictions)
    with closing(Progress(journal.root)) as progress:
        for event in read_after(journal.path, 0, 3):
            progress.add_dead_letter("evidently", journal.path.stem, event, "status 500", 1.0)
    with pytest.raises(SinkUnavailable):  # it is down
        list(resend(to_evidently, everything=False))
    evidently.poison, evidently.poison_status = predictions[0].prediction_id, 500
    with evidently.listening():
        assert list(resend(to_evidently, everything=False)) == [Resent("evidently", 2, 1)]
        assert list(resend(to_evidently, everything=True)) == [Resent("evidently", 2, 1)]
        assert dead_letters(journal.root) == {"evidently": 1}
        evidently.poison = ""
        assert list(resend(to_evidently, everything=False)) == [Resent("evidently", 1, 0)]
    assert not dead_letters(journal.root)


def test_all_events_of_the_journals_are_resent_to_a_sink_that_lost_them(
    to_evidently: Settings, evidently: Evidently, journal: Journal, command: Command
) -> None:
    predictions = made_predictions(10)
    evidently.poison = predictions[3].prediction_id
    journal.append(predictions)
    small = to_evidently.model_copy(update={"relay_batch_rows": 4})
    with evidently.listening():
        printed = command(main, small, "resend", "--all").splitlines()
    assert printed[-1] == "evidently: 9 sent, 1 rejected"
    others = {one.prediction_id for one in predictions} - {evidently.poison}
    assert sorted(evidently.received) == sorted(others)
    with pytest.raises(SystemExit, match="^journal: EVIDENTLY_ADDRESS: http://127.0.0.1"):
        command(main, small, "resend", "--all")  # the sink is down


def test_events_are_shipped_while_indexes_are_built(
    to_both: Settings, evidently: Evidently, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, done = threading.Event(), threading.Event()

    def build(_: MongoSink) -> None:
        started.set()
        done.wait(20)

    monkeypatch.setattr(MongoSink, "make_indexes", build)
    with evidently.listening(), relaying(to_both):
        assert started.wait(10)
        journal.append(made_predictions(3))
        wait_until(lambda: not any(waiting(to_both).values()), "both sinks to have all")
        done.set()


def test_indexes_are_built_once_mongodb_is_available(
    to_both: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = iter([SinkUnavailable("down"), SinkUnavailable("down"), None])

    def build(_: MongoSink) -> None:
        if failure := next(attempts):
            raise failure

    monkeypatch.setattr(MongoSink, "make_indexes", build)
    monkeypatch.setattr(shipping, "INDEX_RETRY_S", 0.01)
    with closing(MongoSink(to_both)) as sink, capture_logs() as logs:
        make_indexes(sink, threading.Event())
    assert [one["event"] for one in logs] == ["indexes_not_built"] * 2
    assert not list(attempts)


def test_a_sink_that_stays_unavailable_is_logged_again_with_the_number_of_failures(
    to_evidently: Settings, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first failure in a row was logged: after a day nobody found it."""
    monkeypatch.setattr(shipping, "LOG_PERIOD_S", 0.3)
    journal.append(made_predictions(1))

    def warnings() -> list[Any]:
        return [o for o in logs if (o["event"], o["log_level"]) == ("sink_unavailable", "warning")]

    with capture_logs() as logs, relaying(to_evidently):
        wait_until(lambda: len(warnings()) >= 3, "the third line")
    assert warnings()[0]["failures"] == 1
    assert warnings()[2]["failures"] > 2
    assert len(warnings()) < sum(one["event"] == "sink_unavailable" for one in logs)


@pytest.mark.parametrize("level", ["DEBUG", "WARNING"])
def test_the_level_of_log_lines_is_a_setting_and_no_line_contains_a_record(
    to_both: Settings, journal: Journal, start: Start, tmp_path: Path, level: str
) -> None:
    """At DEBUG, pymongo logs the documents that it sends."""
    journal.append(made_predictions(1))
    start(to_both.model_copy(update={"log_level": level}), "prediction_service.relay")
    (log,) = tmp_path.glob("prediction_service.relay-*.log")
    expected = "[debug] sink_unavailable" if level == "DEBUG" else "[warning] sink_unavailable"
    wait_until(lambda: expected in log.read_text(), log.read_text)
    wait_until(lambda: waiting(to_both)["mongodb"] == 0)
    assert ("[info] relay_started" in log.read_text()) == (level == "DEBUG")
    assert "features" not in log.read_text()


def test_a_killed_relay_resumes_and_everything_is_stored_once(
    to_both: Settings, evidently: Evidently, journal: Journal, start: Start
) -> None:
    settings = to_both.model_copy(update={"relay_batch_rows": 50})
    predictions = made_predictions(2000)
    ids = sorted(one.prediction_id for one in predictions)
    journal.append(predictions)
    evidently.delay_s = 0.02
    with evidently.listening():
        for share in (200, 900):
            relay = start(settings, "prediction_service.relay")
            wait_until(partial(evidently.has_received, share), "a part")
            relay.send_signal(signal.SIGKILL)
            relay.wait()
        assert waiting(settings)["evidently"] > 0, "killed in the middle"
        relay = start(settings, "prediction_service.relay")
        wait_until(lambda: not any(waiting(settings).values()), "both sinks to have all")
    assert sorted(stored_ids(settings)) == ids
    assert sorted(set(evidently.received)) == ids
    assert len(evidently.received) <= 2000 + 2 * 50, "at most one batch again for each kill"


def test_a_stopped_relay_ships_its_backlog(
    to_evidently: Settings, evidently: Evidently, journal: Journal, start: Start
) -> None:
    settings = to_evidently.model_copy(update={"relay_batch_age_s": 60})
    journal.append(made_predictions(1))
    with evidently.listening():
        relay = start(settings, "prediction_service.relay")
        wait_until(lambda: evidently.received, "the first event")
        journal.append(made_predictions(1200))
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(15) == 0
    assert len(evidently.received) == 1201
    assert waiting(settings) == {"evidently": 0}


def test_a_stopped_relay_does_not_wait_for_a_sink_that_is_down(
    to_evidently: Settings, journal: Journal, start: Start
) -> None:
    journal.append(made_predictions(10))
    relay = start(to_evidently, "prediction_service.relay")
    wait_until(progress_path(to_evidently.journal_path).exists, "the relay to start")
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(to_evidently.relay_drain_s + 2) == 0
    assert waiting(to_evidently) == {"evidently": 10}


def test_a_second_relay_starts_shipping_when_the_first_one_ends(
    to_evidently: Settings, evidently: Evidently, journal: Journal, start: Start
) -> None:
    with evidently.listening(), relaying(to_evidently):
        second = start(to_evidently, "prediction_service.relay")
        journal.append(made_predictions(100))
        wait_until(lambda: waiting(to_evidently) == {"evidently": 0})
        assert second.poll() is None
    journal.append(made_predictions(50))
    with evidently.listening():
        wait_until(lambda: waiting(to_evidently) == {"evidently": 0}, "the stand-by")
    assert len(evidently.received) == 150


def shipped(settings: Settings, journal: Journal) -> Progress:
    """Return progress by which every sink has stored all of a journal."""
    progress = Progress(settings.journal_path)
    for sink in settings.sinks:
        progress.advance(sink, journal.path.stem, newest(journal.path)[0])
    return progress


def ended_journal(root: Path, predictions: list[Prediction]) -> Path:
    """Return the file of a worker that has ended."""
    with closing(Journal(root, "here", "normal", 64 * 10**6)) as worker:
        worker.append(predictions)
    return worker.path


WITH_MONGODB = {"mongodb_address": "mongodb://elsewhere", "evidently_address": "http://elsewhere"}


@pytest.mark.parametrize(
    ("changes", "n_shipped", "age_s", "is_removed"),
    [
        ({}, 1200, 101, True),
        ({}, 1200, 99, False),  # too young
        ({}, 1199, 1e8, False),  # the monitoring lacks one row
        ({"journal_max_mb": 0}, 1200, 1, True),  # however young: a full journal would cause a 503
        ({"journal_max_mb": 0, "mongodb_address": ""}, 1200, 1e8, False),  # the log of record
    ],
)
def test_a_file_that_every_sink_has_is_removed_once_it_is_old_or_the_journals_are_full(
    settings: Settings, changes: dict[str, Any], n_shipped: int, age_s: float, is_removed: bool
) -> None:
    own = WITH_MONGODB | {"journal_retention_s": 100.0} | changes
    settings = settings.model_copy(update=own)
    path = ended_journal(settings.journal_path, made_predictions(1200))  # one a second
    with closing(Progress(settings.journal_path)) as progress:
        progress.advance("mongodb", path.stem, 1200)
        progress.advance("evidently", path.stem, n_shipped)
        remove_shipped(settings, progress, now=1.7e9 + 1199 + age_s)
    assert path.exists() != is_removed


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_rows_that_only_the_monitoring_lacks_are_dropped_before_predictions_are_rejected(
    settings: Settings, share: float
) -> None:
    """The oldest rows go first, until the journals are below half of their maximum."""
    changes = {"journal_max_mb": 64, "evidently_sample": share}
    settings = settings.model_copy(update=WITH_MONGODB | changes)
    root = settings.journal_path
    older, newer, unrecorded = (
        ended_journal(root, made_predictions(n_rows)) for n_rows in (1200, 1300, 1200)
    )
    with closing(Progress(root)) as progress:
        progress.advance("mongodb", older.stem, 1200)
        progress.advance("mongodb", newer.stem, 1300)
        progress.advance("evidently", older.stem, 200)
        remove_shipped(settings, progress, now=2e9)
        assert len(journal_paths(root)) == 3, "there is room"
        with (root / "ballast").open("wb") as file:
            file.truncate(32 * 10**6 - folder_bytes(root) + older.stat().st_size // 2)
        remove_shipped(settings, progress, now=1.7e9 + 1200)
        assert len(journal_paths(root)) == 3, "the monitoring had no time to store them"
        remove_shipped(settings, progress, now=2e9)
        assert sorted(journal_paths(root)) == sorted([newer, unrecorded]), "there is room again"
        assert dropped_events(root) == {"evidently": 1000 * share}
        with (root / "more").open("wb") as file:
            file.truncate(10**7)
        remove_shipped(settings, progress, now=2e9)
    assert journal_paths(root) == [unrecorded], "not in the log of record"
    assert dropped_events(root) == {"evidently": 2300 * share}


def test_dropped_and_left_out_events_and_misconfigured_sinks_have_metrics(
    to_evidently: Settings, live_model: LiveModel, journal: Journal
) -> None:
    """The counters start at 0. Otherwise Prometheus would not see their first increase."""
    app = create_app(to_evidently, live_model, journal, Metrics(CollectorRegistry()))

    def exported() -> set[str]:
        names = (
            *("income_journal_dropped_total", "income_journal_left_out_total"),
            *("income_sink_mis", "income_journal_max"),
        )
        lines = app.test_client().get("/metrics").text.splitlines()
        return {line for line in lines if line.startswith(names)}

    maximum = "income_journal_max_bytes 1e+08"
    dropped, left_out, rejects = (
        f'income_{name}{{sink="evidently"}}'
        for name in ("journal_dropped_total", "journal_left_out_total", "sink_misconfigured")
    )
    assert exported() == {maximum, f"{dropped} 0.0", f"{left_out} 0.0", f"{rejects} 0.0"}
    with closing(Progress(journal.root)) as progress:
        progress.count_dropped("evidently", 2)
        progress.count_dropped("evidently", 3)
        progress.set_misconfigured("evidently", True)
        progress.advance("evidently", "any", 9, n_left_out=7)
        assert exported() == {maximum, f"{dropped} 5.0", f"{left_out} 7.0", f"{rejects} 1.0"}


def test_a_damaged_file_is_logged_once_for_each_error_and_other_files_are_removed(
    settings: Settings,
) -> None:
    """Each round of the relay once logged the file: every second, for each sink."""
    settings = settings.model_copy(update={**WITH_MONGODB, "journal_retention_s": 0.0})
    damaged = settings.journal_path / "here" / ("0" * 32 + ".jsonl")
    damaged.parent.mkdir(parents=True)
    sink = EvidentlySink(settings)
    good = ended_journal(settings.journal_path, [])
    with closing(Progress(settings.journal_path)) as progress, capture_logs() as logs:
        shippers = [Shipper(sink, progress, settings) for _ in range(2)]
        for content in (b"\xff\n", b'["journal",2]\n'):
            damaged.write_bytes(content)
            for _ in range(3):
                for shipper in shippers:
                    shipper.ship()
                remove_shipped(settings, progress, now=2e9)
    assert logs.pop(2)["event"] == "journal_removed" and not good.exists()
    found = [(one["event"], "format version" in one["error"]) for one in logs]
    once = [("journal_unreadable", False), ("journal_not_removed", False)]
    assert found == [*once, *((event, True) for event, _ in once)]


class FullDisk(Progress):
    """Progress on a disk that becomes full; sets `stop` with the third failure."""

    def __init__(self, root: Path, stop: threading.Event) -> None:
        super().__init__(root)
        self.n_failures = 0
        self.stop = stop

    def forget(self, journal: str) -> None:
        """Raise what SQLite raises on a full disk."""
        self.n_failures += 1
        if self.n_failures == 3:
            self.stop.set()
        raise sqlite3.OperationalError("database or disk is full")


def test_maintenance_that_fails_does_not_end_the_relay(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that ends on a full disk would keep the disk full."""
    monkeypatch.setattr(shipping, "MAINTENANCE_PERIOD_S", 0.01)
    for _ in range(4):
        Journal(settings.journal_path, "here", "normal", 10**8).close()
    stop = threading.Event()
    with closing(FullDisk(settings.journal_path, stop)) as progress, capture_logs() as logs:
        run_maintenance(settings, progress, stop)
        assert progress.n_failures == 3
    assert [one["event"] for one in logs] == ["maintenance_failed"] * 3
    assert "OperationalError" in logs[0]["error"]
    assert len(journal_paths(settings.journal_path)) == 1, "each round removed a file"


def test_a_shipped_journal_is_removed_only_after_its_worker_has_ended(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={**WITH_MONGODB})
    worker = Journal(settings.journal_path, "here", "normal", 10**8)
    worker.append(made_predictions(5))
    with closing(shipped(settings, worker)) as progress:
        remove_shipped(settings, progress, now=2e9)
        assert journal_paths(settings.journal_path) == [worker.path]
        worker.close()
        remove_shipped(settings, progress, now=2e9)
        assert not list(worker.path.parent.iterdir())
        assert progress.position("mongodb", worker.path.stem) == 0


def test_labels_are_counted_for_the_gauges(to_both: Settings, journal: Journal) -> None:
    known, unknown = made_predictions(2)
    journal.append([known, Label(known.prediction_id, 1.0, 1)])
    journal.append([Label(known.prediction_id, 2.0, 0), Label(unknown.prediction_id, 1.0, 0)])
    with relaying(to_both):
        wait_until(lambda: waiting(to_both)["mongodb"] == 0)
    with relaying(to_both):  # a relay counts when it starts
        expected = {"matched": 1, "pending": 1, "conflicting": 1}
        wait_until(lambda: label_states(to_both.journal_path) == expected)


@pytest.mark.parametrize("failure", [None, SinkUnavailable("timeout"), KeyError("surprise")])
@pytest.mark.parametrize(("count_s", "pause_s"), [(0.01, 30), (10, 490), (1000, 49_000)])
def test_counting_labels_takes_at_most_a_fiftieth_of_the_time(
    settings: Settings, monkeypatch, count_s: float, pause_s: float, failure: Exception | None
) -> None:
    """A count reads an index of all labels, and was repeated every 30 seconds."""
    now, pauses, stop = [0.0], [], threading.Event()

    def count(_: MongoSink) -> dict[str, int]:
        now[0] += count_s
        if failure:
            raise failure
        return {"matched": 10**9}

    def wait(timeout: float) -> None:
        pauses.append(timeout)
        stop.set()

    monkeypatch.setattr(MongoSink, "label_states", count)
    monkeypatch.setattr(stop, "wait", wait)
    monkeypatch.setattr("prediction_service.relay.shipping.time.monotonic", lambda: now[0])
    own = settings.model_copy(update={"mongodb_address": "mongodb://127.0.0.1:1"})
    Journal(own.journal_path, "here", "normal", 10**8).close()
    with closing(MongoSink(own)) as sink, closing(Progress(own.journal_path)) as progress:
        count_labels(sink, progress, stop)
    assert pauses == [pytest.approx(pause_s)]
    assert label_states(own.journal_path) == ({} if failure else {"matched": 10**9})


def test_the_pause_doubles_up_to_its_maximum_with_jitter() -> None:
    for failures, max_s in ((1, 0.2), (2, 0.4), (50, 30.0)):
        pauses = []
        for _ in range(200):
            backoff = Backoff(0.2, 30.0, jitter=0.5)
            for _ in range(failures):
                backoff.start()
            pauses.append(backoff.retry_at - backoff.failed_at)
        assert max_s / 2 <= min(pauses) + 1e-6 and max(pauses) - 1e-6 <= max_s
        assert max(pauses) - min(pauses) > max_s / 10
