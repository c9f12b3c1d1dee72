"""The service under gunicorn with two workers: load, kill -9, stop and failed starts."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import requests

from prediction_service.journal import is_live, journal_paths, newest
from prediction_service.models.model_folder import ModelFolder
from prediction_service.predict.batching import MAX_BATCHED_BYTES
from prediction_service.settings import Settings
from tests.conftest import clean, wait_until
from tests.prediction_service.conftest import (
    GUNICORN,
    Start,
    address_of,
    arbiter,
    gunicorn,
    install,
    journalled_ids,
    make_settings,
    shared_arbiter,
    starting,
)

Record = dict[str, Any]
PAUSE_S = 0.002  # without it, the load would slow down the start of a worker
Service = tuple[Settings, "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def two_workers(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with two workers and a sink that is down; several tests share it."""
    folder = tmp_path_factory.mktemp("two_workers")
    changes: dict[str, Any] = {"workers": 2, "evidently_address": "http://127.0.0.1:1"}
    yield from shared_arbiter(package, folder, **changes)


@pytest.fixture(scope="module", autouse=True)
def blocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Start the service on a port in use, before the tests: gunicorn gives up after 5 seconds."""
    folder = tmp_path_factory.mktemp("blocked")
    settings = make_settings(folder)
    with ExitStack() as stack:
        clean(stack.enter_context(pytest.MonkeyPatch.context()))
        stack.enter_context(socket.create_server(("127.0.0.1", settings.prediction_port)))
        yield settings, stack.enter_context(starting(folder))(settings, *GUNICORN)


class Load:
    """Threads that predict with short pauses and keep every prediction."""

    def __init__(self, address: str, record: Record, **headers: str) -> None:
        self.address = address
        self.record = record
        self.headers = headers
        self.predictions: list[Record] = []
        self.failures: list[str] = []
        self.broken = 0
        self._stop = threading.Event()

    @contextmanager
    def running(self, n_threads: int = 4) -> Iterator["Load"]:
        """Predict until the body ends."""
        threads = [threading.Thread(target=self._predict) for _ in range(n_threads)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)

    def comes_from(self, version: str) -> bool:
        """Return True once a version made all of the newest predictions."""
        return {one["model_version"] for one in self.predictions[-40:]} == {version}

    def _predict(self) -> None:
        session = requests.Session()
        session.headers.update(self.headers)
        while not self._stop.wait(PAUSE_S):
            try:
                response = session.post(f"{self.address}/predict", json=self.record, timeout=10)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                self.broken += 1  # the second one: killed between head and body of a response
                continue
            if response.ok:
                self.predictions.append(response.json())
            else:
                self.failures.append(response.text)
        session.close()


def workers_of(arbiter: "subprocess.Popen[bytes]") -> list[int]:
    """Return the pids of gunicorn's workers."""
    children = Path(f"/proc/{arbiter.pid}/task/{arbiter.pid}/children").read_text("ascii")
    return [int(pid) for pid in children.split()]


def scrape(settings: Settings) -> str:
    """Return the metrics of one worker, summed over all."""
    return requests.get(f"{address_of(settings)}/metrics", timeout=10).text


def two_workers_serve(address: str, version: str) -> bool:
    """Return True if by /metrics two workers have this version, and no worker has another one."""
    text = requests.get(f"{address}/metrics", timeout=10).text
    found = re.findall(r'^income_workers{version="(.+)"} (.+)$', text, re.MULTILINE)
    return {served: float(n) for served, n in found if float(n)} == {version: 2}


def rows_by_worker(settings: Settings) -> dict[Path, int]:
    """Return the number of predictions in each journal."""
    return {path: newest(path)[0] for path in journal_paths(settings.journal_path)}


def both_have_predicted(settings: Settings, before: dict[Path, int]) -> bool:
    """Return True once two journals hold more predictions than `before`."""
    return sum(n > before[path] for path, n in rows_by_worker(settings).items()) == 2


