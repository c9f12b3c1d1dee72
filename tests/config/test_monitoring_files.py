"""The dashboards, alert rules and provisioning files fit each other and the services.

With Debian's package `prometheus` installed, Prometheus and its `promtool` read them too.
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from flask import Flask
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from config.contract import Contract
from config.alerts import ADDRESSES, ALERTS
from config.grafana.build import files, runbook_page
from config.local_stack.stack import procfile
from evidently_service.api.app import ENDPOINTS, create_app as create_evidently_app
from evidently_service.store.records import Run
from evidently_service.reference.monitoring_config import load_monitoring
from evidently_service.settings import Settings as EvidentlySettings
from evidently_service.shadow.store import ShadowStore
from evidently_service.store.window import Window
from prediction_service.http.app import OPEN_PATHS, create_app as create_prediction_app
from prediction_service.journal import Journal
from prediction_service.metrics import Metrics
from prediction_service.models.model_folder import REACHED, ModelFolder, Status
from prediction_service.models.live_model import LiveModel
from prediction_service.predict.model import Model
from prediction_service.settings import Settings as PredictionSettings
from tests.conftest import ROOT, free_port, run, served, wait_until
from tests.evidently_service.test_app import MEASURED, TESTED
from training.__main__ import parse

GRAFANA = ROOT / "config" / "grafana"
DASHBOARDS = [json.loads(path.read_text("utf-8")) for path in GRAFANA.glob("dashboards/*.json")]
(HOME,) = [board for board in DASHBOARDS if board["uid"] == "income-drift"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
PROMETHEUS = ROOT / "config" / "prometheus" / "prometheus.yml"
RULES = PROMETHEUS.with_name("alerts.yml")
MONITORING = ROOT / "config" / "monitoring.yaml"
LABELS = {"income_class"}
METRIC = re.compile(r"\bincome_\w+")
LABEL_VALUES = re.compile(r"label_values\((\w+), ?(\w+)\)")
UNITS = {"none", "short", "percentunit", "s", "bytes", "reqps", "rowsps"}  # ids of Grafana's units
# Of both services, by their default ports.
PAGES = {f"3000{path}" for path in re.findall(r"GET (\S+)", " ".join(ENDPOINTS))}
PAGES |= {f"9696{path}" for path in OPEN_PATHS}
SUFFIXES = re.compile("_(bucket|sum|count|total)$")

LabelValues = Callable[[str, str], list[str]]  # of a metric and a label
# Queries without data in a new stack: of yesterday, of last week, of a rejected version, of a
# promotion that was undone, and of a version under test.
WITHOUT_DATA = (
    r" offset 1d|\[7d:|over_time\(income_model_version_rejected|income_promotion_undone"
    r"|income_shadow_(?!run_)"
)


@cache
def provisioned(kind: str, name: str) -> Any:
    """Return a provisioning file of Grafana."""
    return yaml.safe_load((GRAFANA / "provisioning" / kind / name).read_text("utf-8"))


def alert_rules() -> list[dict[str, Any]]:
    """Return every alert rule of Grafana."""
    return [rule for g in provisioned("alerting", "rules.yaml")["groups"] for rule in g["rules"]]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, also those of a collapsed row."""
    found = [panel for one in board["panels"] for panel in (one, *one.get("panels", []))]
    return [panel for panel in found if panel["type"] != "row"]


