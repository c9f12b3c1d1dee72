"""Batch scoring in this process and on two Spark executors, on disk and in a bucket."""

import json
import os
import shutil
import signal
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.conftest import gcs_emulator, made_up_rows
from tests.training.conftest import fit_small
from training.data.rows import records_of
from training.data.storage import FilesUnavailable, open_address
from training.batch_scoring.score import Scorer, ScoringError, Summary, score_batch, score_files
from training.model.onnx_export import Package, write_package

ROWS = 3000


class KillsOnce(Scorer):
    """Kills the first worker process that uses it, like a lost machine."""

    marker: Path

    def score(self, frame):
        """Score, except the first time."""
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(frame)


class Breaks(Scorer):
    """Fails at every attempt."""

    def score(self, frame):
        """Raise."""
        raise MemoryError("no memory")


@pytest.fixture
def people(contract, tmp_path) -> Path:
    """A folder of two Parquet files with a column more, in row groups of 500."""
    frame = made_up_rows(contract, ROWS, seed=5)[list(contract.input_names)]
    frame.insert(0, "person", np.arange(ROWS))
    folder = tmp_path / "people"
    folder.mkdir()
    for n, part in enumerate((frame[:1800], frame[1800:])):
        part.to_parquet(folder / f"{n}.parquet", row_group_size=500, index=False)
    return folder


def spoil(people: Path, **values: object) -> None:
    """Change values in the first row of the first file."""
    path = people / "0.parquet"
    frame = pd.read_parquet(path)
    for name, value in values.items():
        frame[name] = [value, *frame[name][1:]]
    frame.to_parquet(path, row_group_size=500, index=False)


def read(folder: str | Path) -> pd.DataFrame:
    """Return a scored folder, ordered by person."""
    return pd.read_parquet(folder).sort_values("person").reset_index(drop=True)


@pytest.fixture(params=["alone", pytest.param("spark", marks=pytest.mark.slow)])
def engine(request):
    """None, or a Spark session."""
    return None if request.param == "alone" else request.getfixturevalue("spark")


def test_every_row_gets_the_probability_of_the_graph(package, people, tmp_path, engine):
    done = score_files(Scorer(package, "7"), str(people), str(tmp_path / "out"), engine)
    assert done == Summary("7", ROWS, 0, str(tmp_path / "out"), "", {}, [])
    raw, scored = read(people), read(tmp_path / "out")
    assert scored[raw.columns.tolist()].equals(raw)
    assert scored["probability"].to_numpy() == pytest.approx(package.score(raw), abs=1e-6)
    assert ((scored["probability"] >= package.threshold) == scored["income_class"]).all()
    assert set(scored["model_version"]) == {"7"}
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "people"]  # nothing left behind


def test_rejected_rows_are_written_to_a_second_folder_with_their_problems(
    package, people, tmp_path
):
    spoil(people, age=300, sex="?")
    done = score_files(Scorer(package, "7"), str(people), str(tmp_path / "out"))
    assert (done.rows_scored, done.rows_rejected) == (ROWS - 1, 1)
    (row,) = read(done.rejected).to_dict("records")
    assert row["person"] == 0 and row["age"] == 300
    assert "age: got 300, expected" in row["problems"] and "sex: got None" in row["problems"]
    assert len(read(tmp_path / "out")) == ROWS - 1


@pytest.mark.slow
def test_a_lost_executor_loses_and_repeats_no_row(package, people, tmp_path, spark):
    scorer = KillsOnce(package, "7")
    scorer.marker = tmp_path / "killed"
    done = score_files(scorer, str(people), str(tmp_path / "out"), spark)
    assert scorer.marker.exists()
    assert done.rows_scored == ROWS
    assert read(tmp_path / "out")["person"].tolist() == list(range(ROWS))


def test_a_failed_job_leaves_no_output(package, people, tmp_path, engine):
    with pytest.raises(Exception, match="no memory"):
        score_files(Breaks(package, "7"), str(people), str(tmp_path / "out"), engine)
    assert [p.name for p in tmp_path.iterdir()] == ["people"]


