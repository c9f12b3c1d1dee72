"""Shadow tests: how they start and end, with a real MLflow and Prefect and stand-in services."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from werkzeug import Request, Response

from config.model_registry import ALIAS, CHALLENGER, FALLBACK, MODEL_NAME
from prediction_service.metrics import FinishedRequest, Metrics
from tests.conftest import free_port, served
from tests.training.test_policy import CALM
from tests.training.test_watch import decide_now
from training.__main__ import main
from training.evaluation.serving_bounds import read_served, serving_problem
from training.orchestration import flows
from training.orchestration.promotion import alias_for
from training.registry.ledger import Promotion
from training.registry.mlflow_registry import Registry, number_of
from training.registry.shadow_test import challenge
from training.settings import Settings

WHY = "better: log loss by 0.0123 (0.0040 to 0.0210), 812 labels"
EVIDENCE = {"labels": 812, "gain": 0.0123, "lower": 0.004, "upper": 0.021}
EVIDENCE |= {"log_e_better": 2.0, "log_e_worse": -1.5}
STATE: dict[str, Any] = {
    "kind": "challenger",
    "version": "2",
    "production": "1",
    "started_at": 1.79e9,
    "verdict": None,
    "why": WHY,
    "labels": 812,
    "rows": 4000,
    "decided_at": None,
    "evidence": EVIDENCE,
    "segments": {"sex: Female": EVIDENCE | {"gain": -0.01, "labels": 300}},
    "agreement": 0.97,
    "mean_probability": [0.24, 0.25],
    "error": None,
    "error_rate": 0.05,
}
GUARD = STATE | {"kind": "fallback", "version": "1", "production": "2"}
NO_WAIT = ["--why", "to see", "--who", "ann", "--no-wait"]

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def registry(registry_copy: Registry) -> Registry:
    """A registry with the versions 1 to 4, of which 4 failed the gate; 1 is production."""
    found = registry_copy
    found.client.create_registered_model(MODEL_NAME)
    for gate in ("passed", "passed", "passed", "failed"):
        tags = {"gate": gate, "gate_reason": "of the gate", "data_source": "uci"}
        found.client.create_model_version(MODEL_NAME, "gs://nowhere/model", tags=tags)
    found.promote("1", Promotion("a test", "first"))
    return found


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The responses of both services by path; a path without one is not found."""
    responses = {"/drift": json.dumps(CALM)}

    @Request.application
    def respond(request: Request) -> Response:
        body = responses.get(request.path)
        return Response(body, 404 if body is None else 200)

    with served(respond) as address:
        monkeypatch.setenv("EVIDENTLY_ADDRESS", address)
        monkeypatch.setenv("PREDICTION_ADDRESS", address)
        yield responses


def aliases(registry: Registry) -> list[str]:
    """Return the numbers of production, challenger and fallback."""
    return [number_of(registry.named(name)) for name in (ALIAS, CHALLENGER, FALLBACK)]


def newest(registry: Registry) -> tuple[str, ...]:
    """Return both versions, author and reason of the newest entry of the ledger."""
    entry = registry.ledger.promotions()[0]
    return tuple(entry[name] for name in ("from_version", "to_version", "who", "why"))


def result_of(registry: Registry, version: str) -> tuple[str | None, str | None]:
    """Return the tags of a version about its shadow test."""
    found = registry.version(version)
    assert found
    return found.tags.get("shadow"), found.tags.get("shadow_reason")


@pytest.fixture
def end(registry: Registry, services: dict[str, str]) -> Callable[..., None]:
    """Return a function that runs `watch` twice with a verdict on version 2.

    The second run must not repeat the changes of the first one.
    """

    def run(state: dict[str, Any]) -> None:
        services["/shadow"] = json.dumps(state)
        for _ in range(2):
            entries = len(registry.ledger.promotions())
            decide_now()
        assert len(registry.ledger.promotions()) == entries

    return run


def test_a_proved_challenger_is_promoted_and_the_former_version_becomes_the_fallback(registry, end):
    challenge(registry, "2")
    end(STATE | {"verdict": "promote"})
    assert aliases(registry) == ["2", "none", "1"]
    assert newest(registry) == ("1", "2", "shadow test", WHY)


def test_a_verdict_on_another_pair_of_versions_changes_no_alias(registry, end):
    """A person promoted version 3 after the last response about the test."""
    challenge(registry, "2")
    registry.promote("3", Promotion("ann", "to see"))
    challenge(registry, "2")
    end(STATE | {"verdict": "promote"})
    assert aliases(registry) == ["3", "2", "1"]


