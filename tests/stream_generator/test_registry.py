"""The traffic rows of the production run, from MLflow's own web application."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from stream_generator.traffic.registry import production_rows
from stream_generator.traffic.rows import Row, TrafficError
from tests.conftest import mlflow_database, served
from tests.stream_generator.stand_in import StandIn

TIMEOUT_S = 10
MODEL = "income-classifier"


@pytest.fixture
def mlflow_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve MLflow's web application in this process; yield its address.

    The command `mlflow server` imports MLflow in two more processes, which takes seconds each.
    """
    # The import takes seconds, which the other test does not need.
    from mlflow import server  # pylint: disable=import-outside-toplevel

    monkeypatch.setenv(server.BACKEND_STORE_URI_ENV_VAR, mlflow_database(tmp_path))
    monkeypatch.setenv(server.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
    monkeypatch.setenv(server.ARTIFACTS_DESTINATION_ENV_VAR, str(tmp_path / "artifacts"))
    monkeypatch.setenv(server.SERVE_ARTIFACTS_ENV_VAR, "true")
    with served(server.app) as address:
        yield address


def post(address: str, path: str, **body: object) -> dict:
    """Return the response to a call of MLflow's API."""
    response = requests.post(f"{address}/api/2.0/mlflow/{path}", json=body, timeout=TIMEOUT_S)
    response.raise_for_status()
    return response.json()


def test_rows_come_from_the_run_of_the_production_version(
    mlflow_address: str, rows: list[Row]
) -> None:
    """Each missing part has its own error: the model, its alias, the file of the run."""
    with pytest.raises(TrafficError, match="Registered Model with name=.*make train.*--traffic"):
        production_rows(mlflow_address)
    post(mlflow_address, "registered-models/create", name=MODEL)
    with pytest.raises(TrafficError, match="alias production not found.*make train"):
        production_rows(mlflow_address)

    for version in ("1", "2"):
        run = post(mlflow_address, "runs/create", experiment_id="0", start_time=1)["run"]["info"]
        source = f"runs:/{run['run_id']}/models_mlflow"
        version_of = {"name": MODEL, "source": source, "run_id": run["run_id"]}
        post(mlflow_address, "model-versions/create", **version_of)
        names = {"name": MODEL, "alias": "production", "version": version}
        post(mlflow_address, "registered-models/alias", **names)
    with pytest.raises(TrafficError, match=f"run {run['run_id']} .version 2.*No such artifact"):
        production_rows(mlflow_address)

    content = "".join(json.dumps(row._asdict()) + "\n" for row in rows)
    folder = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
    url = f"{mlflow_address}/api/2.0/mlflow-artifacts/artifacts/{folder}/traffic/traffic.jsonl"
    requests.put(url, data=content, timeout=TIMEOUT_S).raise_for_status()
    assert production_rows(mlflow_address) == production_rows(f"{mlflow_address}/") == rows


def test_the_address_of_another_server_is_an_error_that_names_the_setting(
    stand_in: StandIn,
) -> None:
    with pytest.raises(TrafficError, match="^MLFLOW_TRACKING_URI: .* is not MLflow's; got http"):
        production_rows(stand_in.address)
