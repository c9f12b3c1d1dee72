"""Batch scoring: Parquet files in, the same rows with probability and class out.

    python -m training score gs://bucket/people scored

Uses the ONNX graph of a registered version, as the services do. Each task scores one row group
into a file of its own. A retried task replaces this file, so no row is lost or repeated. The file
`_SUCCESS` is written last; a failed job removes its output. Rows that break the contract go to
`OUTPUT-rejected` with their problems.

Spark distributes the tasks, but does not read or write the files: its own commit protocol needs a
Hadoop connector for gs://, which is not part of pyspark.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
from pyarrow import dataset, parquet

from config.contract import Contract, load_contract
from training.batch_scoring.spark import spark_session
from training.data.rows import frame_of
from training.data.storage import atomic_writer, open_address
from training.data.validation import check_inputs
from training.model.onnx_export import Package, as_tensors
from training.registry.mlflow_registry import Registry

BATCH_ROWS = 65_536
SUCCESS = "_SUCCESS"  # Spark's name for it
ADDED = {"probability": pa.float32(), "income_class": pa.int8(), "model_version": pa.string()}


class ScoringError(Exception):
    """A batch cannot be scored; the message names the file or column and the remedy."""


class Task(NamedTuple):
    """One row group of an input file."""

    number: int
    fragment: dataset.ParquetFileFragment


class Summary(NamedTuple):
    """Result of scoring a batch."""

    version: str
    rows_scored: int
    rows_rejected: int
    output: str
    rejected: str  # empty if no row was rejected

    @property
    def share_rejected(self) -> float:
        """Share of rejected rows, in [0, 1]."""
        return self.rows_rejected / max(1, self.rows_scored + self.rows_rejected)


class Scorer:
    """The graph of a version. Spark sends it to each executor; each process opens a session."""

    def __init__(self, package: Package, version: str) -> None:
        self.graph = (package.folder / "model.onnx").read_bytes()
        self.contract: Contract = package.contract
        self.threshold = package.threshold
        self.version = version

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "session"}

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        """A session on one thread: each task of Spark has one core."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self.graph, options)

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the probability of the positive label (n_samples,) float32 for valid rows."""
        feeds = as_tensors(frame, self.contract, self.session)
        return self.session.run(["probability"], feeds)[0]

    def split(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the scored and the rejected rows of a table, with the columns that they add."""
        frame = table.select(list(self.contract.input_names)).to_pandas()
        valid, typed, problems = check_inputs(frame, self.contract)
        good, bad = table.filter(pa.array(valid)), table.filter(pa.array(~valid))
        probability = self.score(typed)
        classes = (probability >= self.threshold).astype(np.int8)
        added = (probability, classes, [self.version] * len(probability))
        for (name, kind), values in zip(ADDED.items(), added, strict=True):
            good = good.append_column(name, pa.array(values, kind))
        return good, bad.append_column("problems", pa.array(problems, pa.string()))


def score_batch(
    registry: Registry, source: str, output: str, number: str, spark_master: str
) -> Summary:
    """Score Parquet files with a registered version; production if `number` is empty.

    Without a `spark_master` this process does all tasks. Raises ScoringError, SparkUnavailable or
    RegistryUnavailable before any work.
    """
    version = registry.version(number) if number else registry.production()
    if version is None:
        got = f"got {number}" if number else "there is no production version"
        raise ScoringError(f"version: {got}, expected a version in MLflow. Choose another one.")
    with registry.package_of(version) as folder:
        package = Package(folder, load_contract())
        check_golden_rows(package)
        scorer = Scorer(package, str(version.version))
    if not spark_master:
        return score_files(scorer, source, output)
    with spark_session(spark_master) as spark:
        return score_files(scorer, source, output, spark)


def check_golden_rows(package: Package) -> None:
    """Raise ScoringError unless the graph reproduces its golden rows on this machine."""
    golden = json.loads((package.folder / "golden.json").read_text("utf-8"))
    found = package.score(frame_of(golden["rows"], package.contract))
    worst = float(np.abs(found - golden["probabilities"]).max())
    if not worst <= golden["tolerance"]:
        raise ScoringError(
            f"graph: differs from its golden rows by {worst:.2g} on this machine, expected at most"
            f" {golden['tolerance']}. Use the ONNX Runtime of Pipfile.lock, or download the version"
            " again."
        )


