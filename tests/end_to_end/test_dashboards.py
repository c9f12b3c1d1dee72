"""Every query of every panel and alert, asked of a real Prometheus that scrapes the live services.

The services run as processes from the Procfile, on a small model; predictions and labels come in
over HTTP for as long as the queries are asked.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from config.contract import Contract
from config.local_stack.stack import PORTS, running, stack_environment
from prediction_service.models.model_folder import ModelFolder
from tests.config.test_monitoring_files import (
    answer,
    debian,
    expressions,
    scraping,
)
from tests.conftest import free_port, wait_until
from tests.evidently_service.events import made_up_rows
from tests.evidently_service.mlflow_registry import RegistryFile
from tests.prediction_service.conftest import install, make_package

pytestmark = pytest.mark.slow

PROCESSES = ("prediction", "relay", "evidently", "measure")
ROWS = 200  # of a request


class Traffic:
    """Sends made-up people and what they turned out to earn."""

    def __init__(self, address: str, contract: Contract) -> None:
        self.address = address
        self.contract = contract
        self.seed = 0

    def send(self) -> None:
        """One list of records, labels of four in five of them, and one record that is refused."""
        self.seed += 1
        rows = made_up_rows(self.contract, ROWS, self.seed)
        records = [{name: row[name] for name in self.contract.input_names} for row in rows]
        answers = self.post("/predict", records).json()
        labels = [
            {"prediction_id": one["prediction_id"], "label": row["label"]}
            for number, (one, row) in enumerate(zip(answers, rows))
            if number % 5
        ]
        assert self.post("/feedback", labels).status_code == 202
        assert self.post("/predict", {"age": -3}).status_code == 422

    def post(self, path: str, body: Any) -> requests.Response:
        """The answer to a request."""
        return requests.post(self.address + path, json=body, timeout=10)


@contextmanager
def services(contract: Contract, folder: Path) -> Iterator[dict[str, str]]:
    """The environment of running services that have a model and a reference of version 1."""
    registry = RegistryFile(folder)
    assert registry.promote(made_up_rows(contract, 2000, seed=10_000)).number == "1"
    settings = {name: str(free_port()) for name in PORTS} | {"MEASURE_PERIOD_S": "1"}
    env = stack_environment(os.environ | settings, folder / "var", {})
    env["MLFLOW_TRACKING_URI"] = registry.uri
    install(ModelFolder(Path(env["MODEL_DIR"])), make_package(contract, folder / "model"), "1")
    with running(env, folder / "logs", PROCESSES) as stack:
        stack.wait_healthy("prediction", "evidently")
        yield env


ADDRESSES = ("PREDICTION_ADDRESS", "EVIDENTLY_ADDRESS")


def has_data(address: str, expression: str) -> bool:
    """True if Prometheus knows a number for the expression."""
    found = answer(address, expression)
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
            wait_until(lambda: has_data(address, "sum(up) == 3"), 30, "Prometheus to scrape all")
            open_ones = set(expressions())
            assert len(open_ones) > 40

            def all_answered() -> bool:
                traffic.send()
                open_ones.difference_update({o for o in open_ones if has_data(address, o)})
                return not open_ones

            try:
                wait_until(all_answered, 120, "data")
            except AssertionError:
                raise AssertionError("no data: " + "\n".join(sorted(open_ones))) from None
            assert unhealthy_rules(address) == {}


def unhealthy_rules(address: str) -> dict[str, str]:
    """The alert rules that Prometheus could not evaluate, and why."""
    rules = requests.get(address.replace("/query", "/rules"), timeout=10).json()
    (group,) = rules["data"]["groups"]
    assert len(group["rules"]) == 10
    return {r["name"]: r.get("lastError", "") for r in group["rules"] if r["health"] != "ok"}
