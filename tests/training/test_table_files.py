"""Files as people have them: each is read with the contract's names and values, or one error."""

import gzip
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from config.contract import Contract, load_contract
from training.data.errors import TableError
from training.data.table_files import Table, TableFormat, read_table
from training.data.validation import check_rows

HEADER = "amount,first_use,purpose,repaid"
CONTRACT = """
target: {name: repaid, negative: "stays due", positive: "is repaid", description: repaid or not}
features:
  - {name: amount, kind: integer, minimum: 0, maximum: 20000, description: amount}
  - {name: first_use, kind: integer, minimum: 0, maximum: 100, description: months since first use}
  - {name: purpose, kind: nominal, description: purpose, categories: [car, school trip, None]}
  - {name: note, kind: nominal, description: note, used: false, categories: [a, b]}
"""
ROWS = [(1200, 3, "car", "is repaid"), (900, 12, "school trip", "stays due")]
COLUMNS = ["amount", "first_use", "purpose", "repaid"]


@pytest.fixture(name="loans", scope="module")
def loans_contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """A contract whose only optional column is `note`."""
    return write_contract(tmp_path_factory.mktemp("contract"), CONTRACT)


def write_contract(folder: Path, text: str) -> Contract:
    """Return the contract of a text."""
    path = folder / "features.yaml"
    path.write_text(text, encoding="utf-8")
    return load_contract(path)


def contract_of(folder: Path, negative: str, positive: str) -> Contract:
    """Return a contract of one column with the given labels."""
    return write_contract(
        folder,
        f"target: {{name: y, negative: '{negative}', positive: '{positive}', description: y}}\n"
        "features: [{name: x, kind: integer, minimum: 0, maximum: 9, description: x}]",
    )


