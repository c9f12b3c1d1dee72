"""The ledger: promotions and the way back through them, and decisions about trainings."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from prefect.settings import (  # pylint: disable=no-name-in-module  # made when asked for
    PREFECT_API_URL,
    temporary_settings,
)
from werkzeug import Request, Response

from config.model_registry import MODEL_NAME
from tests.conftest import free_port, served
from training.__main__ import main
from training.orchestration.tasks import promotion_turn
from training.registry import serving
from training.registry.ledger import Promotion
from training.registry.mlflow_registry import Registry

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def registry(registry_copy: Registry) -> Registry:
    """A registry with the versions 1 to 4 and no promotion."""
    registry_copy.client.create_registered_model(MODEL_NAME)
    for _ in range(4):
        registry_copy.client.create_model_version(MODEL_NAME, "gs://nowhere/model")
    return registry_copy


def promote(registry: Registry, *versions: str) -> None:
    """Promote one version after the other."""
    for version in versions:
        registry.promote(version, Promotion("a test", "next"))


def rollback() -> None:
    """Run the command."""
    main(["rollback", "--why", "it is bad", "--who", "ann", "--no-wait"])


def production(registry: Registry) -> str:
    """Return the number of the production version."""
    version = registry.production()
    assert version
    return str(version.version)


def test_each_rollback_goes_one_version_further_back(registry, capsys):
    """A second rollback once returned to the version that the first one had removed."""
    promote(registry, "1", "2", "3")
    rollback()
    assert production(registry) == "2"
    rollback()
    assert production(registry) == "1"
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("production: ")] == [
        "production: version 3 -> 2",
        "production: version 2 -> 1",
    ]
    with pytest.raises(SystemExit, match="no earlier version"):
        rollback()
    promote(registry, "4")
    rollback()
    assert production(registry) == "1"


def test_a_promotion_waits_for_the_services_and_names_those_with_another_version(
    registry, capsys, monkeypatch
):
    """The command once announced the new version within seconds, while the follower was down."""
    promote(registry, "1", "2", "3")
    states = {"/model": {"model_version": "3"}, "/drift": {"model_version": "2", "error": None}}
    states["/health/ready"] = {"rejected": None, "registry": "reached", "follower_age_s": 90.0}
    with pytest.raises(SystemExit):
        main(["rollback", "--why", " "])
    assert "--why: got ' ', expected a reason in words" in capsys.readouterr().err
    command = ["rollback", "--why", "it is bad"]
    respond = Request.application(lambda one: Response(json.dumps(states[one.path])))
    with served(respond) as address:
        monkeypatch.setenv("PREDICTION_ADDRESS", address)
        monkeypatch.setenv("EVIDENTLY_ADDRESS", address)
        threading.Timer(1.0, states["/model"].update, [{"model_version": "2"}]).start()
        main(command)
        assert "the monitoring use version 2" in capsys.readouterr().out
        monkeypatch.setattr(serving, "WAIT_S", 1.0)
        states["/drift"]["error"] = "MLflow does not respond"
        with pytest.raises(SystemExit) as ended:
            main(command)
    prediction, monitoring = str(ended.value).splitlines()
    assert prediction == (
        "the prediction service uses version 2, not 1. Its follower is silent for 90 s: start it"
        " again."
    )
    assert monitoring.endswith("uses version 2, not 1. Error: MLflow does not respond")
    assert production(registry) == "1"


def test_a_rollback_prints_both_versions_before_it_moves_production(registry, capsys, monkeypatch):
    promote(registry, "1", "2")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("MLflow went down")

    monkeypatch.setattr(Registry, "promote", fail)
    with pytest.raises(ConnectionError):
        rollback()
    assert "production: version 2 -> 1" in capsys.readouterr().out


def test_a_rollback_never_returns_to_a_version_that_was_rolled_back(registry):
    """A promotion of an earlier version counts as a rollback too."""
    promote(registry, "1", "2", "3", "2")
    assert registry.ledger.predecessor("2") == "1"
    promote(registry, "3")  # forward again
    assert registry.ledger.predecessor("3") == "2"
    promote(registry, "3", "1")  # then two versions back at once, which a rollback undoes
    assert registry.ledger.predecessor("1") == "3"


def test_a_rollback_undoes_a_promotion_that_is_not_in_the_ledger(registry):
    """A promotion was interrupted after it moved production, or MLflow's page moved it."""
    promote(registry, "1", "2")
    registry.client.set_registered_model_alias(MODEL_NAME, "production", "3")
    rollback()
    assert production(registry) == "2"
    rollback()
    assert production(registry) == "1"


def test_a_person_waits_for_the_promotion_of_a_training(registry):
    """A rollback between a training's gate and its promotion was overwritten."""
    promote(registry, "1", "2")
    with ThreadPoolExecutor(1) as pool:
        with promotion_turn():
            waiting = pool.submit(copy_context().run, rollback)  # with the test's Prefect
            with pytest.raises(TimeoutError):
                waiting.result(timeout=5)
            promote(registry, "3")
        waiting.result(timeout=120)
    newest = registry.ledger.promotions()[0]
    assert (newest["from_version"], newest["to_version"], newest["who"]) == ("3", "2", "ann")


def test_a_rollback_needs_no_prefect(registry, capsys):
    promote(registry, "1", "2")
    address = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: address}):
        rollback()
    assert production(registry) == "1"
    warning = capsys.readouterr().err
    assert address in warning and "The promotion lock is not held." in warning


def test_a_removed_predecessor_is_named(registry):
    promote(registry, "1", "2")
    registry.client.delete_model_version(MODEL_NAME, "1")
    with pytest.raises(SystemExit, match="version 1 was production before 2.* promote"):
        rollback()
    assert production(registry) == "2"


def test_entries_and_experiments_have_descriptions_on_mlflows_pages(registry):
    """They once had random names of MLflow, such as `capable-tern-539`."""
    promote(registry, "1", "2")
    registry.ledger.write_decision({"rule": "cool-down", "version": "2"}, {})
    registry.ledger.write_decision({"rule": "train", "flow_run": "amber-fox"}, {})
    shown = []
    for name in ("income-promotions", "income-decisions"):
        experiment = registry.client.get_experiment_by_name(name)
        assert experiment.tags["mlflow.note.content"].startswith("One run for each change")
        runs = registry.client.search_runs([experiment.experiment_id])
        shown += [run.info.run_name for run in runs]
    assert shown[:2] == ["version 1 to 2", "version none to 1"]
    assert shown[2:] == ["training: amber-fox", "no training: cool-down"]


def test_an_interrupted_decision_is_listed_and_stops_no_command(registry, monkeypatch, capsys):
    """A decision without an end time once made every later command crash."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    ledger = registry.ledger
    details = {"cause": "3 features have drifted", "why": "too few labels"}
    with monkeypatch.context() as patch:
        patch.setattr(ledger.client, "set_terminated", fail)
        with pytest.raises(KeyboardInterrupt):
            ledger.write_decision({"rule": "labels", "version": "1"}, details)
    main(["decisions"])
    listed = capsys.readouterr().out
    assert listed.endswith("version 1: 3 features have drifted; no training: too few labels\n")
    ledger.write_decision({"rule": "labels", "version": "1"}, details)
    main(["decisions"])
    assert "(2 times)  version 1: 3 features have drifted" in capsys.readouterr().out
