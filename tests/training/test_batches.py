"""A batch of labelled rows: added, quarantined and rejected ones."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from structlog.testing import capture_logs

from config.contract import Contract, Feature, Target
from config.events import LabelledRecord
from tests.conftest import made_up_rows
from training.__main__ import main
from training.data.batches import BatchRejected, Feed, Ingested, Intake, ingest, ingest_feed
from training.data.rows import write_requests
from training.data.storage import Folder
from training.data.store import Store

Add = Callable[..., Ingested]
NO_LIMITS = {"max_rejected": 1, "allow_one_class": True}


@pytest.fixture
def store(tmp_path) -> Store:
    """An empty store."""
    return Store(Folder(str(tmp_path / "store")))


@pytest.fixture
def intake(store: Store, contract: Contract, tmp_path: Path) -> Intake:
    """Return the intake into that store."""
    return Intake(store, contract, tmp_path / "quarantine")


@pytest.fixture
def add(tmp_path: Path, intake: Intake) -> Add:
    """Return a function that writes a file and ingests it."""

    def add_text(
        text: str, name: str = "feed.csv", period: str = "2026-10", **limits: Any
    ) -> Ingested:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return ingest(str(tmp_path / name), period, intake._replace(**limits))

    return add_text


@pytest.fixture(scope="module")
def people(contract) -> pd.DataFrame:
    """Twenty rows as in the feed: labels as text, input columns only."""
    rows = made_up_rows(contract, 20)[[*contract.input_names, "income"]]
    return rows.assign(income=rows["income"].map({0: "<=50K", 1: ">50K"}))


def as_csv(rows: pd.DataFrame) -> str:
    """Return the rows as a file of the feed."""
    return rows.to_csv(index=False)


def stored(store: Store) -> pd.DataFrame:
    """Return every row in the store."""
    return pd.concat([store.rows(batch) for batch in store.batches()], ignore_index=True)


# --- added rows ---------------------------------------------------------------------------------


def test_the_rows_of_a_csv_file_are_added_checked_and_typed(add, store, people, contract):
    people = people.assign(workclass=["?", "", *people["workclass"][2:]])
    added = add(as_csv(people))
    assert added.is_new and added.quarantine is None
    batch = added.batch
    assert (batch.period, batch.rows, batch.rejected, batch.duplicates) == ("2026-10", 20, 0, 0)
    rows = stored(store)
    assert rows["workclass"].tolist()[:2] == ["?", "?"]
    assert rows["income"].tolist() == [int(label == ">50K") for label in people["income"]]
    numbers = [feature.name for feature in contract.inputs if not feature.is_categorical]
    assert set(rows[numbers].dtypes.astype(str)) == {"int64"}
    pd.testing.assert_frame_equal(rows[numbers], people[numbers])


def test_the_traffic_file_of_a_training_can_be_ingested(add, store, contract, tmp_path):
    rows = made_up_rows(contract, 30)
    write_requests(rows, contract, tmp_path / "traffic.jsonl")
    assert add((tmp_path / "traffic.jsonl").read_text("utf-8"), "traffic.jsonl").batch.rows == 30
    columns = [*contract.input_names, "income"]
    pd.testing.assert_frame_equal(stored(store)[columns], rows[columns])


def test_the_same_file_under_any_name_is_ingested_once(add, store, people):
    first = add(as_csv(people))
    again = add(as_csv(people), "copy.csv")
    assert again == Ingested(first.batch, False) and len(stored(store)) == 20
    with pytest.raises(
        BatchRejected, match="--period: got 2026-11, expected 2026-10. The store has"
    ):
        add(as_csv(people), period="2026-11")


def test_rows_that_equal_an_earlier_one_of_their_period_are_noted_and_kept(add, store, people):
    add(as_csv(people), period="2026-08")
    more = as_csv(people.head(5))
    assert add(more, "more.csv", "2026-08", **NO_LIMITS).batch.duplicates == 5
    assert add(as_csv(people.head(6)), "next.csv", "2026-09").batch.duplicates == 0
    twice = pd.concat([people.head(7), people.head(1)])
    assert add(as_csv(twice), "twice.csv", "2026-10").batch.duplicates == 1
    assert len(stored(store)) == 20 + 5 + 6 + 8


def labelled_lines(record: dict[str, Any], ids: range) -> str:
    """Return predictions as the journal exports them."""
    rows = [LabelledRecord(record, n % 2, f"p{n}", 1.0 + n) for n in ids]
    return "".join(
        json.dumps({name: getattr(row, name) for name in row.__struct_fields__}) + "\n"
        for row in rows
    )


def test_an_export_adds_only_new_predictions(add, store, record):
    assert add(labelled_lines(record, range(4)), "rows.jsonl").known == 0
    second = add(labelled_lines(record, range(6)), "rows.jsonl")
    assert (second.known, second.batch.rows) == (4, 2)
    rows = stored(store).sort_values("predicted_at")
    assert rows["prediction_id"].tolist() == [f"p{n}" for n in range(6)]
    assert rows["predicted_at"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    nothing = add(labelled_lines(record, range(5)), "rows.jsonl")
    assert (nothing.known, nothing.batch.rows, len(stored(store))) == (5, 0, 6)


def test_an_ingest_reads_no_rows_of_other_periods_and_no_ids_without_need(
    add, people, record, monkeypatch
):
    """Every ingest once loaded all rows of all batches, and a feed ingests each file."""
    add(as_csv(people), "september.csv", "2026-09")
    add(labelled_lines(record, range(3)), "old.jsonl", "2026-08")
    monkeypatch.setattr(Store, "rows", None)  # a call would raise TypeError
    with monkeypatch.context() as patch:
        patch.setattr(Store, "prediction_ids", None)
        add(as_csv(people.head(6)), "october.csv", "2026-10")
    assert add(labelled_lines(record, range(1, 5)), "export.jsonl", "2026-11").known == 2


# --- quarantined rows ---------------------------------------------------------------------------


def test_a_feed_is_ingested_once_and_a_bad_file_does_not_stop_the_others(
    store, intake, people, tmp_path
):
    feed = Folder(str(tmp_path / "feed"))
    records = people.assign(age=people["age"] - 1).to_json(orient="records", lines=True)
    feed.write("2026-08.csv.gz", gzip.compress(as_csv(people).encode("utf-16")))
    feed.write("2026-09-late.csv", b"age,sex\n3,4\n")
    feed.write("2026-09.jsonl", records.encode())
    people.assign(age=people["age"] + 0.0).to_parquet(tmp_path / "feed" / "2026-10.parquet")
    found = ingest_feed(feed.address, intake)
    batches = [(one.batch.period, one.batch.rows, one.is_new) for one in found.done]
    assert batches == [("2026-08", 20, True), ("2026-09", 20, True), ("2026-10", 20, True)]
    assert len(found.rejected) == 1 and "2026-09-late.csv" in found.rejected[0]
    assert set(stored(store)["income"]) == {0, 1}
    assert not any(one.is_new for one in ingest_feed(feed.address, intake).done)


def test_files_with_another_name_are_listed_as_passed_over(intake, people, tmp_path):
    """A feed whose files had other names once succeeded without a row."""
    feed = tmp_path / "feed"
    names = ["2026-09.CSV", "10-2026.csv", "202610.csv", "feed.csv", "2026-10.xls", "2026-13.csv"]
    for number, name in enumerate([*names, "_SUCCESS", ".DS_Store"]):
        Folder(str(feed)).write(name, as_csv(people.iloc[number:]).encode())
    with capture_logs() as lines:
        found = ingest_feed(str(feed), intake)
    assert [Path(one.batch.source).name for one in found.done] == names[:1]
    assert found == Feed(found.done, [], sorted(names[1:]))
    assert lines[-1]["files"] == sorted(names[1:]) and "YYYY-MM*.csv" in lines[-1]["expected"]


def test_a_column_without_one_listed_value_is_not_read_as_missing(add, store, contract):
    """Codes in place of names were read as missing in every row."""
    people = made_up_rows(contract, 80)[[*contract.input_names, "income"]]
    labels = people["income"].map(dict(enumerate(contract.target.labels)))
    people = people.assign(income=labels, native_country=["US", "MX", None, "DE"] * 20)
    with pytest.raises(BatchRejected, match="native_country: none of 60 values is listed in the"):
        add(as_csv(people))
    assert store.batches() == []
    few = add(as_csv(people.assign(native_country=["US", *["Cuba"] * 79])))
    assert few.unseen == {"native_country": {"US": 1}}
    assert few.counts()["read_as_missing"] == {"native_country": 1}


def test_a_forgotten_prediction_is_not_left_in_the_quarantine(
    add, people, tmp_path, monkeypatch, capsys
):
    """Rejected rows of an export once stayed: one breaks a rule, one has an unknown column, and one
    line is not a record.
    """
    record = people.drop(columns="income").iloc[0].to_dict()
    bodies = [{"record": record | {"age": 5}}, {"record": record | {"shoe": 44}}, {"record": [44]}]
    rows = [
        one | {"label": 1, "prediction_id": key, "predicted_at": 5.0}
        for one in bodies
        for key in ("p1", "p12")
    ]
    kept = {"record": record, "label": 1, "prediction_id": "p1", "predicted_at": 5.0}
    text = "".join(f"{json.dumps(row)}\n" for row in [*rows, kept])
    added = add(text, "export.jsonl", **NO_LIMITS)
    assert (added.batch.rows, added.batch.rejected) == (1, 6)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    main(["forget", "p1"])
    assert "store: 1 row removed\nquarantine: 3 rows removed" in capsys.readouterr().out
    main(["forget", "p1"])
    assert "store: 0 rows removed\nquarantine: 0 rows removed" in capsys.readouterr().out
    left = added.quarantine.read_text("utf-8").replace("\\", "").splitlines()
    assert len(left) == 3 and all('"p12"' in line and '"p1"' not in line for line in left)


def test_a_line_separator_in_a_string_does_not_cut_a_row(
    add, people, tmp_path, monkeypatch, capsys
):
    """JSON allows U+2028 and U+0085 in a string. A cut row once lost its label, and `forget` left
    the half without the id.
    """
    record = people.drop(columns="income").iloc[0].to_dict()
    good = {"record": record, "label": 1, "prediction_id": "p\u2028\x85\x0b1", "predicted_at": 5.0}
    bad = good | {"prediction_id": "p2", "record": record | {"sex": "Ma\x85\u2029le"}}
    lines = [json.dumps(row, ensure_ascii=False) for row in (good, bad)]
    added = add("\r\n".join(lines), "export.jsonl", **NO_LIMITS)
    assert (added.batch.rows, added.batch.rejected) == (1, 1)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    main(["forget", "p2"])
    assert "quarantine: 1 row removed" in capsys.readouterr().out
    assert added.quarantine.read_bytes() == b""


def test_no_log_line_and_no_error_contains_a_value_of_a_record(add, people):
    """Logs once had rejected rows, and the error of a flow goes to NOTIFY_URL."""
    bad = people.astype(object)
    bad.loc[2, ["age", "sex"]] = [31337, "sesame"]
    with capture_logs() as lines, pytest.raises(BatchRejected) as caught:
        added = add(as_csv(bad))
        add('{"record": "sesame 31337"}\n', "rows.jsonl")
    assert lines[0] == {
        "event": "rows_quarantined",
        "log_level": "warning",
        "rows": 1,
        "fields": {"age": 1, "sex": 1},
        "file": str(added.quarantine),
    }
    bad.loc[:10, "native_country"] = "sesame"
    with capture_logs() as more, pytest.raises(BatchRejected) as rejected:
        add(as_csv(bad), "unseen.csv")
        add(as_csv(bad.assign(age=31337)), "bad.csv")
    assert [line["event"] for line in more].count("values_read_as_missing") == 1
    assert "got 31337; expected a whole number" in rejected.value.examples[0]
    for said in (str(lines), str(more), str(caught.value), str(rejected.value)):
        assert "31337" not in said and "sesame" not in said


def test_invalid_lines_are_quarantined(add, store, record):
    bodies: list[Any] = [
        {"record": record, "label": 1},
        {"record": record | {"age": 10**30}, "label": 1},
        {"record": record | {"age": [40]}, "label": 1},
        {"record": record | {"agee": 40}, "label": 1},
        {"record": {}, "label": 0},
        {"record": record, "label": 2},
        {"record": record, "label": True},
        {"record": record},
        [record],
    ]
    text = "\n".join(map(json.dumps, bodies)) + '\n\n{"record": {"age"'
    added = add(text, "rows.jsonl", **NO_LIMITS)
    assert (added.batch.rows, added.batch.rejected) == (1, 9) and len(stored(store)) == 1
    lines = [json.loads(line) for line in added.quarantine.read_text("utf-8").splitlines()]
    assert [line["line"] for line in lines] == [2, 3, 4, 5, 6, 7, 8, 9, 11]
    first = [line["problems"][0] for line in lines]
    assert first[0] == f"age: got {10**30}, expected a whole number from 17 to 90"
    assert first[2] == "agee: got 40, expected no such field; did you mean 'age'?"
    assert (
        first[3].startswith("age: got None")
        and first[4] == "label: got 2, expected 0 (<=50K) or 1 (>50K)"
    )
    assert all(first[at].startswith("line: ") for at in (1, 5, 6, 7, 8))


# --- rejected files -----------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "allowed"), [(20, 3), (100, 5)])
def test_a_batch_may_have_a_few_invalid_rows(add, store, contract, rows, allowed):
    """An ingest that lost 14 of 24 rows once succeeded."""
    people = made_up_rows(contract, rows)[[*contract.input_names, "income"]]
    people = people.assign(income=[">50K", "<=50K"] * (rows // 2), age=40)
    few, many = (
        as_csv(people.assign(age=[5] * n + [40] * (rows - n))) for n in (allowed, allowed + 1)
    )
    assert add(few, "few.csv").batch.rejected == allowed
    with pytest.raises(BatchRejected, match="--max-rejected 0.05") as caught:
        add(many)
    assert f"feed.csv: {allowed + 1} of {rows} rows break the contract" in str(caught.value)
    rule = "a whole number from 17 to 90"
    assert caught.value.examples == [f"age: {allowed + 1} rows, e.g. got 5; expected {rule}"]
    assert len(store.batches()) == 1
    assert add(many, max_rejected=0.3).batch.rejected == allowed + 1
    with pytest.raises(BatchRejected, match="expected at most 0 "):
        add(few + "5\n", max_rejected=0)


def test_a_class_number_is_not_a_label(add, store):
    """In a labelled record 2 is not a class, also where it is the text of a label."""
    target = Target("repaid", "1", "2", "whether the loan was not repaid")
    contract = Contract(target, (Feature("amount", "integer", "amount", minimum=0, maximum=9),))
    lines = [{"record": {"amount": 5}, "label": label} for label in (0, 1, 2)]
    added = add("\n".join(map(json.dumps, lines)), "rows.jsonl", contract=contract)
    assert (added.batch.rows, added.batch.rejected) == (2, 1)
    assert stored(store)["repaid"].tolist() == [0, 1]
    assert added.faults[0].example() == "label: 1 row, e.g. got 2; expected 0 (1) or 1 (2)"


@pytest.mark.parametrize("predicted_at", [1_760_000_000_000, -1])
def test_a_prediction_of_the_future_is_quarantined(add, store, record, predicted_at):
    """Such a row would be among the newest ones forever. One value is in milliseconds."""
    line = {"record": record, "label": 1, "prediction_id": "p9", "predicted_at": predicted_at}
    added = add(labelled_lines(record, range(4)) + json.dumps(line), "export.jsonl")
    assert (added.batch.rows, added.batch.rejected) == (4, 1) and len(stored(store)) == 4
    assert added.faults[0].problem.field == "predicted_at"


def test_a_period_of_the_future_is_rejected(add, store, people):
    """Such rows were the newest ones forever, and no command removed them."""
    now = pd.Timestamp.now("UTC").tz_localize(None).to_period("M")
    assert add(as_csv(people), period=str(now)).is_new
    with pytest.raises(BatchRejected, match=f"feed.csv: its period .* at most {now} .*--period"):
        add(as_csv(people) + "\n", period=str(now + 1))
    assert len(store.batches()) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"native_country": "United States"}, "native_country: 20 rows, nearest .*'United-States'"),
        ({"age": 5}, "no valid row. age: 20 rows, expected a whole .*jsonl"),
        ({"sex": "Male", "age ": 3}, "age: got columns 1 .age. and 14 .age., expected one"),
        ({"income": ["1", "2"] * 10}, "income: .* rows, expected one of <=50K, >50K"),
        ({"income": ">50K"}, "have the label >50K; .*--allow-one-class.*Nothing was stored"),
    ],
)
def test_a_file_with_too_many_invalid_rows_is_rejected_whole(add, store, people, change, problem):
    """14 of 24 countries were once read as missing, and the next training used them."""
    with pytest.raises(BatchRejected, match=f"feed.csv: .*{problem}"):
        add(as_csv(people.assign(**change)))
    assert store.batches() == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "the file is empty"), ("5\n", "no valid row. line: 1 row, expected an object")],
)
def test_a_file_without_a_row_is_rejected(add, text, problem):
    with pytest.raises(BatchRejected, match=f"rows.jsonl: {problem}.* Nothing was stored"):
        add(text, "rows.jsonl")


@pytest.mark.parametrize("period", ["2026-13", "2026-10-01"])
def test_a_period_is_a_month(add, people, period):
    with pytest.raises(BatchRejected, match=f"--period: got {period}, expected .* 2026-10"):
        add(as_csv(people), period=period)


# --- the command --------------------------------------------------------------------------------


def test_the_command_prints_the_numbers_of_rows_and_examples_of_their_problems(
    people, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    feed = tmp_path / "feed.csv"
    some = people.assign(
        native_country=["Wakanda", *people["native_country"][1:]],
        workclass=[*people["workclass"][:18], "privat", "privat"],
    )
    feed.write_text(as_csv(pd.concat([some, some.head(1)])), "utf-8")
    main(["ingest", str(feed), "--period", "2026-10"])
    said = capsys.readouterr().out
    assert f"into {tmp_path}/data/store: 19 rows of 2026-10, sha256 " in said
    assert "kept 1 row that equal an earlier row" in said and "quarantined 2 invalid rows: " in said
    assert "workclass: 2 rows, e.g. got 'privat'; did you mean 'Private'?" in said
    assert "native_country: 2 values not in the contract" in said and "'Wakanda': 2 rows" in said
    main(["ingest", str(feed), "--period", "2026-10"])
    assert "already ingested at" in capsys.readouterr().out
    feed.write_text(as_csv(some.assign(sex="female")), "utf-8")
    with pytest.raises(SystemExit, match="sex: 20 rows, e.g. got 'female'; did you mean 'Female'"):
        main(["ingest", str(feed), "--period", "2026-10"])
    one_class = as_csv(people.assign(income=">50K"))
    feed.write_text(one_class + one_class.splitlines()[-1].replace(">50K", "more"), "utf-8")
    with pytest.raises(SystemExit, match="have the label >50K"):
        main(["ingest", str(feed), "--max-rejected", "0.1"])
    main(["ingest", str(feed), "--max-rejected", "0.1", "--allow-one-class"])
    assert "20 rows of" in capsys.readouterr().out


def test_the_command_and_the_source_agree_on_the_format(people, tmp_path, monkeypatch, capsys):
    """The labels of the census's test file end in a full stop; every row of them was rejected."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    feed = tmp_path / "feed.csv"
    feed.write_text(as_csv(people.assign(income=people["income"] + ".", extra=1)), "utf-8")
    main(["ingest", str(feed), "--period", "2026-10"])
    said = capsys.readouterr().out
    assert "20 rows of 2026-10" in said and "does not have: extra\n" in said
    monkeypatch.setenv("SOURCE", str(tmp_path / "none.yaml"))
    with pytest.raises(SystemExit, match="none.yaml: .*SOURCE"):
        main(["ingest", str(feed), "--period", "2026-10"])