def as_text(rows: list[tuple[Any, ...]], separator: str = ",", header: str = HEADER) -> str:
    """Return rows as a CSV file, without quotes."""
    lines = [header.replace(",", separator), *(separator.join(map(str, row)) for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def values(table: Table) -> list[tuple[Any, ...]]:
    """Return the rows of a table as tuples."""
    return list(table.raw.itertuples(index=False, name=None))


# --- what is read -------------------------------------------------------------------------------


def zipped(text: str) -> bytes:
    """Return a text compressed by gzip."""
    return gzip.compress(text.encode())


PLAIN = as_text(ROWS)
FRAME = pd.DataFrame(ROWS, columns=COLUMNS)
JSON_LINES = FRAME.to_json(orient="records", lines=True)
INDEXED = as_text([(n, *row, "x") for n, row in enumerate(ROWS)], header=f",{HEADER},why")
POINTS = PLAIN.replace("1200,3", "1200.0,3.00").replace("900,12", "900.0,12.")
RECORDS = """{"record": {"amount": 1200, "first_use": 3, "purpose": "car"}, "label": 1}

{"record": {"amount": 900.0, "First use": 12, "purpose": "school trip"}, "label": 0}
"""
FILES: dict[str, tuple[str, str | bytes]] = {
    "plain": ("f.csv", PLAIN),
    "a byte-order mark": ("f.csv", f"\ufeff{PLAIN}"),
    "UTF-16 by Excel": ("f.csv", PLAIN.replace("\n", "\r\n").encode("utf-16")),
    "UTF-16 with the other byte order": ("f.csv", b"\xfe\xff" + PLAIN.encode("utf-16-be")),
    "line ends of Windows": ("f.csv", PLAIN.replace("\n", "\r\n")),
    "no line end at the end": ("f.csv", PLAIN.rstrip()),
    "semicolons": ("f.csv", as_text(ROWS, ";")),
    "tabs": ("f.tsv", as_text(ROWS, "\t")),
    "vertical bars": ("f.txt", as_text(ROWS, "|")),
    "upper case ending": ("F.CSV", PLAIN),
    "gzip without the ending": ("f.csv", zipped(PLAIN)),
    "gzip of JSON lines": ("f.jsonl.GZ", zipped(JSON_LINES)),
    "the separator's line": ("f.csv", "\ufeffSEP=;\r\n" + as_text(ROWS, ";")),
    "an unnamed index and another column": ("f.csv", INDEXED),
    "quotes": ("f.csv", FRAME.to_csv(index=False, quoting=1)),
    "other spellings": ("f.csv", PLAIN.replace(HEADER, "AMOUNT, First.use ,Purpose,REPAID")),
    "another order": ("f.csv", FRAME.iloc[:, ::-1].to_csv(index=False)),
    "padded values": ("f.csv", PLAIN.replace(",", "   ,").replace("\n", "  \n")),
    "whole numbers with a point": ("f.csv", POINTS),
    "flat JSON lines": ("f.jsonl", JSON_LINES),
    "labelled records": ("f.ndjson", RECORDS),
}


@pytest.mark.parametrize(("name", "content"), FILES.values(), ids=FILES)
def test_common_spellings_of_a_file_give_the_same_rows(loans, name, content):
    content = content if isinstance(content, bytes) else content.encode()
    table = read_table(name, content, loans)
    assert list(table.raw)[:4] == COLUMNS
    assert values(table._replace(raw=table.raw[COLUMNS])) == ROWS
    assert [type(value) for value in table.raw["amount"]] == [int, int]
    assert table.misshapen.empty


def parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as a Parquet file."""
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    return content.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"amount": [Decimal("1200"), Decimal("900.00")]},
        {"amount": [1200.0, 900.0]},
        {"amount": ["1200", "900.0"]},
        {"purpose": pd.Categorical(["car", "school trip"])},
        {"purpose": ["car ", " school trip"]},
        {"extra": [[1], [2]]},
    ],
)
def test_a_parquet_file_of_any_column_types_is_read(loans, change):
    frame = pd.DataFrame(ROWS, columns=COLUMNS).assign(**change)
    table = read_table("f.parquet", parquet(frame), loans)
    assert values(table) == ROWS and table.raw.index.tolist() == [1, 2]
    assert [type(value) for value in table.raw["amount"]] == [int, int]


@pytest.mark.parametrize("text", ["", " ", "?", "NA", "null"])
def test_a_missing_value_has_many_spellings(loans, text):
    """A listed category, such as None, is not a missing value."""
    rows = [(text, 3, text, "is repaid"), ("None", 3, "None", "is repaid")]
    expected = [(None, 3, None, "is repaid"), (None, 3, "None", "is repaid")]
    assert values(read_table("f.csv", as_text(rows).encode(), loans)) == expected


def test_missing_values_of_parquet_and_json_are_none(loans):
    frame = pd.DataFrame({"amount": [1.0, float("nan")], "first_use": pd.array([None, 2], "Int64")})
    frame = frame.assign(purpose=pd.Categorical(["car", None]), repaid=["is repaid", None])
    expected = [(1, None, "car", "is repaid"), (None, 2, None, None)]
    assert values(read_table("f.parquet", parquet(frame), loans)) == expected
    lines = frame.to_json(orient="records", lines=True).encode()
    assert values(read_table("f.jsonl", lines, loans)) == expected


def test_rows_have_the_line_numbers_of_the_file(loans):
    text = f'sep=,\n\n{HEADER}\n1,2,"school\ntrip",is repaid\n\n3,4,car,is repaid\n5,6\n'
    table = read_table("f.csv", text.encode(), loans)
    assert table.raw.index.tolist() == [4, 7]
    assert table.misshapen["line"].tolist() == [8]
    problem = str(table.misshapen["problems"].iloc[0][0])
    assert problem == "row: got '2 fields', expected 4 fields, separated by ','"


def test_a_repeated_header_is_quarantined_even_if_any_text_is_a_category(tmp_path):
    contract = write_contract(
        tmp_path,
        "target: {name: y, negative: a, positive: b, description: y}\n"
        "features: [{name: x, kind: nominal, unseen: missing, missing: allow, description: x,"
        " categories: [c]}]",
    )
    table = read_table("f.csv", b"x,y\nc,a\nx,y\nc,b\n", contract)
    assert table.raw.index.tolist() == [2, 4] and table.misshapen["line"].tolist() == [3]
    assert "header again" in str(table.misshapen["problems"].iloc[0][0])


def test_decisions_and_ignored_columns_are_notes(loans):
    header = ",id,amount,first_use,purpose,repaid,why"
    text = as_text([(0, 7, *ROWS[0], "secret")], ";", header)
    assert read_table("f.csv", text.encode(), loans).notes == [
        "the fields are separated by semicolons",
        "ignored column(s) without a name: 1; column 1 may be a row index",
        "ignored column(s) that the contract does not have: id, why",
    ]


def test_row_names_without_a_header_cell_are_quarantined_with_a_note(loans):
    text = HEADER + "\n" + "".join(f"{n},{','.join(map(str, ROWS[n]))}\n" for n in (0, 1))
    table = read_table("f.csv", text.encode(), loans)
    assert table.raw.empty and len(table.misshapen) == 2
    assert "5 fields" in str(table.misshapen["problems"].iloc[0][0])
    assert "name the column of row names" in table.notes[0]


def test_other_names_of_a_column_are_aliases_in_the_contract(tmp_path):
    text = CONTRACT.replace("description: amount}", "description: amount, aliases: [Sum in EUR]}")
    contract = write_contract(tmp_path, text)
    table = read_table("f.csv", PLAIN.replace("amount", "sum-in EUR").encode(), contract)
    assert values(table) == ROWS


def test_without_a_contract_all_columns_are_texts():
    text = f",{HEADER}\n0,1200.0, 3 ,car,NA\n"
    table = read_table("f.csv", text.encode(), None)
    assert table.raw.to_dict("list") == {
        "amount": ["1200.0"],
        "first_use": ["3"],
        "purpose": ["car"],
        "repaid": [None],
    }
    assert table.notes == ["ignored column(s) without a name: 1; column 1 may be a row index"]
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, None], "c": [True, False]})
    expected = {"a": ["1", "2"], "b": ["0.5", None], "c": ["true", "false"]}
    assert read_table("f.parquet", parquet(frame), None).raw.to_dict("list") == expected
    lines = frame.to_json(orient="records", lines=True).encode()
    assert read_table("f.jsonl", lines, None).raw.to_dict("list") == expected


def test_labelled_records_keep_the_identity_of_their_predictions(loans):
    row = {"record": dict(zip(COLUMNS[:3], ROWS[0])), "label": 1, "prediction_id": "p1"}
    other = {"record": {"amoun": 3}, "label": 0, "prediction_id": "p2"}
    content = b"\n".join(map(msgspec.json.encode, (row | {"predicted_at": 5.0}, other)))
    table = read_table("f.jsonl", content + b'\n{"record": [1]}\nno json', loans)
    assert values(table) == [(*ROWS[0], "p1", 5.0)]
    assert table.misshapen["line"].tolist() == [2, 3, 4]
    problems = [str(problems[0]) for problems in table.misshapen["problems"]]
    assert "amoun: got 3, expected no such field; did you mean 'amount'?" in problems[0]
    assert table.misshapen["row"].iloc[0]["prediction_id"] == "p2"
    assert problems[1].startswith("line: ") and '"label": 0 or 1' in problems[1]


# --- the format ---------------------------------------------------------------------------------


def test_a_format_names_columns_marks_and_junk(loans):
    text = "|3 rows\n1.200;3;car;is repaid.\n900;12;school trip;is repaid\n12,00;1;car;-\n"
    table_format = TableFormat(
        kind="csv",
        header=tuple(COLUMNS),
        decimal=",",
        thousands=".",
        skip="|",
        label_suffix=".",
        missing=("-",),
    )
    table = read_table("any", text.encode(), loans, table_format)
    assert values(table) == [
        (1200, 3, "car", "is repaid"),
        (900, 12, "school trip", "is repaid"),
        (12, 1, "car", None),
    ]
    assert table.raw.index.tolist() == [2, 3, 4]


@pytest.mark.parametrize("number", ["1.200", "1'200"])
def test_marks_that_the_format_does_not_name_are_not_guessed(loans, number):
    table_format = TableFormat(decimal="," if "." in number else ".")
    text = as_text([(number, 3, "car", "is repaid")], ";")
    table = read_table("f.csv", text.encode(), loans, table_format)
    assert table.raw["amount"].tolist() == [number]
    assert "amount: 1 value with decimal or thousands marks" in table.notes[-1]
    assert number not in str(table.notes)


@pytest.mark.parametrize("number", ["12,34", "1,2345"])
def test_a_number_with_a_misplaced_thousands_mark_is_invalid(loans, number):
    text = as_text([(f'"{number}"', 3, "car", "is repaid")])
    table = read_table("f.csv", text.encode(), loans, TableFormat(thousands=","))
    assert table.raw["amount"].tolist() == [number]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"separator": ", "}, "separator: got ', ', expected one character"),
        ({"quote": "''"}, "quote: "),
        ({"decimal": ",", "thousands": ","}, "thousands: got ',', expected another"),
        ({"encoding": "utf8000"}, "encoding: got 'utf8000'"),
        ({"kind": "xls"}, "kind"),
        ({"separater": ";"}, "separater"),
    ],
)
def test_an_invalid_format_is_an_error_that_names_the_field(fields, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(fields, TableFormat)


# --- labels -------------------------------------------------------------------------------------


def check(table: Table, contract: Contract) -> tuple[list[int], list[str]]:
    """Return the classes of the valid rows, and the first problem of each other row."""
    checked, rejected = check_rows("f", table.raw, table.misshapen, contract)
    return checked[contract.target.name].tolist(), [str(p[0]) for p in rejected["problems"]]


WRITERS: list[Callable[[pd.DataFrame], tuple[str, bytes]]] = [
    lambda frame: ("f.csv", frame.to_csv(index=False).encode()),
    lambda frame: ("f.jsonl", frame.to_json(orient="records", lines=True).encode()),
    lambda frame: ("f.parquet", parquet(frame)),
]


@pytest.mark.parametrize("write", WRITERS, ids=["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("words", "labels", "classes"),
    [
        (("1", "0"), [1.0, 0.0, 1.0], [0, 1, 0]),
        (("1", "2"), [1, 2, 1], [0, 1, 0]),
        (("true", "false"), [True, False, True], [0, 1, 0]),
        (("True", "False"), ["True", "False", "True"], [0, 1, 0]),
        (("stays", "leaves"), [1, 0, 1], [1, 0, 1]),
        (("stays", "leaves"), ["leaves", "stays", "leaves"], [1, 0, 1]),
    ],
)
def test_labels_are_compared_as_the_contract_writes_them(tmp_path, write, words, labels, classes):
    contract = contract_of(tmp_path, *words)
    name, content = write(pd.DataFrame({"x": [1, 2, 3], "y": labels}))
    assert check(read_table(name, content, contract), contract) == (classes, [])


@pytest.mark.parametrize(
    ("negative", "positive", "label"), [("1", "2", "0"), ("no", "yes", "0"), ("0", "1", "true")]
)
def test_a_class_number_is_rejected_where_it_could_mean_either_class(
    tmp_path, negative, positive, label
):
    contract = contract_of(tmp_path, negative, positive)
    table = read_table("f.csv", f"x,y\n1,{label}\n".encode(), contract)
    expected = f"y: got '{label}', expected one of {negative}, {positive}"
    assert check(table, contract) == ([], [expected])


def test_the_message_about_a_label_names_the_class_numbers(loans):
    table = read_table("f.csv", as_text([(1, 2, "car", "False")]).encode(), loans)
    rule = "expected one of stays due, is repaid, or 0 or 1"
    assert check(table, loans) == ([], [f"repaid: got 'False', {rule}"])


def test_labels_that_the_file_writes_differently_are_named_in_the_format(loans):
    table_format = TableFormat(labels={"1": "stays due", "Y": "is repaid"})
    text = as_text([(1, 2, "car", "Y"), (1, 2, "car", "1"), (1, 2, "car", "0")])
    table = read_table("f.csv", text.encode(), loans, table_format)
    assert table.raw["repaid"].tolist() == ["is repaid", "stays due", "0"]


@pytest.mark.parametrize(("write", "one"), list(zip(WRITERS, (1, 1.0, 1.0))))
def test_codes_as_categories_are_read_from_numbers(tmp_path, write, one):
    contract = write_contract(
        tmp_path,
        "target: {name: churn, negative: stays, positive: leaves, description: who leaves}\n"
        "features: [{name: senior, kind: nominal, description: old, categories: ['0', '1']}]",
    )
    name, content = write(pd.DataFrame({"senior": [1 - one, one], "churn": ["stays", "leaves"]}))
    assert read_table(name, content, contract).raw["senior"].tolist() == ["0", "1"]


# --- what is not understood ---------------------------------------------------------------------

LATIN_1 = PLAIN.replace("car", "caf\xe9").encode("latin-1")
LOST = '{"record": {"amount": 3, "purpose": "car"}, "label": 1}'
ERRORS: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("f.csv", "", "f.csv: the file is empty; expected"),
    "blank": ("f.csv", "\ufeff\n \n", "no rows"),
    "a header alone": ("f.csv", HEADER, "f.csv: no rows below the header"),
    "no header": ("f.csv", "1200,3,car,is repaid\n", "f.csv, line 1: looks like a row of values"),
    "no header, no number": ("f.csv", "x,y,car,is repaid\n", "line 1: looks like a row of values"),
    "UTF-16 without a mark": ("f.csv", PLAIN.encode("utf-16-le"), "zero bytes, as in UTF-16"),
    "Latin-1": ("f.csv", LATIN_1, "f.csv, line 2: not utf-8"),
    "damaged gzip": ("f.csv.gz", zipped(PLAIN)[:40], "f.csv.gz: damaged gzip file"),
    "a workbook": ("f.xlsx", "PK", "f.xlsx: unknown format; got '.xlsx', expected .csv"),
    "no ending": ("table", PLAIN, "table: unknown format; got ''"),
    "an open quote": ("f.csv", f'{PLAIN}1,2,"car', "f.csv, line 4: "),
    "a column twice": (
        "f.csv",
        f"{HEADER},Amount\n1,2,3,car,0\n",
        r"1 \(amount\) and 5 \(Amount\)",
    ),
    "columns missing": (
        "f.csv",
        "amount,firstuse\n1,2\n",
        "missing first_use, purpose, repaid; fir",
    ),
    "a near name": ("f.csv", "amount,firstuse,repaid\n1,2,0\n", "column; did you mean first_use?"),
    "an unknown separator": ("f.csv", as_text(ROWS, ":"), "missing amount, first_use"),
    "a JSON array": ("f.jsonl", '[{"amount": 1}]', "f.jsonl, line 1: a JSON array"),
    "records without a column": ("f.jsonl", LOST, "f.jsonl: wrong columns: missing first_use."),
    "empty objects": ("f.jsonl", "{}\n", "missing amount, first_use, purpose, repaid"),
    "a Parquet column twice": (
        "f.parquet",
        parquet(FRAME.assign(Amount=1)),
        r"columns 1 \(amount\) and 5 \(Amount\)",
    ),
    "not Parquet": ("f.parquet", PLAIN, "f.parquet: not a Parquet file"),
}


@pytest.mark.parametrize(("name", "content", "message"), ERRORS.values(), ids=ERRORS)
def test_an_unreadable_file_ends_in_one_error_without_its_values(loans, name, content, message):
    content = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(TableError, match=message) as caught:
        read_table(name, content, loans)
    for value in ("1200", "900", "school trip", "caf"):
        assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,4\n", "f.csv, line 1: looks like a row of values; expected a header line"),
        ("a,b,a\n3,4,5\n", "f.csv: a: named more than once"),
    ],
)
def test_without_a_contract_the_header_is_checked_too(text, message):
    with pytest.raises(TableError, match=message):
        read_table("f.csv", text.encode(), None)


def test_a_parquet_file_with_a_column_twice_is_rejected_without_a_contract_too():
    """The second column was once used silently."""
    file = io.BytesIO()
    numbers = pyarrow.array([1, 2])
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([numbers, numbers], ["age", "age"]), file)
    with pytest.raises(TableError, match="f.parquet: age: named more than once"):
        read_table("f.parquet", file.getvalue(), None)
