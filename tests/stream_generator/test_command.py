"""The command as a process: flags, files, exit statuses and signals."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from stream_generator.traffic.scenarios import SCENARIOS
from stream_generator.send_data import main
from tests.conftest import free_port, wait_until
from tests.stream_generator.stand_in import StandIn

COMMAND = [sys.executable, "-m", "stream_generator.send_data"]
TIMEOUT_S = 30
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Restore the signal handlers of pytest after `main` ran in its process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def start(stand_in: StandIn, traffic_file: Path) -> Start:
    """Run the command against the stand-in. The end of the `with` block kills it."""

    @contextmanager
    def call(*flags: str) -> Iterator[subprocess.Popen[str]]:
        command = [*COMMAND, "--traffic", str(traffic_file), *flags]
        environ = dict(os.environ, PREDICTION_ADDRESS=stand_in.address, COLUMNS="120")
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    return call


def test_the_api_key_is_sent_with_every_request(
    start: Start, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREDICTION_API_KEY", "income_a-key")
    with start("--rows", "3", "--labels", "1", "--label-delay-s", "0") as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert "income_a-key" not in out + err
    assert len(stand_in.labels) == 3
    assert set(stand_in.authorizations) == {"Bearer income_a-key"}


def test_a_run_writes_its_summary_and_its_predictions(
    start: Start, stand_in: StandIn, tmp_path: Path
) -> None:
    summary_path, kept_path = tmp_path / "new" / "summary.json", tmp_path / "kept.jsonl"
    flags = ["--rows", "30", "--batch", "4", "--labels", "1", "--label-delay-s", "0.1"]
    flags += ["--scenario", "sudden", "--summary", str(summary_path)]
    with start(*flags, "--answers", str(kept_path)) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert "Traffic: sudden (done)" in out
    assert "30 sent: 30 answered, 0 rejected, 0 failed" in out
    assert not err  # no progress bar without a terminal
    summary = json.loads(summary_path.read_text("utf-8"))
    assert summary["scenario"] == "sudden"
    assert (summary["sent"], summary["answered"], summary["labels_sent"]) == (30, 30, 30)
    assert 0 < summary["latency_p50_ms"] <= summary["latency_p95_ms"] <= summary["latency_p99_ms"]
    assert summary["rows_per_s"] > summary["requests_per_s"] > 0
    kept = [json.loads(line) for line in kept_path.read_text("utf-8").splitlines()]
    columns = ["prediction_id", "label", "probability", "income_class", "model_version"]
    assert [list(prediction) for prediction in kept] == [columns] * 30
    assert {one["prediction_id"]: one["label"] for one in kept} == stand_in.labels
    assert set(stand_in.authorizations) == {None}  # without an API key


def test_a_run_that_reaches_its_deadline_succeeds_and_counts_its_unsent_labels(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    flags = ["--rows", "1000", "--rate", "10", "--deadline-s", "1", "--labels", "1"]
    with start(*flags, "--label-delay-s", "60") as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert "(deadline)" in out and "0 failed" in out
    assert "0 sent, 0 failed" in out and " not sent" in out  # the labels


def test_failed_requests_change_the_exit_status_and_have_a_reason(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.faults.append("500")
    with start("--rows", "3") as process:
        out, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "3 sent: 2 answered, 0 rejected, 1 failed" in out
    assert "3, and 0 retries" in out
    assert "/predict: 500 on_purpose: Not now." in out


def test_a_signal_ends_the_run_promptly_with_its_summary(
    start: Start, stand_in: StandIn, tmp_path: Path
) -> None:
    """A KeyboardInterrupt once lost the responses in flight."""
    path = tmp_path / "summary.json"
    stand_in.before_response = lambda: stand_in.released.wait(0.3)  # so that some are in flight
    flags = ["--rows", "100000", "--rate", "100", "--labels", "1", "--label-delay-s", "600"]
    with start(*flags, "--concurrency", "2", "--summary", str(path)) as process:
        wait_until(lambda: len(stand_in.attempts) > 3, "traffic", timeout_s=TIMEOUT_S)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, err
    assert "Traffic: none (interrupted)" in out
    assert "Traceback" not in err
    summary = json.loads(path.read_text("utf-8"))
    assert summary["answered"] == summary["sent"] == len(stand_in.predictions) > 3, summary
    assert summary["labels_unsent"] == summary["answered"]


def test_a_signal_ends_the_command_promptly_although_the_service_hangs(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.faults.extend(["", "hang"])
    with start("--rows", "10", "--timeout-s", "60") as process:
        wait_until(lambda: len(stand_in.attempts) == 2, "the second request", timeout_s=TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)  # less than --timeout-s
    assert process.returncode == 130, err
    assert "2 sent: 1 answered, 0 rejected, 1 failed" in out
    assert "no response before the end" in out


def test_a_signal_before_the_first_request_ends_the_command(
    start: Start, stand_in: StandIn
) -> None:
    hanging = threading.Event()

    def hang() -> None:
        hanging.set()
        stand_in.released.wait(TIMEOUT_S)

    stand_in.before_get = hang
    with start() as process:
        wait_until(hanging.is_set, "the first health check", timeout_s=TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err) == (130, "", "send_data: interrupted\n")


def test_help_describes_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name, scenario in SCENARIOS.items():
        assert f"  {name} " in text
        assert (scenario.__doc__ or "?") in text
    assert "(PREDICTION_ADDRESS) (http://127.0.0.1:9696)" in " ".join(text.split())


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (["--rows", "0"], "argument --rows: got '0', expected `int` >= 1"),
        (["--rate", "inf"], "argument --rate: got 'inf', expected `float` <= 1"),
        (["--address", "localhost:9696"], "got 'localhost:9696', expected `str` matching"),
        (["--tracking-uri", "localhost:5000"], "got 'localhost:5000', expected `str` matching"),
        (["--scenario", "meteor"], "argument --scenario: invalid choice: 'meteor'"),
    ],
)
def test_an_invalid_flag_is_an_error_with_its_rule(
    flags: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert wrong in capsys.readouterr().err


def test_a_missing_file_or_service_prints_one_line_and_ends_with_status_2(
    traffic_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    there = ["--traffic", str(traffic_file), "--attempts", "1"]
    for flags, wrong in [
        (["--traffic", "none.jsonl"], "--traffic: No such file or directory; got none.jsonl"),
        (["--tracking-uri", nobody], "MLFLOW_TRACKING_URI: MLflow cannot be reached"),
        (
            [*there, "--address", nobody],
            "PREDICTION_ADDRESS: the prediction service cannot be reached",
        ),
    ]:
        assert main(flags) == 2
        err = capsys.readouterr().err
        assert nobody in err or "none.jsonl" in err
        assert err.startswith(f"send_data: {wrong}")
        assert err.count("\n") == 1
