"""`init` proposes a contract and a source description for any table; both load unedited."""

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from config.contract import Contract, load_contract
from tests.conftest import gcs_emulator
from training.__main__ import main
from training.data.dataset import load_dataset
from training.data.errors import TableError
from training.data.proposal import Written, init_table
from training.data.source import ByHash, load_source
from training.data.storage import Folder
from training.settings import Settings

CENSUS_NAMES = (
    "age,workclass,fnlwgt,education,education_num,marital_status,occupation,relationship,race,sex,"
    "capital_gain,capital_loss,hours_per_week,native_country,income"
)
ROWS = 400
RANDOM = np.random.default_rng(0)
Init = Callable[..., Written]


@pytest.fixture
def init(tmp_path: Path) -> Init:
    """Return a function that writes columns to a CSV file and proposes a contract for it."""

    def run(columns: dict[str, Any]) -> Written:
        table = pd.DataFrame({"spent": RANDOM.permutation(ROWS) / 8, **columns, "y": labels()})
        table.to_csv(tmp_path / "table.csv", index=False)
        return init_table([str(tmp_path / "table.csv")], "y", "1", str(tmp_path / "out"))

    return run


def labels() -> np.ndarray:
    """Return labels that no column follows."""
    return np.arange(ROWS) % 2


def drawn(*values: Any, share: float | None = None) -> np.ndarray:
    """Return values at random; `share` is that of the first of two."""
    return RANDOM.choice(values, ROWS, p=None if share is None else [share, 1 - share])


def checks(written: Written, header: str) -> str:
    """Return the checks of a column in the summary."""
    return "\n".join(line for line in written.lines if line.startswith(f"CHECK {header}:"))


def reload(written: Written) -> Contract:
    """Return the written contract."""
    return load_contract(written.contract)


# --- the census ---------------------------------------------------------------------------------


def test_the_census_gives_the_shipped_contract_except_texts_and_survey_weight(
    census_dir: Path, contract: Contract, tmp_path: Path
) -> None:
    """Only facts that no table shows differ: texts, units, ranges and the survey weight `fnlwgt`.

    The order of `education` is found, because `education_num` numbers its values.
    """
    written = init_table(
        [str(census_dir / "adult.data")], "income", ">50K", str(tmp_path), CENSUS_NAMES.split(",")
    )
    found = reload(written)
    assert found.target.name == contract.target.name
    assert found.target.labels == contract.target.labels
    assert list(found.by_name) == list(contract.by_name)
    for feature, expected in zip(found.features, contract.features):
        assert (feature.kind, feature.missing) == (expected.kind, expected.missing), feature.name
        assert feature.unseen == expected.unseen, feature.name
        assert {*feature.categories} == {*expected.categories}, feature.name
        assert feature.rank_of == expected.rank_of
        assert feature.used == expected.used or feature.name == "fnlwgt"
        if not feature.is_categorical and feature.name != "education_num":
            assert feature.bounds[0] <= expected.bounds[0] or feature.name == "fnlwgt"
    assert found["education"].categories == contract["education"].categories
    assert found["fnlwgt"].used and not contract["fnlwgt"].used
    assert found["age"].bounds == (9, 98) and found["capital_loss"].bounds == (0, 4800)
    source = load_source(written.source)
    assert source.files == {"adult.data": source.files["adult.data"]}
    assert source.address == str(census_dir.resolve()) and source.split == ByHash(0.25)


# --- kinds --------------------------------------------------------------------------------------