def test_a_bucket_is_read_and_written(package, people, tmp_path, monkeypatch):
    with gcs_emulator(tmp_path / "bucket") as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        scorer = Scorer(package, "7")
        bucket, _ = open_address("gs://tests/people")
        bucket.put(f"{people}/", "tests/people/", recursive=True)
        spoil(people, age=300)
        bucket.put(str(people / "0.parquet"), "tests/people/0.parquet")
        done = score_files(scorer, "gs://tests/people", "gs://tests/scored")
        outputs = "gs://tests/scored", "gs://tests/scored-rejected"
        assert done == Summary("7", ROWS - 1, 1, *outputs, {}, [])
        bucket.get("tests/scored/", str(tmp_path / "back"), recursive=True)
        assert len(read(tmp_path / "back")) == ROWS - 1
        assert bucket.exists("tests/scored/_SUCCESS")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(columns=["age", "sex"]), "missing age, sex;"),
        (lambda frame: frame.assign(probability=0.5), "scoring adds probability"),
    ],
)
def test_a_file_that_cannot_be_scored_is_named_before_any_work(
    package, people, tmp_path, change, words
):
    path = people / "1.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(ScoringError) as caught:
        score_files(Scorer(package, "7"), str(people), str(tmp_path / "out"))
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none", FilesUnavailable, "none: No such file or directory"),
        ("empty", ScoringError, "found no file, expected .parquet files"),
        ("rows.csv", ScoringError, "rows.csv: got .*rows.csv, expected .parquet files"),
        ("rows.parquet", ScoringError, "rows.parquet: not a Parquet file"),
    ],
)
def test_an_input_that_cannot_be_scored_ends_in_one_message(
    package, tmp_path, name, error, message
):
    (tmp_path / "empty").mkdir()
    for file in ("rows.csv", "rows.parquet"):
        (tmp_path / file).write_text("age,sex\n39,Male\n")
    scorer = Scorer(package, "7")
    with pytest.raises(error, match=message):
        score_files(scorer, str(tmp_path / name), str(tmp_path / "out"))
    with pytest.raises(ScoringError, match="empty: exists. Choose another output"):
        score_files(scorer, str(tmp_path / name), str(tmp_path / "empty"))


def test_a_graph_that_does_not_reproduce_its_golden_rows_scores_nothing(package, people, tmp_path):
    folder = shutil.copytree(package.folder, tmp_path / "copy")
    registry = SimpleNamespace(
        production=lambda: SimpleNamespace(version="7"), package_of=lambda _: nullcontext(folder)
    )
    done = score_batch(registry, str(people), str(tmp_path / "out"), "", "")
    assert done.rows_scored == ROWS
    golden = json.loads((folder / "golden.json").read_text("utf-8"))
    golden["probabilities"][0] += 0.01
    (folder / "golden.json").write_text(json.dumps(golden), "utf-8")
    with pytest.raises(ScoringError, match="differs from its golden rows by 0.01"):
        score_batch(registry, str(people), str(tmp_path / "none"), "", "")
    assert not (tmp_path / "none").exists()


def score_table(package: Package, table: pa.Table, folder: Path) -> tuple[Summary, pd.DataFrame]:
    """Score one table; return the summary and the scored rows."""
    folder.mkdir()
    parquet.write_table(table, folder / "rows.parquet")
    done = score_files(Scorer(package, "7"), str(folder / "rows.parquet"), str(folder / "out"))
    return done, pd.read_parquet(folder / "out")


def test_types_of_other_tools_are_read(package, contract, tmp_path):
    """pandas' categories with missing values, and decimals, once caused an error or lost rows."""
    frame = made_up_rows(contract, 40)[list(contract.input_names)]
    frame["workclass"] = [None, "?", *frame["workclass"][2:]]
    names = ["workclass", "sex", "native_country"]
    plain = pa.Table.from_pandas(frame)
    large = [f.with_type(pa.large_string()) if f.name in names else f for f in plain.schema]
    categories = frame.replace({"?": None}).astype(dict.fromkeys(names, "category"))
    numbers = frame.assign(age=[Decimal(int(age)) for age in frame["age"]])
    numbers = numbers.astype({"capital_gain": "int32", "hours_per_week": "float64"})
    tables = {"categories": categories, "numbers": numbers, "large": plain.cast(pa.schema(large))}
    expected = package.score(frame.fillna("?"))
    for name, table in tables.items():
        table = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table)
        done, scored = score_table(package, table, tmp_path / name)
        assert (done.rows_scored, done.rows_rejected) == (40, 0), name
        assert scored["probability"].to_numpy() == pytest.approx(expected, abs=1e-6), name


