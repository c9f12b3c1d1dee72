"""What Grafana and Prometheus are provisioned with: the files fit each other and the services.

Where Debian's package `prometheus` is installed, Prometheus and its `promtool` read them too.
"""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from flask import Flask
from prometheus_client import CollectorRegistry
from werkzeug.serving import make_server

from config.contract import Contract
from evidently_service.app import create_app as create_evidently_app
from evidently_service.measurement import Run
from evidently_service.monitoring import load_monitoring
from evidently_service.settings import Settings as EvidentlySettings
from evidently_service.window import Window
from prediction_service.app import create_app as create_prediction_app
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.model_folder import ModelFolder
from prediction_service.served import ServedModel
from prediction_service.settings import Settings as PredictionSettings
from tests.conftest import free_port, wait_until
from tests.evidently_service.test_app import MEASURED

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "config" / "grafana"
DASHBOARDS = [json.loads(path.read_text("utf-8")) for path in GRAFANA.glob("dashboards/*.json")]
PROMETHEUS = ROOT / "config" / "prometheus" / "prometheus.yml"
MONITORING = ROOT / "config" / "monitoring.yaml"
METRIC = re.compile(r"\bincome_\w+")
EXPORTED = re.compile(r"^# TYPE (\w+)", re.MULTILINE)
SUFFIXES = re.compile("_(bucket|sum|count)$")


def provisioned(kind: str, name: str) -> Any:
    """A provisioning file of Grafana."""
    return yaml.safe_load((GRAFANA / "provisioning" / kind / name).read_text("utf-8"))


def alert_rules() -> list[dict[str, Any]]:
    """Every alert rule."""
    return [rule for g in provisioned("alerting", "drift.yaml")["groups"] for rule in g["rules"]]


def expressions() -> list[str]:
    """Every PromQL expression of the dashboards and the alert rules."""
    targets = [target for board in DASHBOARDS for p in board["panels"] for target in p["targets"]]
    models = [query["model"] for rule in alert_rules() for query in rule["data"]]
    return [one["expr"] for one in targets + models if "expr" in one]


def debian(program: str) -> str:
    """The path of a program of Debian's package `prometheus`; the test skips without it."""
    if not (path := shutil.which(program)):
        pytest.skip(f"no {program} on PATH: apt-get install prometheus")
    return path


def run(*command: str) -> str:
    """What a command says; fails unless it ends with 0."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def services(tmp_path: Path, contract: Contract) -> Iterator[dict[str, Flask]]:
    """Both services by their targets: one without a model, one with a measurement of drift."""
    folder = ModelFolder(tmp_path / "model")
    monitoring = load_monitoring(MONITORING, contract)
    with (
        closing(Journal(tmp_path / "journal", "here", "normal", 10**8)) as journal,
        closing(Window(tmp_path / "window.db")) as window,
    ):
        window.record(MEASURED, Run(1_700_000_009.0))
        yield {
            "prediction:9696": create_prediction_app(
                PredictionSettings(journal_dir=str(tmp_path / "journal")),
                ServedModel(folder, contract),
                journal,
                Metrics(CollectorRegistry()),
            ),
            "evidently:3000": create_evidently_app(
                EvidentlySettings(), monitoring, contract, window, CollectorRegistry()
            ),
        }


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Host and port of an app that answers over HTTP."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture
def prometheus(services: dict[str, Flask], tmp_path: Path) -> Iterator[str]:
    """The query address of a Prometheus with the project's file: other addresses, no waiting."""
    program, own = debian("prometheus"), f"127.0.0.1:{free_port()}"
    text = PROMETHEUS.read_text("utf-8").replace("127.0.0.1:9090", own)
    text = re.sub(r"_(interval|timeout): \w+", r"_\1: 1s", text)
    with ExitStack() as stack:
        for target, app in services.items():
            text = text.replace(target, stack.enter_context(served(app)))
        path = tmp_path / "prometheus.yml"
        path.write_text(text, "utf-8")
        log = stack.enter_context((tmp_path / "prometheus.log").open("wb"))
        command = [program, f"--config.file={path}", f"--web.listen-address={own}"]
        command.append(f"--storage.tsdb.path={tmp_path / 'tsdb'}")
        process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(process.terminate)
        yield f"http://{own}/api/v1/query"


