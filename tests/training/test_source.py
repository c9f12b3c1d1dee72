"""A source by its description: files, cache, download, formats, splits and rejected rows.

The rows here are made up; the real census is used where CENSUS_DATA_DIR names it.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from werkzeug import Request, Response

from config.contract import Contract, load_contract
from tests.conftest import ROOT, served
from training.data import download
from training.data.dataset import Dataset, ReadFile, load_dataset, split_judge_traffic
from training.data.errors import SourceError, SourceUnavailable, TableError
from training.data.rows import row_digests, write_requests
from training.data.source import Source, feed_format, load_source
from training.data.table_files import TableFormat, read_table
from training.settings import Settings

ROW = "41, Private, 100000, HS-grad, 9, Divorced, Sales, Unmarried, Black, Female, 0, 0, 38, ?, "
OTHER = "29, ?, 200000, Masters, 14, Never-married, ?, Own-child, White, Male, 0, 0, 20, Cuba, "
DIGEST = "cb3e4fe479c4bc83a27616802f09c5a3910d9c5b980902f037466174c56c7492"  # of the real census
FILES = {
    "adult.data": f"{ROW}<=50K\n{OTHER}>50K\n{ROW}<=50K\n\n".encode(),
    "adult.test": f"|1x3 Cross validator\n{OTHER}>50K.\n{ROW}<=50K.\n\n".encode(),
}


def census_of(files: dict[str, bytes], address: str = "http://127.0.0.1:1/adult.zip") -> Source:
    """Return the census's description with other files and another address."""
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return msgspec.structs.replace(
        load_source(ROOT / "config/source.yaml"), address=address, files=checksums
    )


def zip_of(files: dict[str, bytes]) -> bytes:
    """Return the files in a zip."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


@dataclass
class Site:
    """A dataset's site on the loopback: it gives its responses in turn, then repeats the last."""

    responses: list[tuple[int, bytes, int | None]]  # status, body, bytes of it that are sent
    url: str = ""
    requests: int = 0

    def respond(self, request: Request) -> Response:
        """Announce the whole body, and maybe send less."""
        assert request.method == "GET"
        self.requests += 1
        status, body, sent = self.responses[min(self.requests, len(self.responses)) - 1]
        return Response([body[:sent]], status, {"Content-Length": str(len(body))})


@pytest.fixture
def site() -> Iterator[Site]:
    """A real HTTP server, which gives the made-up files unless the test sets other responses."""
    state = Site([(200, zip_of(FILES), None)])
    with served(Request.application(state.respond)) as address:
        state.url = f"{address}/adult.zip"
        yield state


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry a download twice, without pauses."""
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    monkeypatch.setattr(download, "BACKOFF_S", 0.01)
    monkeypatch.setattr(download, "TIMEOUT_S", 2)


@pytest.fixture
def load(contract: Contract, tmp_path: Path) -> Callable[..., Dataset]:
    """Return `load_dataset` with its cache and quarantine under tmp_path."""

    def load_here(source: Source, folder: Path | None = None) -> Dataset:
        settings = Settings(data_dir=str(tmp_path), census_data_dir=str(folder or ""))
        return load_dataset(contract, settings, source)

    return load_here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds the made-up files."""
    path = tmp_path / "named"
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


# --- files --------------------------------------------------------------------------------------


def test_a_named_folder_is_read_and_nothing_is_downloaded(load, folder, site, tmp_path):
    found = load(census_of(FILES, site.url), folder)
    assert (len(found.train), len(found.test), found.source) == (3, 2, "uci")
    assert found.duplicates == 1  # they are kept
    assert site.requests == 0 and not (tmp_path / "raw").exists()


CHANGED = FILES["adult.data"].replace(b"41", b"42")
SUMS = ".*".join(hashlib.sha256(content).hexdigest() for content in (CHANGED, FILES["adult.data"]))


@pytest.mark.parametrize(
    ("content", "message"), [(CHANGED, f"{SUMS}.* CENSUS_DATA_DIR"), (None, "No such file")]
)
def test_a_named_folder_without_a_file_is_an_error_and_starts_no_download(
    load, folder, site, content, message
):
    (folder / "adult.data").unlink()
    if content:
        (folder / "adult.data").write_bytes(content)
    with pytest.raises(SourceError, match=f"adult.data.*: .*{message}") as caught:
        load(census_of(FILES, site.url), folder)
    assert not isinstance(caught.value, SourceUnavailable) and site.requests == 0


