"""Short runs of the serving benchmarks: they check that figures appear, not how high they are.

They also check that the service and MLflow's server return the same predictions.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from config.contract import Contract
from prediction_service.journal import journal_paths, newest
from tests.benchmarks.served_model import train
from tests.benchmarks.servers import Server, mlflow_server, service

ROOT = Path(__file__).parents[2]
N_ROWS = 200
SERVERS = ("floor", "service", "mlflow")

pytestmark = pytest.mark.slow


def measured(folder: Path, module: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """Return the figures of one run of a benchmark, by name without the interval."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{module}", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        check=True,
        timeout=240,
    )
    (path,) = (folder / "build" / "bench").iterdir()
    content = json.loads(path.read_text("utf-8"))
    assert content["command"].startswith("make bench NAME=") and content["machine"]["cores"]
    return {one["name"].partition(", ")[0]: one for one in content["results"]}


@pytest.mark.usefixtures("census_dir")
def test_one_prediction_is_measured_beside_its_floor_and_mlflow(tmp_path: Path) -> None:
    short = ("--rounds", "2", "--seconds", "0.5", "--journal-rows", "20000")
    figures = measured(tmp_path, "benchmark_serving", *short)
    for name in SERVERS:
        assert figures[f"{name}: predictions"]["value"] > 0
        assert figures[f"{name}: start to first response"]["value"] > 0
    assert {name for name, one in figures.items() if one["goal"]} == {
        "service / floor: rate",
        "service / floor: p99 at the same rate",
        "service / mlflow: rate",
        "service: memory per worker",
        "service: start to first response",
        "service: p99 after a swap / before",
        "journal: long / short",
    }
    assert all(one["value"] > 0 for one in figures.values())


@pytest.mark.usefixtures("census_dir")
def test_both_do_the_same_work(tmp_path: Path, contract: Contract) -> None:
    """Both return the same probabilities. The service also journals every row."""
    model = train(tmp_path, contract)
    rows = model.records[:N_ROWS]
    with ExitStack() as stack:
        responses = []
        for server in (service(tmp_path, 2, model), mlflow_server(2, model)):
            stack.enter_context(server.running(rows[:1], tmp_path / f"{server.name}.log"))
            responses.append(post(server, rows))
    ours = [one["probability"] for one in responses[0]]
    theirs = [one["probability"] for one in responses[1]["predictions"]]
    assert len(ours) == N_ROWS
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert sum(newest(path)[0] for path in journal_paths(tmp_path / "journal")) == N_ROWS + 1


def post(server: Server, rows: list[dict[str, Any]]) -> Any:
    """Return the response of a server to all rows at once."""
    address = f"http://127.0.0.1:{server.port}{server.path}"
    response = requests.post(address, json=server.body(rows), timeout=30)
    assert response.ok, response.text
    return response.json()
