"""Batch scoring with Spark: rows per second by number of cores.

    make bench NAME=scoring

It scores synthetic rows with a model of production size. The floor is ONNX Runtime alone on one
core and the same files, without checks and without output.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import pandas as pd
from pyarrow import parquet
from sklearn.pipeline import Pipeline

from config.contract import Contract, load_contract
from tests.benchmarks.report import result, write
from training.model.calibration import Platt
from training.model.onnx_export import FittedModel, Package, write_package
from training.model.pipeline import DEFAULT_PARAMS, make_pipeline
from training.batch_scoring.score import BATCH_ROWS, Scorer, score_files
from training.batch_scoring.spark import spark_session
from training.data.synthetic import synthesize

TREES = 350
POOL_ROWS = 200_000  # the files are drawn from these, with replacement
FILE_ROWS = 1_000_000


def make_package(frame: pd.DataFrame, contract: Contract, folder: Path) -> Package:
    """Return a model of production size, fitted on synthetic rows."""
    inputs = frame[list(contract.input_names)]
    pipeline = make_pipeline(contract, DEFAULT_PARAMS | {"n_estimators": TREES}, seed=0)
    pipeline.fit(inputs, frame[contract.target.name])
    parts = [(name, pipeline.named_steps[name]) for name in ("encoder", "classifier")]
    model = FittedModel(Pipeline(parts), Platt(1.0, 0.0), threshold=0.4)
    return write_package(folder, model, contract, inputs.head(1000), {})


def make_files(frame: pd.DataFrame, rows: int, folder: Path) -> None:
    """Write Parquet files with `rows` rows in total."""
    folder.mkdir()
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        part = frame.sample(min(FILE_ROWS, rows - start), replace=True, random_state=number)
        part.to_parquet(folder / f"{number}.parquet", row_group_size=FILE_ROWS // 8, index=False)


def floor_s(scorer: Scorer, folder: Path) -> float:
    """Return the seconds of reading and scoring without Spark."""
    started = time.monotonic()
    for path in sorted(folder.iterdir()):
        for batch in parquet.ParquetFile(path).iter_batches(BATCH_ROWS):
            scorer.score(batch.to_pandas())
    return time.monotonic() - started


def spark_s(scorer: Scorer, folder: Path, output: Path, cores: int) -> float:
    """Return the seconds of the whole job on a running session."""
    with spark_session(f"local[{cores}]") as spark:
        started = time.monotonic()
        score_files(scorer, str(folder), str(output), spark)
        return time.monotonic() - started


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    contract = load_contract()
    frame = synthesize(contract, rows_train=POOL_ROWS, rows_test=0, seed=0).train
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        scorer = Scorer(make_package(frame.head(30_000), contract, folder / "package"), "0")
        make_files(frame[list(contract.input_names)], options.rows, folder / "rows")
        floor = floor_s(scorer, folder / "rows")
        results = [result("floor: one core, no checks, no output", options.rows / floor, "/s")]
        first = 0.0
        for cores in range(1, (os.cpu_count() or 1) + 1):
            seconds = spark_s(scorer, folder / "rows", folder / f"out-{cores}", cores)
            first = first or seconds
            results += [
                result(f"rows on {cores} core(s)", options.rows / seconds, "/s"),
                result(f"{cores} core(s) / floor", floor / seconds, "ratio"),
                result(f"{cores} core(s) / one core", first / seconds, "ratio"),
            ]
    write("scoring", results)


if __name__ == "__main__":
    main()
