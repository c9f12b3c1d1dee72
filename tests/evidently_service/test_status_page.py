"""The status page at `/`, before and after the first measurement."""

import re
import time
from collections.abc import Iterator
from functools import partial
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
from evidently_service.store.records import (
    Decision,
    Promotion,
    DriftImpact,
    FairnessGap,
    JointDrift,
    Judgement,
    Measurement,
    Run,
    State,
)
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.api.status_page import HEIGHT, STALE_PERIODS, WIDTH, chart_of, format_time
from evidently_service.settings import Settings
from evidently_service.store.window import Window
from tests.conftest import CHROMIUM
from tests.evidently_service.events import made_up_predictions
from tests.evidently_service.test_app import MEASURED

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


GROWN = FairnessGap("sex", "tpr", 1.4, 0.31, 0.08, "Male", "Female")
CALM: dict[str, Any] = {
    "drifted": False,
    "judgement": Judgement(windows=2),
    "features": tuple(
        msgspec.structs.replace(one, drifted=False, persistent=False) for one in MEASURED.features
    ),
}
BEYOND = CALM | {
    "features": tuple(msgspec.structs.replace(one, persistent=False) for one in MEASURED.features)
}


@pytest.fixture
def client(monitoring: Monitoring, contract: Contract, window: Window) -> FlaskClient:
    """Return a client of the service with an empty window."""
    app = create_app(Settings(), monitoring, contract, window, CollectorRegistry())
    return app.test_client()


def page(client: FlaskClient) -> str:
    """Return the page as a browser gets it."""
    response = client.get("/", headers=BROWSER)
    assert response.status_code == 200 and response.mimetype == "text/html"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src")
    assert (
        "style=" not in response.text and "<script>" not in response.text
    )  # the policy forbids both
    assert '<a href="http://localhost:9696">Predict</a>' in response.text
    return response.text


def at(second: float, **changes: object) -> Measurement:
    """Return a measurement at a time."""
    return msgspec.structs.replace(MEASURED, measured_at=second, **changes)


def test_programs_get_json_and_browsers_a_page(client: FlaskClient) -> None:
    assert client.get("/").json["endpoints"]  # type: ignore[index]
    assert client.get("/", headers={"Accept": "*/*"}).is_json
    assert "Nothing has been measured yet" in page(client)


@pytest.mark.parametrize(
    ("state", "words"),
    [("no_reference", "Waiting for the first model"), ("not_enough_rows", "Too few pred")],
)
def test_before_a_comparison_the_page_shows_what_is_missing(
    client: FlaskClient, window: Window, state: State, words: str
) -> None:
    bare = Measurement(dataset="income", state=state, share_threshold=0.2, window=MEASURED.window)
    window.record(bare, Run(1.0))
    assert words in page(client)


def test_the_page_shows_the_queued_training_or_the_objection(
    client: FlaskClient, window: Window
) -> None:
    queued = Decision(1_700_000_000.0, 1_700_000_000.0, "train", "900 rows", "brave-otter")
    window.record(MEASURED, Run(1.0, decision=queued))
    assert "Queued since 2023-11-14 22:13:20 UTC as flow run brave-otter: 900 rows" in page(client)
    assert client.get("/drift").json["training"]["flow_run"] == "brave-otter"  # type: ignore[index]
    none = Decision(1_700_000_000.0, time.time() - 60, "labels", "12 labelled rows")
    window.record(MEASURED, Run(2.0, decision=none))
    text = page(client)
    assert "Last decision, 60 seconds ago: no training, because 12 labelled rows" in text


def test_the_page_names_the_last_change_of_production(client: FlaskClient, window: Window) -> None:
    undone = Promotion(1_700_000_000.0, "3", "2", "undone: more log loss")
    window.record(MEASURED, Run(1.0, promotion=undone))
    assert "2023-11-14 22:13:20 UTC, version 3 to 2: undone: more log loss." in page(client)
    stayed = Promotion(1_700_000_000.0, "2", "2", "undecided after 20000 labels")
    window.record(MEASURED, Run(2.0, promotion=stayed))
    assert "UTC, version 2 stayed: undecided after 20000 labels." in page(client)


def test_drift_is_shown_with_its_impact_and_its_times(client: FlaskClient, window: Window) -> None:
    impacts = (DriftImpact("sex", 0.09, 0.09, 0.01), *MEASURED.impacts)
    judgement = Judgement(drifted_since=1_700_000_000.0, drifted_from="7", windows=2)
    window.record(at(1_700_000_000.0, impacts=impacts, judgement=judgement), Run(1.0, "<i>broke"))
    text = page(client)
    assert "The dataset has drifted" in text
    assert "Since 2023-11-14 22:13:20 UTC, from version 7" in text
    assert text.index('scope="row">sex') < text.index('scope="row">age')  # the larger impact first
    assert "+9.00" in text and "-4.00" in text
    assert "0.920 (0.880 to 0.950)" in text and "0.870 (0.850 to 0.890)" in text
    assert "failed: &lt;i&gt;broke" in text
    inherited = msgspec.structs.replace(judgement, windows=0)
    window.record(at(1_700_000_001.0, judgement=inherited), Run(1.0))
    assert "had drifted from the reference data of the former version" in page(client)


