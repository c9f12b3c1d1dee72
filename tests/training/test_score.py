"""Batch scoring in this process and on two Spark executors, on disk and in a bucket."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.conftest import gcs_emulator, made_up_rows
from training.data.storage import open_address
from training.batch_scoring.score import Scorer, ScoringError, Summary, score_batch, score_files

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
    assert done == Summary("7", ROWS, 0, str(tmp_path / "out"), "")
    raw, scored = read(people), read(tmp_path / "out")
    assert scored[raw.columns.tolist()].equals(raw)
    assert scored["probability"].to_numpy() == pytest.approx(package.score(raw), abs=1e-6)
    assert ((scored["probability"] >= package.threshold) == scored["income_class"]).all()
    assert set(scored["model_version"]) == {"7"}
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "people"]  # nothing left behind


def test_rows_that_break_the_contract_are_written_apart_with_their_problems(
    package, people, tmp_path, engine
):
    spoil(people, age=300, sex="?")
    done = score_files(Scorer(package, "7"), str(people), str(tmp_path / "out"), engine)
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
        assert done == Summary("7", ROWS - 1, 1, "gs://tests/scored", "gs://tests/scored-rejected")
        bucket.get("tests/scored/", str(tmp_path / "back"), recursive=True)
        assert len(read(tmp_path / "back")) == ROWS - 1
        assert bucket.exists("tests/scored/_SUCCESS")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(columns=["age", "sex"]), "missing column(s) age, sex; it has"),
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


def test_an_empty_folder_another_format_and_an_existing_output_are_rejected(
    package, people, tmp_path
):
    scorer, out = Scorer(package, "7"), str(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoringError, match="no rows; expected .parquet files"):
        score_files(scorer, str(tmp_path / "empty"), out)
    (people / "2.parquet").write_text("age,sex\n")
    with pytest.raises(ScoringError, match="2.parquet: not a Parquet file"):
        score_files(scorer, str(people), out)
    (tmp_path / "out").mkdir()
    with pytest.raises(ScoringError, match="out: exists"):
        score_files(scorer, str(people), out)


class FolderRegistry:
    """A registry whose production version is a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def production(self):
        """Return its version."""
        return SimpleNamespace(version="7")

    @contextmanager
    def package_of(self, version):
        """Yield the folder unchanged."""
        assert version.version == "7"
        yield self.folder


def test_a_graph_that_does_not_reproduce_its_golden_rows_scores_nothing(package, people, tmp_path):
    folder = shutil.copytree(package.folder, tmp_path / "copy")
    batch = FolderRegistry(folder), str(people)
    assert score_batch(*batch, str(tmp_path / "out"), "", "").rows_scored == ROWS
    golden = json.loads((folder / "golden.json").read_text("utf-8"))
    golden["probabilities"][0] += 0.01
    (folder / "golden.json").write_text(json.dumps(golden), "utf-8")
    with pytest.raises(ScoringError, match="differs from its golden rows by 0.01"):
        score_batch(*batch, str(tmp_path / "none"), "", "")
    assert not (tmp_path / "none").exists()


def test_numbers_may_be_of_any_width(package, people, tmp_path):
    """Parquet files of other tools often have 32-bit integers, or floats."""
    raw = read(people)
    for path in people.iterdir():
        frame = pd.read_parquet(path)
        frame.astype({"age": "int32", "hours_per_week": "float64"}).to_parquet(path, index=False)
    score_files(Scorer(package, "7"), str(people), str(tmp_path / "out"))
    scored = read(tmp_path / "out")["probability"].to_numpy()
    assert scored == pytest.approx(package.score(raw), abs=1e-6)