def test_a_killed_worker_loses_no_acknowledged_prediction(
    settings: Settings, model_folder: ModelFolder, start: Start, record: Record
) -> None:
    assert model_folder.current()
    address = address_of(settings)
    with arbiter(start, settings) as process, Load(address, record).running() as load:
        wait_until(lambda: len(load.predictions) > 100, "load")
        subprocess.run(["kill", "-9", str(workers_of(process)[0])], check=True)
        wait_until(lambda: len(journal_paths(settings.journal_path)) == 3, "a new worker")
        n_before = len(load.predictions)
        wait_until(lambda: len(load.predictions) > n_before + 100, "load on the new worker")
        live = [is_live(path) for path in journal_paths(settings.journal_path)]
        assert sorted(live) == [False, True, True]
        assert two_workers_serve(address, "1")  # the dead worker is not counted
    assert not load.failures
    acknowledged = [one["prediction_id"] for one in load.predictions]
    stored = journalled_ids(settings)
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
    assert len(stored) - len(acknowledged) <= load.broken


def test_a_new_version_becomes_live_without_a_failed_request(
    settings: Settings, model_folder: ModelFolder, package: Path, start: Start, record: Record
) -> None:
    with gunicorn(start, settings) as address, Load(address, record).running() as load:
        for version in ("2", "3"):
            wait_until(lambda: len(load.predictions) > 50, "load")
            install(model_folder, package, version)
            wait_until(partial(load.comes_from, version), "both workers to serve it")
            wait_until(partial(two_workers_serve, address, version), "their count")
    assert not load.failures
    assert load.broken == 0
    assert {one["model_version"] for one in load.predictions} == {"1", "2", "3"}
    assert len({one["probability"] for one in load.predictions}) == 1


def test_metrics_add_up_across_workers_and_a_retry_on_any_worker_has_the_same_id(
    two_workers: Service, record: Record
) -> None:
    settings, _ = two_workers
    before, ids_before = rows_by_worker(settings), set(journalled_ids(settings))
    # A new connection for each request: any free worker accepts it.
    headers = {"Idempotency-Key": "the-same", "Connection": "close"}
    with Load(address_of(settings), record, **headers).running() as load:
        wait_until(lambda: both_have_predicted(settings, before), "both workers to predict")
    assert (load.failures, load.broken) == ([], 0)
    new_ids = set(journalled_ids(settings)) - ids_before
    assert {one["prediction_id"] for one in load.predictions} == new_ids
    assert len(new_ids) == 1
    n_rows = sum(before.values()) + len(load.predictions)
    # Requests are counted some milliseconds after their responses.
    counted = f'income_prediction_latency_seconds_count{{version="1"}} {n_rows}.0'
    wait_until(lambda: counted in scrape(settings), "the counts")
    for _ in range(10):
        text = scrape(settings)
        classes = re.findall(r"^income_predictions_total{.*} (.+)$", text, re.MULTILINE)
        assert sum(map(float, classes)) == n_rows
        assert counted in text
        assert f'income_journal_backlog_rows{{sink="evidently"}} {n_rows}.0' in text
        assert 'income_model_info{data_source="synthetic"' in text


ALL_COUNTED = re.compile(r"latency_seconds_count\{.*\} 40\.0")


def latency_sum_s(settings: Settings) -> float:
    """Return the sum of all latencies that the service has counted."""
    pattern = r"^income_prediction_latency_seconds_sum{.*} (.+)$"
    return sum(map(float, re.findall(pattern, scrape(settings), re.MULTILINE)))


