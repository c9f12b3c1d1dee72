"""`watch` with a real Prefect server and a stand-in for the Evidently service."""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pymongo
import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry import sqlalchemy_store
from prefect import flow, get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.logging import disable_run_logger
from prefect.states import Completed
from pymongo.collection import Collection
from werkzeug import Request, Response

from config.contract import Contract
from config.model_registry import ALIAS, MODEL_NAME
from tests.conftest import free_port, made_up_rows, served
from tests.training.test_policy import SHIFTED, CALM, DRIFTED
from training.retraining import watch as training_watch
from training.__main__ import main
from training.data.storage import Folder
from training.registry.ledger import Promotion
from training.registry.mlflow_registry import Registry
from training.data.store import Batch, Store
from training.retraining.watch import DRIFT_TAG, find_facts, watch
from training.orchestration.worker import drop_overdue_runs
from training.settings import Settings

LONG_AGO_S = 86400.0

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def evidently(monkeypatch) -> Iterator[dict]:
    """The verdict that a stand-in for the Evidently service returns; it tests no version."""
    verdict: dict = {}

    @Request.application
    def respond(request: Request) -> Response:
        return Response(json.dumps(verdict), 200 if request.path == "/drift" else 404)

    with served(respond) as address:
        monkeypatch.setenv("EVIDENTLY_ADDRESS", address)
        yield verdict


@flow(name="train")
def training_stand_in(  # pylint: disable=unused-argument  # Prefect checks them by name and type
    trigger: str, data: str, force: bool, with_feedback: bool, recent_since: float
) -> None:
    """A flow with the parameters that `watch` passes to `train`; no worker runs it."""


@pytest.fixture
def registry(registry_copy: Registry) -> Registry:
    """A registry whose production version 1 is a day old, without started trainings."""
    remove_drift_runs()
    promote_next(registry_copy, at=time.time() - LONG_AGO_S)
    return registry_copy


def promote_next(registry: Registry, at: float) -> None:
    """Promote a new version that was made at the given time."""
    with contextlib.suppress(MlflowException):
        registry.client.create_registered_model(MODEL_NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlalchemy_store, "get_current_time_millis", lambda: int(at * 1000))
        made = registry.client.create_model_version(MODEL_NAME, "gs://nowhere/model")
    registry.client.set_registered_model_alias(MODEL_NAME, ALIAS, made.version)