def answer(address: str, expression: str) -> dict[str, Any]:
    """What Prometheus says to an expression; nothing until it listens."""
    try:
        return requests.get(address, params={"query": expression}, timeout=5).json()
    except (requests.ConnectionError, requests.JSONDecodeError):
        return {"data": {"result": []}}


def test_every_metric_that_is_asked_for_is_one_that_a_service_exports(services):
    texts = [app.test_client().get("/metrics").text for app in services.values()]
    exported = {name for text in texts for name in EXPORTED.findall(text)}
    asked = {SUFFIXES.sub("", name) for text in expressions() for name in METRIC.findall(text)}
    assert len(asked) > 10
    assert asked <= exported


def test_promtool_finds_no_fault_with_the_files_and_the_expressions(tmp_path):
    promtool = debian("promtool")
    assert "SUCCESS" in run(promtool, "check", "config", str(PROMETHEUS))
    rules = [{"record": f"r{n}", "expr": text} for n, text in enumerate(sorted(set(expressions())))]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}), "utf-8")
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", str(path))


def test_a_real_prometheus_scrapes_both_services_and_evaluates_every_expression(prometheus):
    """Whether they all return data, with a model and traffic, is for the test in containers."""

    def up() -> set[str]:
        found = answer(prometheus, "up == 1")["data"]["result"]
        return {series["metric"]["job"] for series in found}

    jobs = {"prediction_service", "evidently_service", "prometheus"}
    wait_until(lambda: up() == jobs, 30, "Prometheus to scrape all")
    assert answer(prometheus, "max(income_drift_detected)")["data"]["result"][0]["value"][1] == "1"
    for expression in expressions():
        assert answer(prometheus, expression)["status"] == "success", expression


def test_what_a_stat_panel_shows_is_of_now_and_not_the_last_that_was_once_true():
    """Once: a range query kept replaced model versions, and the verdict of a dead service, shown.

    Its last value stays on the panel for as long as the dashboard looks back.
    """
    stats = [p for board in DASHBOARDS for p in board["panels"] if p["type"] == "stat"]
    assert stats
    for target in [target for panel in stats for target in panel["targets"]]:
        assert (target["instant"], target["range"]) == (True, False)


def test_the_dashboard_draws_the_threshold_that_is_measured_with():
    (panel,) = [p for b in DASHBOARDS for p in b["panels"] if "income_drift_share" in str(p)]
    share = yaml.safe_load(MONITORING.read_text("utf-8"))["share_drifted"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == share
    assert f"{share:.0%}" in panel["description"].replace(" %", "%")


def test_every_query_names_the_provisioned_datasource():
    (source,) = provisioned("datasources", "prometheus.yaml")["datasources"]
    panels = [panel for board in DASHBOARDS for panel in board["panels"]]
    used = {panel["datasource"]["uid"] for panel in panels}
    used |= {query["datasourceUid"] for rule in alert_rules() for query in rule["data"]}
    assert used == {source["uid"], "__expr__"}


def test_every_alert_leads_to_a_panel_and_says_what_to_do():
    panels = {(board["uid"], str(p["id"])) for board in DASHBOARDS for p in board["panels"]}
    assert alert_rules()
    for rule in alert_rules():
        notes = rule["annotations"]
        assert (notes["__dashboardUid__"], notes["__panelId__"]) in panels
        assert notes["summary"] and len(notes["description"]) > 100
        assert rule["noDataState"] and rule["execErrState"] and rule["labels"]["severity"]
        assert rule["condition"] in {query["refId"] for query in rule["data"]}


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    for board in DASHBOARDS:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        cells = []
        for place in (panel["gridPos"] for panel in board["panels"]):
            assert place["x"] + place["w"] <= 24
            xs, ys = range(place["x"], place["x"] + place["w"]), range(place["h"])
            cells += [(x, place["y"] + y) for x in xs for y in ys]
        assert len(cells) == len(set(cells))


def test_prometheus_scrapes_both_services_by_their_names_in_compose():
    config = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text("utf-8"))
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    targets = {
        t for job in config["scrape_configs"] for s in job["static_configs"] for t in s["targets"]
    }
    assert {"prediction:9696", "evidently:3000"} <= targets
    for target in targets - {"127.0.0.1:9090"}:
        name, port = target.split(":")
        assert any(binding.endswith(f":{port}") for binding in services[name]["ports"])
