"""The embedded stack: every part as a local process under honcho, from `config/Procfile`.

Used by the demo and by `make train`. What runs where follows from the settings: those of the
shell, then those of `.env`, then the defaults here.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import requests
from honcho.environ import parse

from config.ports import why_not
from config.telemetry import SWITCHES

ROOT = Path(__file__).parent.parent
STOP_TIMEOUT_S = 20
WAIT_TIMEOUT_S = 120

PORTS = {
    "PREDICTION_PORT": "9696",
    "EVIDENTLY_PORT": "3000",
    "MLFLOW_PORT": "5000",
    "PREFECT_PORT": "4200",
    "GCS_PORT": "9023",
}
DEFAULTS = {
    "ARTIFACT_BUCKET": "income-artifacts",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes instead of 15
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads make training slow beside the services
}
# What may have been given to one command alone, as in `make demo CENSUS_DATA_DIR=...`.
GIVEN = (*PORTS, "CENSUS_DATA_DIR", "DATA_DIR", "MAX_EVALS", "MONGODB_ADDRESS", "MONGODB_DATABASE")
# Which processes a health page tells about, and where it is.
HEALTH = {
    "mlflow": "{MLFLOW_TRACKING_URI}/health",
    "prefect": "{PREFECT_API_URL}/health",
    "prediction": "{PREDICTION_ADDRESS}/health/live",
    "evidently": "{EVIDENTLY_ADDRESS}/health/live",
}


class StackError(Exception):
    """The stack cannot run; the message says why and what to do."""


def stack_environment(
    environ: Mapping[str, str], state_dir: Path, defaults: Mapping[str, str]
) -> dict[str, str]:
    """The environment of every process: the shell's over `.env`'s over the defaults, addresses.

    `defaults` are the caller's own, and stand above those of this module only.
    """
    dotenv = ROOT / ".env"
    from_file = parse(dotenv.read_text("utf-8")) if dotenv.exists() else {}
    env = {**PORTS, **DEFAULTS, **SWITCHES, **defaults, **from_file, **environ}
    state = state_dir.resolve()
    folders = {
        "STATE_DIR": state,
        "MODEL_DIR": state / "model",
        "JOURNAL_DIR": state / "journal",
        "WINDOW_DIR": state / "window",
        "PREFECT_HOME": state / "prefect",
        "MPLCONFIGDIR": ROOT / ".cache" / "matplotlib",
    }
    local = "http://127.0.0.1:"
    addresses = {
        "PREDICTION_ADDRESS": local + env["PREDICTION_PORT"],
        "EVIDENTLY_ADDRESS": local + env["EVIDENTLY_PORT"],
        "MLFLOW_TRACKING_URI": local + env["MLFLOW_PORT"],
        "PREFECT_API_URL": f"{local}{env['PREFECT_PORT']}/api",
        "STORAGE_EMULATOR_HOST": local + env["GCS_PORT"],
        "FLOW_STORAGE": f"gs://{env['ARTIFACT_BUCKET']}/prefect",
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    fixed = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {**env, **{k: str(v) for k, v in folders.items()}, **addresses, **fixed}


def settings_script(env: Mapping[str, str], own: Mapping[str, str]) -> str:
    """What another shell reads (`. FILE`) to run commands on the stack that `own` has started."""
    names = [name for name in env if own.get(name) != env[name] or name in GIVEN]
    return "".join(f"export {name}={shlex.quote(env[name])}\n" for name in names)


def check_ports(env: Mapping[str, str]) -> None:
    """Raises StackError naming every port that is taken and the setting that moves it."""
    taken = []
    for setting in PORTS:
        if reason := why_not("127.0.0.1", int(env[setting])):
            taken.append(f"{setting}={env[setting]}: {reason}")
    if taken:
        remedy = "end what listens there, or set another port: make demo PREDICTION_PORT=9797"
        raise StackError("\n".join([*taken, remedy]))


@contextmanager
def running(
    env: Mapping[str, str], log_path: Path, processes: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """The stack (or the named processes of it) for as long as the body runs.

    honcho gets a session of its own, so that Ctrl-C reaches the body first and every process is
    ended in order. `check_ports` comes first: what runs there already may use the same folders.
    """
    Path(env["STATE_DIR"]).mkdir(parents=True, exist_ok=True)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "honcho", "--procfile", "config/Procfile", "--app-root"]
    command += [str(ROOT), "start", *processes]
    with log_path.open("wb") as log:
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        ) as honcho:
            try:
                yield honcho
            finally:
                stop(honcho)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends honcho, which ends its children; after a deadline it is killed."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_healthy(
    env: Mapping[str, str], honcho: subprocess.Popen[bytes], log_path: Path, names: tuple[str, ...]
) -> None:
    """Returns when the health pages of the named processes answer.

    Raises StackError if a process ended or the deadline passed, with the last lines it printed.
    """
    for name in names:
        url = HEALTH[name].format_map(env)
        wait_for(partial(answers, url), honcho, log_path, f"{name} at {url}")


def wait_for(
    condition: Callable[[], object],
    honcho: subprocess.Popen[bytes],
    log_path: Path,
    what: str,
    timeout_s: float = WAIT_TIMEOUT_S,
) -> object:
    """The first true value of `condition`; raises StackError as `wait_healthy` does."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        if honcho.poll() is not None:
            raise StackError(f"a process ended while waiting for {what}:\n{last_lines(log_path)}")
        time.sleep(0.25)
    raise StackError(f"{what}: no answer within {timeout_s:.0f} s\n{last_lines(log_path)}")


def answers(url: str) -> bool:
    """True if the page answers 200."""
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def last_lines(log_path: Path, count: int = 15) -> str:
    """The end of a log, with its path."""
    lines = log_path.read_text("utf-8", errors="replace").splitlines()[-count:]
    return "\n".join([*lines, f"(all of it: {log_path})"])
