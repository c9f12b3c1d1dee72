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

from config.contract import load_contract
from tests.benchmarks.report import result, write
from tests.benchmarks.served_model import train
from training.model.onnx_export import Package
from training.batch_scoring.score import BATCH_ROWS, Scorer, score_files
from training.batch_scoring.spark import spark_session
from training.data.synthetic import synthesize

POOL_ROWS = 200_000  # the files are drawn from these, with replacement
FILE_ROWS = 1_000_000


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
        scorer = Scorer(Package(train(folder, contract).package, contract), "0")
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
