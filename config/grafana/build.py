"""Write the alert rules of Grafana and Prometheus and the runbooks: `make alerts`.

The source is `alerts.py`. The files are committed; a test compares them with their source.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.alerts import ALERTS, Alert

CONFIG = Path(__file__).parents[1]
DATASOURCE = "prometheus"
MADE = "# Written by `make alerts` from config/alerts.py.\n"
RUNBOOKS = "income-runbooks"  # uid of the dashboard
INTRODUCTION = """\
What each alert means and what to do. Every notification contains the text, and so does Grafana's
dashboard "Runbooks". `make alerts` writes this page from `config/alerts.py`.
"""


def main() -> None:
    """Write every file."""
    for name, text in files().items():
        (CONFIG / name).write_text(text, encoding="utf-8")


def files() -> dict[str, str]:
    """Return the text of every written file by its path under `config`."""
    board = json.dumps(runbook_dashboard(), indent=1, ensure_ascii=False)
    return {
        "grafana/provisioning/alerting/rules.yaml": as_yaml(grafana_rules(panel_ids())),
        "prometheus/alerts.yml": as_yaml(prometheus_rules()),
        "grafana/dashboards/runbooks.json": board + "\n",
        "grafana/runbooks.md": runbook_page(),
    }


def as_yaml(content: dict[str, Any]) -> str:
    """Return a file of rules, in the order of their table."""
    return MADE + yaml.safe_dump(content, sort_keys=False, width=100, allow_unicode=True)


def panel_ids() -> dict[tuple[str, str], int]:
    """Return the id of each panel by the uid of its dashboard and its title."""
    paths = (CONFIG / "grafana" / "dashboards").glob("*.json")
    boards = [json.loads(path.read_text("utf-8")) for path in paths]
    return {
        (board["uid"], panel["title"]): panel["id"]
        for board in boards
        for one in board["panels"]
        for panel in (one, *one.get("panels", []))  # those of a collapsed row too
    }


def prometheus_rules() -> dict[str, Any]:
    """Return the rules file of Prometheus."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": one_line(alert.runbook),
                "runbook": f"config/grafana/runbooks.md#{alert.name.lower()}",
            },
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "income", "rules": rules}]}


def grafana_rules(ids: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """Return the provisioning file of Grafana's rules."""
    rules = [grafana_rule(alert, ids[alert.panel]) for alert in ALERTS]
    group = {"orgId": 1, "name": "income", "folder": "Income prediction", "interval": "30s"}
    return {"apiVersion": 1, "groups": [group | {"rules": rules}]}


def grafana_rule(alert: Alert, panel_id: int) -> dict[str, Any]:
    """Return one rule. Prometheus gives the figure, Grafana compares it with the threshold."""
    dashboard, _ = alert.panel
    evaluator = {"type": {">": "gt", "<": "lt"}[alert.comparison], "params": [alert.threshold]}
    return {
        "uid": f"income-{alert.slug}",
        "title": alert.name,
        "condition": "passed",
        "data": [
            step(DATASOURCE, refId="value", expr=alert.value, instant=True, range=False),
            step(
                "__expr__",
                refId="passed",
                type="threshold",
                expression="value",
                conditions=[{"evaluator": evaluator}],
            ),
        ],
        "for": alert.lasting,
        "noDataState": alert.no_data,
        # If Prometheus is down, only the alerts on missing data fire, not every rule.
        "execErrState": alert.no_data,
        "dashboardUid": dashboard,
        "panelId": panel_id,
        "labels": {"severity": alert.severity},
        "annotations": {
            "__dashboardUid__": dashboard,
            "__panelId__": str(panel_id),
            "summary": alert.summary,
            "description": one_line(alert.runbook),
            "runbook_url": "{{ externalURL }}d/" + RUNBOOKS,
        },
    }


def step(source: str, **model: Any) -> dict[str, Any]:
    """Return a step of a rule's evaluation; `source` is the uid of its datasource."""
    return {
        "refId": model["refId"],
        "relativeTimeRange": {"from": 300, "to": 0},
        "datasourceUid": source,
        "model": model,
    }


def one_line(text: str) -> str:
    """Return a runbook as one paragraph without line breaks."""
    return " ".join(text.split())


def runbook_page() -> str:
    """Return all runbooks as a Markdown page."""
    head = ["| alert | severity | fires | without data |", "| --- | --- | --- | --- |"]
    table = "\n".join([*head, *map(runbook_row, ALERTS)])
    return f"# Runbooks\n\n{INTRODUCTION}\n{table}\n\n{runbook_sections()}"


def runbook_row(alert: Alert) -> str:
    """Return an alert's line in the table."""
    link = f"[{alert.name}](#{alert.name.lower()})"
    fires = f"`{alert.comparison} {alert.threshold:g}` for {alert.lasting}"
    absent = "fires" if alert.no_data == "Alerting" else "silent"
    return f"| {link} | {alert.severity} | {fires} | {absent} |"


def runbook_sections() -> str:
    """Return a Markdown section for each alert; the summary has label names instead of values."""
    summaries = [re.sub(r"\{\{ \.Labels\.(\w+) \}\}", r"*\1*", alert.summary) for alert in ALERTS]
    return "\n".join(
        f"## {alert.name}\n\n{summary}\n\n{alert.runbook}\n\n"
        f"Processes:\n\n```sh\n{alert.for_processes}\n```\n\n"
        f"Containers:\n\n```sh\n{alert.for_containers}\n```\n"
        for alert, summary in zip(ALERTS, summaries)
    )


def runbook_dashboard() -> dict[str, Any]:
    """Return the dashboard that shows the runbooks in Grafana."""
    panel = {
        "id": 1,
        "type": "text",
        "title": "Runbooks",
        "gridPos": {"h": 40, "w": 24, "x": 0, "y": 0},
        "options": {"mode": "markdown", "content": runbook_sections()},
    }
    dashboards = {"type": "dashboards", "title": "Dashboards", "tags": ["income"]}
    return {
        "id": None,
        "uid": RUNBOOKS,
        "title": "Runbooks",
        "description": "What each alert means and what to do.",
        "tags": ["income"],
        "schemaVersion": 42,
        "editable": False,
        "links": [dashboards | {"asDropdown": True, "keepTime": True}],
        "panels": [panel],
    }


if __name__ == "__main__":
    main()
