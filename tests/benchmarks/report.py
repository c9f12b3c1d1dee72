"""Report the figures of a benchmark as a table and as JSON.

Machines differ and are noisy, so a benchmark measures its floor or its peer in the same run. A
benchmark is not a test: it exits 0 after it has measured, whatever the figures.
"""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path("build/bench")


def result(
    name: str, value: float, unit: str, goal: str = "", met: bool | None = None
) -> dict[str, Any]:
    """Return one figure, with an optional goal in words and whether it is met."""
    return {"name": name, "value": float(value), "unit": unit, "goal": goal, "met": met}


def at_least(name: str, value: float, unit: str, goal: float) -> dict[str, Any]:
    """Return a figure whose minimum is its goal."""
    return result(name, value, unit, f">= {goal:g}", bool(value >= goal))


def at_most(name: str, value: float, unit: str, goal: float) -> dict[str, Any]:
    """Return a figure whose maximum is its goal."""
    return result(name, value, unit, f"<= {goal:g}", bool(value <= goal))


def write(name: str, results: list[dict[str, Any]]) -> None:
    """Write `build/bench/NAME.json` and print the table; `name` is what `make bench` takes."""
    machine = {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    content = {"machine": machine, "command": f"make bench NAME={name}", "results": results}
    content["arguments"] = sys.argv[1:]
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    table = Table("figure", "value", "unit", "goal", "met", title=f"{name}: {path}")
    for one in results:
        met = {True: "yes", False: "no", None: ""}[one["met"]]
        table.add_row(one["name"], f"{one['value']:.4f}", one["unit"], one["goal"], met)
    Console(width=110).print(table)
