"""Read the traffic rows of the production version's run from MLflow's REST API.

This is the one module that knows MLflow. Two GET requests do not justify MLflow's package.
"""

from typing import Any

import requests
import structlog

from config.model_registry import ALIAS, MODEL_NAME, TRAFFIC
from stream_generator.traffic.rows import Row, TrafficError, parse_rows

log = structlog.get_logger(__name__)

Auth = tuple[str, str] | None  # user and password

TIMEOUT_S = 30  # the server may have to fetch the file from a bucket first
REMEDY = "or name a file with --traffic."


def production_rows(tracking_uri: str, auth: Auth = None) -> list[Row]:
    """Return the traffic rows of the production version's run. Raises TrafficError."""
    version = production_version(tracking_uri, auth)
    run_id = version["run_id"]
    source = f"{TRAFFIC} of run {run_id} (version {version['version']}) at {tracking_uri}"
    # /get-artifact returns a file from every kind of artifact store: bucket, emulator or folder.
    response = get(tracking_uri, "/get-artifact", {"path": TRAFFIC, "run_uuid": run_id}, auth)
    if response.status_code != 200:
        raise TrafficError(f"{source}: {reason(response)}. Train again (make train), {REMEDY}")
    rows = parse_rows(response.content, source)
    log.info("traffic_rows_read", rows=len(rows), source=source)
    return rows


def production_version(tracking_uri: str, auth: Auth = None) -> dict[str, Any]:
    """Return the registry's entry of the production version. Raises TrafficError."""
    path = "/api/2.0/mlflow/registered-models/alias"
    response = get(tracking_uri, path, {"name": MODEL_NAME, "alias": ALIAS}, auth)
    if response.status_code != 200:
        raise TrafficError(
            f"{MODEL_NAME}@{ALIAS} at {tracking_uri}: {reason(response)}."
            f" Train a first version (make train), {REMEDY}"
        )
    try:
        return response.json()["model_version"]
    except (ValueError, KeyError, TypeError) as err:
        raise TrafficError(
            f"MLFLOW_TRACKING_URI: the response of {path} is not MLflow's; got {tracking_uri},"
            f" expected an MLflow server. Set its address, {REMEDY}"
        ) from err


def get(
    tracking_uri: str, path: str, params: dict[str, str], auth: Auth = None
) -> requests.Response:
    """Return the response to one GET request. Raises TrafficError if none arrives."""
    try:
        url = tracking_uri.rstrip("/") + path
        return requests.get(url, params=params, auth=auth, timeout=TIMEOUT_S)
    except requests.RequestException as err:
        raise TrafficError(
            f"MLFLOW_TRACKING_URI: MLflow cannot be reached ({type(err).__name__});"
            f" got {tracking_uri}, expected an MLflow server."
            f" Start the stack (make demo KEEP=1), set the address, {REMEDY}"
        ) from err


def reason(response: requests.Response) -> str:
    """Return the problem that MLflow reports, or the HTTP status."""
    try:
        return response.json()["message"].rstrip(".")
    except (ValueError, KeyError, TypeError, AttributeError):
        if response.status_code == 401:
            return "HTTP status 401; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return f"HTTP status {response.status_code}"
