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
from config.grafana.alerts import ALERTS
from config.grafana.build import files
from evidently_service.api.app import create_app as create_evidently_app
from evidently_service.store.records import Run
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.settings import Settings as EvidentlySettings
from evidently_service.store.window import Window
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
(HOME,) = [board for board in DASHBOARDS if board["uid"] == "income-drift"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
PROMETHEUS = ROOT / "config" / "prometheus" / "prometheus.yml"
RULES = PROMETHEUS.with_name("alerts.yml")
MONITORING = ROOT / "config" / "monitoring.yaml"
LABELS = {"income_class"}
METRIC = re.compile(r"\bincome_\w+")
EXPORTED = re.compile(r"^# TYPE (\w+)", re.MULTILINE)
SUFFIXES = re.compile("_(bucket|sum|count)$")


def provisioned(kind: str, name: str) -> Any:
    """A provisioning file of Grafana."""
    return yaml.safe_load((GRAFANA / "provisioning" / kind / name).read_text("utf-8"))


def alert_rules() -> list[dict[str, Any]]:
    """Every alert rule of Grafana."""
    return [rule for g in provisioned("alerting", "rules.yaml")["groups"] for rule in g["rules"]]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard that show something: its rows are left out."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def filled_in(board: dict[str, Any], expression: str) -> set[str]:
    """An expression with every value that its dashboard's variables can have."""
    found = {expression.replace("$__rate_interval", "1m")}
    for variable in board.get("templating", {}).get("list", []):
        name, values = f"${variable['name']}", variable["query"].split(",")
        found = {text.replace(name, value) for text in found for value in values}
    return found


def expressions() -> list[str]:
    """Every PromQL expression of the dashboards and the alert rules, variables filled in."""
    asked = {
        text
        for board in DASHBOARDS
        for panel in panels(board)
        for target in panel.get("targets", [])
        for text in filled_in(board, target["expr"])
    }
    models = [query["model"] for rule in alert_rules() for query in rule["data"]]
    return sorted(asked | {model["expr"] for model in models if "expr" in model})


def metrics(expression: str) -> set[str]:
    """The project's metrics that an expression asks for, as /metrics declares them."""
    return {SUFFIXES.sub("", name) for name in METRIC.findall(expression) if name not in LABELS}


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


@contextmanager
def scraping(targets: dict[str, str], folder: Path, rules: Path = RULES) -> Iterator[str]:
    """The query address of a Prometheus with the project's files: other targets, no waiting."""
    program, own = debian("prometheus"), f"127.0.0.1:{free_port()}"
    text = PROMETHEUS.read_text("utf-8").replace("127.0.0.1:9090", own)
    text = re.sub(r"_(interval|timeout): \w+", r"_\1: 1s", text)
    text = text.replace("alerts.yml", str(rules))
    for name, address in targets.items():
        text = text.replace(name, address)
    path = folder / "prometheus.yml"
    path.write_text(text, "utf-8")
    command = [program, f"--config.file={path}", f"--web.listen-address={own}"]
    command.append(f"--storage.tsdb.path={folder / 'tsdb'}")
    with (folder / "prometheus.log").open("wb") as log:
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                yield f"http://{own}/api/v1/query"
            finally:
                process.terminate()


@pytest.fixture
def prometheus(services: dict[str, Flask], tmp_path: Path) -> Iterator[str]:
    """The query address of a Prometheus that scrapes both services of this process."""
    with ExitStack() as stack:
        targets = {name: stack.enter_context(served(app)) for name, app in services.items()}
        yield stack.enter_context(scraping(targets, tmp_path))


def answer(address: str, expression: str) -> dict[str, Any]:
    """What Prometheus says to an expression; nothing until it listens."""
    try:
        return requests.get(address, params={"query": expression}, timeout=5).json()
    except (requests.ConnectionError, requests.JSONDecodeError):
        return {"data": {"result": []}}


def test_every_metric_that_is_asked_for_is_one_that_a_service_exports(services):
    texts = [app.test_client().get("/metrics").text for app in services.values()]
    exported = {name for text in texts for name in EXPORTED.findall(text)}
    asked = {name for text in expressions() for name in metrics(text)}
    assert len(asked) > 30
    assert asked <= exported


def test_the_committed_files_are_what_make_dashboards_writes():
    made = files()
    found = {str(path.relative_to(ROOT / "config")) for path in GRAFANA.glob("dashboards/*")}
    assert {name for name in made if name.startswith("grafana/dashboards/")} == found
    for name, text in made.items():
        assert (ROOT / "config" / name).read_text("utf-8") == text, f"{name}: make dashboards"


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
    of_now = [p for b in DASHBOARDS for p in b["panels"] if p["type"] in ("stat", "bargauge")]
    assert of_now
    for target in [target for panel in of_now for target in panel["targets"]]:
        assert (target["instant"], target["range"]) == (True, False)


def test_the_dashboard_draws_the_threshold_that_is_measured_with():
    (panel,) = [p for p in panels(HOME) if p["title"] == "Share of drifted features"]
    share = yaml.safe_load(MONITORING.read_text("utf-8"))["share_drifted"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == share
    assert f"{share:.0%}" in panel["description"]


def test_the_drill_down_is_of_every_feature_of_the_contract(contract):
    (board,) = [b for b in DASHBOARDS if b["uid"] == "income-feature"]
    (variable,) = board["templating"]["list"]
    offered = [one["value"] for one in variable["options"]]
    assert offered == variable["query"].split(",") == list(contract.input_names)
    links = [link["url"] for panel in panels(HOME) for link in links_of(panel)]
    assert links and all(url.startswith("/d/income-feature?var-feature=") for url in links)


def links_of(panel: dict[str, Any]) -> list[dict[str, Any]]:
    """The links of a panel's series."""
    return panel["fieldConfig"]["defaults"].get("links", [])


def test_every_query_names_the_provisioned_datasource():
    (source,) = provisioned("datasources", "prometheus.yaml")["datasources"]
    asking = [panel for board in DASHBOARDS for panel in panels(board) if panel["type"] != "text"]
    used = {panel["datasource"]["uid"] for panel in asking}
    used |= {target["datasource"]["uid"] for panel in asking for target in panel["targets"]}
    used |= {query["datasourceUid"] for rule in alert_rules() for query in rule["data"]}
    assert used == {source["uid"], "__expr__"}


def test_every_panel_says_what_it_shows_and_in_which_unit_or_none():
    for panel in [panel for board in DASHBOARDS for panel in panels(board)]:
        assert panel["title"]
        if panel["type"] == "text":
            assert len(panel["options"]["content"]) > 100
        else:
            assert panel["description"].endswith("."), panel["title"]


def test_every_dashboard_leads_to_the_others_and_the_first_page_is_one_of_them():
    assert len(DASHBOARDS) == 8
    for board in DASHBOARDS:
        (link,) = board["links"]
        assert link["type"] == "dashboards" and set(link["tags"]) <= set(board["tags"])
        assert board["uid"].startswith("income-") and not board["editable"]
    environment = COMPOSE["services"]["grafana"]["environment"]
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert json.loads((GRAFANA / "dashboards" / home.name).read_text("utf-8")) == HOME


def test_every_alert_leads_to_a_panel_that_draws_its_threshold_and_says_what_to_do():
    shown = {(b["uid"], p["id"]): p for b in DASHBOARDS for p in panels(b)}
    assert len(alert_rules()) == len(ALERTS)
    for rule, alert in zip(alert_rules(), ALERTS):
        notes = rule["annotations"]
        panel = shown[rule["dashboardUid"], rule["panelId"]]
        assert (notes["__dashboardUid__"], notes["__panelId__"]) == (
            rule["dashboardUid"],
            str(rule["panelId"]),
        )
        assert metrics(alert.value) & metrics(str(panel["targets"])) or "up{" in alert.value
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        if panel["type"] == "timeseries" and alert.name != "ModelVersionSkew":
            assert alert.threshold in [one["value"] for one in steps], alert.name
        assert notes["summary"] and len(notes["description"]) > 100
        assert rule["noDataState"] and rule["execErrState"] and rule["labels"]["severity"]
        assert rule["condition"] in {query["refId"] for query in rule["data"]}


def test_every_alert_leads_to_its_runbook_in_grafana_and_in_the_tree():
    page = (GRAFANA / "runbooks.md").read_text("utf-8")
    headings = {line.removeprefix("## ").lower() for line in page.splitlines() if line[:3] == "## "}
    (board,) = [b for b in DASHBOARDS if b["uid"] == "income-runbooks"]
    titles = {panel["id"]: panel["title"] for panel in panels(board)}
    rules = yaml.safe_load(PROMETHEUS.with_name("alerts.yml").read_text("utf-8"))
    for rule in alert_rules():
        path, number = rule["annotations"]["runbook_url"].split("?viewPanel=")
        assert path == "{{ externalURL }}d/income-runbooks"
        assert titles[int(number)] == rule["title"]
    for rule in [rule for group in rules["groups"] for rule in group["rules"]]:
        path, anchor = rule["annotations"]["runbook"].split("#")
        assert (ROOT / path).exists() and anchor in headings


def test_grafana_finds_no_variable_of_its_environment_in_an_alerts_texts():
    """It expands `$labels` to nothing: templates write `.Labels` instead."""
    for rule in alert_rules():
        assert "$" not in str(rule["annotations"]) + str(rule["labels"]) + rule["title"]


def test_contact_points_get_every_variable_and_an_alert_reaches_those_that_are_set():
    """An empty address would keep Grafana from starting, so an unset one has another's place."""
    text = (GRAFANA / "provisioning" / "alerting" / "contact-points.yaml").read_text("utf-8")
    environment = COMPOSE["services"]["grafana"]["environment"]
    used = set(re.findall(r"\$([A-Z_]+)", text))
    assert used <= environment.keys()
    assert all(":-" in environment[name] for name in used if not name.endswith("_SEVERITY"))
    (policy,) = yaml.safe_load(text)["policies"]
    *routes, nobody = policy["routes"]
    points = {point["name"] for point in yaml.safe_load(text)["contactPoints"]}
    assert {route["receiver"] for route in routes} == points
    severities = {alert.severity for alert in ALERTS}
    for route in routes:
        ((label, operator, pattern),) = route["object_matchers"]
        assert (label, operator, route["continue"]) == ("severity", "=~", True)
        unset, given = (re.sub(r"\$[A-Z_]+", value, pattern) for value in ("", ".+"))
        assert not any(re.fullmatch(unset, severity) for severity in severities)
        assert all(re.fullmatch(given, severity) for severity in severities)
    assert "object_matchers" not in nobody and nobody["mute_time_intervals"] == ["always"]


def test_panels_have_ids_and_titles_of_their_own_and_do_not_overlap():
    for board in DASHBOARDS:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
        cells = []
        for place in (panel["gridPos"] for panel in board["panels"]):
            assert place["x"] + place["w"] <= 24
            xs, ys = range(place["x"], place["x"] + place["w"]), range(place["h"])
            cells += [(x, place["y"] + y) for x in xs for y in ys]
        assert len(cells) == len(set(cells)), board["uid"]


def test_prometheus_scrapes_both_services_by_their_names_in_compose():
    config = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text("utf-8"))
    services = COMPOSE["services"]
    targets = {
        t for job in config["scrape_configs"] for s in job["static_configs"] for t in s["targets"]
    }
    assert {"prediction:9696", "evidently:3000"} <= targets
    for target in targets - {"127.0.0.1:9090"}:
        name, port = target.split(":")
        assert any(binding.endswith(f":{port}") for binding in services[name]["ports"])
