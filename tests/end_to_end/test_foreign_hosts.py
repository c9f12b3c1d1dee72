"""No page of the stack makes the browser ask another host, such as one that counts users."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

from config.local_stack.stack import PORTS, running, stack_environment
from tests.conftest import CHROMIUM, free_port

PAGES = {
    "PREDICTION_PORT": ("/", "/docs"),
    "EVIDENTLY_PORT": ("/", "/report"),
    "MLFLOW_PORT": ("/", "/#/experiments", "/#/models"),
    "PREFECT_PORT": ("/", "/dashboard", "/runs", "/deployments"),
}
PROCESSES = ("prediction", "evidently", "mlflow", "prefect")
SETTLED_MS = 3000


@pytest.mark.slow
def test_no_page_of_the_stack_asks_a_foreign_host(tmp_path: Path) -> None:
    """Prefect's second interface asks an analytics host, also with every switch off."""
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt-get install chromium")
    ports = {setting: str(free_port()) for setting in PORTS}
    env = stack_environment(os.environ | ports, tmp_path / "state", {})
    asked: set[tuple[str, str]] = set()
    with running(env, tmp_path / "logs", PROCESSES) as stack, sync_playwright() as playwright:
        stack.wait_healthy(*PROCESSES)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for setting, paths in PAGES.items():
            for path in paths:
                page = browser.new_page()
                urls: list[str] = []
                page.on("request", lambda one, urls=urls: urls.append(one.url))  # type: ignore
                page.goto(f"http://127.0.0.1:{ports[setting]}{path}", timeout=60_000)
                page.wait_for_timeout(SETTLED_MS)
                asked |= {(path, host_of(url)) for url in urls}
                page.close()
        browser.close()
    assert {path for path, _ in asked} == {path for paths in PAGES.values() for path in paths}
    assert {one for one in asked if one[1] not in ("127.0.0.1", "")} == set()
    assert "GET /" not in (tmp_path / "logs" / "mlflow.log").read_text(
        "utf-8"
    )  # it drowned the rest


def host_of(url: str) -> str:
    """Return the host of an address, empty for data in the page."""
    return urlsplit(url).hostname or ""
