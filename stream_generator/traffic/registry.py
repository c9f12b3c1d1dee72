"""MLflow over its REST API: the traffic rows that the production version's run left.

The one module that knows MLflow, and without its package: two GETs do not justify it.
"""

import logging
from typing import Any

import requests

from config.model_registry import ALIAS, MODEL_NAME, TRAFFIC
from stream_generator.traffic.rows import Row, TrafficError, parse_rows

log = logging.getLogger(__name__)

Auth = tuple[str, str] | None  # user and password of a server that wants to know

TIMEOUT_S = 30  # for each wait; the server may have to fetch the file from a bucket first
REMEDY = "or name a file with --traffic"


def production_rows(tracking_uri: str, auth: Auth = None) -> list[Row]:
    """The traffic rows of the production version's run. Raises TrafficError with the remedy."""
    version = production_version(tracking_uri, auth)
    run_id = version["run_id"]
    # /get-artifact serves a run's file wherever the server keeps it: bucket, emulator, folder.
    answer = get(tracking_uri, "/get-artifact", {"path": TRAFFIC, "run_uuid": run_id}, auth)
    source = f"{TRAFFIC} of run {run_id} (version {version['version']}) at {tracking_uri}"
    if answer.status_code != 200:
        raise TrafficError(
            f"{source}: {reason(answer)}; train again with this code (make train), {REMEDY}"
        )
    rows = parse_rows(answer.content, source)
    log.info("traffic rows read rows=%d source=%s", len(rows), source)
    return rows


def production_version(tracking_uri: str, auth: Auth = None) -> dict[str, Any]:
    """What the registry says of the production version. Raises TrafficError."""
    path = "/api/2.0/mlflow/registered-models/alias"
    answer = get(tracking_uri, path, {"name": MODEL_NAME, "alias": ALIAS}, auth)
    if answer.status_code != 200:
        raise TrafficError(
            f"{MODEL_NAME}@{ALIAS} at {tracking_uri}: {reason(answer)};"
            f" train a first version (make train), {REMEDY}"
        )
    try:
        return answer.json()["model_version"]
    except (ValueError, KeyError, TypeError) as err:
        raise TrafficError(
            f"{tracking_uri}{path}: not an answer of MLflow; set MLFLOW_TRACKING_URI, {REMEDY}"
        ) from err


def get(
    tracking_uri: str, path: str, params: dict[str, str], auth: Auth = None
) -> requests.Response:
    """The answer to one GET. Raises TrafficError if there is none."""
    try:
        return requests.get(f"{tracking_uri}{path}", params=params, auth=auth, timeout=TIMEOUT_S)
    except requests.RequestException as err:
        raise TrafficError(
            f"MLFLOW_TRACKING_URI={tracking_uri}: no answer ({err}); start the stack"
            f" (make demo KEEP=1) or set the address, {REMEDY}"
        ) from err


def reason(answer: requests.Response) -> str:
    """What MLflow says is wrong, or the HTTP status."""
    try:
        return answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        if answer.status_code == 401:
            return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return f"HTTP status {answer.status_code}"