def test_a_batch_is_listed_and_removed(people, tmp_path, monkeypatch, capsys):
    """A batch with a wrong period could not be removed."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FEED", str(tmp_path))
    main(["ingest", "--list"])
    assert capsys.readouterr().out == f"{tmp_path}/data/store: no batches\n"
    for period in ("2026-09", "2026-10"):
        (tmp_path / f"{period}.csv").write_text(as_csv(people.tail(int(period[-2:]))), "utf-8")
        main(["ingest", str(tmp_path / f"{period}.csv"), "--period", period])
    before = Store(Folder(str(tmp_path / "data/store"))).batches()
    capsys.readouterr()
    main(["ingest", "--list"])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in listed] == [
        [one.period, one.sha256[:12], str(one.rows)] for one in before
    ]
    with pytest.raises(SystemExit, match="--undo: no such batch; got 2026-11.csv, (.*\n)+.*10.csv"):
        main(["ingest", "--undo", "2026-11.csv"])
    main(["ingest", "--undo", before[0].sha256[:12]])
    said = capsys.readouterr().out
    assert listed[0] in said and "Versions that were trained with them stay" in said
    assert "is in FEED: remove it there" in said
    assert Store(Folder(str(tmp_path / "data/store"))).batches() == before[1:]
    main(["ingest", str(tmp_path / "2026-09.csv"), "--period", "2026-08"])
    main(["ingest", "--list"])
    assert "2026-08  " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["ingest"])


def test_a_missing_file_ends_in_one_message(tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["ingest", str(tmp_path / "none.csv")])
    assert f"{tmp_path}/none.csv: No such file" in str(caught.value.code)
