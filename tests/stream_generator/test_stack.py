"""The environment of the embedded stack: who has the last word."""

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
