"""The environment of the embedded stack: who has the last word."""

import subprocess

import pytest

from config.telemetry import SWITCHES
from stream_generator import stack


@pytest.fixture
def dotenv(tmp_path, monkeypatch):
    """A project folder with a `.env`."""
    monkeypatch.setattr(stack, "ROOT", tmp_path)
    (tmp_path / ".env").write_text("MAX_EVALS=7\nMLFLOW_PORT=5001\n", "utf-8")
    return tmp_path


def test_the_shell_wins_over_dotenv_and_dotenv_over_every_default(dotenv):
    demo = {"MAX_EVALS": "12", "WATCH_PERIOD_S": "15"}
    env = stack.stack_environment({"WATCH_PERIOD_S": "3"}, dotenv, demo)
    assert env["MAX_EVALS"] == "7" and env["WATCH_PERIOD_S"] == "3"
    assert stack.stack_environment({"MAX_EVALS": "2"}, dotenv, demo)["MAX_EVALS"] == "2"
    assert env["PREDICTION_PORT"] == "9696" and SWITCHES.items() <= env.items()


def test_addresses_follow_the_ports(dotenv):
    env = stack.stack_environment({"PREFECT_PORT": "4201"}, dotenv, {})
    assert env["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5001"
    assert env["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"


def test_another_shell_takes_over_what_the_stack_runs_with(dotenv):
    own = {"PATH": "/usr/bin:/bin", "MAX_EVALS": "3", "TOKEN": "its own"}
    env = stack.stack_environment(own | {"TRAINING_STORE": "it's here"}, dotenv, {})
    script = stack.settings_script(env, own)
    assert "MAX_EVALS=3" in script and "TOKEN" not in script
    shown = subprocess.run(
        ["sh", "-c", f'{script}\necho "$TRAINING_STORE|$JOURNAL_DIR|$MLFLOW_TRACKING_URI|$PATH"'],
        env=own,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    store, journal, mlflow, path = shown.stdout.strip().split("|")
    assert store == "it's here" and journal == str(dotenv / "journal")
    assert mlflow == "http://127.0.0.1:5001" and path.endswith(own["PATH"])