@pytest.fixture
def labels(contract: Contract, tmp_path: Path, monkeypatch) -> Callable[..., None]:
    """Return a function that ingests labelled rows into the training store."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    store = Store(Folder(str(tmp_path / "data" / "store")))

    def ingest(rows: int, predicted_at: float = np.nan) -> None:
        frame = made_up_rows(contract, rows).assign(prediction_id=None, predicted_at=predicted_at)
        at, labels = datetime.now(UTC).isoformat(), contract.target.labels
        store.append(Batch(uuid.uuid4().hex, "feed.csv", "2026-11", rows, 0, 0, at, labels), frame)

    return ingest


@pytest.fixture
def deployment() -> None:
    """The deployment that `watch` starts."""
    made = training_stand_in.to_deployment(name="train")
    assert isinstance(made, RunnerDeployment)
    made.apply()


def decide_now() -> str:
    """Return the decision of `watch` without a flow run, which takes half a second."""
    with disable_run_logger():
        return watch.fn()


def runs_tagged(tag: str) -> list:
    """Return the flow runs with a tag."""
    wanted = {"flow_runs": {"tags": {"all_": [tag]}}}
    with get_client(sync_client=True) as client:
        return client.request("POST", "/flow_runs/filter", json=wanted).json()


def drift_runs() -> list:
    """Return the flow runs that drift started."""
    return runs_tagged(DRIFT_TAG)


def remove_drift_runs():
    """Remove the runs of earlier tests."""
    with get_client(sync_client=True) as client:
        for run in drift_runs():
            client.request("DELETE", f"/flow_runs/{run['id']}")


def test_a_calm_window_starts_nothing_and_leaves_no_entry(evidently, registry):
    evidently.update(CALM)
    assert watch() == "no training: the verdict of the monitoring is calm"
    assert not drift_runs() and registry.ledger.decisions() == []


@pytest.mark.usefixtures("deployment")
def test_drift_starts_a_training_after_enough_labels_and_the_ledger_has_each_decision(
    evidently, registry, labels, capsys
):
    evidently.update(DRIFTED | {"model_version": "1"})
    evidently["judgement"] = DRIFTED["judgement"] | {"drifted_from": "1"}
    for _ in range(2):
        assert "0 fresh labelled rows, expected at least WATCH_MIN_LABELS=1500" in decide_now()
    labels(1500)
    assert watch().startswith("training started: flow run")
    (run,) = drift_runs()
    assert run["parameters"] == {
        "trigger": "drift",
        "data": "production",
        "force": True,
        "with_feedback": False,
        "recent_since": 7.0,
    }
    assert f"flow run {run['name']} has not ended" in decide_now()
    end(run)
    assert "after 1 without a promotion" in decide_now()  # nothing was promoted, so it backs off
    promote_next(registry, at=time.time() + 1)
    assert "production is 2, the monitoring observes 1" in decide_now()
    assert len(drift_runs()) == 1

    ledger = registry.ledger.decisions()[::-1]
    rules = ["labels", "train", "running", "back-off", "version"]
    assert [one["rule"] for one in ledger] == rules
    assert [one["times"] for one in ledger] == ["2", "1", "1", "1", "1"]
    assert ledger[1]["flow_run"] == run["name"]
    main(["decisions"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5
    drift = "25% of the features have drifted; columns and outputs: age, sex, race"
    assert f"(2 times)  version 1: {drift}; no" in printed[4]
    assert f"flow run {run['name']} started: 1500 fresh labelled rows" in printed[3]


@pytest.mark.usefixtures("deployment")
def test_after_a_rollback_a_promoted_training_does_not_delay_the_next(registry):
    """Such a training once counted as one without a promotion: production was older than it."""
    schedule(DRIFT_TAG, datetime.now(UTC))
    assert find_facts(registry, 0.0, Settings()).unpromoted == 1
    promote_next(registry, at=time.time() + 1)
    registry.promote("2", Promotion("training flow", "better"))
    registry.promote("1", Promotion("ann", "rollback: it is bad"))
    facts = find_facts(registry, 0.0, Settings())
    assert facts.production == "1" and len(facts.started) == 1 and facts.unpromoted == 0


@pytest.mark.usefixtures("deployment", "registry")
def test_runs_that_decide_at_the_same_time_start_one_training(evidently, labels, monkeypatch):
    """On a busy worker two runs decided within a second, and each started a training."""
    evidently.update(DRIFTED | {"model_version": "1"})
    evidently["judgement"] = DRIFTED["judgement"] | {"drifted_from": "1"}
    labels(1500)
    facts = []

    def same(*given):
        facts.append(facts[0] if facts else find_facts(*given))
        return facts[-1]

    monkeypatch.setattr("training.retraining.watch.find_facts", same)
    said = {decide_now() for _ in range(2)}
    (run,) = drift_runs()
    assert len(facts) == 2 and len(said) == 1 and f"flow run {run['name']}" in said.pop()


@pytest.fixture
def log(mongodb_uri: str, monkeypatch) -> Iterator[Collection]:
    """The prediction log in MongoDB, in a database of the test's own."""
    database = f"test_{uuid.uuid4().hex}"
    monkeypatch.setenv("MONGODB_ADDRESS", mongodb_uri)
    monkeypatch.setenv("MONGODB_DATABASE", database)
    monkeypatch.setenv("LEARN_ANONYMOUS_LABELS", "true")
    with pymongo.MongoClient[dict[str, Any]](mongodb_uri) as client:
        yield client[database]["predictions"]
        client.drop_database(database)


