"""How every benchmark leaves its figures: a table for people, and the same as JSON.

A benchmark measures its floor or its peer in the same run, for machines differ and are noisy. It
is no test: it exits 0 when it has measured, whatever the figures.
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
    """One figure; `goal` in words, and whether it is met, where there is one."""
    return {"name": name, "value": float(value), "unit": unit, "goal": goal, "met": met}


def at_least(name: str, value: float, unit: str, goal: float) -> dict[str, Any]:
    """A figure that should not be lower than its goal."""
    return result(name, value, unit, f">= {goal:g}", bool(value >= goal))


def at_most(name: str, value: float, unit: str, goal: float) -> dict[str, Any]:
    """A figure that should not be higher than its goal."""
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
