"""The page at `/`: what an operator reads, before and after anything was measured."""

import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect, sync_playwright
from prometheus_client import CollectorRegistry
from werkzeug.serving import make_server

from config.contract import Contract
from evidently_service.api.app import create_app
from evidently_service.store.records import DriftEffect, Judgement, Measurement, Run, State
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.api.status_page import HEIGHT, STALE_PERIODS, WIDTH, chart_of, readable
from evidently_service.settings import Settings
from evidently_service.store.window import Window
from tests.conftest import CHROMIUM
from tests.evidently_service.test_app import MEASURED

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def client(monitoring: Monitoring, contract: Contract, window: Window) -> FlaskClient:
    """A client of the service on an empty window."""
    app = create_app(Settings(), monitoring, contract, window, CollectorRegistry())
    return app.test_client()


def page(client: FlaskClient) -> str:
    """What a browser gets."""
    answer = client.get("/", headers=BROWSER)
    assert answer.status_code == 200 and answer.mimetype == "text/html"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src")
    assert "style=" not in answer.text and "<script>" not in answer.text  # the policy forbids both
    return answer.text


def at(second: float, **changes: object) -> Measurement:
    """The measurement of a time."""
    return msgspec.structs.replace(MEASURED, measured_at=second, **changes)


def test_programs_get_json_and_browsers_a_page(client: FlaskClient) -> None:
    assert client.get("/").json["endpoints"]  # type: ignore[index]
    assert client.get("/", headers={"Accept": "*/*"}).is_json
    assert "Nothing has been measured yet" in page(client)


@pytest.mark.parametrize(
    ("state", "said"), [("no_reference", "No version is in"), ("not_enough_rows", "Too few pred")]
)
def test_before_a_comparison_the_page_says_what_is_missing(
    client: FlaskClient, window: Window, state: State, said: str
) -> None:
    bare = Measurement(dataset="income", state=state, share_threshold=0.2, window=MEASURED.window)
    window.record(bare, Run(1.0))
    assert said in page(client)


def test_drift_is_told_with_its_effect_and_its_times(client: FlaskClient, window: Window) -> None:
    effects = (DriftEffect("sex", 0.09, 0.09, 0.01), *MEASURED.effects)
    judgement = Judgement(drifted_since=1_700_000_000.0, drifted_from="7")
    window.record(at(1_700_000_000.0, effects=effects, judgement=judgement), Run(1.0, "<i>broke"))
    text = page(client)
    assert "the dataset has drifted" in text
    assert "since 2023-11-14 22:13:20 UTC, from version 7" in text
    assert text.index('scope="row">sex') < text.index('scope="row">age')  # the larger effect first
    assert "+9.00" in text and "-4.00" in text
    assert "0.920 (0.880 to 0.950)" in text and "0.870 (0.850 to 0.890)" in text
    assert "failed: &lt;i&gt;broke" in text


def test_the_verdict_is_told_in_words(client: FlaskClient, window: Window) -> None:
    window.record(at(1.0, drifted=False), Run(1.0))
    assert "Single columns have drifted" in page(client)
    calm = tuple(msgspec.structs.replace(one, persistent=False) for one in MEASURED.features)
    window.record(at(2.0, drifted=False, features=calm), Run(2.0))
    assert "All is calm" in page(client)
    window.record(at(3.0, below_floor=True), Run(3.0))
    assert "below the floor of" in page(client)


CALM: dict[str, Any] = {
    "drifted": False,
    "features": tuple(msgspec.structs.replace(one, persistent=False) for one in MEASURED.features),
}


def test_nothing_is_calm_while_the_roc_auc_is_below_its_floor(
    client: FlaskClient, window: Window
) -> None:
    """The page once said so over a red figure further down."""
    window.record(at(time.time(), **CALM, below_floor=True), Run(1.0))
    text = page(client)
    assert 'class="verdict bad">Predictions are worse than they may be: ROC AUC is below' in text
    assert "All is calm" not in text


def test_what_is_measured_no_more_is_not_told_as_the_verdict_of_now(
    client: FlaskClient, window: Window, monitoring: Monitoring
) -> None:
    late_s = (STALE_PERIODS + 1) * monitoring.measure_period_s
    window.record(at(time.time() - late_s, **CALM), Run(1.0))
    assert 'class="verdict bad">Not measured since 20' in page(client)
    window.record(at(time.time(), **CALM), Run(2.0))
    assert 'class="verdict">All is calm' in page(client)


@pytest.fixture
def opened(client: FlaskClient) -> Iterator[Page]:
    """Chromium on the page; its clock is the test's."""
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt-get install chromium")
    server = make_server("127.0.0.1", 0, client.application, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.clock.install()
        shown.set_default_timeout(20_000)
        shown.goto(f"http://127.0.0.1:{server.server_port}/")
        yield shown
        browser.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_open_page_renews_its_figures_and_reads_out_a_changed_verdict_alone(
    opened: Page, window: Window
) -> None:
    """It once loaded itself anew under a screen reader, which had to begin at the top again."""
    opened.evaluate("""new MutationObserver(found => window.told = (window.told ?? 0) + 1).observe(
            document.querySelector("[role=status]"), {childList: true, characterData: true})""")
    verdict, figures = opened.get_by_role("status"), opened.locator("#measured")
    for seconds, changes, said, told in (
        (1.0, CALM, "All is calm", 1),
        (2.0, CALM, "All is calm", 1),
        (3.0, {}, "the dataset has drifted", 2),
    ):
        now = time.time() + seconds
        window.record(at(now, **changes), Run(1.0))
        opened.clock.run_for(30_000)
        expect(figures).to_contain_text(readable(now))
        expect(verdict).to_contain_text(said)
        assert opened.evaluate("window.told") == told
    expect(verdict).to_have_class("verdict bad")
    opened.route("**/*", lambda route: route.abort())
    opened.clock.run_for(30_000)
    expect(verdict).to_contain_text("does not answer")


def test_the_chart_has_a_place_for_every_measurement(client: FlaskClient, window: Window) -> None:
    none = tuple(msgspec.structs.replace(one, drifted=False) for one in MEASURED.features)
    measured = [at(10.0), at(20.0, features=none), at(50.0)]
    chart = chart_of(measured, 0.25)
    assert chart is not None
    assert chart.points == f"0.0,{HEIGHT / 2} {WIDTH / 4},{HEIGHT:.1f} {WIDTH:.1f},{HEIGHT / 2}"
    assert chart.threshold_y == 0.75 * HEIGHT
    assert chart_of(measured[:1], 0.25) is None
    for one in measured:
        window.record(one, Run(1.0))
    assert chart.points in page(client)


def test_the_newest_measurements_come_oldest_first(window: Window) -> None:
    for second in (1.0, 2.0, 3.0):
        window.record(at(second), Run(second))
    assert [one.measured_at for one in window.newest(2)] == [2.0, 3.0]
