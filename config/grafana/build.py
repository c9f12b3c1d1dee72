"""Writes what Grafana and Prometheus are provisioned with: `make dashboards`.

The files are committed, and a test says if they are not what this would write.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from config.contract import load_contract
from config.grafana.alerts import grafana_rules, prometheus_rules, runbooks
from config.grafana.dashboards import all_dashboards

CONFIG = Path(__file__).parents[1]
MADE = "# Made by `make dashboards` from config/grafana/alerts.py.\n"


def files() -> dict[str, str]:
    """The text of every made file by its path under `config`."""
    monitoring = yaml.safe_load((CONFIG / "monitoring.yaml").read_text("utf-8"))
    boards = all_dashboards(load_contract(), monitoring)
    rules = grafana_rules(panel_ids(boards))
    return {dashboard_path(board): as_json(board) for board in boards} | {
        "grafana/provisioning/alerting/rules.yaml": MADE + as_yaml(rules),
        "grafana/runbooks.md": runbooks(),
        "prometheus/alerts.yml": MADE + as_yaml(prometheus_rules()),
    }


def panel_ids(boards: Iterable[Dashboard]) -> dict[tuple[str, str], int]:
    """The id of each panel by its dashboard's uid and its title."""
    return {
        (str(board.uid), str(panel.title)): panel.id_val or 0
        for board in boards
        for panel in board.panels or []
    }


def dashboard_path(board: Dashboard) -> str:
    """Where a dashboard is kept."""
    return f"grafana/dashboards/{str(board.uid).removeprefix('income-')}.json"


def as_json(board: Dashboard) -> str:
    """A dashboard as Grafana reads it."""
    return json.dumps(board, cls=JSONEncoder, indent=1, ensure_ascii=False) + "\n"


def as_yaml(content: dict[str, Any]) -> str:
    """A file of rules, in the order of its table."""
    return yaml.safe_dump(content, sort_keys=False, width=100, allow_unicode=True)


def main() -> None:
    """Writes every file, and removes dashboards that are no longer made."""
    made = files()
    for path in (CONFIG / "grafana" / "dashboards").glob("*.json"):
        if str(path.relative_to(CONFIG)) not in made:
            path.unlink()
    for name, text in made.items():
        (CONFIG / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