def test_each_kind_is_found_with_its_values(init: Init) -> None:
    days = pd.date_range("2024-02-29", periods=ROWS).strftime("%Y-%m-%d")
    contract = reload(
        init(
            {
                "whole": RANDOM.permutation(ROWS) // 2,
                "floats": [f"{number // 2}.0" for number in RANDOM.permutation(ROWS)],
                "decimal": drawn("0.5", "-12", "1e3", "7.25"),
                "flag": drawn(0, 1),
                "answer": drawn("no", "Yes"),
                "truth": drawn(True, False),
                "day": RANDOM.permutation(days),
                "sex": drawn("Female", "Male"),
                "plan": drawn("No", "Yes", "No internet service"),
                "zip": drawn("01234", "94110", "10115"),
            }
        )
    )
    assert {one.name: one.kind for one in contract.features} == {
        "spent": "number",
        "whole": "integer",
        "floats": "integer",
        "decimal": "number",
        "flag": "boolean",
        "answer": "boolean",
        "truth": "boolean",
        "day": "date",
        "sex": "nominal",
        "plan": "nominal",
        "zip": "nominal",
    }
    assert contract["flag"].values == (0, 1) and isinstance(contract["flag"].values[0], int)
    assert contract["answer"].values == ("no", "Yes") and contract["truth"].values == (False, True)
    assert {*contract["plan"].categories} == {"No", "Yes", "No internet service"}
    assert contract["day"].minimum == date(2024, 1, 1)
    assert contract["day"].maximum == date(2027, 12, 31)
    assert all(one.missing == "reject" and one.unseen == "reject" for one in contract.features)
    assert all(one.default is not None for one in contract.features)


def test_ranges_have_head_room_and_stay_above_zero(init: Init) -> None:
    bounds = {
        (17, 90): (9, 98),  # a tenth of 73 is 7.3
        (0, 99999): (0, 110000),
        (-20, 80): (-30, 90),
        (-1.25, 3.5): (-1.8, 4.0),  # a tenth of 4.75 is 0.475
        (0.001, 0.002): (0.0009, 0.0021),
        (1e20, 3e20): (8e19, 3.2e20),  # repr(8e19) without a point is text for YAML
    }
    found = reload(init({f"x{n}": drawn(*values) for n, values in enumerate(bounds)}))
    assert [found[f"x{n}"].bounds for n in range(6)] == [*map(pytest.approx, bounds.values())]


def test_a_missing_value_is_allowed_where_one_was_seen_and_its_mark_is_named(init: Init) -> None:
    """Telco's TotalCharges has eleven blanks among decimals."""
    total = [f"{number:.2f}" for number in RANDOM.random(ROWS) * 1000]
    total[3] = total[9] = " "
    written = init({"total": total, "job": drawn("?", "clerk", "cook")})
    contract = reload(written)
    assert (contract["total"].kind, contract["total"].missing) == ("number", "allow")
    assert contract["job"].missing == "allow" and contract["spent"].missing == "reject"
    assert {*contract["job"].categories} == {"clerk", "cook"}
    text = written.contract.read_text(encoding="utf-8")
    assert "Missing in 2 rows (0.5%), written ''" in text


def test_a_few_texts_among_numbers_become_marks_of_a_missing_value(init: Init) -> None:
    written = init(
        {
            "rate": ["n.k.", *RANDOM.random(ROWS - 1).round(3)],
            "seen": ["0000-00-00", *pd.date_range("2020-01-01", periods=ROWS - 1).astype(str)],
            "mixed": drawn("1", "2", "a", "b"),
        }
    )
    contract, source = reload(written), load_source(written.source)
    assert (contract["rate"].kind, contract["seen"].kind) == ("number", "date")
    assert contract["rate"].missing == "allow"
    assert source.format.missing_in == {"rate": ("n.k.",), "seen": ("0000-00-00",)}
    assert "'n.k.' (1 row)" in checks(written, "rate")
    assert contract["mixed"].kind == "nominal"


def test_one_value_with_missing_ones_makes_a_column_that_allows_missing_values(init: Init) -> None:
    contract = reload(init({"vip": drawn("x", ""), "code": drawn(7, None)}))
    assert contract["vip"].categories == ("x",) and contract["vip"].missing == "allow"
    assert contract["code"].kind == "integer" and contract["code"].missing == "allow"


def test_texts_that_yaml_would_convert_stay_texts(init: Init, tmp_path: Path) -> None:
    words = ["no", "1:30", "null ", "=", "~", "on", "2026-01-01", "'\"#: ,[]{}", "naïve \x85 "]
    words.append("- x")
    found = reload(init({"word": drawn(*words)}))["word"]
    assert {*found.categories} == {word.strip() for word in words} - {"null"}
    assert (tmp_path / "out" / "features.yaml").read_text(encoding="utf-8").isprintable() is False


