"""The local stack: the precedence of its settings, and processes that end or cannot start."""

import os
import signal

import pytest
import requests

from config.local_stack import stack
from config.runtime.settings import SettingsError
from config.local_stack.stack import HEALTH, PORTS, StackError, check_ports, running
from config.runtime.telemetry import SWITCHES
from tests.conftest import free_port, run, wait_until


@pytest.fixture
def dotenv(tmp_path, monkeypatch):
    """Return a project folder with a `.env`."""
    monkeypatch.setattr(stack, "ROOT", tmp_path)
    (tmp_path / ".env").write_text("MAX_EVALS=7\nMLFLOW_PORT=5001\n", "utf-8")
    return tmp_path


def test_the_shell_overrides_dotenv_and_dotenv_overrides_every_default(dotenv):
    demo = {"MAX_EVALS": "12", "WATCH_PERIOD_S": "15"}
    env = stack.stack_environment({"WATCH_PERIOD_S": "3"}, dotenv, demo)
    assert env["MAX_EVALS"] == "7" and env["WATCH_PERIOD_S"] == "3"
    assert stack.stack_environment({"MAX_EVALS": "2"}, dotenv, demo)["MAX_EVALS"] == "2"
    assert env["PREDICTION_PORT"] == "9696" and SWITCHES.items() <= env.items()


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("MONGODB_PASSWORD='sesame's", "MONGODB_PASSWORD=... with an open quote"),
        ('MONGODB_PASSWORD="sesame', "MONGODB_PASSWORD=... with an open quote"),
        ("MAX_EVALS", "'MAX_EVALS'"),
    ],
)
def test_an_invalid_line_of_dotenv_is_reported_with_the_remedy(dotenv, line, got):
    """The error once was a traceback of shlex without the file and the line."""
    (dotenv / ".env").write_text(f"MAX_EVALS=7\n\n{line}\n", "utf-8")
    with pytest.raises(SettingsError) as caught:
        stack.stack_environment({}, dotenv, {})
    message = str(caught.value)
    assert f".env, line 3: got {got}, expected NAME=value. Put a value" in message
    assert "sesame" not in message


def test_addresses_follow_the_ports(dotenv):
    env = stack.stack_environment({"PREFECT_PORT": "4201"}, dotenv, {})
    assert env["PAGE_LINKS"] == "Predict=9696,MLflow=5001,Prefect=4201,Drift=3000"
    assert env["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5001"
    assert env["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"


def test_every_process_reads_the_same_contract_and_source_from_any_folder(dotenv, monkeypatch):
    monkeypatch.chdir(dotenv)
    own = {"CONTRACT": "mine/features.yaml", "SOURCE": "mine/source.yaml"}
    env = stack.stack_environment(own, dotenv, {})
    assert env["CONTRACT"] == str(dotenv / "mine/features.yaml")
    assert f"export SOURCE={dotenv}/mine/source.yaml\n" in stack.settings_script(env, own)
    assert "CONTRACT" not in stack.stack_environment({}, dotenv, {})


def test_the_settings_script_gives_another_shell_the_environment_of_the_stack(dotenv):
    own = {"PATH": "/usr/bin:/bin", "MAX_EVALS": "3", "TOKEN": "its own"}
    env = stack.stack_environment(own | {"TRAINING_STORE": "it's here"}, dotenv, {})
    script = stack.settings_script(env, own)
    assert "MAX_EVALS=3" in script and "TOKEN" not in script
    script += '\necho "$TRAINING_STORE|$JOURNAL_DIR|$MLFLOW_TRACKING_URI|$PATH"'
    store, journal, mlflow, path = run("sh", "-c", script, env=own).strip().split("|")
    assert store == "it's here" and journal == str(dotenv / "journal")
    assert mlflow == "http://127.0.0.1:5001" and path.endswith(own["PATH"])


@pytest.fixture
def env(tmp_path, monkeypatch):
    """Return the environment of a stack of two servers. One responds, the other cannot start."""
    procfile = tmp_path / "Procfile"
    procfile.write_text(
        "prediction: python -m http.server --bind 127.0.0.1 $PREDICTION_PORT\n"
        "broken: cat /no-such-folder/80%\n"
    )
    monkeypatch.setattr(stack, "PROCFILE", procfile)
    monkeypatch.setattr(stack, "START_S", 2)
    monkeypatch.setattr(stack, "START_TRIES", 1)
    monkeypatch.setitem(HEALTH, "prediction", "{PREDICTION_ADDRESS}/")
    ports = {name: str(free_port()) for name in PORTS}
    return stack.stack_environment(os.environ | ports, tmp_path / "var", {})


@pytest.mark.slow
def test_a_process_that_is_killed_is_reported_with_its_last_lines_and_started_again(env, tmp_path):
    reports = []
    with running(env, tmp_path / "logs", ("prediction",), reports.append) as services:
        services.wait_healthy("prediction")
        wait_until(lambda: "pid" in log(tmp_path) and "RUNNING" in log(tmp_path))
        pid = int(log(tmp_path).split("'prediction' with pid ")[1].split()[0])
        requests.get(env["PREDICTION_ADDRESS"] + "/the-last-line", timeout=5)
        os.kill(pid, signal.SIGKILL)
        services.wait_for(lambda: reports, "the report")
        services.wait_healthy("prediction")
        with pytest.raises(StackError, match="an earlier demo's processes still run: kill [0-9]+"):
            check_ports(env, tmp_path / "logs")
    assert len(reports) == 1
    assert reports[0].startswith("prediction died (terminated by SIGKILL")
    assert "/the-last-line" in reports[0]
    check_ports(env, tmp_path / "logs")


def log(folder):
    """Return the log of supervisord."""
    path = folder / "logs" / "supervisord.log"
    return path.read_text("utf-8") if path.exists() else ""


@pytest.mark.slow
def test_processes_that_do_not_end_are_killed_one_after_the_other(env, tmp_path, monkeypatch):
    """Services that together took longer than 30 s to end once kept their ports after the demo."""
    names, pids = ("slow", "slower", "slowest"), tmp_path / "pids"
    line = 'sh -c \'trap "" TERM; echo $$ >>' + str(pids) + "; while :; do sleep 1; done'"
    stack.PROCFILE.write_text("".join(f"{name}: {line}\n" for name in names))
    monkeypatch.setattr(stack, "STOP_S", 2)
    with running(env, tmp_path / "logs", names):
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 3)
    for pid in map(int, pids.read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_cannot_start_ends_the_wait_with_the_end_of_its_log(
    env, tmp_path, monkeypatch
):
    monkeypatch.setattr(stack, "START_TRIES", 0)
    with running(env, tmp_path / "logs", ("broken",), [].append) as services:
        with pytest.raises(
            StackError, match="(?s)broken cannot be started.*/no-such-folder/80%: No such"
        ):
            services.wait_for(lambda: False, "a server")


def test_a_wait_that_times_out_reports_the_last_state(env, tmp_path):
    with running(env, tmp_path / "logs", ("prediction",)) as services:
        services.wait_healthy("prediction")
        with pytest.raises(StackError, match="a training: not within 0 s: requested, not started"):
            services.wait_for(lambda: False, "a training", 0.1, lambda: "requested, not started")
