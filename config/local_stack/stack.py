"""The local stack: every part as a process under supervisord, from `Procfile`.

The demo and `make train` use it. Settings come from the shell, then from `.env`, then from the
defaults here. supervisord restarts a process that dies.
"""

import configparser
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import requests

from config.runtime.ports import bind_error
from config.runtime.settings import read_env_file
from config.runtime.telemetry import SWITCHES

ROOT = Path(__file__).parents[2]
PROCFILE = Path(__file__).parent / "Procfile"
STOP_S = 20  # after SIGTERM, until supervisord sends SIGKILL
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
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes instead of 15
    # In memory, leases would not survive a restart of the server, and their runs would crash.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads make training slow beside the services
}
# A user may set these for one command only, as in `make demo CENSUS_DATA_DIR=...`.
PER_COMMAND = (
    *PORTS,
    "CENSUS_DATA_DIR",
    "CONTRACT",
    "DATA_DIR",
    "MAX_EVALS",
    "MONGODB_ADDRESS",
    "MONGODB_DATABASE",
    "SOURCE",
)
# Health pages by process.
HEALTH = {
    "mlflow": "{MLFLOW_TRACKING_URI}/health",
    "prefect": "{PREFECT_API_URL}/health",
    "prediction": "{PREDICTION_ADDRESS}/health/live",
    "evidently": "{EVIDENTLY_ADDRESS}/health/live",
}
# supervisord: a process that ends within START_S has failed to start; START_TRIES is the maximum.
START_S, START_TRIES = 5, 3
# Log lines of supervisord about a process that ended, and one that it does not start any more.
ENDED = re.compile(r"exited: (?P<name>\S+) \((?P<how>.*)\)")
GIVEN_UP = re.compile(r"gave up: (?P<name>\S+) entered FATAL state")


class StackError(Exception):
    """The stack cannot run. The message gives reason and remedy."""