ONCE, TWICE = (
    Judgement(windows=3, joint=JointDrift(0.6, 0.55, 2.0, ("age", "sex"), streak, streak == 2))
    for streak in (1, 2)
)
NOON = 4_102_488_000.0
VERDICTS: list[tuple[dict[str, Any], str, str]] = [
    (CALM, "", "No drift: the window matches the reference data."),
    ({"drifted": False}, "unsure", "Some columns have drifted"),
    ({"concept_shift": True}, "bad", "Concept shift: the labels contradict"),
    # The verdict once was calm above a red figure.
    (
        CALM | {"below_floor": True, "roc_auc_floor": 0.8149},
        "bad",
        "Quality is too low: the whole interval of the ROC AUC is below its floor, 0.815.</p>",
    ),
    (
        CALM | {"fairness_gaps": (GROWN,)},
        "bad",
        "A gap between groups has grown: tpr of sex, Male 0.310 above Female, 0.080 in the",
    ),
    # The page once was calm after a promotion, with half of the columns far beyond.
    (
        BEYOND | {"judgement": Judgement(), "open_rows": 240},
        "unsure",
        "Not judged yet: 1 of 3 columns are beyond their threshold so far. The next window has 240",
    ),
    (CALM | {"judgement": Judgement()}, "", "Not judged yet: 0 of 3 columns are beyond"),
    (BEYOND, "unsure", "Suspicious: age beyond the threshold. The next window has 0"),
    (
        CALM | {"judgement": Judgement(windows=1, streaks={"sex": 1}, not_before=NOON)},
        "unsure",
        "Suspicious: sex beyond the threshold. The next window starts at 12:00 UTC.",
    ),
    (CALM | {"judgement": ONCE}, "unsure", "Suspicious: age with sex together beyond"),
    (
        CALM | {"judgement": TWICE},
        "unsure",
        "The features have drifted together, no column alone: age with sex.",
    ),
]


@pytest.mark.parametrize(("changes", "style", "words"), VERDICTS)
def test_the_verdict_is_shown_in_words_and_its_style(
    client: FlaskClient, window: Window, changes: dict[str, Any], style: str, words: str
) -> None:
    window.record(at(time.time(), **changes), Run(1.0))
    shown = f"verdict {style}" if style else "verdict"
    assert f'class="{shown}">{words}' in page(client)


def test_figures_beyond_their_limit_are_marked(client: FlaskClient, window: Window) -> None:
    window.record(at(1.0, concept_shift_scores={"roc_auc": 0.5}), Run(1.0))
    text = page(client)
    assert "roc auc <span>0.50</span>" in text and "sex tpr <span>0.30</span>" in text
    window.record(at(1.0, concept_shift_scores={"roc_auc": 1.5}, fairness_gaps=(GROWN,)), Run(1.0))
    text = page(client)
    assert 'roc auc <span class="bad">1.50</span>' in text
    assert 'sex tpr <span class="bad">1.40</span>' in text


def test_the_page_shows_whether_the_thresholds_are_calibrated(
    client: FlaskClient, window: Window
) -> None:
    widened = Judgement(windows=5, calm_windows=4, factors={"age": 1.5, "sex": 1.0})
    window.record(at(1.0, judgement=widened, calibration_windows=192), Run(1.0))
    text = page(client)
    assert "Thresholds are calibrating: 4 of 192 windows" in text and "widened" not in text
    assert client.get("/drift").json["calibrating"] == "calibrating: 4 of 192 windows"  # type: ignore[index]
    window.record(at(2.0, judgement=widened, calibration_windows=4), Run(2.0))
    text = page(client)
    assert "calibrating:" not in text and text.count("widened") == 1 and "1.50 times" in text
    assert client.get("/drift").json["calibrating"] is None  # type: ignore[index]