def test_a_download_fills_the_cache_which_is_used_while_it_is_valid(load, site, tmp_path):
    first, second = load(census_of(FILES, site.url)), load(census_of(FILES, site.url))
    assert first.digest == second.digest and site.requests == 1
    cache = tmp_path / "raw" / "uci"
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == FILES
    (cache / "adult.data").write_bytes(b"cut off")
    assert load(census_of(FILES, site.url)).digest == first.digest and site.requests == 2
    assert (cache / "adult.data").read_bytes() == FILES["adult.data"]


def test_a_failing_or_truncated_download_is_retried(load, site):
    site.responses = [(503, b"busy", 4), (200, zip_of(FILES), 100), *site.responses]
    assert len(load(census_of(FILES, site.url)).train) == 3
    assert site.requests == 3


@pytest.mark.parametrize(
    ("response", "attempts", "reason"),
    [
        ((200, zip_of(FILES), 100), 3, "100 bytes read"),
        ((200, b"<html>sign in</html>", 20), 3, "not a zip file; it starts with b'<html>"),
        ((503, b"", 0), 3, "503"),
        ((404, b"", 0), 1, "404"),
    ],
)
def test_a_download_that_keeps_failing_ends_with_the_reason(load, site, response, attempts, reason):
    site.responses = [response]
    with pytest.raises(SourceUnavailable, match=f"in {attempts} attempt.*{reason}.*synthetic"):
        load(census_of(FILES, site.url))
    assert site.requests == attempts


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (FILES | {"adult.test": b"another"}, "adult.test of .*got 7 bytes with sha256 .*expected"),
        ({"adult.data": FILES["adult.data"]}, "adult.zip: unreadable zip file.*adult.test"),
    ],
)
def test_a_zip_with_the_wrong_files_is_rejected_and_the_cache_stays_empty(
    load, site, tmp_path, files, message
):
    site.responses = [(200, zip_of(files), None)]
    with pytest.raises(SourceError, match=message) as caught:
        load(census_of(FILES, site.url))
    assert not isinstance(caught.value, SourceUnavailable)
    assert not (tmp_path / "raw").exists()


# --- rows ---------------------------------------------------------------------------------------


