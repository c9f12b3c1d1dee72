"""The figures about trainings, with a real Prefect server and ledger."""

import re
import time
import uuid
from typing import Any

import pytest
import requests
from prefect import flow, get_client
from prefect.client.schemas.objects import State
from prefect.states import Completed, Crashed, Failed, Running
from prometheus_client import CollectorRegistry, start_http_server

from config.model_registry import MODEL_NAME
from tests.conftest import free_port
from training.orchestration.exporter import RECENT_S, TrainingCollector, read_trainings
from training.registry.ledger import Promotion
from training.registry.mlflow_registry import Registry

pytestmark = pytest.mark.usefixtures("prefect_server", "no_trainings")


@flow(name="train")
def train() -> None:
    """A stand-in for the flow."""


@pytest.fixture
def no_trainings() -> None:
    """Remove the runs of `train` of earlier tests."""
    wanted = {"flows": {"name": {"any_": ["train"]}}}
    with get_client(sync_client=True) as client:
        while runs := client.request("POST", "/flow_runs/filter", json=wanted).json():
            for run in runs:
                client.delete_flow_run(uuid.UUID(run["id"]))


def start_training() -> uuid.UUID:
    """Create a running run of `train`; return its id."""
    with get_client(sync_client=True) as client:
        return client.create_flow_run(train, state=Running()).id


def end(run: uuid.UUID, state: State[Any]) -> None:
    """End a run."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, state, force=True)


def test_a_running_training_has_an_age_and_an_ended_one_a_result(registry_copy: Registry) -> None:
    found = read_trainings(registry_copy, time.time())
    assert found == (None, None, None, None)
    first, second = start_training(), start_training()
    found = read_trainings(registry_copy, time.time())
    assert found.running_since == pytest.approx(time.time(), abs=60)
    assert found.last_failed is None
    results: list[tuple[State[Any], bool]]
    results = [(Failed(), True), (Completed(), False), (Crashed(), True)]
    for state, failed in results:
        end(first, state)
        assert read_trainings(registry_copy, time.time()).last_failed is failed
        first = start_training()
    end(first, Completed())
    end(second, Completed())
    assert read_trainings(registry_copy, time.time()) == (None, False, None, None)


def test_blocked_by_is_the_rule_of_a_recent_decision_without_a_training(
    registry_copy: Registry,
) -> None:
    now = time.time()
    registry_copy.ledger.write_decision({"rule": "labels"}, {"why": "0 fresh labelled rows"})
    assert read_trainings(registry_copy, now).blocked_by == "labels"
    assert read_trainings(registry_copy, now + RECENT_S + 60).blocked_by is None
    registry_copy.ledger.write_decision({"rule": "train"}, {"why": "1500 fresh labelled rows"})
    assert read_trainings(registry_copy, now).blocked_by is None


def test_the_figures_are_served_to_prometheus(registry_copy: Registry) -> None:
    registry_copy.ledger.write_decision({"rule": "budget"}, {"why": "8 started in 30 days"})
    registry_copy.client.create_registered_model(MODEL_NAME)
    registry_copy.client.create_model_version(MODEL_NAME, "gs://nowhere/model")
    registry_copy.promote("1", Promotion("shadow test", "undone: worse"))
    start_training()
    served, port = CollectorRegistry(), free_port()
    served.register(TrainingCollector(lambda: read_trainings(registry_copy, 0.0)))
    server, _ = start_http_server(port, "127.0.0.1", served)
    text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    server.shutdown()
    server.server_close()
    assert 'income_retraining_blocked{rule="budget"} 1.0' in text
    (age_s,) = re.findall(r"\nincome_training_age_seconds (.*)", text)
    assert 0 < float(age_s) < 60
    undone_at = re.findall(r"\nincome_promotion_undone_timestamp_seconds (.*)", text)
    assert float(undone_at[0]) == pytest.approx(time.time(), abs=60)
    assert "income_training_failed" not in text
