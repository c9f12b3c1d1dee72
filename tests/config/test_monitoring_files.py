"""What Grafana and Prometheus are provisioned with: the files fit each other and the services."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "config" / "grafana"
DASHBOARDS = [json.loads(path.read_text("utf-8")) for path in GRAFANA.glob("dashboards/*.json")]
METRIC = re.compile(r"\bincome_\w+")
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


def test_every_metric_that_is_asked_for_is_one_that_a_service_exports():
    sources = "".join(
        (ROOT / part / "metrics.py").read_text("utf-8")
        for part in ("prediction_service", "evidently_service")
    )
    asked = {SUFFIXES.sub("", name) for text in expressions() for name in METRIC.findall(text)}
    assert len(asked) > 10
    # The Evidently service's gauges get their prefix where they are made.
    names = set(re.findall(r'"(?:income_)?(\w+)"', sources))
    names |= {f"quality_{name}" for name in names}
    assert {name.removeprefix("income_") for name in asked} <= names


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
