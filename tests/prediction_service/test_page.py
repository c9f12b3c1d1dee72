"""The form at `/`, in a real browser on the running service."""

import csv
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from config.contract import Contract
from prediction_service.log_of_record import journalled_ids
from prediction_service.model_folder import ModelFolder
from prediction_service.settings import Settings
from tests.conftest import CHROMIUM
from tests.prediction_service.conftest import Start, gunicorn

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PHONE = {"width": 360, "height": 740}
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start headless Chromium."""
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def address(settings: Settings, model_folder: ModelFolder, start: Start) -> Iterator[str]:
    """Return the running service's address. Its model predicts a high income from age 45."""
    assert model_folder
    one = settings.model_copy(update={"workers": 1})
    with ExitStack() as stack:
        yield stack.enter_context(gunicorn(start, one))


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open the form. Fail if a script raises an error or the form loads from another host."""
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda one: wrong.append(one.url) if outside(one.url, address) else None)
    opened.goto(address)
    yield opened
    context.close()
    assert not wrong


def outside(url: str, address: str) -> bool:
    """Return whether a URL belongs to another host."""
    return not url.startswith((address, "blob:" + address))


def test_a_person_is_predicted_and_the_explanation_is_drawn(page: Page, contract: Contract) -> None:
    for feature in contract.inputs:
        label = page.locator(f"label[for=f-{feature.name}]")
        expect(label).to_contain_text(feature.name.replace("_", " "))
    page.get_by_label("age in years").fill("70")
    page.get_by_role("button", name="Predict").click()
    prediction = page.locator("#prediction")
    expect(prediction.locator(".verdict")).to_have_text(contract.target.positive)
    expect(prediction).to_contain_text("Model version 1")
    rows = prediction.locator("tbody tr")
    expect(rows).to_have_count(len(contract.inputs))
    expect(rows.first.locator("th")).to_have_text("age")
    expect(rows.first.locator("td").first).to_have_text("70")
    assert rows.first.locator(".up").bounding_box()["width"] > 20  # type: ignore[index]
    page.get_by_label("age in years").fill("20")
    page.get_by_label("age in years").press("Enter")
    expect(prediction.locator(".verdict")).to_have_text(contract.target.negative)
    expect(rows.first.locator(".down")).to_be_visible()


def test_an_error_of_the_service_is_shown(page: Page) -> None:
    page.get_by_label("age in years").fill("7")
    page.get_by_role("button", name="Predict").click()
    assert page.locator("#f-age:invalid").count() == 1
    expect(page.locator("#prediction")).to_be_empty()
    page.locator("#person").evaluate("form => form.noValidate = true")
    page.get_by_role("button", name="Predict").click()
    expected = "age: got 7, expected a whole number from 17 to 90"
    expect(page.locator("#prediction")).to_contain_text(expected)


def test_a_problem_is_connected_to_its_input_until_it_is_fixed(page: Page) -> None:
    page.locator("#person").evaluate("form => form.noValidate = true")
    page.get_by_label("hours per week").fill("1000")
    page.get_by_label("age in years").fill("7")
    page.get_by_role("button", name="Predict").click()
    age, hours = page.locator("#f-age"), page.locator("#f-hours_per_week")
    expect(age).to_be_focused()
    for field in (age, hours):
        expect(field).to_have_attribute("aria-invalid", "true")
    expect(age).to_have_accessible_description(re.compile("^age: got 7, expected a whole number"))
    expect(hours).to_have_accessible_description(re.compile("^hours per week: got 1000, expected"))
    hours.fill("40")
    age.fill("70")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#explanation tbody tr").first).to_be_visible()
    assert page.locator("[aria-invalid]").count() == 0
    expect(age).to_have_accessible_description(re.compile("^(?!age: got 7)"))


def test_screen_readers_announce_the_prediction_without_its_table(page: Page) -> None:
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#prediction table")).to_be_visible()
    announced = page.locator("#prediction [role=status]")
    expect(announced).to_contain_text("Probability of")
    assert announced.locator("table, li").count() == 0


def write_csv(path: Path, records: list[dict[str, Any]], **changes: str) -> Path:
    """Write records to a CSV file. `changes` renames columns."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow([changes.get(name, name) for name in records[0]])
        writer.writerows(["" if v is None else v for v in one.values()] for one in records)
    return path