@pytest.mark.usefixtures("deployment")
def test_labelled_predictions_in_mongodb_count_as_fresh_labels(
    evidently, registry, labels, log, monkeypatch
):
    monkeypatch.setenv("WATCH_MIN_LABELS", "1000")
    evidently.update(SHIFTED | {"model_version": "1"})
    labels(20)
    now, earlier = datetime.now(UTC), datetime.now(UTC) - timedelta(seconds=2 * LONG_AGO_S)
    add_labelled(log, 30, earlier)
    add_labelled(log, 979, now)
    assert "999 fresh labelled rows" in decide_now()
    add_labelled(log, 1, now)
    assert "; 1000 fresh labelled rows" in decide_now()
    (run,) = drift_runs()
    assert (run["parameters"]["with_feedback"], run["parameters"]["recent_since"]) == (True, 9.0)
    assert registry.ledger.decisions()[0]["cause"].startswith("600 labels contradict")


def test_new_labels_of_predictions_before_the_drift_start_no_training(
    evidently, registry, labels, log
):
    """Such labels once counted. The trainings had no recent rows for training and holdout set.
    Nothing was promoted, and the next training was delayed.
    """
    now, hour = datetime.now(UTC), timedelta(hours=1)
    judgement = DRIFTED["judgement"] | {"drifted_from": "1"}
    judgement["changed_by"] = (now - hour).timestamp()
    evidently.update(DRIFTED | {"model_version": "1", "judgement": judgement})
    labels(1600, predicted_at=(now - 2 * hour).timestamp())
    labels(1600)  # without a time: the first day of the period
    labels(20, predicted_at=now.timestamp())
    add_labelled(log, 1600, now, predicted_at=now - 2 * hour)
    add_labelled(log, 1600, now, conflicts=[{"label": 0, "labelled_at": now}])
    add_labelled(log, 30, now)
    assert "50 fresh labelled rows, expected at least WATCH_MIN_LABELS" in decide_now()
    assert not drift_runs() and registry.ledger.decisions()[0]["rule"] == "labels"


def add_labelled(log: Collection, rows: int, at: datetime, **other: Any) -> None:
    """Insert labelled predictions as the relay does."""
    one = {"features": {}, "predicted_at": at, "label": 1, "labelled_at": at} | other
    log.insert_many([{"_id": uuid.uuid4().hex, **one} for _ in range(rows)])


def end(run: dict[str, Any]) -> None:
    """Set a run to Completed."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(uuid.UUID(run["id"]), Completed(), force=True)


def schedule(tag: str, at: datetime) -> None:
    """Create a flow run with this tag and start time."""
    with get_client(sync_client=True) as client:
        flow_id = str(client.create_flow(training_stand_in))
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": at.isoformat()}}
        run = {"flow_id": flow_id, "tags": [tag], "state": state}
        client.request("POST", "/flow_runs/", json=run)


def test_trainings_before_the_period_of_the_budget_do_not_count():
    remove_drift_runs()
    schedule(DRIFT_TAG, datetime.now(UTC) - timedelta(hours=2))
    assert not training_watch.drift_runs(time.time() - 3600)
    assert len(training_watch.drift_runs(time.time() - 3 * 3600)) == 1


def test_runs_that_came_due_without_a_worker_are_removed():
    """After a night without a worker, a hundred such runs would delay the first new run."""
    for hours in (-2, -1, 1):
        schedule("auto-scheduled", datetime.now(UTC) + timedelta(hours=hours))
    schedule("asked-for", datetime.now(UTC) - timedelta(hours=1))
    drop_overdue_runs()
    assert len(runs_tagged("auto-scheduled")) == 1  # the one that is not due yet
    assert len(runs_tagged("asked-for")) == 1


@pytest.mark.usefixtures("registry")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise loads all its plugins
def test_the_first_failure_of_a_series_is_reported(evidently, notifications, monkeypatch):
    """A `watch` that always failed was once reported nowhere, and drift started no training."""
    evidently.update(CALM)
    address = os.environ["EVIDENTLY_ADDRESS"]
    for reported in (1, 2):
        monkeypatch.setenv("EVIDENTLY_ADDRESS", address)
        assert watch() == "no training: the verdict of the monitoring is calm"
        monkeypatch.setenv("EVIDENTLY_ADDRESS", f"http://127.0.0.1:{free_port()}")
        for _ in range(2):
            assert watch(return_state=True).is_failed()
        assert len(notifications) == reported
    assert "flow watch" in notifications[0]["title"]
    assert "ConnectionError" in notifications[0]["message"]