def variables(board: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the source of each template variable by its name: a metric and a label."""
    found = {}
    for variable in board["templating"]["list"] if "templating" in board else []:
        match = LABEL_VALUES.fullmatch(variable["query"]["query"])
        assert match, variable["query"]
        found[variable["name"]] = (match[1], match[2])
    return found


def variable_queries() -> set[str]:
    """Return PromQL expressions for the values of the template variables."""
    named = {one for board in DASHBOARDS for one in variables(board).values()}
    return {f"count by ({label}) ({metric})" for metric, label in named}


def filled_in(board: dict[str, Any], expression: str, values: LabelValues) -> set[str]:
    """Return an expression with each value of its dashboard's variables."""
    found = {expression.replace("$__rate_interval", "1m")}
    for name, source in variables(board).items():
        if f"${name}" in expression:
            found = {text.replace(f"${name}", one) for text in found for one in values(*source)}
    assert "$" not in "".join(found), expression
    return found


def expressions(values: LabelValues = lambda metric, label: [label]) -> list[str]:
    """Return every PromQL expression of dashboards and alert rules, with values for variables."""
    found = {
        text
        for board in DASHBOARDS
        for panel in panels(board)
        for target in panel.get("targets", [])
        for text in filled_in(board, target["expr"], values)
    }
    models = [query["model"] for rule in alert_rules() for query in rule["data"]]
    return sorted(found | variable_queries() | {one["expr"] for one in models if "expr" in one})


def label_values(address: str, metric: str, label: str) -> list[str]:
    """Return the values of a metric's label from a live Prometheus."""
    found = query_response(address, f"count by ({label}) ({metric})")["data"]["result"]
    return [series["metric"][label] for series in found]


def metrics(expression: str) -> set[str]:
    """Return the project's metrics in an expression, without the suffixes of their series."""
    return {SUFFIXES.sub("", name) for name in METRIC.findall(expression) if name not in LABELS}


def debian(program: str) -> str:
    """Return the path of a program of Debian's package `prometheus`, or skip the test."""
    if not (path := shutil.which(program)):
        pytest.skip(f"no {program} on PATH: apt-get install prometheus")
    return path


@pytest.fixture
def services(tmp_path: Path, contract: Contract) -> Iterator[dict[str, Flask]]:
    """Return both services by target: one without a model, one with a measurement of drift."""
    folder = ModelFolder(tmp_path / "model")
    folder.report(Status(REACHED))
    monitoring = load_monitoring(MONITORING, contract)
    with (
        closing(Journal(tmp_path / "journal", "here", "normal", 10**8)) as journal,
        closing(Window(tmp_path / "window.db")) as window,
    ):
        window.record(MEASURED, Run(1_700_000_009.0))
        ShadowStore(window).store(TESTED)
        yield {
            "prediction:9696": create_prediction_app(
                PredictionSettings(journal_dir=str(tmp_path / "journal")),
                LiveModel(folder, contract, Model),
                journal,
                Metrics(CollectorRegistry()),
            ),
            "evidently:3000": create_evidently_app(
                EvidentlySettings(), monitoring, contract, window, CollectorRegistry()
            ),
        }


@contextmanager
def scraping(targets: dict[str, str], folder: Path, rules: Path = RULES) -> Iterator[str]:
    """Run Prometheus with the project's files and other targets; return its query URL."""
    program, own = debian("prometheus"), f"127.0.0.1:{free_port()}"
    text = PROMETHEUS.read_text("utf-8").replace("127.0.0.1:9090", own)
    text = re.sub(r"_(interval|timeout): \w+", r"_\1: 1s", text)
    text = text.replace("alerts.yml", str(rules))
    content = yaml.safe_load(text)
    (worker,) = (j for j in content["scrape_configs"] if j["job_name"] == "training_worker")
    if "worker:9697" in targets:  # each of its scrapes asks Prefect and MLflow
        worker |= {"scrape_interval": "5s", "scrape_timeout": "5s"}
    else:
        content["scrape_configs"].remove(worker)
    text = yaml.safe_dump(content)
    for name, address in targets.items():
        text = text.replace(name, address.removeprefix("http://"))
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
    """Run a Prometheus that scrapes both services of this process; return its query URL."""
    with ExitStack() as stack:
        targets = {name: stack.enter_context(served(app)) for name, app in services.items()}
        yield stack.enter_context(scraping(targets, tmp_path))


def query_response(address: str, expression: str) -> dict[str, Any]:
    """Return the response of Prometheus to an expression; empty until it listens."""
    try:
        return requests.get(address, params={"query": expression}, timeout=60).json()
    except (requests.ConnectionError, requests.JSONDecodeError):
        return {"data": {"result": []}}


def test_every_metric_in_a_query_is_exported_by_a_service(services):
    # pylint: disable-next=import-outside-toplevel  # it imports Prefect and MLflow: seconds
    from training.orchestration.exporter import TrainingCollector, Trainings

    texts = [app.test_client().get("/metrics").text for app in services.values()]
    trainings = CollectorRegistry()
    trainings.register(TrainingCollector(lambda: Trainings(0.0, True, "labels", 0.0)))
    texts.append(generate_latest(trainings).decode())
    families = [one for text in texts for one in text_string_to_metric_families(text)]

    def values(metric: str, label: str) -> list[str]:
        (family,) = [one for one in families if one.name == metric]
        return sorted({sample.labels[label] for sample in family.samples})

    queried = {name for text in expressions(values) for name in metrics(text)}
    assert len(queried) > 30
    assert queried <= {SUFFIXES.sub("", family.name) for family in families}


def test_the_committed_files_are_the_output_of_make_alerts():
    for name, text in files().items():
        assert (ROOT / "config" / name).read_text("utf-8") == text, f"{name}: make alerts"


def test_promtool_accepts_the_files_and_the_expressions(tmp_path):
    promtool = debian("promtool")
    assert "SUCCESS" in run(promtool, "check", "config", PROMETHEUS)
    rules = [{"record": f"r{n}", "expr": text} for n, text in enumerate(sorted(set(expressions())))]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}), "utf-8")
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", path)