def test_dates_in_other_formats_are_left_out_with_the_remedy(init: Init) -> None:
    """Three different dates were categories, and 20241231 was a number."""
    days = ["31.12.2024", "12/31/24", "2024/12/31", "20241231", "31-Dec-2024", "31. Dez. 2024"]
    days += ["Dec 31, 2024", "12/31/2024 10:30", "2024.12.31"]
    columns: dict[str, Any] = {}
    for number, day in enumerate(days):
        column = drawn(day, day.replace("31", "30"), day.replace("31", "29"))
        columns |= {f"d{number}": column, f"e{number}": ["unknown", *column[1:]]}
    written = init(columns)
    assert list(reload(written).by_name) == ["spent"]
    for header in columns:
        assert "left out, dates in another format, such as '" in checks(written, header)
        assert "write them as YYYY-MM-DD" in checks(written, header)


def test_the_time_after_a_date_is_left_out_in_contract_and_source(
    init: Init, tmp_path: Path
) -> None:
    days = pd.date_range("2024-02-29 10:30", periods=ROWS, freq="h").astype(str)
    written = init({"seen": days})
    assert reload(written)["seen"].kind == "date"
    settings = Settings(data_dir=str(tmp_path))
    assert load_dataset(reload(written), settings, load_source(written.source)).rejected == 0


def test_a_version_is_not_a_date(init: Init) -> None:
    versions = {f"v{n}": drawn(one, "2.0.0") for n, one in enumerate(["1.2.3", "10.0.131", "1-2"])}
    contract = reload(init(versions))
    assert [contract[name].kind for name in versions] == ["nominal"] * 3


# --- what is suspicious -------------------------------------------------------------------------


def test_columns_without_information_are_left_out_with_the_reason(init: Init) -> None:
    text = [f"row {number} says that all is well" for number in range(ROWS)]
    written = init(
        {
            "customerID": [f"{number:04d}-AB" for number in RANDOM.permutation(ROWS)],
            "row": range(7, ROWS + 7),
            "country": ["DE"] * ROWS,
            "empty": [None] * ROWS,
            "note": text,
            "seen": [f"{day % 28 + 1}.{day % 12 + 1}.2025" for day in range(ROWS)],
            "price": [f"${number}.50" for number in range(ROWS)],
        }
    )
    assert list(reload(written).by_name) == ["spent"]
    reasons = {
        "customerID": "an identifier or free text: 400 different values in 400 rows",
        "row": "an identifier: 400 rows, no number twice",
        "country": "constant: 'DE'",
        "empty": "missing in every row",
        "note": "free text: 400 different values of 7 words",
        "seen": "write them as YYYY-MM-DD",
        "price": "write the numbers alone",
    }
    for header, reason in reasons.items():
        assert f"left out, {reason}" in checks(written, header) or reason in checks(written, header)
    assert "CHECK 'country': left out, constant: 'DE'." in written.contract.read_text("utf-8")


def test_whole_numbers_that_differ_by_chance_are_not_an_identifier(init: Init) -> None:
    """400 amounts up to ten million may all differ."""
    amounts = RANDOM.choice(10_000_000, ROWS, replace=False)
    written = init({"amount": amounts, "account_id": amounts})
    assert list(reload(written).by_name) == ["spent", "amount"]
    assert "left out, an identifier" in checks(written, "account_id")


def test_a_column_that_alone_predicts_the_target_is_not_used(init: Init) -> None:
    """Leaks: a number on one side of a limit, a category, and a value that one class lacks."""
    is_positive = labels() == 1
    written = init(
        {
            "refund": np.where(is_positive, RANDOM.random(ROWS), 2 + RANDOM.random(ROWS)),
            "stage": np.where(is_positive, drawn("closed", "won"), drawn("open", "new")),
            "left_on": np.where(is_positive, "2025-01-01", ""),
            "half": np.where(RANDOM.random(ROWS) < 0.9, is_positive, ~is_positive).astype(int),
        }
    )
    contract = reload(written)
    assert [one.name for one in contract.inputs] == ["spent", "half"]
    for leak in ("refund", "stage", "left_on"):
        assert "not used: a leak? Alone it predicts the target" in checks(written, leak)


