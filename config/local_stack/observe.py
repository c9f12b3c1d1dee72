"""Talk to a running stack: over HTTP, and with the journal's commands."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests

from config.local_stack.stack import StackError
from config.model_registry import ALIAS, MODEL_NAME

REQUEST_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 60
Env = Mapping[str, str]  # the environment of the stack's processes


def production_facts(env: Env) -> dict[str, Any]:
    """Return facts about the production version and its run from the registry.

    Raises StackError if no version is in production.
    """
    if facts := version_facts(env, ALIAS):
        return facts
    raise StackError("no version is in production. The gate printed its reason above")


def version_facts(env: Env, alias: str) -> dict[str, Any] | None:
    """Return facts about the version with an alias and its run; None without such a version."""
    mlflow = f"{env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow"
    named = get(f"{mlflow}/registered-models/alias?name={MODEL_NAME}&alias={alias}")
    if named is None:
        return None
    version = named["model_version"]
    found = get(f"{mlflow}/runs/get?run_id={version['run_id']}")
    if found is None:
        raise StackError(f"MLflow has no run {version['run_id']} at {mlflow}")
    run = found["run"]["data"]
    metrics = {item["key"]: item["value"] for item in run["metrics"]}
    params = {item["key"]: item["value"] for item in run["params"]}
    tags = {item["key"]: item["value"] for item in run["tags"]}
    return {
        "data_source": tags["data_source"],
        "rows": {name: int(params[f"{name}_rows"]) for name in ("train", "test")},
        "test_metrics": {
            name.removeprefix("test_"): value
            for name, value in metrics.items()
            if name.startswith("test_")
        },
        "model_version": str(version["version"]),
        "run_id": version["run_id"],
    }


def gate_reason(env: Env) -> str:
    """Return the gate's reason for or against the newest version."""
    found = get(
        f"{env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/model-versions/search"
        f"?filter=name='{MODEL_NAME}'&order_by=version_number DESC&max_results=1"
    )
    versions = (found or {}).get("model_versions", [])
    tags = {tag["key"]: tag["value"] for one in versions for tag in one.get("tags", [])}
    return tags.get("gate_reason", "unknown")


def drift_runs(env: Env) -> list[dict[str, Any]]:
    """Return the flow runs that `watch` started."""
    return prefect_filter(env, "flow_runs", {"flow_runs": {"tags": {"all_": ["drift"]}}})


def current_step(env: Env, flow_run: str) -> str:
    """Return the names of a flow run's running steps."""
    wanted = {
        "flow_runs": {"id": {"any_": [flow_run]}},
        "task_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
    }
    steps = prefect_filter(env, "task_runs", wanted)
    return ", ".join(step["name"].rpartition("-")[0] for step in steps)


def prefect_filter(env: Env, kind: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that Prefect finds, or an empty list while Prefect is unavailable."""
    try:
        response = requests.post(
            f"{env['PREFECT_API_URL']}/{kind}/filter",
            json=wanted | {"limit": 50},
            timeout=REQUEST_TIMEOUT_S,
        )
        response.raise_for_status()
    except requests.RequestException:
        return []
    return response.json()


def set_watch_period(env: Env, seconds: float) -> None:
    """Run `watch` at this period from now on; keep the former one while Prefect is unavailable."""
    url = f"{env['PREFECT_API_URL']}/deployments"
    deployment = get(f"{url}/name/watch/watch") or {"schedules": []}
    for one in deployment["schedules"]:
        with suppress(requests.RequestException):
            requests.patch(
                f"{url}/{deployment['id']}/schedules/{one['id']}",
                json={"schedule": {"interval": seconds}},
                timeout=REQUEST_TIMEOUT_S,
            )


def get(url: str) -> dict[str, Any] | None:
    """Return the JSON of a page, or None if its status is not 200."""
    try:
        response = requests.get(url, timeout=REQUEST_TIMEOUT_S)
    except requests.RequestException:
        return None
    return response.json() if response.status_code == 200 else None


def backlog(env: Env) -> int:
    """Return the number of rows that the Evidently service has not confirmed yet."""
    return journal_status(env)["backlog"]["evidently"]


def journal_status(env: Env) -> dict[str, Any]:
    """Return the counts and the backlog of the journals."""
    return json.loads(journal(env, "status", "--json"))


def journal(env: Env, *arguments: str) -> str:
    """Return the output of a command of the prediction service's journal.

    Raises StackError if it fails.
    """
    command = [sys.executable, "-m", "prediction_service.journal", *arguments]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S
    )
    if done.returncode:
        raise StackError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    return done.stdout


def json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of a text with one JSON object per line."""
    return [json.loads(line) for line in text.split("\n") if line]  # a string may hold U+2028


def addresses(env: Env) -> dict[str, str]:
    """Return the address of each page."""
    return {
        "prediction service": env["PREDICTION_ADDRESS"],
        "drift reports": f"{env['EVIDENTLY_ADDRESS']}/report",
        "MLflow": env["MLFLOW_TRACKING_URI"],
        "Prefect": env["PREFECT_API_URL"].removesuffix("/api"),
    }