def load_texts(load: Callable[..., Dataset], folder: Path, files: dict[str, bytes]) -> Dataset:
    """Return the dataset of a folder with the given files and their checksums."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return load(census_of(files), folder)


def test_rows_that_break_the_contract_are_quarantined_with_their_problems(load, folder, tmp_path):
    bad = [
        ROW.replace("41", "-3") + "<=50K",
        ROW.replace("Sales", "sales").replace("38", "many") + "<=50K",
        ROW + "50K",
        "1, 2, 3",
    ]
    text = FILES["adult.data"].decode().rstrip("\n") + "\n" + "\n".join(bad) + "\n"
    test = FILES["adult.test"] + 50 * FILES["adult.test"].partition(b"\n")[2]
    found = load_texts(load, folder, FILES | {"adult.data": text.encode(), "adult.test": test})
    assert (len(found.train), found.rejected) == (3, 4)
    fields = ["age", "occupation", "hours_per_week", "income", "row"]
    assert found.problems == dict.fromkeys(fields, 1)
    text = (tmp_path / "quarantine-uci.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["source"], line["line"]) for line in lines] == [
        ("adult.data", number) for number in (4, 5, 6, 7)
    ]
    assert (lines[0]["row"]["age"], lines[1]["row"]["hours_per_week"]) == (-3, "many")
    assert lines[0]["problems"] == ["age: got -3, expected a whole number from 17 to 90"]
    assert "did you mean 'Sales'?" in lines[1]["problems"][0]
    assert lines[1]["problems"][1].startswith("hours_per_week: got 'many'")
    assert lines[2]["problems"] == ["income: got '50K', expected one of <=50K, >50K, or 0 or 1"]
    assert lines[3]["row"] == "1,2,3" and "3 fields" in lines[3]["problems"][0]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (ROW.removesuffix("?, ") + "<=50K\n", "row: expected 15 fields"),
        (ROW + "rich\n", "income: expected one of"),
    ],
)
def test_a_file_without_a_valid_row_is_an_error(load, folder, row, problem):
    with pytest.raises(SourceError, match=f"adult.test: no valid row, e.g. {problem}"):
        load_texts(load, folder, FILES | {"adult.test": row.encode() * 3})


def test_the_digest_depends_on_the_content_alone(load, folder):
    first = load(census_of(FILES), folder)
    again = load_texts(load, folder, FILES | {"adult.data": FILES["adult.data"] + b"\n"})
    other = load_texts(load, folder, FILES | {"adult.data": CHANGED})
    assert first.digest == again.digest != other.digest


# --- the halves of the test split ---------------------------------------------------------------


def test_the_input_columns_of_a_row_decide_whether_it_is_holdout_or_traffic(contract, record):
    """A holdout row that becomes a traffic row could reach a later training set."""
    people = pd.DataFrame([record | {"age": age, "income": 0} for age in range(20, 32)])
    rows = pd.concat([people.assign(fnlwgt=1), people.assign(fnlwgt=2, income=1)])
    judge, traffic = split_judge_traffic(rows, contract)
    assert judge["age"].tolist() == [20, 21, 22, 24, 25, 28, 29, 30] * 2
    assert traffic["age"].tolist() == [23, 26, 27, 31] * 2


def test_traffic_rows_are_written_as_requests_with_labels(contract, record, tmp_path):
    frame = pd.DataFrame([record | {"workclass": "?", "fnlwgt": 1, "income": 1}])
    write_requests(frame, contract, tmp_path / "traffic.jsonl")
    line = json.loads((tmp_path / "traffic.jsonl").read_text(encoding="utf-8"))
    assert line == {"record": record | {"workclass": None}, "label": 1}


# --- the real files -----------------------------------------------------------------------------


def test_the_real_census_has_its_official_rows(contract, census_dir, tmp_path):
    """Counts as in adult.names and as counted in the files with awk."""
    settings = Settings(data_dir=str(tmp_path), census_data_dir=str(census_dir))
    found = load_dataset(contract, settings)
    assert (len(found.train), len(found.test)) == (32561, 16281)
    assert (found.train["income"].sum(), found.test["income"].sum()) == (7841, 3846)
    assert found.problems == {} and found.duplicates == 24 + 5
    missing = (found.train == "?").sum()
    assert missing[missing > 0].to_dict() == {
        "workclass": 1836,
        "occupation": 1843,
        "native_country": 583,
    }
    assert found.digest == DIGEST, "a change of these rows is a change of every figure"
    judge, traffic = split_judge_traffic(found.test, contract)
    assert len(judge) + len(traffic) == 16281 and 7800 < len(judge) < 8500


# --- another table ------------------------------------------------------------------------------

LOANS = """
target: {name: repaid, negative: "yes", positive: "no", description: whether a loan is not repaid}
features:
  - {name: amount, kind: integer, minimum: 0, maximum: 20000, description: amount}
  - {name: purpose, kind: nominal, description: purpose, categories: [car, school],
     aliases: [Used For]}
  - {name: phone, kind: nominal, description: phone, used: false, categories: [home, work]}