def test_near_duplicates_are_not_used(init: Init) -> None:
    city = drawn("Rome", "Oslo", "Bern")
    code = pd.Series(city).map({"Rome": "IT", "Oslo": "NO", "Bern": "CH"})
    code[5] = "IT"
    euros = RANDOM.random(ROWS) * 900
    rare = [drawn("no", "yes", share=0.99) for _ in range(2)]
    written = init(
        {
            "city": city,
            "code": code,
            "euros": euros.round(2),
            "dollars": (euros * 1.1).round(2),
            "fraud": rare[0],
            "chargeback": rare[1],
        }
    )
    used = [one.name for one in reload(written).inputs]
    assert used == ["spent", "city", "euros", "fraud", "chargeback"]
    assert "not used: nearly a duplicate of city" in checks(written, "code")
    assert "not used: nearly a duplicate of euros" in checks(written, "dollars")


def test_many_categories_are_cut_to_the_commonest_and_the_rest_is_unseen(init: Init) -> None:
    cities = [f"{chr(65 + n % 26)}{chr(97 + n // 26) * 4}" for n in range(130)]
    column = [*cities, *cities, *RANDOM.choice(cities[:40], ROWS - 260)]
    written = init({"city": column, "rare": ["once", *drawn("often", "more")[1:]]})
    contract = reload(written)
    assert len(contract["city"].categories) == 50 and contract["city"].unseen == "missing"
    assert {*cities[:40]} <= {*contract["city"].categories}
    assert "130 different values; 50 are listed" in checks(written, "city")
    assert contract["rare"].unseen == "missing"  # a value of one row: others may come


def test_the_proposal_names_the_decisions_that_a_person_must_make(init: Init) -> None:
    """Bank Marketing's `pdays` is -1 and its `poutcome` unknown without an earlier contact."""
    written = init(
        {
            "pdays": np.where(RANDOM.random(ROWS) < 0.8, -1, RANDOM.integers(1, 500, ROWS)),
            "waited": np.where(RANDOM.random(ROWS) < 0.8, 999, RANDOM.integers(1, 30, ROWS)),
            "outcome": drawn("failure", "success", "unknown"),
            "state": drawn("New York", "new-york", "Ohio"),
            "begun": pd.date_range("2020-01-01", periods=ROWS).astype(str),
            "ended": pd.date_range("2020-03-01", periods=ROWS)[RANDOM.permutation(ROWS)].astype(
                str
            ),
        }
    )
    assert '{pdays: ["-1"]}, and write minimum: 0' in checks(written, "pdays")
    assert '{waited: ["999"]}, and write maximum: 3' in checks(written, "waited")
    assert "'unknown' may stand for no value" in checks(written, "outcome")
    assert "one value in several spellings?" in checks(written, "state")
    assert "is it known when a prediction is asked for?" in checks(written, "begun")
    assert reload(written)["pdays"].bounds[0] == -1
    source = written.source.read_text(encoding="utf-8")
    assert re.search(r"# split: \{by: time, column: begun, test_from: 2020-10-\d\d\}", source)


# --- names and files ----------------------------------------------------------------------------


def test_headers_become_names_and_their_files_are_read(init: Init, tmp_path: Path) -> None:
    """A keyword, names of the pipeline and signs; the dataset finds each by its alias."""
    headers = ["class", "label", "default", "marital-status", "Gain ($)", "2nd call", "größe"]
    written = init({header: drawn("a", "b") for header in headers})
    contract = reload(written)
    names = ["class_", "label_", "default", "marital_status", "gain", "column_2nd_call", "größe"]
    assert list(contract.by_name) == ["spent", *names]
    assert contract["class_"].aliases == ("class",) and contract["marital_status"].aliases == ()
    assert contract["gain"].aliases == ("Gain ($)",)
    data = load_dataset(contract, Settings(data_dir=str(tmp_path)), load_source(written.source))
    assert len(data.train) + len(data.test) == ROWS and not data.rejected
    assert (data.train["class_"] != "?").all()