def test_the_latency_of_an_overloaded_worker_includes_the_wait(
    settings: Settings, model_folder: ModelFolder, start: Start, record: Record
) -> None:
    """Forty lists arrive at once, and the worker handles one after the other.

    Each latency once was only the few milliseconds of its own list, so the alert could not fire.
    """
    assert model_folder.current()
    one_worker = settings.model_copy(
        update={"workers": 1, "max_records": 400, "max_body_bytes": 10**6}
    )
    body = json.dumps([record] * 400).ljust(MAX_BATCHED_BYTES + 1)  # milliseconds each
    with ExitStack() as stack:
        (worker,) = workers_of(stack.enter_context(arbiter(start, one_worker)))
        port = one_worker.prediction_port
        clients = [HTTPConnection("127.0.0.1", port, timeout=20) for _ in range(40)]
        for client in clients:
            stack.callback(client.close)
            client.request("GET", "/health/live")
            client.getresponse().read()
        before_s = latency_sum_s(one_worker)
        os.kill(worker, signal.SIGSTOP)
        for client in clients:
            client.request("POST", "/predict", body, {"Content-Type": "application/json"})
        begun = time.monotonic()
        os.kill(worker, signal.SIGCONT)
        assert all(client.getresponse().status == 200 for client in clients)
        total_s = time.monotonic() - begun
        # Requests are counted some milliseconds after their responses.
        wait_until(lambda: ALL_COUNTED.search(scrape(one_worker)), "the counts")
        mean_s = (latency_sum_s(one_worker) - before_s) / len(clients)
        assert total_s / 4 < mean_s < total_s  # half of it, if all take the same time


def predict_on_new_connections(settings: Settings, record: Record, count: int) -> None:
    """Open `count` connections at once, and then predict once on each of them."""
    port, body = settings.prediction_port, json.dumps(record)
    with ExitStack() as stack:
        clients = [HTTPConnection("127.0.0.1", port, timeout=10) for _ in range(count)]
        for client in clients:
            client.connect()
            stack.callback(client.close)
        for client in clients:
            client.request("POST", "/predict", body, {"Content-Type": "application/json"})
            assert client.getresponse().read()


def test_a_stuck_worker_delays_no_connection(two_workers: Service, record: Record) -> None:
    settings, process = two_workers
    stuck = workers_of(process)[0]
    os.kill(stuck, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        predict_on_new_connections(settings, record, 16)
        taken_s = time.monotonic() - begun
    finally:
        os.kill(stuck, signal.SIGCONT)
    assert taken_s < 1.5  # before gunicorn notices the stuck worker


def test_invalid_settings_end_the_start_with_one_message(
    settings: Settings, start: Start, tmp_path: Path
) -> None:
    wrong = settings.model_copy(update={"workers": 0, "journal_max_mb": 1})
    assert start(wrong, *GUNICORN).wait(20) != 0
    text = (tmp_path / "gunicorn-0.log").read_text()
    assert "WORKERS: got 0, expected" in text
    assert "JOURNAL_MAX_MB: got 1, expected" in text
    assert "Traceback" not in text


def test_a_port_in_use_is_reported_with_its_setting(blocked: Service) -> None:
    """gunicorn's own message, "Can't connect", gives neither the reason nor a remedy."""
    settings, process = blocked
    assert process.wait(30) == 1
    log = (settings.journal_path.parent / "gunicorn-0.log").read_text()
    assert f"PREDICTION_PORT: Address already in use; got {settings.prediction_port}" in log


def test_a_stopped_service_releases_its_journals_and_removes_its_counts(
    settings: Settings, model_folder: ModelFolder, start: Start, record: Record, tmp_path: Path
) -> None:
    """An idle connection delays the stop by at most GRACEFUL_TIMEOUT_S."""
    assert model_folder.current()
    settings = settings.model_copy(update={"graceful_timeout_s": 1})
    with requests.Session() as session, arbiter(start, settings):
        assert session.post(f"{address_of(settings)}/predict", json=record, timeout=10).ok
        paths = journal_paths(settings.journal_path)
        assert len(paths) == 2
        begun = time.monotonic()
    assert time.monotonic() - begun < settings.graceful_timeout_s + 8
    assert not any(is_live(path) for path in paths)
    # gunicorn would log an error if a file were left in the folder of the counts.
    assert "Traceback" not in (tmp_path / "gunicorn-0.log").read_text()