"""
DESCRIPTION = """
name: loans
address: rows
files: {loans.csv: ""}
format: {labels: {1: yes, 2: no}, decimal: ","}
split: {by: hash, test_share: 0.25}
"""


@dataclass
class Table:
    """A contract and a description in a folder, with a file that both suit."""

    folder: Path
    description: str = DESCRIPTION
    contract: str = LOANS

    def load(self, **settings: str) -> Dataset:
        """Write both files and load the rows."""
        (self.folder / "features.yaml").write_text(self.contract, encoding="utf-8")
        path = self.folder / "source.yaml"
        path.write_text(self.description, encoding="utf-8")
        given = {"source": str(path), "data_dir": str(self.folder / "data"), **settings}
        contract = load_contract(self.folder / "features.yaml")
        return load_dataset(contract, Settings.model_validate(given))

    def write(self, name: str, text: str) -> Path:
        """Write a file of the source."""
        path = self.folder / "rows" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


def loan_rows(n_rows: int, start: int = 0) -> str:
    """Return rows as a file in the European way, with other names and labels."""
    lines = ["Id;Amount;Used for;Repaid"]
    for number in range(start, start + n_rows):
        lines.append(
            f"{number};{number % 500};{('car', 'school')[number % 2]};{number % 3 % 2 + 1}"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture
def loans(tmp_path: Path) -> Table:
    """Return a table that is not the census."""
    table = Table(tmp_path)
    table.write("loans.csv", loan_rows(400))
    return table


def test_another_table_needs_only_a_description(loans, monkeypatch):
    """The census was once downloaded first, and the lineage named adult.data."""
    monkeypatch.setattr("requests.get", lambda *_, **__: pytest.fail("nothing is downloaded"))
    found = loans.load(census_data_dir="/nowhere")
    assert found.source == "loans" and found.problems == {}
    assert len(found.train) + len(found.test) == 400
    rows = pd.concat([found.train, found.test])
    assert rows["repaid"].mean() == pytest.approx(1 / 3, abs=0.01), "2 is the label no"
    sha256 = hashlib.sha256((loans.folder / "rows/loans.csv").read_bytes()).hexdigest()
    assert found.files == (ReadFile("loans.csv", sha256, len(found.train)),)
    assert found.notes == (
        "loans.csv: the fields are separated by semicolons",
        "loans.csv: ignored column(s) that the contract does not have: Id",
    )
    assert (loans.folder / "data/quarantine-loans.jsonl").exists()


def test_a_split_by_hash_is_stable_and_keeps_equal_rows_together(loans):
    contract_rows = loans.load()
    share = len(contract_rows.test) / 400
    assert 0.15 < share < 0.35
    loans.write("loans.csv", loan_rows(300, start=100) + loan_rows(400).partition("\n")[2])
    more = loans.load()
    contract = load_contract(loans.folder / "features.yaml")
    digests = {name: set(row_digests(getattr(more, name), contract)) for name in ("train", "test")}
    assert not digests["train"] & digests["test"]
    assert set(row_digests(contract_rows.test, contract)) <= digests["test"]
    assert set(row_digests(contract_rows.train, contract)) <= digests["train"]


def test_several_files_are_joined_or_used_as_splits(loans):
    loans.write("more.csv", loan_rows(100, start=400))
    loans.description = DESCRIPTION.replace('{loans.csv: ""}', '{loans.csv: "", more.csv: ""}')
    found = loans.load()
    assert len(found.train) + len(found.test) == 500
    assert sum(file.rows_train for file in found.files) == len(found.train)
    loans.description = loans.description.replace(
        "{by: hash, test_share: 0.25}", "{by: files, train: [loans.csv], test: [more.csv]}"
    )
    found = loans.load()
    assert (len(found.train), len(found.test)) == (400, 100)
    assert [file.rows_train for file in found.files] == [400, 0]


def test_a_single_file_is_downloaded_checked_and_cached(loans, site):
    content = loan_rows(400).encode()
    site.responses = [(200, content, None)]
    address = site.url.replace("adult.zip", "loans.csv")
    loans.description = DESCRIPTION.replace("address: rows", f"address: {address}")
    sha256 = hashlib.sha256(content).hexdigest()
    with pytest.raises(SourceError, match=f"no sha256 in the .*add its sha256: {sha256}"):
        loans.load()
    assert not (loans.folder / "data/raw").exists()
    loans.description = loans.description.replace('""', sha256)
    first, second = loans.load(), loans.load()
    assert first.digest == second.digest and site.requests == 2
    assert (loans.folder / "data/raw/loans/loans.csv").read_bytes() == content


BY_HASH = "by: hash, test_share: 0.25"
WRONG = {  # the text that is replaced, its replacement and the message
    "an unknown key": ("address: rows", "adress: rows", "unknown field `adress`"),
    "an invalid value": ('","', '";"', r"source.yaml: .*`\$.format.decimal`"),
    "an invalid share": ("0.25", "1.5", "test_share"),
    "a reserved name": ("name: loans", "name: synthetic", "name: got synthetic, expected another"),
    "an unsafe name": ("name: loans", "name: ../x", r"\$.name"),
    "a path outside": ("loans.csv", "../loans.csv", "files: got '../loans.csv', expected a name"),
    "no file": ('{loans.csv: ""}', "{}", "files: got none"),
    "an unknown label": ("2: no", "2: late", "format.labels: got late, expected yes or no"),
    "an unknown column": ("labels:", "missing_in: {sum: [0]}, labels:", "got sum, expected"),
    "a missing file": ("loans.csv", "gone.csv", "gone.csv: No such file or directory. Check `addr"),
    "a split without files": (
        BY_HASH,
        "by: files, train: [a.csv], test: []",
        "split.test: got no file(.|\n)*split: got a.csv, expected names of `files`",
    ),
    "a column without dates": (
        BY_HASH,
        "by: time, column: amount, test_from: 2026-01-01",
        r"split.column: got amount \(kind integer\), expected a column of kind date",
    ),
    "other labels": (
        "1: yes, 2: no",
        "1: yes, 3: no",
        "repaid: 133 of 400 rows have 1 other label.s.; expected yes or no. .*quarantine-loans",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG)
def test_an_invalid_description_ends_in_one_message(loans, old, new, message):
    loans.description = DESCRIPTION.replace(old, new)
    assert loans.description != DESCRIPTION
    with pytest.raises(SourceError, match=message):
        loans.load()


def test_a_few_unknown_labels_are_quarantined(loans):
    lines = loan_rows(400).splitlines()
    loans.write("loans.csv", "\n".join([*lines, "9;9;car;3", "9;9;car;4"]))
    assert loans.load().problems == {"repaid": 2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "maximum: 20000",
            "maximum: 100",
            "299 of 400 rows break the contract, e.g. amount: expec",
        ),
        ("used: false, ", "", "loans.csv: wrong columns: missing phone; Id: unknown col"),
    ],
)
def test_a_contract_that_contradicts_the_rows_ends_in_one_message(loans, old, new, message):
    loans.contract = LOANS.replace(old, new)
    with pytest.raises((SourceError, TableError), match=message):
        loans.load()


def test_the_missing_marks_of_a_column_apply_to_this_column_alone(loans):
    loans.contract = LOANS.replace("[car, school]", "[bus, school], missing: allow")
    loans.description = DESCRIPTION.replace("labels:", "missing_in: {purpose: [car]}, labels:")
    assert set(loans.load().train["purpose"]) == {"?", "school"}


def test_ingested_files_have_the_values_of_the_source_and_any_kind(loans, monkeypatch):
    loans.load()
    contract = load_contract(loans.folder / "features.yaml")
    monkeypatch.setenv("CONTRACT", str(loans.folder / "features.yaml"))
    rows = b'{"amount": 3, "purpose": "car", "Repaid": 2}'
    table = read_table("2026-10.jsonl", rows, contract, feed_format(Settings()))
    assert table.raw["repaid"].tolist() == ["no"]
    (loans.folder / "source.yaml").unlink()
    assert feed_format(Settings()) == TableFormat(), "no description lies beside the contract"


def test_a_split_by_time_trains_on_the_past(loans):
    loans.contract = LOANS + """
  - {name: day, kind: date, description: day, minimum: 2026-01-01, maximum: 2026-12-31,
     used: false}
"""
    loans.description = DESCRIPTION.replace(
        "{by: hash, test_share: 0.25}", "{by: time, column: day, test_from: 2026-07-01}"
    )
    lines = loan_rows(365).splitlines()
    days = pd.date_range("2026-01-01", periods=365).strftime("%Y-%m-%d").tolist()
    days[5:7] = ["", "2026-13-01"]
    dated = [f"{line};{day}" for line, day in zip(lines, ["Day", *days], strict=True)]
    loans.write("loans.csv", "\n".join(dated))
    found = loans.load()
    assert (len(found.train), len(found.test)) == (181 - 2, 184)
    assert found.train["day"].max() < found.test["day"].min()
    assert found.problems == {"day": 2} and found.rejected == 2
    text = (loans.folder / "data/quarantine-loans.jsonl").read_text("utf-8")
    problems = [json.loads(line)["problems"][0] for line in text.splitlines()]
    assert any("a date: the source is split by time" in problem for problem in problems)