def test_a_target_with_a_reserved_name_is_found_by_its_alias(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": range(60), "label": ["1.0", "0.0"] * 30})
    table["x"] %= 7
    table.to_csv(tmp_path / "t.csv", index=False)
    written = init_table([str(tmp_path / "t.csv")], "Label", "1", str(tmp_path / "out"))
    contract = reload(written)
    assert (contract.target.name, contract.target.labels) == ("label_", ("0", "1"))
    data = load_dataset(contract, Settings(data_dir=str(tmp_path)), load_source(written.source))
    assert data.train["label_"].mean() == pytest.approx(0.5, abs=0.2) and not data.rejected


@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl", ".parquet", ".data"])
def test_every_format_gives_the_same_contract(suffix: str, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "n": np.arange(80) % 9,
            "d": np.arange(80) / 4 % 5,
            "b": np.arange(80) % 3 == 0,
            "t": [None, "no", "München"] * 26 + ["no", "no"],
            "left": [True, False] * 40,
        }
    )
    path = tmp_path / f"people{suffix}"
    match suffix:
        case ".parquet":
            table.to_parquet(path)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True, force_ascii=False)
        case ".data":
            path.write_bytes(table.to_csv(index=False).encode("latin-1"))
        case _:
            table.to_csv(path, index=False)
    positive = "True" if "csv" in suffix else "true"
    written = init_table([str(path)], "left", positive, str(tmp_path / "out"))
    contract, source = reload(written), load_source(written.source)
    kinds = {one.name: (one.kind, one.missing) for one in contract.features}
    assert kinds == {
        "n": ("integer", "reject"),
        "d": ("number", "reject"),
        "b": ("boolean", "reject"),
        "t": ("nominal", "allow"),
    }
    assert {*contract["t"].categories} == {"no", "München"}
    assert source.name == "people"
    data = load_dataset(contract, Settings(data_dir=str(tmp_path)), source)
    assert len(data.train) + len(data.test) == 80 and data.rejected == 0


def test_a_table_in_a_bucket_is_read_and_described_by_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "x,y\n" + "".join(f"{n % 7},{n % 2}\n" for n in range(60))
    with gcs_emulator(tmp_path / "bucket") as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        Folder("gs://tests/tables").write("t.csv", rows.encode())
        written = init_table(["gs://tests/tables/t.csv"], "y", "1", str(tmp_path / "out"))
        source = load_source(written.source)
        assert source.address == "gs://tests/tables"
        data = load_dataset(reload(written), Settings(data_dir=str(tmp_path)), source)
    assert len(data.train) + len(data.test) == 60


def part(tmp_path: Path, name: str, rows: int = 30, **columns: Any) -> str:
    """Write one file of a table; return its path."""
    path = tmp_path / "parts" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"x": np.arange(rows) % 7, "y": np.arange(rows) % 2, **columns})
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return str(path)


def test_files_and_folders_of_parts_are_one_table(tmp_path: Path) -> None:
    """The names of folders add columns. Uncommitted, empty and other files are ignored."""
    for name in ("sex=Female/0.parquet", "sex=Male/1.parquet", "_temporary/0/2.parquet"):
        part(tmp_path, name)
    part(tmp_path, "sex=Male/3.parquet", rows=0)
    (tmp_path / "parts" / "readme.md").write_text("parts", encoding="utf-8")
    written = init_table([str(tmp_path / "parts")], "y", "1", str(tmp_path / "out"))
    contract, source = reload(written), load_source(written.source)
    assert {*contract["sex"].categories} == {"Female", "Male"}
    assert [*source.files] == ["sex=Female/0.parquet", "sex=Male/1.parquet"]
    data = load_dataset(contract, Settings(data_dir=str(tmp_path)), source)
    assert len(data.train) + len(data.test) == 60
    assert "sex=Male/3.parquet: left out, it has no rows" in written.lines
    assert any("passed over, because of their endings: " in line for line in written.lines)
    files = [part(tmp_path, "2025/a.csv"), part(tmp_path, "b.csv")]
    written = init_table(files, "y", "1", str(tmp_path / "two"))
    assert [*load_source(written.source).files] == ["2025/a.csv", "b.csv"]
    assert "a.csv: 60 rows, 2 columns" in written.lines


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("b.parquet", {}, "b.parquet: another format than a.csv. Write all"),
        ("b.csv", {"z": 1}, "b.csv: other columns than a.csv: z are in one of both"),
        ("b.txt.md", {}, "no table; got .*b.txt.md, expected files that end in .csv, "),
    ],
)
def test_files_that_are_not_one_table_end_in_one_message(
    tmp_path: Path, name: str, columns: dict[str, Any], message: str
) -> None:
    other = part(tmp_path, name, **columns)
    files = [str(Path(other).parent)] if "md" in name else [part(tmp_path, "a.csv"), other]
    with pytest.raises(TableError, match=message):
        init_table(files, "y", "1", str(tmp_path / "out"))


