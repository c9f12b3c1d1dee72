"""The real processes, gunicorn and measure, with one folder, over HTTP."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import yaml

from config.contract import Contract
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.store.window import Window
from tests.conftest import free_port, wait_until
from tests.evidently_service.events import (
    labels_of,
    made_up_predictions,
    made_up_rows,
    older,
    unshifted,
)
from tests.evidently_service.mlflow_registry import RegistryFile

ROOT = Path(__file__).parents[2]
GUNICORN = [
    "-m",
    "gunicorn",
    "-c",
    "evidently_service/gunicorn.conf.py",
    "evidently_service.wsgi:app",
]
MEASURE = ["-m", "evidently_service.measure"]

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the settings of a service of its own, without a registry."""
    return os.environ | {
        "WINDOW_DIR": str(tmp_path / "window"),
        "EVIDENTLY_PORT": str(free_port()),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MEASURE_PERIOD_S": "0.5",
    }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start Python with arguments in a process group of its own, killed after the test."""
    with contextlib.ExitStack() as stack:

        def run(arguments: list[str]) -> subprocess.Popen:
            log = stack.enter_context((tmp_path / "processes.log").open("ab"))
            command = [sys.executable, *arguments]
            process = stack.enter_context(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, stderr=log, start_new_session=True
                )
            )
            stack.callback(kill, process)
            return process

        yield run


def kill(process: subprocess.Popen) -> None:
    """Kill a process and its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=180)


def serve(start: Start, address: str) -> subprocess.Popen:
    """Start gunicorn and wait until it is ready."""

    def ready() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{address}/health/ready", timeout=60).ok
        return False

    process = start(GUNICORN)
    wait_until(ready, "gunicorn to be ready")
    return process


@pytest.fixture
def address(environment: dict[str, str]) -> str:
    """Return the service's address."""
    return f"http://127.0.0.1:{environment['EVIDENTLY_PORT']}"


def post(url: str, events: list[Any]) -> None:
    """Post events; raise unless they were stored."""
    body, headers = msgspec.json.encode(events), {"Content-Type": "application/json"}
    requests.post(url, data=body, headers=headers, timeout=10).raise_for_status()


def drift(address: str) -> dict[str, Any]:
    """Return /drift."""
    return requests.get(f"{address}/drift", timeout=10).json()


def test_acknowledged_events_survive_kill_9(
    start: Start, address: str, environment: dict[str, str], contract: Contract
) -> None:
    acknowledged: list[str] = []

    def send() -> None:
        with contextlib.suppress(requests.RequestException):
            for seed in range(10_000):
                batch = made_up_predictions(contract, 20, seed)
                post(f"{address}/iterate/income", batch)
                acknowledged.extend(each.prediction_id for each in batch)

    first = serve(start, address)
    sender = threading.Thread(target=send)
    sender.start()
    wait_until(lambda: len(acknowledged) >= 200, "ten batches to be stored")
    kill(first)
    sender.join(timeout=180)
    serve(start, address)  # by then, the last write of a killed worker has ended
    with closing(Window(Path(environment["WINDOW_DIR"]) / "window.db")) as window:
        stored = {each.prediction_id for each in window.last_predictions(1_000_000)}
    assert stored >= set(acknowledged)
    assert len(stored) % 20 == 0  # batches are stored whole
    received = drift(address)["received"]
    assert received["ingested"] == len(stored)
    again = made_up_predictions(contract, 20, seed=0)
    post(f"{address}/iterate/income", again)
    assert drift(address)["received"]["duplicates"] == received["duplicates"] + 20


VARYING = ("_timestamp_", "_duration_", "income_window_duplicates")
BATCH, BATCHES = 50, 40


def small_windows(judging: Monitoring) -> str:
    """Return a monitoring file with windows of 200 rows."""
    small = msgspec.structs.replace(
        judging, window_rows=200, min_rows=100, min_labels=50, retention_rows=600, label_rows=600
    )
    given = msgspec.to_builtins(small)
    return yaml.safe_dump({name: value for name, value in given.items() if value is not None})


def send_until_stored(url: str, events: list[Any]) -> None:
    """Send events again until the service acknowledges them, as the relay does."""

    errors = []

    def stored() -> bool:
        try:
            post(url, events)
        except requests.RequestException as err:
            errors.append(err)
            return False
        return True

    wait_until(stored, lambda: f"the service to store a batch: {errors[-1]}")


def send_day(address: str, contract: Contract, before: Callable[[int], None]) -> None:
    """Send batches with their labels; the second half has drifted.

    `before` is called with the number of each.
    """
    for number in range(BATCHES):
        before(number)
        shift = older if number >= BATCHES // 2 else unshifted
        events = [
            msgspec.structs.replace(row, predicted_at=row.predicted_at + BATCH * number)
            for row in made_up_predictions(contract, BATCH, number, shift)
        ]
        send_until_stored(f"{address}/iterate/income", events)
        send_until_stored(f"{address}/labels/income", labels_of(events, wrong_every=5))


