"""The demo as a user runs it: real processes, a small search, and nothing left running.

While it is up, the commands of docs/tour.md and the README's examples are run against it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from stream_generator.stack import PORTS
from tests.conftest import accepts_connections, free_port, wait_until
from tests.end_to_end.documented import examples, run

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "stream_generator.demo", "--max-evals", "2", "--keep"]
STARTS = ("make demo", "make jupyter", ". var/demo/settings")  # what the test does in its own way


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
@pytest.mark.timeout(1000)
def test_the_demo_closes_the_loop_loses_nothing_and_can_be_toured(demo, environment, tmp_path):
    settings = tmp_path / "var" / "demo" / "settings"
    wait_until(lambda: settings.exists() or demo.poll() is not None, 600, "the demo")
    assert demo.poll() is None, (tmp_path / "printed").read_text("utf-8")[-3000:]
    check_summary(
        json.loads((tmp_path / "out" / "summary.json").read_text("utf-8")),
        real="CENSUS_DATA_DIR" in environment,
    )
    take_the_tour(settings, tmp_path)
    follow_the_readme(environment)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(40) == 0
    assert listening(environment) == []


def check_summary(summary: dict[str, Any], real: bool) -> None:
    """The loop was closed: drift seen, a better version promoted, every prediction stored."""
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


def take_the_tour(settings: Path, folder: Path) -> None:
    """Every command of docs/tour.md, each in a shell of its own, with files in a folder."""
    env = in_shell(settings)
    said = ""
    for language, text in examples("docs/tour.md"):
        if text.startswith(STARTS):
            continue
        said += run(language, text.replace("build/", f"{folder}/"), env)
        if "send_data" in text:
            # The first ones are of another world than production's reference, the second ones not.
            wanted = "rollback" not in said
            wait_until(partial(is_verdict, env, wanted), 60, f"the verdict: drifted {wanted}")
    assert '"base_value"' in said and '"nearest":"Private"' in said
    assert "rollback: the world went back" in said and "1 -> 2" in said
    assert "20000 rows scored by version 2" in said and "3000 rows of 2026-10" in said


def is_verdict(env: dict[str, str], drifted: bool) -> bool:
    """Whether that is what the monitoring says now."""
    verdict = requests.get(f"{env['EVIDENTLY_ADDRESS']}/drift", timeout=10).json()
    return verdict["drifted"] == drifted


def in_shell(settings: Path) -> dict[str, str]:
    """The variables that a shell has after it has read the settings."""
    command = ["bash", "-c", f". {settings} && env -0"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    return dict(line.split("=", 1) for line in lines.split("\0") if line)


def follow_the_readme(environment: dict[str, str]) -> None:
    """The examples under "Predict", of which the second needs what the first answers."""
    prediction_id = ""
    for language, text in examples("README.md", "## Predict"):
        if "API_KEY" in text:  # keys are off in the demo
            continue
        text = text.replace(":9696", f":{environment['PREDICTION_PORT']}")
        text = text.replace("THE_ID_FROM_THE_ANSWER", prediction_id)
        answer = json.loads(run(language, text, os.environ))
        assert "error" not in answer, answer
        prediction_id = answer.get("prediction_id", prediction_id)
    assert prediction_id


@pytest.mark.slow
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