def test_columns_match_by_the_rule_of_headers_and_keep_their_names(package, contract, tmp_path):
    """A repeated column once ended in a traceback. Unseen values are counted."""
    frame = made_up_rows(contract, 20)[[*contract.input_names, "income"]]
    frame["native_country"] = ["Wakanda", *frame["native_country"][1:]]
    frame.columns = [name.upper().replace("_", "-") for name in frame.columns]
    table = pa.Table.from_pandas(frame)
    done, scored = score_table(package, table, tmp_path / "upper")
    assert done.rows_scored == 20 and list(scored)[:-3] == list(frame)
    assert done.unseen == {"native_country": 1}
    twice = table.append_column("AGE", table.column("AGE"))
    with pytest.raises(ScoringError, match=r"age: got columns 1 \(AGE\) and 14 \(AGE\)"):
        score_table(package, twice, tmp_path / "age")
    notes = table.append_column("note", table["SEX"]).append_column("note", table["SEX"])
    with pytest.raises(ScoringError, match="note: named more than once, expected once. Rename"):
        score_table(package, notes, tmp_path / "note")


def test_names_that_start_with_a_point_or_underscore_are_passed_over(package, people, tmp_path):
    """Parts of a job that was never committed were scored, and a Delta table's log was an error."""
    for name in ("_temporary/0/part.parquet", ".spark-staging/part.parquet", "._0.parquet"):
        (people / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(people / "0.parquet", people / name)
    (people / "_delta_log").mkdir()
    pd.DataFrame({"add": [1]}).to_parquet(people / "_delta_log" / "00.checkpoint.parquet")
    pd.read_parquet(people / "0.parquet")[:0].to_parquet(people / "empty.parquet")
    (people / "more.csv").write_text("age,sex\n")
    done = score_files(Scorer(package, "7"), str(people), str(tmp_path / "out"))
    assert done.rows_scored == ROWS
    assert "is a Delta table" in done.notes[0]
    assert done.notes[1].endswith(f".parquet: {people}/more.csv") and len(done.notes) == 2


def test_the_names_of_folders_add_columns(package, contract, tmp_path):
    frame = made_up_rows(contract, 12).assign(person=range(12), day="2026-11-28 #1")
    frame["occupation"] = [None, *["Sales", "Tech-support"] * 5, "Sales"]
    frame["age"] = [40, 41] * 6
    inputs = frame[["person", "day", *contract.input_names]]
    folder, scorer = tmp_path / "people", Scorer(package, "7")
    inputs.to_parquet(folder, partition_cols=["day", "age", "occupation"])
    done = score_files(scorer, str(folder), str(tmp_path / "out"))
    assert (done.rows_scored, done.rows_rejected) == (12, 0)
    scored = read(tmp_path / "out")
    assert scored["probability"].to_numpy() == pytest.approx(package.score(frame), abs=1e-6)
    assert scored["age"].tolist() == frame["age"].tolist() and {*scored["day"]} == {*frame["day"]}
    done = score_files(scorer, str(next(folder.glob("day=*")) / "age=41"), str(tmp_path / "one"))
    assert done.rows_scored == 6 and "day" not in read(tmp_path / "one")


def test_a_contract_of_every_kind_is_scored(churn, churn_rows, tmp_path):
    """Decimals, dates, booleans, an order, and missing values of each."""
    inputs = churn_rows[list(churn.input_names)]
    model = fit_small(churn, churn_rows)
    package = write_package(tmp_path / "model", model, churn, inputs, {"run_id": "r"})
    sent = pd.DataFrame(records_of(inputs, churn)).assign(person=range(400))
    sent.loc[5, "charges"] = 1e6
    (tmp_path / "rows").mkdir()
    sent.to_parquet(tmp_path / "rows" / "0.parquet", row_group_size=150)
    sent["joined"] = pd.to_datetime(sent["joined"])
    sent.assign(person=sent["person"] + 400).to_parquet(tmp_path / "rows" / "1.parquet")
    done = score_files(Scorer(package, "7"), str(tmp_path / "rows"), str(tmp_path / "out"))
    assert (done.rows_scored, done.rows_rejected) == (798, 2)
    scored = read(tmp_path / "out")["probability"].to_numpy()
    expected = np.delete(package.score(inputs), 5)
    assert scored == pytest.approx(np.concatenate([expected, expected]), abs=1e-6)
    assert "charges: got 1000000.0, expected a number" in read(done.rejected)["problems"][0]