def score_files(scorer: Scorer, source: str, output: str, spark: Any = None) -> Summary:
    """Score every Parquet file of `source` into the folder `output`; spark: a session, or None.

    Raises ScoringError before any work for a missing column or an existing output.
    """
    addresses = output.rstrip("/"), f"{output.rstrip('/')}-rejected"
    folders = [open_address(address) for address in addresses]
    for filesystem, path in folders:
        if filesystem.exists(path):
            raise ScoringError(f"{path}: exists. Choose another output, or remove it.")
    tasks = list(find_tasks(source, scorer.contract))
    try:
        counts = list(run(scorer, tasks, addresses, spark))
    except BaseException:
        for filesystem, path in folders:
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
        raise
    scored, rejected = map(sum, zip(*counts))
    for (filesystem, path), rows in zip(folders, (scored, rejected), strict=True):
        if rows:
            filesystem.pipe(f"{path}/{SUCCESS}", b"")
    return Summary(scorer.version, scored, rejected, output, addresses[1] if rejected else "")


def find_tasks(source: str, contract: Contract) -> Iterator[Task]:
    """Yield every row group of every file. Raises ScoringError naming an unusable file."""
    filesystem, path = open_address(source)
    files = [path] if path.endswith(".parquet") else sorted(filesystem.glob(f"{path}/**/*.parquet"))
    number = 0
    for name in files:
        try:
            (fragment,) = dataset.dataset(
                name, format="parquet", filesystem=filesystem
            ).get_fragments()
        except pa.ArrowInvalid as err:
            raise ScoringError(f"{name}: not a Parquet file: {err}") from err
        check_columns(name, fragment.physical_schema.names, contract)
        for row_group in fragment.split_by_row_group():
            yield Task(number, row_group)
            number += 1
    if not number:
        raise ScoringError(f"{source}: no rows; expected .parquet files with rows.")


def check_columns(name: str, columns: list[str], contract: Contract) -> None:
    """Raise ScoringError unless a file has the input columns and none that scoring adds."""
    missing = [column for column in contract.input_names if column not in columns]
    if missing:
        raise ScoringError(f"{name}: missing column(s) {', '.join(missing)}; it has {columns}.")
    if taken := [column for column in (*ADDED, "problems") if column in columns]:
        raise ScoringError(f"{name}: scoring adds {', '.join(taken)}. Rename this column first.")


def run(
    scorer: Scorer, tasks: list[Task], addresses: tuple[str, str], spark: Any
) -> Iterator[tuple[int, int]]:
    """Yield the numbers of scored and rejected rows of each task."""
    if spark is None:
        yield from (score_task(scorer, task, addresses) for task in tasks)
        return
    shared = spark.sparkContext.broadcast(scorer)
    distributed = spark.sparkContext.parallelize(tasks, len(tasks))
    yield from distributed.map(lambda task: score_task(shared.value, task, addresses)).collect()


def score_task(scorer: Scorer, task: Task, addresses: tuple[str, str]) -> tuple[int, int]:
    """Score one row group into the folders of scored and of rejected rows; return their numbers."""
    name = f"part-{task.number:05d}.parquet"
    with Part(f"{addresses[0]}/{name}") as scored, Part(f"{addresses[1]}/{name}") as rejected:
        for batch in task.fragment.to_batches(batch_size=BATCH_ROWS):
            good, bad = scorer.split(pa.Table.from_batches([batch]))
            scored.write(good)
            rejected.write(bad)
    return scored.rows, rejected.rows


class Part:
    """One output file, which starts with its first row and appears once it is complete."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.rows = 0
        self._writer: parquet.ParquetWriter | None = None
        self._open_files = ExitStack()

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *failure: Any) -> None:
        self._open_files.__exit__(*failure)

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        if not table.num_rows:
            return
        if self._writer is None:
            file = self._open_files.enter_context(atomic_writer(*open_address(self.address)))
            self._writer = parquet.ParquetWriter(file, table.schema)
            self._open_files.enter_context(self._writer)
        self._writer.write_table(table)
        self.rows += table.num_rows