def test_a_real_prometheus_scrapes_both_services_and_evaluates_every_expression(prometheus):
    """`tests/end_to_end/test_dashboards.py` also checks that each expression returns data."""

    def up() -> set[str]:
        found = query_response(prometheus, "up == 1")["data"]["result"]
        return {series["metric"]["job"] for series in found}

    jobs = {"prediction_service", "evidently_service", "prometheus"}
    wait_until(lambda: up() == jobs, "Prometheus to scrape all")
    assert (
        query_response(prometheus, "max(income_drift_detected)")["data"]["result"][0]["value"][1]
        == "1"
    )
    filled = expressions(partial(label_values, prometheus))
    assert any('{feature=~"age"}' in expression for expression in filled)
    for expression in filled:
        assert query_response(prometheus, expression)["status"] == "success", expression


def test_a_stat_panel_shows_only_current_values():
    """Range queries once showed replaced model versions and the verdict of a dead service.

    The last value of a range query stays on the panel for the dashboard's whole time range.
    """
    of_now = [p for b in DASHBOARDS for p in panels(b) if p["type"] in ("stat", "bargauge")]
    assert of_now
    for target in [target for panel in of_now for target in panel["targets"]]:
        assert (target["instant"], target["range"]) == (True, False)


def test_a_dashboard_draws_the_thresholds_of_the_monitoring_file():
    monitoring = yaml.safe_load(MONITORING.read_text("utf-8"))
    limits = {
        "max(income_drift_share)": monitoring["share_drifted"],
    }
    drawn = [
        (panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"], limits[first])
        for board in DASHBOARDS
        for panel in panels(board)
        if (first := panel.get("targets", [{"expr": ""}])[0]["expr"]) in limits
    ]
    assert len(drawn) == 2 and all(one == limit for one, limit in drawn)
    (share,) = [p for p in panels(HOME) if p["title"] == "Share of drifted features"]
    assert f"{monitoring['share_drifted'] * 100:.0f} %" in share["description"]


def test_no_dashboard_names_a_feature_or_a_class_of_the_contract(contract):
    """Another table has other features: template variables read their names from the metrics."""
    names = "|".join(map(re.escape, contract.input_names))
    classes = re.escape(contract.target.positive), re.escape(contract.target.negative)
    for board in DASHBOARDS:
        text = json.dumps(board, ensure_ascii=False)
        assert not re.findall(rf"\b({names})\b|{'|'.join(classes)}|50,000", text), board["uid"]


def test_panels_repeat_by_a_variable_with_the_values_of_a_label():
    repeated = []
    for board in DASHBOARDS:
        known = variables(board)
        by = [panel["repeat"] for panel in board["panels"] if "repeat" in panel]
        assert set(by) == set(known), board["uid"]
        for variable in board["templating"]["list"] if known else []:
            assert (variable["type"], variable["multi"], variable["refresh"]) == ("query", True, 2)
            assert variable["definition"] == variable["query"]["query"]
        repeated += by
    assert sorted(repeated) == ["feature", "metric", "segment"]


def test_links_name_existing_dashboards_and_set_their_variables():
    boards = {board["uid"]: board for board in DASHBOARDS}
    found = re.findall(r"/d/([\w-]+)\?var-(\w+)=", json.dumps(DASHBOARDS))
    assert set(found) == {("income-feature", "feature")}
    assert "feature" in variables(boards["income-feature"])
    assert all(uid in boards for uid in re.findall(r"\bd/([\w-]+)", json.dumps(alert_rules())))


def test_every_query_names_the_provisioned_datasource():
    (source,) = provisioned("datasources", "prometheus.yaml")["datasources"]
    found = [query["datasourceUid"] for rule in alert_rules() for query in rule["data"]]
    for board in DASHBOARDS:
        querying = [panel for panel in panels(board) if panel["type"] != "text"]
        querying += [target for panel in querying for target in panel["targets"]]
        querying += board["templating"]["list"] if variables(board) else []
        assert all(one["datasource"]["type"] == source["type"] for one in querying)
        found += [one["datasource"]["uid"] for one in querying]
    assert set(found) == {source["uid"], "__expr__"}


def test_every_panel_has_a_title_a_description_and_a_unit():
    for panel in [panel for board in DASHBOARDS for panel in panels(board)]:
        assert panel["title"]
        if panel["type"] == "text":
            assert len(panel["options"]["content"]) > 100
        else:
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]


