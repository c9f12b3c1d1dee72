"""Batch scoring: Parquet files in, the same rows with probability and class out.

    python -m training score gs://bucket/people scored

Uses the ONNX graph of a registered version, as the services do. Each task scores one row group
into a file of its own. A retried task replaces this file, so no row is lost or repeated. The file
`_SUCCESS` is written last; a failed job removes its output. Rows that break the contract go to
`OUTPUT-rejected` with their problems.

Columns match the contract by `data.columns`; other columns stay. A folder `sex=Female` adds a
column. Names that start with _ or . are passed over, as Spark does: logs and uncommitted parts.

Spark distributes the tasks, but does not read or write the files: its own commit protocol needs a
Hadoop connector for gs://, which is not part of pyspark.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
from pyarrow import dataset, parquet

from config.contract import Contract, load_contract
from config.feature import Feature
from training.batch_scoring.spark import spark_session
from training.data.columns import check_repeated, folder_values, match_columns
from training.data.errors import TableError
from training.data.rows import frame_of
from training.data.storage import (
    FileSystem,
    atomic_writer,
    delta_notes,
    open_address,
    visible_files,
)
from training.data.validation import check_inputs, unseen_values
from training.errors import ExpectedError
from training.model.onnx_export import Package, as_tensors
from training.registry.mlflow_registry import Registry

BATCH_ROWS = 65_536
SUCCESS = "_SUCCESS"  # Spark's name for it
SUFFIX = ".parquet"
MAX_FILES_SHOWN = 5
ADDED = {"probability": pa.float32(), "income_class": pa.int8(), "model_version": pa.string()}


class ScoringError(ExpectedError):
    """A batch cannot be scored; the message names the file or column and the remedy."""


class Task(NamedTuple):
    """One row group of an input file."""

    number: int
    fragment: dataset.ParquetFileFragment
    folder_values: dict[str, Any]  # JSON values by column: sex=Female/part.parquet


class Counts(NamedTuple):
    """Rows of one task."""

    scored: int
    rejected: int
    unseen: Counter[str]  # by column: values that the contract does not list, read as missing


class Summary(NamedTuple):
    """Result of scoring a batch."""

    version: str
    rows_scored: int
    rows_rejected: int
    output: str
    rejected: str  # empty if no row was rejected
    unseen: dict[str, int]  # by column: values that the contract does not list, read as missing
    notes: list[str]  # about files

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
        feeds = as_tensors(frame, self.contract)
        return self.session.run(["probability"], feeds)[0]

    def split(self, table: pa.Table) -> tuple[pa.Table, pa.Table, Counter[str]]:
        """Return the scored and the rejected rows of a table, with the columns that they add.

        Also returns the number of unseen values of scored rows by column.
        """
        frame = self.inputs(table)
        valid, typed, problems = check_inputs(frame, self.contract)
        values = unseen_values(frame[valid], typed, self.contract)
        unseen = Counter({name: sum(rows.values()) for name, rows in values.items()})
        good, bad = table.filter(pa.array(valid)), table.filter(pa.array(~valid))
        probability = self.score(typed)
        added = probability, probability >= self.threshold, [self.version] * len(typed)
        for (name, kind), column in zip(ADDED.items(), added, strict=True):
            good = good.append_column(name, pa.array(column).cast(kind))
        return good, bad.append_column("problems", pa.array(problems, pa.string())), unseen

    def inputs(self, table: pa.Table) -> pd.DataFrame:
        """Return the contract's input columns of a table, under the contract's names."""
        places = match_columns("", table.column_names, self.contract, labelled=False).places
        names = self.contract.input_names
        return pa.table([table.column(places[name]) for name in names], names).to_pandas()


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
    files, notes = find_files(source)
    tasks = list(find_tasks(source, files, scorer.contract))
    try:
        counts = list(run(scorer, tasks, addresses, spark))
    except BaseException:
        for filesystem, path in folders:
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
        raise
    scored, rejected = (sum(column) for column in list(zip(*counts))[:2])
    for (filesystem, path), rows in zip(folders, (scored, rejected), strict=True):
        if rows:
            filesystem.pipe(f"{path}/{SUCCESS}", b"")
    return Summary(
        scorer.version,
        scored,
        rejected,
        output,
        addresses[1] if rejected else "",
        dict(sum((one.unseen for one in counts), Counter())),
        notes,
    )


def find_files(source: str) -> tuple[list[str], list[str]]:
    """Return the Parquet files below an address, and sentences about what a reader may not expect.

    Raises ScoringError without a Parquet file.
    """
    path = open_address(source)[1]
    names = [f"{path}/{name}".rstrip("/") for name in visible_files(source)]
    others = [name for name in names if not name.lower().endswith(SUFFIX)]
    if len(others) == len(names):
        got = f"got {some_of(others)}" if others else "found no file"
        raise ScoringError(
            f"{source}: {got}, expected {SUFFIX} files, the only format that is read. Write the"
            " rows as Parquet, for example with pandas: read_csv(...).to_parquet(...)."
        )
    notes = delta_notes(source)
    if others:
        notes.append(f"passed over, because they do not end in {SUFFIX}: {some_of(others)}")
    return [name for name in names if name not in others], notes


def some_of(names: Sequence[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    more = len(names) - MAX_FILES_SHOWN
    return ", ".join(names[:MAX_FILES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def find_tasks(source: str, files: Sequence[str], contract: Contract) -> Iterator[Task]:
    """Yield every row group of every file. Raises ScoringError naming an unusable file."""
    filesystem, path = open_address(source)
    number = 0
    for name in files:
        columns = column_names(filesystem, name)
        texts = folder_texts(name, path, contract)
        texts = {key: text for key, text in texts.items() if key not in columns}
        features = match_file(name, [*columns, *texts], contract)
        values = {
            key: features[key].parse(text) if text is not None and key in features else text
            for key, text in texts.items()
        }
        (fragment,) = dataset.dataset(name, format="parquet", filesystem=filesystem).get_fragments()
        for row_group in fragment.split_by_row_group():
            yield Task(number, row_group, values)
            number += 1
    if not number:
        raise ScoringError(f"{source}: no rows; expected {SUFFIX} files with rows.")


def column_names(filesystem: FileSystem, name: str) -> list[str]:
    """Return the columns of a Parquet file. Raises ScoringError for a damaged file."""
    try:
        with filesystem.open(name, "rb") as file:
            return parquet.read_schema(file).names
    except (pa.ArrowInvalid, OSError) as err:
        raise ScoringError(f"{name}: not a Parquet file: {err}") from err


def folder_texts(name: str, source: str, contract: Contract) -> dict[str, str | None]:
    """Return the values in the names of a file's folders.

    Folders above the source count if they name a column of the contract.
    """
    below = folder_values(name[len(source) :])
    texts = folder_values(name)
    return {key: texts[key] for key in texts if key in below or key in contract.by_name}


def match_file(name: str, columns: list[str], contract: Contract) -> dict[str, Feature]:
    """Return the feature of each of the file's columns that has one.

    Raises ScoringError unless the file has the input columns, each column once, and none that
    scoring adds.
    """
    try:
        places = match_columns(name, columns, contract, labelled=False).places
        check_repeated(name, columns)
    except TableError as err:
        raise ScoringError(f"{err} The file has {', '.join(columns)}. Nothing was scored.") from err
    if taken := [column for column in (*ADDED, "problems") if column in columns]:
        raise ScoringError(f"{name}: scoring adds {', '.join(taken)}. Rename this column first.")
    return {columns[place]: contract[feature] for feature, place in places.items()}


def run(
    scorer: Scorer, tasks: list[Task], addresses: tuple[str, str], spark: Any
) -> Iterator[Counts]:
    """Yield the numbers of rows of each task."""
    if spark is None:
        yield from (score_task(scorer, task, addresses) for task in tasks)
        return
    shared = spark.sparkContext.broadcast(scorer)
    distributed = spark.sparkContext.parallelize(tasks, len(tasks))
    yield from distributed.map(lambda task: score_task(shared.value, task, addresses)).collect()


def score_task(scorer: Scorer, task: Task, addresses: tuple[str, str]) -> Counts:
    """Score one row group into the folders of scored and of rejected rows; return their numbers."""
    name = f"part-{task.number:05d}.parquet"
    unseen: Counter[str] = Counter()
    with Part(f"{addresses[0]}/{name}") as scored, Part(f"{addresses[1]}/{name}") as rejected:
        for batch in task.fragment.to_batches(batch_size=BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            for column, value in task.folder_values.items():
                kind = pa.string() if value is None else None
                table = table.append_column(column, pa.array([value] * len(table), kind))
            good, bad, read_as_missing = scorer.split(table)
            scored.write(good)
            rejected.write(bad)
            unseen += read_as_missing
    return Counts(scored.rows, rejected.rows, unseen)


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