def stack_environment(
    environ: Mapping[str, str], state_dir: Path, defaults: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of every process: the shell's over `.env`'s over the defaults.

    `defaults` override the defaults of this module. Raises SettingsError for an invalid line of
    `.env`.
    """
    env = {**PORTS, **DEFAULTS, **SWITCHES, **defaults, **read_env_file(ROOT / ".env"), **environ}
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
    links = f"Predict={env['PREDICTION_PORT']},MLflow={env['MLFLOW_PORT']}"
    links += f",Prefect={env['PREFECT_PORT']},Drift={env['EVIDENTLY_PORT']}"
    env.setdefault("PAGE_LINKS", links)
    files = {name: Path(env[name]).resolve() for name in ("CONTRACT", "SOURCE") if env.get(name)}
    path = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    fixed = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    paths = {name: str(path) for name, path in (folders | files).items()}
    return {**env, **paths, **addresses, **fixed}


def settings_script(env: Mapping[str, str], own: Mapping[str, str]) -> str:
    """Return a script that gives another shell (`. FILE`) the environment `env` of the stack.

    `own` is the environment of the process that started the stack.
    """
    names = [name for name in env if own.get(name) != env[name] or name in PER_COMMAND]
    return "".join(f"export {name}={shlex.quote(env[name])}\n" for name in names)


def check_ports(env: Mapping[str, str], logs: Path) -> None:
    """Raise StackError with the setting of each port that is in use.

    `logs` is the log folder of an earlier stack, which may still run.
    """
    problems = []
    for setting in PORTS:
        if reason := bind_error("127.0.0.1", int(env[setting])):
            problems.append(f"{setting}={env[setting]}: {reason}")
    if not problems:
        return
    if pid := living_supervisor(logs):
        problems.append(f"an earlier demo's processes still run: kill {pid} ends them all")
    else:
        problems.append(
            "Stop the process that uses it, or set another port: make demo PREDICTION_PORT=9797"
        )
    raise StackError("\n".join(problems))


def living_supervisor(logs: Path) -> int | None:
    """Return the pid of a running supervisord with this log folder, or None."""
    try:
        pid = int((logs / "supervisord.pid").read_text("utf-8"))
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def supervisor_file(logs: Path, processes: tuple[str, ...]) -> Path:
    """Write supervisord's configuration for the named lines of `Procfile`; return its path."""
    config = configparser.RawConfigParser()
    config["supervisord"] = {
        "nodaemon": "true",
        "logfile": str(logs / "supervisord.log"),
        "pidfile": str(logs / "supervisord.pid"),
    }
    for name, command in procfile():
        if not processes or name in processes:
            config[f"program:{name}"] = {
                "command": shlex.join(["sh", "-c", f"exec {command}"]).replace("%", "%%"),
                "autorestart": "true",
                "startsecs": str(START_S),
                "startretries": str(START_TRIES),
                "stopasgroup": "true",
                "stopwaitsecs": str(STOP_S),
                "redirect_stderr": "true",
                "stdout_logfile": str(logs / f"{name}.log").replace("%", "%%"),
                "stdout_logfile_maxbytes": "0",
            }
    path = logs / "supervisord.conf"
    with path.open("w", encoding="utf-8") as file:
        config.write(file)
    return path


def procfile() -> Iterator[tuple[str, str]]:
    """Yield name and command of each process."""
    for line in PROCFILE.read_text("utf-8").splitlines():
        name, _, command = line.partition(": ")
        yield name, command


class Stack:
    """The running processes, for the process that started them."""

    def __init__(
        self,
        supervisor: "subprocess.Popen[bytes]",
        env: Mapping[str, str],
        logs: Path,
        report: Callable[[str], None],
    ) -> None:
        self.env = env
        self.logs = logs
        self._supervisor = supervisor
        self._report = report
        self._read = 0  # characters of supervisord's log

    def check(self) -> None:
        """Report each process that died after the last call, with the end of its log.

        Raises StackError if supervisord could not restart a process.
        """
        log = self.logs / "supervisord.log"
        text = log.read_text("utf-8", errors="replace") if log.exists() else ""
        new, self._read = text[self._read :], len(text)
        for line in new.splitlines():
            if ended := ENDED.search(line):
                name, how = ended["name"], ended["how"]
                self._report(f"{name} died ({how}) and restarts. {self.last_lines(name)}")
            elif given_up := GIVEN_UP.search(line):
                name = given_up["name"]
                raise StackError(f"{name} cannot be started. {self.last_lines(name)}")
        if self._supervisor.poll() is not None:
            raise StackError(f"supervisord ended. {self.last_lines('supervisord')}")

    def wait_healthy(self, *names: str) -> None:
        """Return as soon as the health pages of the named processes have status 200.

        Raises StackError as `wait_for` does.
        """
        for name in names:
            url = HEALTH[name].format_map(self.env)
            self.wait_for(partial(http_ok, url), f"{name} at {url}")

    def wait_for(
        self,
        condition: Callable[[], Any],
        what: str,
        timeout_s: float = WAIT_TIMEOUT_S,
        state: Callable[[], str] = lambda: "",
    ) -> Any:
        """Return the first true value of `condition`.

        Raises StackError if a process cannot be started, or after the deadline. The message holds
        the result of `state`.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if value := condition():
                return value
            self.check()
            time.sleep(0.5)
        found = f": {text}" if (text := state()) else ""
        raise StackError(f"{what}: not within {timeout_s:.0f} s{found}. Logs: {self.logs}")

    def last_lines(self, name: str, count: int = 10) -> str:
        """Return the path and the end of a process's log."""
        log = self.logs / f"{name}.log"
        lines = log.read_text("utf-8", errors="replace").splitlines() if log.exists() else []
        return "\n".join([f"End of {log}:", *(f"  {line}" for line in lines[-count:])])

    def stop(self) -> None:
        """End every process.

        supervisord ends one after the other, which takes minutes on a busy machine. If it were
        killed before, the remaining ones would keep their ports.
        """
        self._supervisor.send_signal(signal.SIGTERM)
        try:
            self._supervisor.wait((len(list(procfile())) + 1) * STOP_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()


@contextmanager
def running(
    env: Mapping[str, str],
    logs: Path,
    processes: tuple[str, ...] = (),
    report: Callable[[str], None] = print,
) -> Iterator[Stack]:
    """Run the stack, or the named processes, while the body runs.

    supervisord runs in its own session: Ctrl-C reaches the body only, which then ends the processes
    in order. Call `check_ports` before, because another stack may use the same folders.
    """
    Path(env["STATE_DIR"]).mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("*.log"):
        old.unlink()
    config = supervisor_file(logs, processes)
    command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(config)]
    # It prints a copy of its log, and a warning under root.
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as supervisor:
        stack = Stack(supervisor, env, logs, report)
        try:
            yield stack
        finally:
            stack.stop()


def http_ok(url: str) -> bool:
    """Return True if the page has status 200."""
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False