def test_a_file_is_predicted_and_invalid_rows_are_marked(
    page: Page, contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    good = {one.name: one.default for one in contract.inputs} | {"note": 'a "b", <i>c</i>\nd'}
    records = [good | {"age": 18 + i % 70} for i in range(130)]  # more than one batch
    records[3]["age"] = 7
    records[4]["workclass"] = None
    records[90] |= {"education": "Master", "age": "old"}
    path = write_csv(tmp_path / "people.csv", records, marital_status="Marital.Status")
    page.locator("#file").set_input_files(path)
    expect(page.locator("#progress")).to_contain_text("128 rows predicted")
    expect(page.locator("#progress")).to_contain_text("2 rows with a problem")
    problems = page.locator("#results tbody tr")
    expect(problems.nth(0)).to_contain_text("age: got 7, expected a whole number from 17 to 90")
    expect(problems.nth(1)).to_contain_text("did you mean Masters?")
    expect(problems.nth(1)).to_contain_text("age: got old")
    expect(page.get_by_role("img", name=re.compile("Number of rows"))).to_be_visible()
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download people-predicted.csv").click()
    with open(downloading.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == [good["note"]] * 130
    assert [bool(row["problem"]) for row in rows] == [i in (3, 90) for i in range(130)]
    stored = {i for _, ids in journalled_ids(settings.journal_path) for i in ids}
    assert {row["prediction_id"] for row in rows if row["prediction_id"]} == stored
    assert {row["label"] for row in rows if not row["problem"]} == set(contract.target.labels)


def test_a_failed_batch_keeps_the_predictions_before_it_and_a_retry_stores_nothing_twice(
    page: Page, contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    """One 503 once lost the predictions of 60,000 rows, and a retry stored them twice."""
    good = {one.name: one.default for one in contract.inputs}
    path = write_csv(tmp_path / "people.csv", [good | {"age": 18 + i % 70} for i in range(130)])
    keys = []

    def lose_the_second(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        response = route.fetch()  # the service stores the batch, and the response is lost
        if len(keys) == 2:
            route.fulfill(status=502, json={"message": "a reverse proxy's own error"})
        else:
            route.fulfill(response=response)

    page.route("**/predict", lose_the_second)
    page.locator("#file").set_input_files(path)
    failure = "The service responded with status 502. Retry later."
    expect(page.locator("#progress .problem")).to_have_text(failure)
    part = settings.max_body_bytes // 600  # rows of a batch: 600 bytes a record in form.js
    expect(page.locator("#progress")).to_contain_text(f"{part} rows predicted")
    first = page.locator("#results tbody tr").first
    expect(first.locator("th")).to_have_text(str(part + 1))  # the row
    expect(first).to_contain_text("not predicted")
    rows = download(page)
    assert [bool(row["prediction_id"]) for row in rows] == [i < part for i in range(130)]
    assert rows[-1]["problem"] == failure
    page.get_by_role("button", name="Predict the other rows").click()
    expect(page.locator("#progress")).to_contain_text("130 rows predicted")
    assert keys[2] == keys[1] != keys[0]  # the first batch is not sent again
    stored = {i for _, ids in journalled_ids(settings.journal_path) for i in ids}  # sinks keep one
    assert stored == {row["prediction_id"] for row in download(page)} and len(stored) == 130


def test_only_an_unfinished_file_keeps_its_idempotency_key(
    page: Page, contract: Contract, tmp_path: Path
) -> None:
    good = {one.name: one.default for one in contract.inputs}
    path = write_csv(tmp_path / "people.csv", [good])
    keys: list[str] = []
    page.on("request", lambda one: keys.append(one.headers.get("idempotency-key", "")))
    page.route("**/predict", lambda route: route.abort(), times=1)
    page.locator("#file").set_input_files(path)
    expect(page.locator("#progress .problem")).to_contain_text("did not respond")
    for _ in range(2):
        page.locator("#file").set_input_files(path)
        expect(page.locator("#progress")).to_contain_text("1 rows predicted")
        page.locator("#progress").evaluate("place => place.replaceChildren()")
    assert len(keys) == 3 and keys[0] == keys[1] != keys[2]


def test_a_dropped_file_is_predicted(page: Page, contract: Contract, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "people.csv", [{one.name: one.default for one in contract.inputs}])
    page.locator("#file").scroll_into_view_if_needed()
    box = page.locator("#file").bounding_box()
    assert box
    drag = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    x, y = box["x"] + box["width"] - 10, box["y"] + 10
    browser = page.context.new_cdp_session(page)
    for event in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": event, "x": x, "y": y, "data": drag})
    expect(page.locator("#progress")).to_contain_text("1 rows predicted")


def download(page: Page) -> list[dict[str, str]]:
    """Return the rows of the downloaded results."""
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download").click()
    with open(downloading.value.path(), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "The file is empty"),
        ("age,sex\n38,Male\n", "has no column education"),
        ('age,"sex\n38,Male\n', "A quoted cell has no closing"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_remedy(
    page: Page, tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    page.locator("#file").set_input_files(tmp_path / "bad.csv")
    expect(page.locator("#progress .problem")).to_contain_text(expected)


def test_the_form_fits_a_phone_and_has_a_dark_mode(page: Page) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#prediction .verdict")).to_be_visible()
    assert page.evaluate(FITS)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) != light


def test_every_control_has_a_name_and_can_be_reached_with_the_keyboard(page: Page) -> None:
    unnamed = "[...document.querySelectorAll('input,select')].filter(e => !e.labels.length).length"
    assert page.evaluate(unnamed) == 0
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    controls = page.evaluate("[...document.querySelectorAll('input,select')].map(e => e.id)")
    assert {*controls, "BUTTON"} <= reached


def test_a_stopped_service_is_reported(page: Page) -> None:
    page.route("**/predict**", lambda route: route.abort())
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#prediction .problem")).to_contain_text("did not respond")


def test_programs_get_json(client: FlaskClient) -> None:
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert client.get("/", headers=accept).json["endpoints"]  # type: ignore[index]
    shown = client.get("/", headers=BROWSER)
    assert shown.content_type == "text/html; charset=utf-8"
    assert "script-src 'self'" in shown.headers["Content-Security-Policy"]
    assert "http://localhost:5000" in shown.text


def test_without_a_model_the_form_says_so(settings: Settings, start: Start) -> None:
    with gunicorn(start, settings.model_copy(update={"workers": 1})) as where:
        assert "No model is loaded" in requests.get(where, headers=BROWSER, timeout=10).text
