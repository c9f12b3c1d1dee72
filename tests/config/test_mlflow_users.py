"""The users of MLflow's server in containers: roles, passwords, replaced secrets."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from config.model_registry import ALIAS, MODEL_NAME
from tests.conftest import ROOT, mlflow_server, run

AUTH = (ROOT / "config/mlflow/auth.ini").read_text("utf-8")
PASSWORDS = {
    "MLFLOW_AUTH_ADMIN_PASSWORD": "a" * 32,
    "MLFLOW_WORKER_PASSWORD": "w" * 32,
    "MLFLOW_READER_PASSWORD": "r" * 32,
    "MLFLOW_JUPYTER_PASSWORD": "j" * 32,
}
SEARCH = "registered-models/search"
PRODUCTION = f"registered-models/alias?name={MODEL_NAME}&alias={ALIAS}"
ADMIN, WORKER, READER = ("admin", "a" * 32), ("worker", "w" * 32), ("reader", "r" * 32)


@contextmanager
def server(folder: Path, passwords: dict[str, str]) -> Iterator[str]:
    """Make the users and run MLflow's server, as its container does; yield its address."""
    (folder / "auth.ini").write_text(AUTH.replace("/state/mlflow", str(folder)), "utf-8")
    env = passwords | {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "s" * 32,
    }
    command = [sys.executable, "-m", "config.mlflow.users", f"sqlite:///{folder}/mlflow.db"]
    run(*command, env=os.environ | env, timeout_s=120)
    with mlflow_server(folder, options=("--app-name=basic-auth",), **env) as address:
        yield address


def call(address: str, login: tuple[str, str], path: str, **body: Any) -> requests.Response:
    """Return the response to a GET, or to a POST of `body`."""
    url = f"{address}/api/2.0/mlflow/{path}"
    if body:
        return requests.post(url, json=body, auth=login, timeout=30)
    return requests.get(url, auth=login, timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_worker_can_write_readers_can_only_read_and_replaced_passwords_apply(
    tmp_path: Path,
) -> None:
    """The generator and the follower were once administrators."""
    with server(tmp_path, PASSWORDS) as address:
        made = call(address, ADMIN, "experiments/create", name="of an earlier release")
        old = made.json()["experiment_id"]
        call(address, ADMIN, "registered-models/create", name="income").raise_for_status()
        for login in (WORKER, READER):  # before the first training
            found = call(address, login, PRODUCTION)
            assert found.json()["error_code"] == "INVALID_PARAMETER_VALUE"
        for status, login in ((200, WORKER), (403, READER)):
            run = call(address, login, "runs/create", experiment_id=old, start_time=1)
            assert run.status_code == status, run.text
            tag = call(
                address, login, "registered-models/set-tag", name="income", key="a", value="b"
            )
            assert tag.status_code == status, tag.text
            users = call(address, login, "users/create", username="other", password="o" * 32)
            assert users.status_code == 403, "only the administrator makes users"
        for login in (ADMIN, WORKER, READER):
            found = call(address, login, SEARCH)
            models = [one["name"] for one in found.json()["registered_models"]]
            assert models == ["income", MODEL_NAME]
            assert call(address, login, f"experiments/get?experiment_id={old}").status_code == 200
        assert requests.get(f"{address}/api/2.0/mlflow/{SEARCH}", timeout=30).status_code == 401

    replaced = {name: value.upper() for name, value in PASSWORDS.items()}
    with server(tmp_path, replaced) as address:
        for login in (ADMIN, WORKER, READER):
            name, password = login
            assert call(address, login, SEARCH).status_code == 401, name
            assert call(address, (name, password.upper()), SEARCH).status_code == 200, name