def test_a_rejected_challenger_loses_its_alias_and_needs_force(registry, end, capsys):
    challenge(registry, "2")
    end(STATE | {"verdict": "reject", "why": "worse for sex: Female"})
    assert aliases(registry) == ["1", "none", "none"]
    assert result_of(registry, "2") == ("rejected", "worse for sex: Female")
    assert newest(registry)[:2] == ("1", "1") and registry.ledger.predecessor("1") == "none"
    assert number_of(registry.newest_promoted(registry.production())) == "1"
    main(["history"])
    shown = capsys.readouterr().out.splitlines()[0]
    assert shown.endswith("1 stays  shadow test: version 2 rejected: worse for sex: Female")
    with pytest.raises(SystemExit, match="shadow test rejected it: worse for sex: Female.*--force"):
        main(["promote", "2", *NO_WAIT])
    main(["promote", "2", "--force", *NO_WAIT])  # a new test, without the old result
    assert aliases(registry) == ["1", "2", "none"] and result_of(registry, "2") == (None, None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise loads all its plugins
def test_a_worse_version_is_undone_with_a_notification(registry, end, notifications):
    registry.promote("2", Promotion("shadow test", WHY))
    assert registry.ledger.last_undone() is None
    end(GUARD | {"verdict": "undo", "why": "worse: log loss by 0.02"})
    assert aliases(registry) == ["1", "none", "none"]
    assert newest(registry) == ("2", "1", "shadow test", "undone: worse: log loss by 0.02")
    assert result_of(registry, "2") == ("rejected", "undone: worse: log loss by 0.02")
    assert registry.ledger.last_undone() == pytest.approx(time.time(), abs=60)
    (message,) = notifications
    assert message["title"].endswith("version 2 was undone, version 1 is production again")
    assert message["message"] == "worse: log loss by 0.02"


def test_a_kept_version_loses_its_fallback(registry, end):
    registry.promote("2", Promotion("shadow test", WHY))
    end(GUARD | {"verdict": "keep", "why": "10000 labels"})
    assert aliases(registry) == ["2", "none", "none"]
    assert newest(registry) == ("2", "2", "shadow test", "version 2 kept: 10000 labels")
    assert registry.ledger.predecessor("2") == "1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise loads all its plugins
def test_with_promotion_ask_a_person_promotes_the_proved_challenger(
    registry, end, services, notifications, monkeypatch
):
    monkeypatch.setenv("PROMOTION", "ask")
    challenge(registry, "2")
    end(STATE | {"verdict": "promote"})
    assert aliases(registry) == ["1", "2", "none"]
    assert result_of(registry, "2") == ("proved", WHY)
    assert newest(registry) == ("1", "1", "shadow test", f"version 2 proved: {WHY}")
    (message,) = notifications
    assert "python -m training promote 2" in message["message"]
    services["/model"] = services["/drift"]  # both services use version 2
    flows.promote.fn("2", "it looks right")
    assert aliases(registry) == ["2", "none", "1"]
    assert newest(registry) == ("1", "2", "Prefect's page", "it looks right")


def exposed(errors: int, seconds: dict[str, float]) -> str:
    """Return the metrics after 1000 predictions of version 1 and 200 of version 2."""
    metrics = Metrics(CollectorRegistry())
    for version, count in (("1", 1000), ("2", 200)):
        metrics.set_live_version(version)
        failed = errors if version == "2" else 25
        for number in range(count):
            status, took = 500 if number < failed else 200, seconds[version]
            one = FinishedRequest(0.0, took, "r", "predict", "POST /predict", status, {})
            metrics.count_requests([one])
    return generate_latest(metrics.registry).decode()


@pytest.mark.parametrize(
    ("errors", "seconds", "problem"),
    [
        (10, {"1": 0.004, "2": 0.004}, ""),  # 5.0 %
        (11, {"1": 0.004, "2": 0.004}, "server errors: 5.5% of 200 predictions, before 2.5%"),
        (0, {"1": 0.004, "2": 0.0121}, "latency: 12.1 ms on average, before 4.0 ms"),
        (0, {"1": 0.0004, "2": 0.0049}, ""),  # 12 times as slow, and fast enough
    ],
)
def test_a_new_version_may_not_break_the_bounds_of_serving(errors, seconds, problem):
    found = read_served(exposed(errors, seconds))
    assert found.keys() == {"1", "2"}
    assert serving_problem(found["2"], found["1"]) == problem
    found["2"].responses = 199
    assert serving_problem(found["2"], found["1"]) == ""


def test_a_version_that_fails_requests_is_undone_without_labels(registry, services):
    registry.promote("2", Promotion("shadow test", WHY))
    services["/metrics"] = exposed(20, {"1": 0.004, "2": 0.004})
    decide_now()
    assert aliases(registry) == ["1", "none", "none"]
    why = "undone: server errors: 10.0% of 200 predictions, before 2.5%"
    assert newest(registry)[3] == why
    main(["promote", "2", "--force", "--now", *NO_WAIT])  # its counts have not changed since
    decide_now()
    assert aliases(registry) == ["2", "none", "1"]


def test_the_command_promote_starts_a_shadow_test_unless_now_is_given(registry, capsys):
    main(["promote", "2", *NO_WAIT])
    assert "version 2 is the challenger of version 1" in capsys.readouterr().out
    assert aliases(registry) == ["1", "2", "none"]
    with pytest.raises(SystemExit, match="version 1: it is the production version"):
        main(["promote", "1", *NO_WAIT])
    with pytest.raises(SystemExit, match="version 4: did not pass the gate: of the gate.*--force"):
        main(["promote", "4", "--now", *NO_WAIT])
    main(["promote", "3", "--now", *NO_WAIT])
    main(["promote", "4", "--now", "--force", *NO_WAIT])
    assert aliases(registry) == ["4", "none", "3"]
    for going_back in (["promote", "3", "--now", *NO_WAIT], ["rollback", *NO_WAIT]):
        main(going_back)
        assert aliases(registry)[1:] == ["none", "none"]  # nothing guards an older version
    assert aliases(registry)[0] == "1"
    capsys.readouterr()
    main(["history"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].endswith("3 -> 4  ann (forced, untested): to see")
    assert shown[3].endswith("1 -> 3  ann (untested): to see")


def test_promotion_mode_and_data_source_decide_about_a_shadow_test(registry):
    def alias(mode: Literal["shadow", "direct", "ask"], source: str = "uci") -> str:
        return alias_for(source, registry, Settings(promotion=mode))

    assert [alias("shadow"), alias("ask"), alias("direct")] == [CHALLENGER, CHALLENGER, ALIAS]
    registry.client.set_model_version_tag(MODEL_NAME, "1", "data_source", "synthetic")
    assert [alias("ask"), alias("ask", "synthetic")] == [ALIAS, CHALLENGER]
    registry.client.delete_registered_model_alias(MODEL_NAME, ALIAS)
    assert alias("ask", "synthetic") == ALIAS  # the first version


def test_the_command_shadow_shows_the_test(services, capsys, monkeypatch):
    services["/shadow"] = json.dumps(STATE)
    main(["shadow"])
    shown = capsys.readouterr().out
    assert "version 2, the challenger, beside production version 1" in shown
    assert f"verdict: none yet: {WHY}" in shown
    assert "4000 predictions, 812 with labels" in shown
    # e^2 = 7.39; 812 labels gave 2.0 of the ln 20 = 2.996 that decide: 404 more.
    assert "20 decides: 7.4 for better, 0.22 for worse; at this rate about 404 more" in shown
    assert "same class for 97.0% of the predictions" in shown
    assert "  sex: Female: -0.0100 (0.0040 to 0.0210), 300 labels" in shown
    services["/shadow"] = json.dumps(STATE | {"error_rate": 0.01})
    main(["shadow"])
    assert "100 decides: 7.4 for better" in capsys.readouterr().out
    new = STATE | {"evidence": None, "segments": {}, "agreement": None, "rows": 0, "labels": 0}
    services["/shadow"] = json.dumps(new)
    main(["shadow"])
    assert "0 predictions, 0 with labels" in capsys.readouterr().out
    services["/shadow"] = json.dumps({"kind": None})
    main(["shadow"])
    assert capsys.readouterr().out == (
        "no version is tested beside production; a new challenger appears within a minute\n"
    )
    monkeypatch.setenv("EVIDENTLY_ADDRESS", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SystemExit, match="EVIDENTLY_ADDRESS: the monitoring does not respond"):
        main(["shadow"])
