"""Import rules: parts meet through the registry, HTTP, MongoDB, files and metrics only."""

import ast
import os
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT, run

PARTS = ("training", "prediction_service", "evidently_service", "stream_generator")
CONFIG_MAY_IMPORT = {
    "msgspec",
    "yaml",
    "numpy",
    "dotenv",
    "pydantic",
    "pydantic_settings",
    "structlog",
}
# Folders for a developer's machine, which no image holds (.dockerignore).
DEVELOPERS = ("config/grafana", "config/local_stack")
# Each folder runs in one image and uses the packages of that image.
OF_ONE_IMAGE = ("config/gcs", "config/mlflow")
# The images of prediction and monitoring have this package.
WITH_PACKAGES = {"config/model": {"onnxruntime"}}

# Only these modules of a part import an outside system. A new version of the system then changes
# one place.
ONE_PLACE = {
    ("training", "mlflow"): {"ledger", "mlflow_registry"},
    ("training", "fsspec"): {"storage"},
    ("training", "pyspark"): {"spark"},
    ("training", "prefect"): {"crashes", "exporter", "flows", "steps", "tasks", "watch", "worker"},
    ("training", "pymongo"): {"feedback"},
    ("prediction_service", "mlflow"): {"registry"},
    ("prediction_service", "pymongo"): {"mongodb"},
    ("prediction_service", "xgboost"): {"explanations"},
    ("evidently_service", "mlflow"): {"registry"},
    ("evidently_service", "evidently"): {"drift"},
}
# Modules that gunicorn loads into a request worker. The packages in HEAVY would double its memory
# and start time.
WORKER = ("wsgi", "http.server")
HEAVY = {"mlflow", "pandas", "sklearn", "scipy", "imblearn", "prefect", "xgboost", "pymongo"}


def modules(part: str) -> Iterator[Path]:
    """Yield the source files of a part."""
    yield from sorted((ROOT / part).rglob("*.py"))


@cache
def imported(path: Path) -> set[str]:
    """Return every module that a file imports, also inside of functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: use absolute imports"
            names.add(str(node.module))
    return names


def packages(path: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    return {name.split(".")[0] for name in imported(path)}


def product() -> Iterator[Path]:
    """Yield the source files in images."""
    for part in ("config", *PARTS):
        for path in modules(part):
            if not any(ROOT / folder in path.parents for folder in (*DEVELOPERS, *OF_ONE_IMAGE)):
                yield path


def test_config_imports_only_packages_of_every_image():
    allowed = set(sys.stdlib_module_names) | CONFIG_MAY_IMPORT | {"config"}
    for path in product():
        if path.is_relative_to(ROOT / "config"):
            folder = path.parent.relative_to(ROOT).as_posix()
            assert packages(path) <= allowed | WITH_PACKAGES.get(folder, set()), path


@pytest.mark.parametrize("folder", DEVELOPERS)
def test_no_module_in_an_image_imports_a_folder_for_developers(folder):
    assert folder in (ROOT / ".dockerignore").read_text("utf-8").split()
    prefix = folder.replace("/", ".")
    for path in product():
        assert not any(name.startswith(prefix) for name in imported(path)), path


@pytest.mark.parametrize("folder", DEVELOPERS)
def test_a_folder_for_developers_imports_no_part(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert not packages(path) & {*PARTS, "tests"}, path


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_no_other_part(part):
    others = {*PARTS, "tests"} - {part}
    for path in modules(part):
        assert not packages(path) & others, path


def package_of(module: str) -> str:
    """Return the package inside a part that a module is in: `training.data.store` -> `data`."""
    part, _, rest = module.partition(".")
    package = rest.partition(".")[0]
    return package if (ROOT / part / package / "__init__.py").exists() else ""


@pytest.mark.parametrize("part", PARTS)
def test_packages_inside_a_part_depend_in_one_direction(part):
    graph: dict[str, set[str]] = {}
    for path in modules(part):
        if path.stem == "__main__":  # an entry point may import every package
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if package := package_of(module):
            used = {package_of(name) for name in imported(path) if name.startswith(f"{part}.")}
            graph.setdefault(package, set()).update(used - {package, ""})
    TopologicalSorter(graph).prepare()  # raises CycleError with the packages of a circle


@pytest.mark.parametrize(("part", "package"), ONE_PLACE)
def test_only_named_modules_import_an_outside_system(part, package):
    found = {path.stem for path in modules(part) if package in packages(path)}
    assert found == ONE_PLACE[part, package]


def test_a_request_worker_loads_neither_mlflow_nor_pandas_nor_pymongo(tmp_path):
    """A worker without a live model does not load XGBoost either."""
    names = ", ".join(f"prediction_service.{name}" for name in WORKER)
    script = f"import sys, {names}; print(*(name.split('.')[0] for name in sys.modules))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    loaded = set(run(sys.executable, "-c", script, env=env, cwd=tmp_path).split())
    assert {"prediction_service", "onnxruntime"} <= loaded
    assert not loaded & HEAVY