def settled(address: str) -> tuple[dict[str, float], dict[str, Any]] | None:
    """Return metrics and judgement once all events have been measured, else None."""
    verdict = drift(address)
    labels = verdict["labels"]["matched"] == verdict["received"]["labels"]["matched"]
    if not labels or verdict["window"]["ingested_total"] != BATCH * BATCHES:
        return None
    lines = requests.get(f"{address}/metrics", timeout=10).text.splitlines()
    metrics = dict(line.rsplit(" ", 1) for line in lines if line[0] != "#")
    compared = {
        name: float(value)
        for name, value in metrics.items()
        if not any(part in name for part in VARYING)
    }
    verdict["judgement"].pop("arrival")  # duplicates take numbers too
    return compared, verdict["judgement"]


def measured_day(
    start: Start, address: str, contract: Contract, killed_before: Sequence[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return `settled` after a day; every process is killed before batches with these numbers."""
    processes = [serve(start, address), start(MEASURE)]

    def restart() -> None:
        processes.extend([start(GUNICORN), start(MEASURE)])

    def kill_all(number: int) -> None:
        if number not in killed_before:
            return
        wait_until(lambda: drift(address)["judgement"]["windows"], "a judged window")
        for process in processes:  # from here on the sender finds a closed port
            threading.Timer(0.02, kill, [process]).start()
        threading.Timer(1.0, restart).start()

    send_day(address, contract, kill_all)
    found = wait_until(lambda: settled(address), "everything to be measured")
    for process in processes:
        kill(process)
    return found


@pytest.fixture
def version(
    environment: dict[str, str],
    tmp_path: Path,
    contract: Contract,
    judging: Monitoring,
    mlflow_registry: RegistryFile,
) -> str:
    """Promote a version; small windows are judged against it without a period."""
    (tmp_path / "monitoring.yaml").write_text(small_windows(judging), "utf-8")
    environment |= {
        "MLFLOW_TRACKING_URI": mlflow_registry.uri,
        "MONITORING_FILE": str(tmp_path / "monitoring.yaml"),
        "JUDGE_PERIOD_S": "0",
    }
    return mlflow_registry.promote(made_up_rows(contract, 2000, seed=1000)).number


@pytest.mark.slow
def test_a_killed_service_reaches_the_same_metrics_as_one_that_was_not_killed(
    start: Start, address: str, environment: dict[str, str], contract: Contract, version: str
) -> None:
    """Workers, arbiter and measure process, all killed twice while batches are sent."""
    folder = environment["WINDOW_DIR"]
    environment["WINDOW_DIR"] = f"{folder}-calm"
    calm, judgement = measured_day(start, address, contract, killed_before=())
    environment["WINDOW_DIR"] = f"{folder}-killed"
    killed, killed_judgement = measured_day(start, address, contract, killed_before=(9, 26))
    assert judgement["windows"] == 10 and "age" in judgement["persistent"]
    assert killed_judgement == judgement
    # Evidently sums categories in the order of a set, which differs between processes.
    assert killed == pytest.approx(calm, rel=1e-12)
    assert calm['income_feature_drift_persistent{feature="age"}'] == 1
    assert calm[f'income_reference_info{{model_version="{version}"}}'] == 1


def test_an_unavailable_registry_is_reported_and_term_ends_a_long_wait(
    start: Start, address: str, environment: dict[str, str]
) -> None:
    environment["MEASURE_PERIOD_S"] = "3600"
    serve(start, address)
    measure = start(MEASURE)
    wait_until(lambda: drift(address)["state"] == "no_reference", "the first run")
    wait_until(lambda: "MLFLOW_TRACKING_URI" in (drift(address)["error"] or ""), "its error")
    assert measure.poll() is None
    measure.terminate()
    assert measure.wait(timeout=180) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"EVIDENTLY_PORT": "none", "MEASURE_PERIOD_S": "-1"},
            ["EVIDENTLY_PORT: got none", "MEASURE_PERIOD_S: got -1"],
        ),
        ({"MONITORING_FILE": "/nowhere.yaml"}, ["/nowhere.yaml"]),
    ],
)
def test_invalid_settings_end_the_start_of_the_server_with_one_message(
    start: Start,
    environment: dict[str, str],
    tmp_path: Path,
    changes: dict[str, str],
    words: list[str],
) -> None:
    environment |= changes
    assert start(GUNICORN).wait(timeout=180) == 2
    log = (tmp_path / "processes.log").read_text("utf-8")
    assert all(one in log for one in words) and "Traceback" not in log


def test_a_port_in_use_is_named_with_its_setting(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", int(environment["EVIDENTLY_PORT"]))):
        assert start(GUNICORN).wait(timeout=180) == 1
    log = (tmp_path / "processes.log").read_text("utf-8")
    assert f"EVIDENTLY_PORT: Address already in use; got {environment['EVIDENTLY_PORT']}" in log