def test_every_dashboard_can_be_provisioned_and_links_to_the_others():
    assert len({board["uid"] for board in DASHBOARDS}) == len(DASHBOARDS) == 6
    for board in DASHBOARDS:
        assert board["id"] is None and board["schemaVersion"] >= 42
        assert board["uid"].startswith("income-")
        # Only the runbooks are generated. The other files are edited in Grafana and exported.
        assert board["editable"] == (board["uid"] != "income-runbooks")
        for key in ("id", "title"):  # alerts identify a panel by them
            assert len({panel[key] for panel in board["panels"]}) == len(board["panels"])
        (link,) = board["links"]
        assert link["type"] == "dashboards" and set(link["tags"]) <= set(board["tags"])
    environment = COMPOSE["services"]["grafana"]["environment"]
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert json.loads((GRAFANA / "dashboards" / home.name).read_text("utf-8")) == HOME


# Their panels show numbers of workers, and of versions (above 0 is red from 1 on), and the ROC AUC
# with its floor, not their difference.
WITHOUT_THRESHOLD = ("ModelVersionSkew", "ModelVersionRejected", "PerformanceBelowFloor")


def test_every_alert_links_to_a_panel_with_its_threshold_and_has_a_runbook():
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
        shown_as = panel["fieldConfig"]["defaults"]
        if "mappings" not in shown_as and alert.name not in WITHOUT_THRESHOLD:
            assert alert.threshold in [one["value"] for one in shown_as["thresholds"]["steps"]]
        assert notes["summary"] and len(notes["description"]) > 100
        assert rule["noDataState"] and rule["execErrState"] and rule["labels"]["severity"]
        assert rule["condition"] in {query["refId"] for query in rule["data"]}


def test_the_commands_of_the_runbooks_exist_for_processes_and_for_containers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command names a process with a log, a page of a service, or a command of the training."""
    page = runbook_page()
    assert "\nps:" in (ROOT / "Makefile").read_text("utf-8")
    for alert in ALERTS:
        names = set(alert.logs.split())
        assert names <= {name for name, _ in procfile()} and names <= COMPOSE["services"].keys()
        assert alert.logs or alert.commands
        assert alert.for_processes.startswith(". var/demo/settings\n")
        assert alert.for_containers in page and alert.for_processes in page
    for command in {command for alert in ALERTS for command in alert.commands}:
        match shlex.split(command):
            case ["curl", "-sS", address]:
                for setting, default in ADDRESSES.items():
                    address = address.replace(f"${setting}", default)
                assert address.removeprefix("http://127.0.0.1:") in PAGES
            case ["python", "-m", "training", name]:
                with pytest.raises(SystemExit):
                    parse([name, "--help"])
                assert f"training {name}" in capsys.readouterr().out
            case _:
                raise AssertionError(command)


def test_no_text_of_an_alert_has_a_variable_that_grafana_would_expand():
    """Grafana expands `$labels` to nothing. Templates use `.Labels` instead."""
    for rule in alert_rules():
        assert "$" not in str(rule["annotations"]) + str(rule["labels"]) + rule["title"]


def test_contact_points_get_every_variable_and_alerts_reach_the_configured_ones():
    """Grafana does not start with an empty address, so an unset one has a placeholder."""
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


def test_prometheus_scrapes_both_services_by_their_names_in_compose():
    config = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text("utf-8"))
    services = COMPOSE["services"]
    targets = {
        t for job in config["scrape_configs"] for s in job["static_configs"] for t in s["targets"]
    }
    assert {"prediction:9696", "evidently:3000"} <= targets
    assert f"worker:{services['worker']['environment']['METRICS_PORT']}" in targets
    for target in targets - {"127.0.0.1:9090", "worker:9697"}:
        name, port = target.split(":")
        assert any(binding.endswith(f":{port}") for binding in services[name]["ports"])
