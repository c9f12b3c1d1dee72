"""Batch scoring: Parquet files in, the same rows with probability and class out.

    python -m training score gs://bucket/people scored

Reads a registered version's graph, the same file that is served. The work is cut into row groups,
which Spark's tasks take one each; a task that dies is run again and writes its part anew.
`_SUCCESS` in the output says that it is whole; a job that fails removes what it wrote. Rows that
break the contract go to `OUTPUT-rejected` with what is wrong with them.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from config.contract import Contract, load_contract
from training.data.bucket import FileSystem, open_address
from training.data.census import check_inputs
from training.model.onnx_export import Package, as_tensors
from training.registry.mlflow_registry import Registry
from training.batch_scoring.spark import spark_session

BATCH_ROWS = 65_536
SUCCESS = "_SUCCESS"  # the last file to be written, as other tools expect it
MADE = {"probability": pa.float32(), "income_class": pa.int8(), "model_version": pa.string()}


class ScoringError(Exception):
    """A batch cannot be scored; the message names the file or column and the remedy."""


class Unit(NamedTuple):
    """What one task scores: a row group of a file."""

    number: int
    path: str
    row_group: int


class Part(NamedTuple):
    """What one task wrote: the scored and the rejected rows."""

    names: tuple[str, str]  # of files; empty where there was no such row
    rows: tuple[int, int]


class Summary(NamedTuple):
    """What became of a batch."""

    version: str
    rows_scored: int
    rows_rejected: int
    output: str
    rejected: str  # empty if no row was

    @property
    def share_rejected(self) -> float:
        """Of all rows, in [0, 1]."""
        return self.rows_rejected / max(1, self.rows_scored + self.rows_rejected)


class Scorer:
    """A version's graph, sent to every executor; each process opens one session of its own."""

    def __init__(self, package: Package, version: str) -> None:
        self.graph = (package.folder / "model.onnx").read_bytes()
        self.contract: Contract = package.contract
        self.threshold = package.threshold
        self.version = version

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "session"}

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        """On one thread: Spark gives each task a core."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self.graph, options)

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Probability of the positive label (n_samples,) float32, for checked input columns."""
        feeds = as_tensors(frame, self.contract, self.session)
        return self.session.run(["probability"], feeds)[0]

    def split(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """(scored, rejected) rows of a table, each with its own columns added."""
        frame = table.select(list(self.contract.input_names)).to_pandas()
        valid, typed, problems = check_inputs(frame, self.contract)
        good, bad = table.filter(pa.array(valid)), table.filter(pa.array(~valid))
        probability = self.score(typed)
        classes = (probability >= self.threshold).astype(np.int8)
        made = (probability, classes, [self.version] * len(probability))
        for (name, kind), values in zip(MADE.items(), made, strict=True):
            good = good.append_column(name, pa.array(values, kind))
        return good, bad.append_column("problems", pa.array(problems, pa.string()))


def score_batch(
    registry: Registry, source: str, output: str, number: str, spark_master: str
) -> Summary:
    """Scores Parquet files with a registered version, the production one if `number` is empty.

    Without a `spark_master` this process scores alone. Raises ScoringError, SparkUnavailable or
    RegistryUnavailable before any work.
    """
    version = registry.version(number) if number else registry.production()
    if version is None:
        raise ScoringError(f"version {number}: MLflow has none" if number else "no production yet")
    with registry.package_of(version) as folder:
        package = Package(folder, load_contract())
        prove_golden(package)
        scorer = Scorer(package, str(version.version))
    if not spark_master:
        return score_files(scorer, source, output)
    with spark_session(spark_master) as spark:
        return score_files(scorer, source, output, spark)


def prove_golden(package: Package) -> None:
    """Raises ScoringError unless the graph reproduces its golden rows on this machine."""
    golden = json.loads((package.folder / "golden.json").read_text("utf-8"))
    found = package.score(pd.DataFrame(golden["rows"]))
    worst = float(np.abs(found - golden["probabilities"]).max())
    if not worst <= golden["tolerance"]:
        raise ScoringError(
            f"the graph differs from its golden rows by {worst:.2g} on this machine, expected at"
            f" most {golden['tolerance']}: another ONNX Runtime, or a damaged file"
        )


def score_files(scorer: Scorer, source: str, output: str, spark: Any = None) -> Summary:
    """Scores every Parquet file of `source` into the folder `output`; spark: a session, or None.

    Without Spark this process scores alone. Raises ScoringError before any work if a file lacks a
    column, or if `output` is there already.
    """
    addresses = output.rstrip("/"), f"{output.rstrip('/')}-rejected"
    folders = [open_address(address) for address in addresses]
    for filesystem, path in folders:
        if filesystem.exists(path):
            raise ScoringError(f"{path} is there already: name another output, or remove it")
    units = list(find_units(source, scorer.contract))
    try:
        parts = list(run(scorer, units, addresses, source, spark))
    except BaseException:
        for filesystem, path in folders:
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
        raise
    for (filesystem, path), kept in zip(folders, zip(*(part.names for part in parts)), strict=True):
        complete(filesystem, path, set(kept))
    scored, rejected = (sum(counts) for counts in zip(*(part.rows for part in parts)))
    return Summary(scorer.version, scored, rejected, output, addresses[1] if rejected else "")


def complete(filesystem: FileSystem, folder: str, names: set[str]) -> None:
    """Removes what attempts that died have left, and says that everything is there."""
    if not any(names):
        return
    for path in filesystem.ls(folder, detail=False):
        if os.path.basename(path) not in names:
            filesystem.rm(path)
    filesystem.pipe(f"{folder}/{SUCCESS}", b"")


def find_units(source: str, contract: Contract) -> Iterator[Unit]:
    """Every row group of every file. Raises ScoringError naming a file that cannot be scored."""
    filesystem, path = open_address(source)
    files = [path] if path.endswith(".parquet") else sorted(filesystem.glob(f"{path}/**/*.parquet"))
    number = 0
    for name in files:
        with filesystem.open(name) as file:
            opened = parquet_file(file, name)
            check_columns(name, opened.schema_arrow.names, contract)
            groups = opened.num_row_groups
        for group in range(groups):
            yield Unit(number, name, group)
            number += 1
    if not number:
        raise ScoringError(f"{source}: no rows in any .parquet file there")


def parquet_file(file: Any, name: str) -> parquet.ParquetFile:
    """The opened file. Raises ScoringError if it is no Parquet."""
    try:
        return parquet.ParquetFile(file)
    except pa.ArrowInvalid as err:
        raise ScoringError(f"{name} is no Parquet file: {err}") from err


def check_columns(name: str, columns: list[str], contract: Contract) -> None:
    """Raises ScoringError unless a file has the model's columns and none that scoring makes."""
    missing = [column for column in contract.input_names if column not in columns]
    if missing:
        raise ScoringError(f"{name}: missing column(s) {', '.join(missing)}; it has {columns}")
    if taken := [column for column in (*MADE, "problems") if column in columns]:
        raise ScoringError(f"{name}: {', '.join(taken)} would be overwritten: rename it first")


def run(
    scorer: Scorer, units: list[Unit], addresses: tuple[str, str], source: str, spark: Any
) -> Iterable[Part]:
    """The parts of all units."""
    if spark is None:
        return (score_unit(scorer, unit, addresses, source) for unit in units)
    shared = spark.sparkContext.broadcast(scorer)
    tasks = spark.sparkContext.parallelize(units, len(units))
    return tasks.map(lambda unit: score_unit(shared.value, unit, addresses, source)).collect()


def score_unit(scorer: Scorer, unit: Unit, addresses: tuple[str, str], source: str) -> Part:
    """Scores one row group into the folders of scored and of rejected rows.

    An attempt's files have names of their own, so that two attempts never write into one.
    """
    filesystem, _ = open_address(source)
    name = f"part-{unit.number:05d}-{uuid.uuid4().hex[:8]}.parquet"
    writers = [PartWriter(f"{address}/{name}") for address in addresses]
    with filesystem.open(unit.path) as file:
        opened = parquet.ParquetFile(file)
        for batch in opened.iter_batches(BATCH_ROWS, row_groups=[unit.row_group]):
            tables = scorer.split(pa.Table.from_batches([batch]))
            for writer, table in zip(writers, tables, strict=True):
                writer.write(table)
    for writer in writers:
        writer.close()
    scored, rejected = writers
    return Part((scored.name, rejected.name), (scored.rows, rejected.rows))


class PartWriter:
    """One file, which appears with its first row."""

    def __init__(self, address: str) -> None:
        self.filesystem, self.path = open_address(address)
        self.rows = 0
        self._file: Any = None
        self._writer: parquet.ParquetWriter | None = None

    @property
    def name(self) -> str:
        """The file's name, or nothing if no row was written."""
        return os.path.basename(self.path) if self._writer else ""

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        if not table.num_rows:
            return
        if self._writer is None:
            self._file = self.filesystem.open(self.path, "wb")
            self._writer = parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)
        self.rows += table.num_rows

    def close(self) -> None:
        """Completes the file."""
        if self._writer:
            self._writer.close()
            self._file.close()
