"""The files, headings, Make targets and commands that documents name exist."""

import re
import socket
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT, run

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("config/**/*.md"),
        *ROOT.glob("prediction_service/**/*.md"),
    ],
    key=str,
)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
MAKE = re.compile(r"(?:`|^|&& )make ([a-z][a-z-]*)", re.M)
MODULE = re.compile(r"python -m ((?:training|prediction_service|stream_generator|tests)[\w.]*)")
COMMAND = re.compile(r"python -m (training|prediction_service\.journal) ([a-z]+)")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_has_a_target(document: Path) -> None:
    for path, anchor in LINK.findall(document.read_text("utf-8")):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links to {path}"
        if anchor:
            assert anchor in anchors(target), f"{document.name} links to {path}#{anchor}"


def named(pattern: re.Pattern[str]) -> set:
    """Return every match of a pattern in the documents."""
    return {one for path in DOCUMENTS for one in pattern.findall(path.read_text("utf-8"))}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert len(named(MAKE)) > 10
    assert named(MAKE) <= targets


def test_make_help_fits_a_screen_and_names_every_benchmark() -> None:
    shown = run("make", "help")
    lines = shown.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 88
    for path in (ROOT / "tests" / "benchmarks").glob("benchmark_*.py"):
        assert path.stem.removeprefix("benchmark_").replace("_", "-") in shown


def test_doctor_reports_missing_programs_with_their_use_and_ports_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        env = {"PATH": "/nowhere", "MLFLOW_PORT": port}
        shown = run(sys.executable, "config/operate/doctor", env=env)
    assert re.search(r"^missing +Docker with Compose +make up", shown, re.M)
    assert re.search(r"^missing +Chromium .*apt-get install chromium", shown, re.M)
    assert f"MLFLOW_PORT={port}" in shown


def test_modules_exist() -> None:
    assert len(named(MODULE)) > 3
    for name in named(MODULE):
        spec = find_spec(name.rstrip("."))
        assert spec, name
        assert not spec.submodule_search_locations or find_spec(f"{name}.__main__"), name


def test_subcommands_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = named(COMMAND)
    assert len(wanted) > 5
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    for module in {module for module, _ in wanted}:
        with pytest.raises(SystemExit):
            import_module(f"{module}.__main__").main()
        commands = re.findall(r"^    ([a-z]+)", capsys.readouterr().out, re.M)
        assert {name for of, name in wanted if of == module} <= set(commands)
