"""The form at `/`, in a real browser on the running service."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, Route, ViewportSize, expect, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from config.contract import Contract
from config.feature import Feature
from config.model_registry import CARD
from prediction_service.journal.export import journalled_ids, journalled_predictions
from prediction_service.models.live_model import LiveModel
from prediction_service.models.model_folder import ModelFolder
from prediction_service.settings import Settings
from tests.conftest import CHROMIUM, wait_until
from tests.prediction_service.conftest import (
    CHURN,
    Start,
    address_of,
    gunicorn,
    install,
    shared_service,
    with_metadata,
)
from tests.prediction_service.test_explanations import UNUSUAL

pytestmark = pytest.mark.slow  # a browser

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PHONE: ViewportSize = {"width": 360, "height": 740}
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
def churn_address(
    settings: Settings, churn_folder: ModelFolder, start: Start, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Return the address of a service whose contract has every kind of column."""
    monkeypatch.setenv("CONTRACT", str(CHURN))
    one = settings.model_copy(update={"workers": 1, "model_dir": str(churn_folder.path)})
    with ExitStack() as stack:
        yield stack.enter_context(gunicorn(start, one))


@pytest.fixture(scope="module")
def shared(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Run a service for all tests that do not change it."""
    yield from shared_service(package, tmp_path_factory.mktemp("shared"))


@pytest.fixture
def page(browser: Browser, shared: Settings) -> Iterator[Page]:
    """Open the form."""
    yield from opened_page(browser, address_of(shared))


@pytest.fixture
def own_page(browser: Browser, address: str) -> Iterator[Page]:
    """Open the form of a service of the test's own."""
    yield from opened_page(browser, address)


@pytest.fixture
def churn_page(browser: Browser, churn_address: str) -> Iterator[Page]:
    """Open the form for a contract with every kind of column."""
    yield from opened_page(browser, churn_address)


def opened_page(browser: Browser, address: str) -> Iterator[Page]:
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


def test_a_prediction_is_shown_with_a_drawing_of_its_explanation(
    page: Page, contract: Contract
) -> None:
    for feature in contract.inputs:
        label = page.locator(f"label[for=f-{feature.name}]")
        expect(label).to_contain_text(feature.name.replace("_", " "))
    page.get_by_label("age in years").fill("70")
    page.get_by_role("button", name="Predict").click()
    prediction = page.locator("#prediction")
    expect(prediction.locator(".verdict")).to_contain_text("calls this person >50K")
    threshold = "The line is the threshold, 50.0 %: from there on, the model calls a record >50K."
    expect(prediction).to_contain_text(f"{threshold} Model version 1. Stored as ")
    expect(prediction).to_contain_text("Compared with the average record of the training data:")
    rows = prediction.locator("tbody tr")
    expect(rows).to_have_count(len(contract.inputs))
    expect(rows.first.locator("th")).to_have_text("age")
    expect(rows.first.locator("td").first).to_have_text("70")
    assert rows.first.locator(".up").bounding_box()["width"] > 20  # type: ignore[index]
    announced = prediction.locator("[role=status]")  # by screen readers, without the table
    expect(announced).to_contain_text("The line is the threshold")
    assert announced.locator("table, li").count() == 0
    page.get_by_label("age in years").fill("20")
    page.get_by_label("age in years").press("Enter")
    expect(prediction.locator(".verdict")).to_contain_text("calls this person <=50K")
    expect(rows.first.locator(".down")).to_be_visible()


def test_a_problem_is_connected_to_its_input_until_it_is_fixed(page: Page) -> None:
    page.get_by_label("hours per week").fill("1000")
    page.get_by_label("age in years").fill("7")
    page.get_by_role("button", name="Predict").click()
    assert page.locator("#f-age:invalid").count() == 1
    expect(page.locator("#prediction")).to_be_empty()  # the browser has sent nothing
    page.locator("#record").evaluate("form => form.noValidate = true")
    page.get_by_role("button", name="Predict").click()
    shown = page.locator("#prediction")
    expect(shown).to_contain_text("age: got 7, expected a whole number from 17 to 90")
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


def write_csv(path: Path, records: list[dict[str, Any]], **changes: str) -> Path:
    """Write records to a CSV file. `changes` renames columns."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow([changes.get(name, name) for name in records[0]])
        writer.writerows(["" if v is None else v for v in one.values()] for one in records)
    return path


def test_a_file_is_predicted_and_invalid_rows_are_marked(
    own_page: Page, contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    good = {one.name: one.default for one in contract.inputs} | {"note": 'a "b", <i>c</i>\nd'}
    records = [good | {"age": 18 + i % 70} for i in range(130)]  # more than one batch
    records[3]["age"] = 7
    records[4]["workclass"] = None
    records[90] |= {"education": "Master", "age": "old"}
    path = write_csv(tmp_path / "people.csv", records, marital_status="Marital.Status")
    own_page.locator("#file").set_input_files(path)
    expect(own_page.locator("#progress")).to_contain_text("128 of 130 rows predicted")
    expect(own_page.locator("#progress")).to_contain_text("Rows with a problem, listed first: 2.")
    problems = own_page.locator(".tall tbody tr")
    expect(problems.nth(0)).to_contain_text("age: got 7, expected a whole number from 17 to 90")
    expect(problems.nth(1)).to_contain_text("did you mean Masters?")
    expect(problems.nth(1)).to_contain_text("age: got old")
    counts = own_page.get_by_role("table", name="Rows by probability").locator(".number")
    assert sum(map(int, counts.all_text_contents())) == 128
    with own_page.expect_download() as downloading:
        own_page.get_by_role("link", name="Download people-predicted.csv").click()
    with open(downloading.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == [good["note"]] * 130
    assert [bool(row["problem"]) for row in rows] == [i in (3, 90) for i in range(130)]
    stored = {i for _, ids in journalled_ids(settings.journal_path) for i in ids}
    assert {row["prediction_id"] for row in rows if row["prediction_id"]} == stored
    assert {row["label"] for row in rows if not row["problem"]} == set(contract.target.labels)


def test_a_failed_batch_keeps_the_predictions_before_it_and_a_retry_stores_nothing_twice(
    own_page: Page, contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    """One 503 once lost the predictions of 60,000 rows, and a retry stored them again."""
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

    own_page.route("**/predict?*", lose_the_second)
    own_page.locator("#file").set_input_files(path)
    failure = "The service responded with status 502. Retry later."
    expect(own_page.get_by_text(failure)).to_have_count(1)
    part = settings.max_records  # rows of a batch
    expect(own_page.locator("#progress")).to_contain_text(f"{part} of 130 rows predicted")
    expect(own_page.locator(".tall tbody tr")).to_have_count(part)
    rows = download(own_page)
    assert [bool(row["prediction_id"]) for row in rows] == [i < part for i in range(130)]
    assert rows[-1]["problem"] == "not predicted"
    own_page.get_by_role("button", name=f"Predict the other {130 - part} rows").click()
    expect(own_page.locator("#progress")).to_contain_text("130 of 130 rows predicted")
    assert keys[2] == keys[1] != keys[0]  # the first batch is not sent again
    stored = {i for _, ids in journalled_ids(settings.journal_path) for i in ids}  # sinks keep one
    assert stored == {row["prediction_id"] for row in download(own_page)} and len(stored) == 130


def download(page: Page) -> list[dict[str, str]]:
    """Return the rows of the downloaded results."""
    try:
        path = clicked_download(page, timeout_ms=3000)
    except PlaywrightTimeoutError:  # Chromium drops one that follows ten others within seconds
        path = clicked_download(page, timeout_ms=10_000)
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clicked_download(page: Page, timeout_ms: float) -> Path:
    """Return the file that the link downloads."""
    with page.expect_download(timeout=timeout_ms) as downloading:
        page.get_by_role("link", name="Download").click()
    return downloading.value.path()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "The file is empty"),
        ("age,sex\n38,Male\n", "Line 1 has no column education"),
        (
            "38,Male\n39,Male\n",
            "Line 1 names no column of the model. Its 2 cells must be names. If they are",
        ),
        ("\n\nage,Age\n38,39\n", "Line 3 has no column education"),
        ('age,"sex\n38,Male\n', "A quoted cell of line 1 has no closing"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_remedy(
    page: Page, tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    page.locator("#file").set_input_files(tmp_path / "bad.csv")
    expect(page.locator("#progress .bad")).to_contain_text(expected)


def uploaded(page: Page, path: Path) -> list[dict[str, str]]:
    """Return the rows of the downloaded results of a file."""
    page.locator("#results").evaluate("place => place.replaceChildren()")
    page.locator("#file").set_input_files(path)
    expect(page.locator("#results .tall")).to_be_visible()
    return download(page)


def same_rows(contract: Contract) -> dict[str, tuple[bytes, str]]:
    """Return files with the same three rows, each with a text that the page shows for it."""
    names = list(contract.input_names)
    good = [str(contract.example[name]) for name in names]
    lines = [names, good, ["70", *good[1:]], ["20", "", *good[2:-1], ""]]

    def joined(separator: str, end: str = "\n") -> str:
        return "".join(separator.join(line) + end for line in lines)

    plain = joined(",")
    dotted = plain.replace("hours_per_week", '"Hours.per week"').replace("age,", " AGE ,")
    return {
        "control": (plain.encode(), "UTF-8, separated by commas"),
        "semicolons": (joined(";", "\r\n").encode(), "UTF-8, separated by semicolons"),
        "tabs": (joined("\t").encode(), "UTF-8, separated by tabs"),
        "bars": (joined("|").encode(), "UTF-8, separated by vertical bars"),
        "carriage returns": (joined(",", "\r").encode(), "separated by commas"),
        "utf-16": (joined("\t").encode("utf-16"), "UTF-16, separated by tabs"),
        "utf-16-be": (b"\xfe\xff" + plain.encode("utf-16-be"), "UTF-16, separated by commas"),
        "excel": (("sep=;\r\n" + joined(";", "\r\n")).encode("utf-8-sig"), "semicolons"),
        "padded": (joined("  ,  ").encode(), "separated by commas"),
        "headers": (dotted.encode(), "hours_per_week (Hours.per week)"),
        "index": (("," + plain.replace("\n", "\n7,", 3)).encode(), "column 1, which has no name"),
        "points": (plain.replace("70,", "70.0,").replace("20,", "20.,").encode(), "commas"),
        "missing": (plain.replace(",,", ", N/A ,").replace(",\n", ",NaN\n").encode(), "commas"),
        "quoted": (plain.replace("Private", '"Private"').encode(), "commas"),
        "extra": (plain.replace("\n", ",>50K\n").encode(), "left out"),
    }


def test_every_variant_of_a_csv_file_gives_the_same_predictions(
    page: Page, contract: Contract, tmp_path: Path
) -> None:
    """UTF-16, `sep=` and bars once gave `no column age`. A padded `NA` was an unknown category."""
    found = {}
    for name, (content, words) in same_rows(contract).items():
        (tmp_path / f"{name}.csv").write_bytes(content)
        results = uploaded(page, tmp_path / f"{name}.csv")
        expect(page.locator("#columns")).to_contain_text(words)
        expect(page.locator("#progress")).to_contain_text("3 of 3 rows predicted")
        expect(page.locator("#progress")).to_contain_text("Every row is valid.")
        expect(page.locator("#columns .bad")).to_have_count(0)
        found[name] = [row["probability"] for row in results]
        first = 3 if name == "excel" else 2
        assert [row["line"] for row in results] == [str(first + i) for i in range(3)], name
    assert len(set(found["control"])) == 2
    for name, probabilities in found.items():
        assert probabilities == found["control"], name


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", "age\nJosé".encode("latin-1"), b"a\0g\0e\0"])
def test_a_file_that_is_not_utf_8_is_rejected_with_the_remedy(
    page: Page, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    page.locator("#file").set_input_files(tmp_path / "bad.csv")
    expect(page.locator("#progress .bad")).to_contain_text("Save the table as CSV in UTF-8.")


def test_the_page_asks_before_it_predicts_a_file_without_a_used_column(
    own_page: Page, contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    """With `Employer`, `Job` and `Country`, four of 20 labels changed without a warning."""
    good = {name: contract.example[name] for name in contract.input_names}
    renamed = {"workclass": "Employer", "occupation": "Job", "native_country": "Country"}
    path = write_csv(tmp_path / "people.csv", [good] * 3, **renamed)
    own_page.locator("#file").set_input_files(path)
    missing = own_page.locator("#columns .bad")
    expect(missing).to_have_text(["not found", "workclass, occupation, native_country"])
    expect(own_page.locator("#columns")).to_contain_text("left outEmployer, Job, Country")
    expect(own_page.locator("#progress .bad")).to_contain_text("has no column workclass")
    assert not any(ids for _, ids in journalled_ids(settings.journal_path))
    own_page.get_by_role("button", name="Predict without them").click()
    expect(own_page.locator("#progress")).to_contain_text("3 of 3 rows predicted")
    expect(own_page.locator("#progress")).not_to_contain_text("Every row is valid")
    without = "All rows were predicted without workclass, occupation, native_country."
    expect(own_page.locator("#progress .bad")).to_have_text(without)
    expect(missing).to_have_count(2)


def test_values_read_as_missing_are_counted_and_each_line_keeps_its_place(
    page: Page, contract: Contract, tmp_path: Path
) -> None:
    """Unlisted countries changed the prediction silently. Blank lines moved the numbers of rows."""
    good = {name: contract.example[name] for name in contract.input_names}
    names = ["id", *good, "label"]

    def line(number: int, **changes: object) -> str:
        return ",".join(map(str, [f" {number} ", *(good | changes).values(), "old"]))

    atlantis = {"native_country": "Atlantis"}
    lines = [line(1), "", line(2, age=7), line(3, **atlantis), ",,", line(4) + ',"more\nlines"']
    lines += ["", line(5, **atlantis), line(6, native_country="Narnia"), "", ""]
    path = tmp_path / "people.csv"
    path.write_text("\n".join([",".join(names), *lines]), encoding="utf-8")
    rows = uploaded(page, path)
    progress = page.locator("#progress")
    expect(progress).to_contain_text("4 of 6 rows predicted")
    expect(progress).to_contain_text("Rows with a problem, listed first: 2. Blank lines: 3.")
    expect(progress).to_contain_text("Rows with a value that the model reads as missing: 3.")
    note = "native_country: 'Atlantis' is not listed; the model reads it as missing"
    expect(progress.locator("li").first).to_have_text(f"{note}: 2")
    table = page.locator(".tall tbody tr")
    expect(table.locator("th")).to_have_text(["4", "7", "5", "10", "11", "2"])
    expect(table.nth(1)).to_contain_text("15 cells, expected 14 as in line 1")
    expect(table.nth(2).locator(".unsure")).to_have_text(note)
    assert [row["line"] for row in rows] == ["2", "3", "4", "5", "6", "7", "9", "10", "11"]
    assert [row["id"] for row in rows] == [" 1 ", "", " 2 ", " 3 ", "", " 4 ", "", " 5 ", " 6 "]
    assert [bool(row["notes"]) for row in rows] == [
        n in (5, 10, 11) for n in range(2, 12) if n != 8
    ]
    assert {row["label"] for row in rows} == {"old", ""}  # the file's own column
    assert {row["predicted_label"] for row in rows} == {"<=50K", ""}
    assert rows[5][""] == "more\nlines"


def test_every_kind_is_entered_and_predicted(churn_page: Page, churn: Contract) -> None:
    page = churn_page
    expect(page).to_have_title("Churn prediction")
    kinds = {"tenure": "number", "charges": "number", "joined": "date"}
    for name, kind in kinds.items():
        expect(page.locator(f"#f-{name}")).to_have_attribute("type", kind)
    with page.expect_request("**/predict?*explain=true*") as sent:
        page.get_by_role("button", name="Predict").click()
    expected = {name: churn.example[name] for name in churn.input_names}
    assert sent.value.post_data_json == expected
    expect(page.locator(".verdict")).to_contain_text("Called stays (whether a subscriber leaves")
    page.get_by_label("tenure in months").fill("100")
    page.get_by_label("charges in euros a month").fill("")
    page.get_by_label("joined").fill("")
    for name in ("plan", "autopay", "contentment"):
        page.get_by_label(name).select_option("not given")
    page.get_by_label("senior").select_option("yes (1)")
    with page.expect_request("**/predict?*explain=true*") as sent:
        page.get_by_role("button", name="Predict").click()
    missing = dict.fromkeys(["plan", "charges", "autopay", "joined", "contentment"])
    assert sent.value.post_data_json == {"tenure": 100, "senior": 1, **missing}
    expect(page.locator(".verdict")).to_contain_text("Called leaves")
    cells = page.locator("#explanation td:nth-child(2)")
    assert sorted(cells.all_text_contents()) == ["1", "100", *["not given"] * 5]
    text = page.locator("body").inner_text().lower()
    for word in ("person", "census", "50,000", "age", "income"):
        assert not re.search(rf"\b{word}\b", text), word


def test_every_kind_is_read_from_a_file(churn_page: Page, tmp_path: Path) -> None:
    """A comma in a number, an infinite one and a date in words are problems of their lines."""
    lines = [
        "Tenure;PLAN;Monthly.Fee;autopay;senior;joined;contentment;account",
        "12;basic;29.5;Yes;1;2020-02-29;good;7",
        "12.0; basic ;29.50;Yes;1.0;2020-02-29;good;7",
        "100;NA;;?;0;null;None;7",
        '5;basic;"1,234";Yes;1;2020-02-29;good;7',
        "5;basic;1e400;Yes;1;2020-02-29;good;7",
        "5;basic;-0.0;Yes;1;2020-02-29;good;7",
        "5;basic;20;yes;2;29.2.2020;good;7",
        "5.5;basic;20;No;;2020-02-29;good;7",
    ]
    path = tmp_path / "subscribers.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    rows = uploaded(churn_page, path)
    expect(churn_page.locator("#columns")).to_contain_text("charges (Monthly.Fee)")
    expect(churn_page.locator("#columns")).to_contain_text("left outaccount")
    assert rows[0]["probability"] == rows[1]["probability"] != rows[2]["probability"] != ""
    charges = "expected a number from 0 to 200, or null"
    assert [row["problem"] for row in rows] == [
        "",
        "",
        "",
        f"charges: got 1,234, {charges}",
        f"charges: got 1e400, {charges}",
        f"charges: got -0.0, {charges}",
        "autopay: got yes, expected No or Yes, or null; senior: got 2, expected 0 or 1;"
        " joined: got 29.2.2020, expected a date from 2000-01-01 to 2030-12-31, as YYYY-MM-DD,"
        " or null",
        "tenure: got 5.5, expected a whole number from 0 to 120; senior: got nothing,"
        " expected 0 or 1",
    ]


def test_the_page_parses_a_text_as_the_contract_does(page: Page) -> None:
    columns = [
        Feature("a", "integer", "a"),
        Feature("b", "number", "b"),
        Feature("c", "boolean", "c"),
        Feature("d", "boolean", "d", values=(0, 1)),
        Feature("e", "boolean", "e", values=("No", "Yes")),
        Feature("f", "date", "f"),
        Feature("g", "nominal", "g", categories=("0", "1")),
    ]
    texts = ["0", "1", "59", "59.0", "+5", "-7.", "007", "1e3", "1,234", "12.50", ".5", "-1E-2"]
    texts += ["True", "FALSE", "true", "1.0", "1.5", "Yes", "yes", "NO", "2024-02-29", "29.2.", "x"]
    script = "([column, texts]) => texts.map((text) => parseValue(column, text))"
    for one in columns:
        column = {"kind": one.kind, "values": one.values, "categories": one.categories}
        found = page.evaluate(script, [column, texts])
        expected = [one.parse(text) for text in texts]
        assert found == expected, one.kind
        assert [isinstance(a, bool) for a in found] == [isinstance(a, bool) for a in expected]
    huge = ["9007199254740993", "123456789012345678"]  # JavaScript would round them
    assert page.evaluate(script, [{"kind": "integer"}, huge]) == huge


def test_the_form_fits_a_phone_and_has_a_dark_mode(page: Page) -> None:
    page.set_viewport_size(PHONE)
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#prediction .verdict")).to_be_in_viewport()
    assert page.evaluate(FITS)
    page.set_viewport_size({"width": 1400, "height": 900})
    form, prediction = (page.locator(one).bounding_box() for one in ("#record", "#prediction"))
    assert form and prediction and prediction["x"] > form["x"] + form["width"]
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


def test_predictions_of_the_page_are_stored_with_their_source_or_not_at_all(
    own_page: Page, contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    """Rows were stored, shipped and monitored although the page promised that they stay on it."""
    path = write_csv(tmp_path / "people.csv", [{one.name: one.default for one in contract.inputs}])
    own_page.get_by_role("button", name="Predict").click()
    expect(own_page.locator(".verdict")).to_be_visible()
    assert uploaded(own_page, path)[0]["prediction_id"]
    sources = [one.source for one in journalled_predictions(settings.journal_path)]
    assert sources == ["page", "page"]
    own_page.get_by_text("What is stored, and for how long").click()
    for words in ("source=page", "MONGODB_TTL_S", "make forget ID="):
        expect(own_page.locator("#stored")).to_contain_text(words)
    own_page.get_by_label("Store nothing").check()
    own_page.get_by_role("button", name="Predict").click()
    assert uploaded(own_page, path)[0]["prediction_id"] == ""
    assert len(list(journalled_predictions(settings.journal_path))) == 2


def test_the_first_edit_greys_a_prediction_out(page: Page) -> None:
    expect(page.locator("#prediction.stale")).to_have_count(0)
    page.get_by_label("education").select_option("Masters")  # before the first prediction
    expect(page.locator("#prediction.stale")).to_have_count(0)
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".verdict")).to_be_visible()
    expect(page.locator("#prediction.stale")).to_have_count(0)
    page.get_by_label("age in years").fill("70")
    expect(page.locator("#prediction.stale")).to_have_count(1)
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#prediction.stale")).to_have_count(0)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"rare_pairs": json.dumps(UNUSUAL)}, "Unlike the model's data: age 17 to 19 years with"),
        ({"booster_sha256": "0" * 64}, "This model version cannot explain its predictions."),
    ],
)
def test_an_unusual_record_and_a_missing_explanation_are_reported(
    own_page: Page, model_folder: ModelFolder, package: Path, facts: dict[str, str], words: str
) -> None:
    install(model_folder, with_metadata(package, model_folder.path / "changed", **facts), "2")
    own_page.get_by_label("age in years").fill("17")
    own_page.get_by_label("relationship").select_option("Husband")

    def predict() -> bool:
        own_page.get_by_role("button", name="Predict").click()
        expect(own_page.locator("#outcome")).to_contain_text("Model version")
        return "Model version 2" in own_page.locator("#outcome").inner_text()

    wait_until(predict, "version 2")
    expect(own_page.locator("#prediction")).to_contain_text(words)


def test_the_page_describes_the_quality_of_the_model_in_words(page: Page) -> None:
    words = "Of 100 records that it calls >50K, 71 are >50K. Of 100 that are >50K, it finds 60."
    expect(page.locator("main")).to_contain_text(words)
    source = "trained 2026-11-01 on synthetic data and 812 rows of later batches and labels."
    expect(page.locator("main")).to_contain_text(source)
    expect(page.get_by_text("roc auc")).not_to_be_visible()
    page.get_by_text("Metrics").click()
    expect(page.get_by_text("roc auc")).to_be_visible()
    expect(page.get_by_text("0.9900 (0.9850 to 0.9940)")).to_be_visible()


def test_every_page_has_a_link_back_to_the_form(
    own_page: Page, settings: Settings, address: str
) -> None:
    card = settings.model_path / "1" / CARD
    card.write_text("<html><body><h1>Card</h1></body></html>", "utf-8")
    for name in ("API documentation", "Model card"):
        own_page.get_by_role("link", name=name, exact=True).click()
        expect(own_page).not_to_have_url(f"{address}/")
        own_page.get_by_role("link", name="Predict", exact=True).click()
        expect(own_page).to_have_url(f"{address}/")


def test_a_stopped_service_is_reported(page: Page) -> None:
    page.route("**/predict**", lambda route: route.abort())
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#prediction .bad")).to_contain_text("did not respond")


def test_clients_other_than_browsers_get_json(client: FlaskClient) -> None:
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert client.get("/", headers=accept).json["endpoints"]  # type: ignore[index]
    shown = client.get("/", headers=BROWSER)
    assert shown.content_type == "text/html; charset=utf-8"
    assert "script-src 'self'" in shown.headers["Content-Security-Policy"]
    assert "http://localhost:5000" in shown.text
    assert "http://localhost:9696" not in shown.text  # itself


def test_the_form_reports_that_no_model_is_loaded(
    client: FlaskClient, live_model: LiveModel
) -> None:
    live_model.model = None
    assert "No model is loaded" in client.get("/", headers=BROWSER).text