def test_a_problem_is_shown_with_its_runbook_and_the_page_of_the_next_step(
    monitoring: Monitoring, contract: Contract, window: Window
) -> None:
    settings = Settings(page_links="Predict=9696,MLflow=5000,Prefect=4200,Drift=3000,Grafana=8085")
    app = create_app(settings, monitoring, contract, window, CollectorRegistry())
    index = app.test_client().get("/report", base_url="http://here:3000").text
    assert 'href="http://here:9696"' in index and "http://here:3000" not in index  # itself
    well = CALM | {"broken_features": ()}
    output = msgspec.structs.replace(MEASURED.prediction[0], persistent=True)
    for changes, names in (
        (well, []),
        (well | {"second": 1.0}, ["MonitoringStale"]),
        (well | {"concept_shift": True}, ["ConceptShift"]),
        (well | {"below_floor": True}, ["PerformanceBelowFloor"]),
        (well | {"fairness_gaps": (GROWN,)}, ["FairnessGap"]),
        (well | {"features": MEASURED.features}, ["FeatureDrift"]),
        (well | {"prediction": (output,)}, ["TargetDrift"]),
        ({}, ["InvalidValues", "DatasetDrift"]),
    ):
        window.record(at(**({"second": time.time()} | changes)), Run(1.0))
        text = page(app.test_client())
        assert re.findall("<summary>Runbook: (.*)</summary>", text) == names
        for link in (":5000/#/experiments", ":4200/runs", ":8085/d/income-"):
            assert (f'"http://localhost{link}' in text) == bool(names)
    window.clock = partial(float, 1.0)
    window.store_backlog({"host-a": 0})
    window.record(at(time.time(), **well), Run(1.0))
    assert "Runbook: SinkBacklog" in page(app.test_client())


def test_a_stale_measurement_is_not_shown_as_the_current_verdict(
    client: FlaskClient, window: Window, monitoring: Monitoring
) -> None:
    late_s = (STALE_PERIODS + 1) * monitoring.measure_period_s
    window.record(at(time.time() - late_s, **CALM), Run(1.0))
    assert 'class="verdict bad">No measurement since 20' in page(client)
    window.record(at(time.time(), **CALM), Run(2.0))
    assert 'class="verdict">No drift' in page(client)


@pytest.fixture
def opened(client: FlaskClient) -> Iterator[Page]:
    """Open the page in Chromium, with a clock set by the test."""
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


def test_the_open_page_refreshes_its_figures_and_replaces_only_a_changed_verdict(
    opened: Page, window: Window
) -> None:
    """The whole page once reloaded, so a screen reader started again at the top."""
    opened.evaluate(
        """new MutationObserver(found => window.replaced = (window.replaced ?? 0) + 1).observe(
            document.querySelector("[role=status]"), {childList: true, characterData: true})"""
    )
    verdict, figures = opened.get_by_role("status"), opened.locator("#figures")
    for seconds, changes, words, replaced in (
        (1.0, CALM, "No drift", 1),
        (2.0, CALM, "No drift", 1),
        (3.0, {}, "The dataset has drifted", 2),
    ):
        now = time.time() + seconds
        window.record(at(now, **changes), Run(1.0))
        opened.clock.run_for(30_000)
        expect(figures).to_contain_text(format_time(now))
        expect(verdict).to_contain_text(words)
        assert opened.evaluate("window.replaced") == replaced
    expect(verdict).to_have_class("verdict bad")
    opened.get_by_text("Runbook: DatasetDrift").click()
    window.record(at(now + 1.0), Run(1.0))
    opened.clock.run_for(30_000)
    expect(figures).to_contain_text(format_time(now + 1.0))
    expect(figures).to_contain_text("python -m training decisions", use_inner_text=True)
    opened.set_viewport_size({"width": 390, "height": 844})
    heights = opened.locator(".chart text").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(heights) > 12  # it once was 7 pixels high
    moved = opened.get_by_role("table", name="age")
    expect(moved.get_by_role("row", name="above 30")).to_have_text(re.compile(r"50.0 %\s*90.0 %"))
    of_row = moved.locator("tr", has_text="above 30").locator("rect")
    before, after = (one.bounding_box() for one in of_row.all())
    assert before and after and 9 * before["width"] == pytest.approx(5 * after["width"], rel=0.01)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.route("**/*", lambda route: route.abort())
    opened.clock.run_for(30_000)
    expect(verdict).to_contain_text("does not respond")


def test_a_silent_relay_and_a_backlog_are_shown_in_place_of_calm(
    client: FlaskClient, window: Window, contract: Contract
) -> None:
    """The page once showed calm while the relay was down and 2,200 shifted rows waited."""
    (made,) = made_up_predictions(contract, 1, seed=1)
    window.add_predictions([msgspec.structs.replace(made, predicted_at=time.time() - 7300)])
    window.record(at(time.time(), **CALM), Run(1.0))
    for age_s, events, words, row in (
        (0, 12, ">No drift", "12 predictions and labels to deliver"),
        (0, 2200, " bad>2,200 predictions wait in the journals. No drift", "2200 predictions and"),
        (600, 0, " bad>The relay of host-a is silent since", "reported 10 minutes ago"),
    ):
        window.clock = partial(float, time.time() - age_s)
        window.store_backlog({"host-a": events})
        text = page(client)
        assert words in text.replace('"', "") and row in text
        assert "the newest made 2 hours ago" in text


def test_the_chart_has_a_point_for_every_measurement(client: FlaskClient, window: Window) -> None:
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