def test_the_description_moves_with_a_table_beside_it(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/t.csv").write_text("x,y\n" + "3,a\n4,b\n3,b\n" * 20, encoding="utf-8")
    init_table([str(tmp_path / "here/t.csv")], "y", "b", str(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    source = load_source(tmp_path / "there/source.yaml")
    assert source.address == str(tmp_path / "there")


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target", "positive", "message"),
    [
        ("x,churn\n1,a\n2,b\n", "chrun", "a", "the table has no column chrun; .* mean churn"),
        ("x,y\n1,a\n2,b\n", "y", "c", r"--positive: got c, expected a value of y: 'a' \(1 row\)"),
        ("x,y\n1,a\n2,b\n3,c\n", "y", "a", "y has 3 different values.*expected two.*a and other"),
        ("x,y\n1,a\n2,a\n", "y", "a", r"y has 1 different value, expected two"),
        ("x,y\n1,\n2,\n", "y", "a", "y has 0 different value.*: none"),
        ("x,y\n", "y", "a", "no rows below the header"),
        ("x,y\n1,5,a\n2,6,b\n", "y", "a", "one field more than the header; .*no row has as many"),
        ("a b,a-b,y\n1,2,a\n2,3,b\n", "y", "a", "columns a b, a-b: got one name, a_b"),
        ("39,Private,a\n40,State,b\n", "y", "a", "looks like a row of values.*--names"),
        ("x,y\n" + "7,a\n8,b\n" * 9, "y", "a", "no column can be an input .* x: a leak"),
        ("x,y\n7,a\n7,b\n", "y", "a", "no column can be an input .* x: left out, constant: '7'"),
    ],
)
def test_an_unusable_table_ends_in_one_message(
    text: str, target: str, positive: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(TableError, match=message) as caught:
        init_table([str(tmp_path / "t.csv")], target, positive, str(tmp_path / "out"))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_existing_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "source.yaml").write_text("mine", encoding="utf-8")
    (tmp_path / "t.csv").write_text("x,y\n1,a\n2,b\n", encoding="utf-8")
    with pytest.raises(TableError, match="source.yaml: exists"):
        init_table([str(tmp_path / "t.csv")], "y", "a", str(tmp_path))
    assert (tmp_path / "source.yaml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "features.yaml").exists()


def test_the_command_prints_its_findings_and_the_next_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("My Table.csv").write_text("x;y\n" + "3,5;a\n4;b\n4;a\n3,5;b\n" * 15, encoding="utf-8")
    main(["init", "My Table.csv", "--target", "y", "--positive", "B"])
    printed = capsys.readouterr().out
    assert "My Table.csv: 60 rows, 2 columns" in printed and "y: 30 rows (50.0%) b" in printed
    assert "read as kind 'csv', separator ';', decimal ','" in printed
    assert "1 number" in printed and "y: only 30 rows of the rarer label" in printed
    assert "CONTRACT=my-table/features.yaml" in printed
    assert yaml.safe_load(Path("my-table/features.yaml").read_text(encoding="utf-8"))
    with pytest.raises(SystemExit, match="my-table/features.yaml: exists"):
        main(["init", "My Table.csv", "--target", "y", "--positive", "b"])
