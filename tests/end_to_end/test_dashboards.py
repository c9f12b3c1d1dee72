"""Every query of every panel and alert returns data on a real Prometheus with live services.

The services run as processes from the Procfile, on a small model; predictions and labels come in
over HTTP until every query has data.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from config.contract import Contract
from config.alerts import ALERTS
from config.local_stack.stack import PORTS, running, stack_environment
from prediction_service.models.model_folder import REACHED, ModelFolder, Status
from tests.config.test_monitoring_files import (
    WITHOUT_DATA,
    debian,
    expressions,
    label_values,
    query_response,
    scraping,
    variable_queries,
)
from tests.conftest import free_port, wait_until
from tests.evidently_service.events import made_up_rows
from tests.evidently_service.mlflow_registry import RegistryFile
from tests.prediction_service.conftest import install, make_package

pytestmark = pytest.mark.slow

PROCESSES = ("prediction", "relay", "evidently", "measure")
ROWS = 200  # of a request
UNAVAILABLE = re.compile(rf"{WITHOUT_DATA}|income_(re)?training|training_worker|income_shadow")


class Traffic:
    """Sends synthetic records and their labels."""

    def __init__(self, address: str, contract: Contract) -> None:
        self.address = address
        self.contract = contract
        self.seed = 0

    def send(self) -> None:
        """Send a list of records, labels for four in five of them, and an invalid record."""
        self.seed += 1
        rows = made_up_rows(self.contract, ROWS, self.seed)
        records = [{name: row[name] for name in self.contract.input_names} for row in rows]
        predictions = self.post("/predict", records).json()
        labels = [
            {"prediction_id": one["prediction_id"], "label": row["label"]}
            for number, (one, row) in enumerate(zip(predictions, rows))
            if number % 5
        ]
        assert self.post("/feedback", labels).status_code == 202
        assert self.post("/predict", {"age": -3}).status_code == 422

    def post(self, path: str, body: Any) -> requests.Response:
        """Return the response to a request."""
        return requests.post(self.address + path, json=body, timeout=10)


@contextmanager
def services(contract: Contract, folder: Path) -> Iterator[dict[str, str]]:
    """Run the services with model and reference data of version 1; return their environment."""
    registry = RegistryFile(folder)
    assert registry.promote(made_up_rows(contract, 2000, seed=10_000)).number == "1"
    settings = {name: str(free_port()) for name in PORTS} | {"MEASURE_PERIOD_S": "1"}
    env = stack_environment(os.environ | settings, folder / "var", {})
    env["MLFLOW_TRACKING_URI"] = registry.uri
    models = ModelFolder(Path(env["MODEL_DIR"]))
    install(models, make_package(contract, folder / "model"), "1")
    models.report(Status(REACHED))  # in place of the follower
    with running(env, folder / "logs", PROCESSES) as stack:
        stack.wait_healthy("prediction", "evidently")
        yield env


def has_data(address: str, expression: str) -> bool:
    """Return True if the expression has a number."""
    found = query_response(address, expression)
    assert found.get("status", "success") == "success", (expression, found)
    return any(not math.isnan(float(one["value"][1])) for one in found["data"]["result"])


def test_every_query_returns_data_and_every_rule_is_evaluated(contract, tmp_path):
    debian("prometheus")  # skips before anything is started
    with services(contract, tmp_path) as env:
        targets = {
            "prediction:9696": env["PREDICTION_PORT"],
            "evidently:3000": env["EVIDENTLY_PORT"],
        }
        local = {name: f"127.0.0.1:{port}" for name, port in targets.items()}
        with scraping(local, tmp_path) as address:
            traffic = Traffic(env["PREDICTION_ADDRESS"], contract)
            wait_until(lambda: has_data(address, "sum(up) == 3"), "Prometheus to scrape all")
            wait_for_data(address, traffic, variable_queries())
            queries = set(expressions(partial(label_values, address)))
            assert len(queries) > 100
            wait_for_data(address, traffic, {one for one in queries if not UNAVAILABLE.search(one)})
            assert unhealthy_rules(address) == {}


def wait_for_data(address: str, traffic: Traffic, queries: set[str]) -> None:
    """Send traffic until every query has data; fail with the queries without data."""
    without_data = set(queries)

    def all_have_data() -> bool:
        traffic.send()
        without_data.difference_update({one for one in without_data if has_data(address, one)})
        return not without_data

    try:
        wait_until(all_have_data, "data")
    except AssertionError:
        raise AssertionError("no data: " + "\n".join(sorted(without_data))) from None


def unhealthy_rules(address: str) -> dict[str, str]:
    """Return the errors of alert rules that Prometheus cannot evaluate, by name."""
    rules = requests.get(address.replace("/query", "/rules"), timeout=10).json()
    (group,) = rules["data"]["groups"]
    assert len(group["rules"]) == len(ALERTS)
    return {r["name"]: r.get("lastError", "") for r in group["rules"] if r["health"] != "ok"}
