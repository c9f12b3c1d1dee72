"""Who may import whom: the parts meet through the registry, HTTP, MongoDB and metrics only."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("training", "prediction_service", "evidently_service", "stream_generator")
CONFIG_MAY_IMPORT = {"msgspec", "yaml"}
# Makes files for Grafana with Grafana's SDK, on a developer's machine: in no image (.dockerignore).
MAKERS = ROOT / "config" / "grafana"

# An outside system is known to these modules of a part alone, so that a new version of it
# touches one place.
ONE_PLACE = {
    ("training", "mlflow"): {"registry"},
    ("training", "fsspec"): {"bucket"},
    ("training", "pyspark"): {"spark"},
    ("training", "prefect"): {"flow", "runs", "watch", "worker"},
    ("training", "pymongo"): {"feedback"},
    ("training", "google"): {"folders"},
    ("prediction_service", "mlflow"): {"registry"},
    ("prediction_service", "pymongo"): {"mongodb"},
    ("prediction_service", "xgboost"): {"explanations"},
    ("evidently_service", "mlflow"): {"registry"},
    ("evidently_service", "evidently"): {"drift"},
    ("config", "grafana_foundation_sdk"): {"build", "dashboards", "panels"},
}
# What a request worker must not need: it would double its memory and start time.
ROUTES = ("app", "answers", "bodies", "errors", "hot_route", "metrics", "predictor")
AROUND = ("docs", "entrance", "keys", "openapi", "server_log", "worker", "wsgi")
SERVING_MODULES = (*ROUTES, *AROUND, "model", "model_folder", "served")
HEAVY = {"mlflow", "pandas", "sklearn", "imblearn", "prefect", "xgboost", "pymongo"}


def modules(part: str) -> Iterator[Path]:
    """The source files of a part."""
    yield from sorted((ROOT / part).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide who imports whom"
            names.add(str(node.module))
    return names


def packages(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.split(".")[0] for name in imported(path)}


def test_config_imports_the_standard_library_pyyaml_and_msgspec_only():
    allowed = set(sys.stdlib_module_names) | CONFIG_MAY_IMPORT | {"config"}
    for path in modules("config"):
        if MAKERS not in path.parents:
            assert packages(path) <= allowed, path


def test_nothing_that_runs_imports_what_makes_grafanas_files():
    assert "config/grafana" in (ROOT / ".dockerignore").read_text("utf-8").split()
    for part in ("config", *PARTS):
        for path in modules(part):
            if MAKERS not in path.parents:
                assert not any(name.startswith("config.grafana") for name in imported(path)), path


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_no_other_part(part):
    others = {*PARTS, "tests"} - {part}
    for path in modules(part):
        assert not packages(path) & others, path


@pytest.mark.parametrize(("part", "package"), ONE_PLACE)
def test_an_outside_system_is_known_in_one_place(part, package):
    found = {path.stem for path in modules(part) if package in packages(path)}
    assert found == ONE_PLACE[part, package]


def test_request_workers_need_neither_mlflow_nor_pandas_nor_pymongo():
    folder = ROOT / "prediction_service"
    reached = [folder / f"{name}.py" for name in SERVING_MODULES]
    reached.append(folder / "journal" / "__init__.py")
    for path in reached:
        assert not packages(path) & HEAVY, path
