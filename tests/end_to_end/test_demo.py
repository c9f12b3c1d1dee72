"""The demo as a user runs it: real processes, a small search, and nothing left running."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_generator.stack import PORTS
from tests.conftest import accepts_connections, free_port, wait_until

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "stream_generator.demo", "--max-evals", "2"]


@pytest.fixture
def environment() -> dict[str, str]:
    """Free ports for every server of the stack."""
    return dict(os.environ) | {name: str(free_port()) for name in PORTS}


@pytest.fixture
def demo(environment, tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """A running demo with its state in a temporary folder."""
    folders = ["--state-dir", str(tmp_path / "var"), "--out-dir", str(tmp_path / "out")]
    data = [] if "CENSUS_DATA_DIR" in environment else ["--data", "synthetic"]
    with (tmp_path / "printed").open("wb") as printed:
        with subprocess.Popen(
            [*COMMAND, *folders, *data], cwd=ROOT, env=environment, stdout=printed, stderr=printed
        ) as process:
            yield process
            if process.poll() is None:
                process.terminate()
                process.wait(40)


def listening(environment: dict[str, str]) -> list[str]:
    """The settings of the ports on which something still listens."""
    return [name for name in PORTS if accepts_connections(int(environment[name]))]


@pytest.mark.slow
@pytest.mark.timeout(620)
def test_the_demo_closes_the_loop_and_loses_nothing(demo, environment, tmp_path):
    code = demo.wait(600)
    assert code == 0, (tmp_path / "printed").read_text("utf-8")[-3000:]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    real = "CENSUS_DATA_DIR" in environment
    assert summary["data_source"] == ("uci" if real else "synthetic")
    assert summary["rows"] == {"train": 32561, "test": 16281}
    assert summary["test_metrics"]["roc_auc"] > 0.9
    assert {"log_loss", "f1", "ece"} < summary["test_metrics"].keys()
    predictions = summary["predictions"]
    assert predictions["sent"] == predictions["answered"] == predictions["stored"] == 7500
    assert predictions["duplicates"] == 0
    drift, quality = summary["drift"], summary["quality"]
    assert not drift["before"]["drifted"]
    assert drift["after"]["drifted"] and "age" in drift["after"]["features"]
    assert drift["resolved"] and not drift["retrained"]["drifted"]
    assert summary["model_version"] == "1" and summary["run_id"]
    assert summary["retraining"]["flow_run"] and summary["retraining"]["model_version"] == "2"
    assert quality["shifted"]["roc_auc"] < quality["before"]["roc_auc"] - 0.1
    assert quality["retrained"]["model_version"] == "2"
    assert quality["retrained"]["roc_auc"] > quality["shifted"]["roc_auc"] + 0.1
    assert quality["retrained"]["log_loss"] < 0.5 * quality["shifted"]["log_loss"]
    assert summary["seconds"].keys() > {"train", "traffic", "watch", "train again", "swap"}
    assert listening(environment) == []


@pytest.mark.timeout(120)
def test_ctrl_c_during_the_start_ends_every_process(demo, environment, tmp_path):
    mlflow = int(environment["MLFLOW_PORT"])
    wait_until(lambda: accepts_connections(mlflow), 60, "the MLflow server")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(40) == 130
    assert "every process was ended" in (tmp_path / "printed").read_text("utf-8")
    assert listening(environment) == []


def test_a_port_that_is_taken_is_named_and_what_runs_there_keeps_its_state(environment, tmp_path):
    """A second demo beside a running one must not remove the window that the first one uses."""
    window = tmp_path / "var" / "demo" / "window" / "window.db"
    window.parent.mkdir(parents=True)
    window.touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        environment["EVIDENTLY_PORT"] = str(port)
        command = [*COMMAND, "--state-dir", str(tmp_path / "var"), "--out-dir", str(tmp_path)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"EVIDENTLY_PORT={port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert window.exists()
