"""A batch of labelled rows, checked and added to the training store: `python -m training ingest`.

A file comes from the monthly feed or from an export of the prediction log. The next training reads
the store. Invalid rows are quarantined with their problems. A file is rejected if too many of its
rows are invalid, or if only one class is left.

The file is a table with the contract's columns and the target, in any format of `table_files`, or
JSON lines of `config.events.LabelledRecord`: {"record": {...}, "label": 0 or 1}, where 0 is the
class of the negative label.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pandas as pd
import structlog

from config.contract import Contract, load_contract
from config.feature import MISSING, Problem
from training.data.errors import TableError
from training.data.rows import counted, row_texts
from training.data.source import feed_format
from training.data.storage import Folder, read_file, write_atomically
from training.data.store import Batch, Store
from training.data.table_files import IDENTITY, TableFormat, read_table
from training.data.validation import check_rows, quarantine, unseen_values
from training.errors import ExpectedError
from training.settings import MAX_REJECTED_INGESTED, Settings

log = structlog.get_logger(__name__)

PERIOD = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
FEED_NAME = re.compile(
    rf"(?P<period>{PERIOD.pattern}).*\.(csv|tsv|jsonl|ndjson|parquet)(\.gz)?", re.IGNORECASE
)
FEED_RULE = "YYYY-MM*.csv (or .tsv, .jsonl, .ndjson, .parquet, and .gz), as in 2026-10-feed.csv"
MAX_VALUE_SHOWN = 60  # characters of an invalid value
MAX_FAULTS_SHOWN = 5  # fields
MIN_SHARE_ROWS = 60  # a share of fewer rows says little


class BatchRejected(ExpectedError):
    """The file is not a batch; the message has file, problem, expectation and remedy.

    The message has no value of a record, because it may be sent to NOTIFY_URL. `examples` have
    values: a command prints them to the person who has the file.
    """

    def __init__(self, message: str, examples: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.examples = list(examples)


class Intake(NamedTuple):
    """Where batches go, how their files are read, and what a batch may lack."""

    store: Store
    contract: Contract
    quarantine_dir: Path
    table_format: TableFormat = TableFormat()
    max_rejected: float = MAX_REJECTED_INGESTED  # share of rows, in [0, 1]
    allow_one_class: bool = False


class Fault(NamedTuple):
    """Rejected rows with a problem in the same field."""

    rows: int
    problem: Problem  # the most frequent one

    def summary(self) -> str:
        """Return field, number of rows and rule, without a value of a record."""
        near = self.problem.nearest
        rule = f"nearest valid value {near!r}" if near else f"expected {self.problem.expected}"
        return f"{self.problem.field}: {counted(self.rows)}, {rule}"

    def example(self) -> str:
        """Return field, number of rows, the most frequent value and its nearest valid one."""
        field, value, expected, near = msgspec.structs.astuple(self.problem)
        rule = f"did you mean {near!r}?" if near else f"expected {expected}"
        return f"{field}: {counted(self.rows)}, e.g. got {shortened(value)}; {rule}"


class Ingested(NamedTuple):
    """Result of ingesting one file."""

    batch: Batch
    is_new: bool
    known: int = 0  # skipped predictions: the store has them
    quarantine: Path | None = None  # file of the quarantined rows
    faults: Sequence[Fault] = ()  # of the quarantined rows
    # Rows by column and value that is read as missing:
    unseen: Mapping[str, dict[str, int]] = MappingProxyType({})
    notes: Sequence[str] = ()  # how the file was read, and its ignored columns

    @property
    def read_as_missing(self) -> dict[str, int]:
        """Rows with an unlisted value, by column."""
        return {name: sum(rows.values()) for name, rows in self.unseen.items()}

    def counts(self) -> dict[str, Any]:
        """Return the manifest entry and all counts, without a value of a record."""
        return {
            **msgspec.to_builtins(self.batch),
            "rejected_by_field": {fault.problem.field: fault.rows for fault in self.faults},
            "read_as_missing": self.read_as_missing,
            "notes": list(self.notes),
        }


class Checked(NamedTuple):
    """Rows of a file after the check."""

    valid: pd.DataFrame  # typed, with prediction_id and predicted_at
    rejected: pd.DataFrame
    unseen: dict[str, dict[str, int]]
    notes: list[str]


class Feed(NamedTuple):
    """Result of ingesting a folder."""

    done: list[Ingested]
    rejected: list[str]  # messages of rejected files
    passed_over: list[str]  # names without a period or with another ending


def intake_of(settings: Settings, max_rejected: float, allow_one_class: bool) -> Intake:
    """Return the intake into the store of the settings, with the format of their source."""
    return Intake(
        Store(Folder(settings.store_address)),
        load_contract(),
        settings.batch_quarantine,
        feed_format(settings),
        max_rejected,
        allow_one_class,
    )


def ingest(address: str, period: str, intake: Intake) -> Ingested:
    """Check the file at a path or gs:// address and append its valid rows to the store.

    Rejected rows go to a new file of the quarantine. A file that the store has changes nothing.
    Raises BatchRejected, StoreError or FilesUnavailable.
    """
    check_period(address, period)
    store, content = intake.store, read_file(address)
    sha256 = hashlib.sha256(content).hexdigest()
    if batch := store.find(sha256):
        return known_file(batch, address, period)
    found = check_batch(address, content, intake)
    rejects = None
    if len(found.rejected):
        rejects = intake.quarantine_dir / f"{period}-{sha256[:12]}.jsonl"
        quarantine(found.rejected, rejects)
    faults = find_faults(found.rejected)
    if problem := batch_problem(found, intake):
        raise batch_rejected(address, problem, faults, found.notes, rejects)
    new = new_predictions(found.valid, store)
    batch = Batch(
        sha256=sha256,
        source=address,
        period=period,
        rows=len(new),
        rejected=len(found.rejected),
        duplicates=count_duplicates(new, period, intake),
        ingested_at=datetime.now(UTC).isoformat(timespec="seconds"),
        labels=intake.contract.target.labels,
    )
    added = store.append(batch, new)
    if added is None:  # another process was faster
        return known_file(store.find(sha256) or batch, address, period)
    known = len(found.valid) - len(new)
    done = Ingested(added, True, known, rejects, faults, found.unseen, found.notes)
    if done.unseen:  # no log line contains a value of a record
        log.warning("values_read_as_missing", source=address, fields=done.read_as_missing)
    if done.notes:
        log.info("table_read", source=address, notes=done.notes)
    return done


def ingest_feed(address: str, intake: Intake) -> Feed:
    """Ingest each file of a folder whose name starts with a period.

    A rejected file does not stop the others. Names that start with . or _ are not listed as passed
    over. Raises StoreError or FilesUnavailable.
    """
    feed = Feed([], [], [])
    for name in Folder(address).names():
        if not (named := FEED_NAME.fullmatch(name)):
            if not name.startswith((".", "_")):
                feed.passed_over.append(name)
            continue
        try:
            feed.done.append(ingest(f"{address.rstrip('/')}/{name}", named["period"], intake))
        except BatchRejected as err:
            feed.rejected.append(str(err))
    if feed.passed_over:
        log.warning("files_passed_over", feed=address, files=feed.passed_over, expected=FEED_RULE)
    return feed


def forget_rejected(quarantine_dir: Path, prediction_id: str) -> int:
    """Remove the quarantined rows of a prediction; return their number."""
    forgotten = 0
    for path in quarantine_dir.glob("*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not is_of(json.loads(line)["row"], prediction_id)]
        if len(kept) < len(lines):
            write_atomically(path, b"".join(kept))
            forgotten += len(lines) - len(kept)
    return forgotten


def is_of(row: dict[str, Any] | str, prediction_id: str) -> bool:
    """Return True if a rejected row, or the text of an invalid line, has this prediction's id."""
    if isinstance(row, str):
        return f'"{prediction_id}"' in row
    return row.get("prediction_id") == prediction_id


def check_period(address: str, period: str) -> None:
    """Raise BatchRejected unless the period is a month that has begun."""
    if not PERIOD.fullmatch(period):
        raise BatchRejected(f"--period: got {period}, expected a year and a month, as in 2026-10.")
    if period > (this_month := f"{datetime.now(UTC):%Y-%m}"):
        raise BatchRejected(
            f"{address}: its period is in the future; got {period}, expected at most {this_month}"
            " (UTC). Correct --period, or the name of a file in the feed."
        )


def known_file(batch: Batch, address: str, period: str) -> Ingested:
    """Return the result for a file that the store has. Raises BatchRejected for another period."""
    if batch.period != period:
        raise BatchRejected(
            f"--period: got {period}, expected {batch.period}. The store has {address} (sha256"
            f" {batch.sha256[:12]}) with that period, from {batch.source}. Nothing was added. If"
            f" that period is wrong, run `python -m training ingest --undo {batch.sha256[:12]}`."
        )
    return Ingested(batch, False)


def batch_problem(found: Checked, intake: Intake) -> str | None:
    """Return the reason for which a batch is rejected, if any."""
    valid, rejected, contract = found.valid, len(found.rejected), intake.contract
    total = len(valid) + rejected
    if valid.empty:
        return "no valid row" if total else "no valid row, because the file has no rows"
    allowed = int(intake.max_rejected * max(total, MIN_SHARE_ROWS))
    if rejected > allowed:
        return (
            f"{rejected} of {total} rows break the contract; expected at most {allowed}"
            f" (--max-rejected {intake.max_rejected:g}; a file of fewer than {MIN_SHARE_ROWS} rows"
            f" counts as {MIN_SHARE_ROWS})"
        )
    classes = valid[contract.target.name].unique()
    if len(classes) == 1 and not intake.allow_one_class:
        label = contract.target.labels[int(classes[0])]
        return (
            f"all {len(valid)} valid rows have the label {label}; expected rows of both labels"
            " (--allow-one-class accepts one)"
        )
    for name, values in found.unseen.items():
        if (count := sum(values.values())) >= MIN_SHARE_ROWS and (valid[name] == MISSING).all():
            return (
                f"{name}: none of {count} values is listed in the contract, so all would be read as"
                f" missing; expected some of {', '.join(contract[name].categories)}"
            )
    return None


def batch_rejected(
    address: str,
    problem: str,
    faults: Sequence[Fault],
    notes: Sequence[str],
    rejects: Path | None,
) -> BatchRejected:
    """Return the error for a batch, with its problem, all faults of its rows and the remedy."""
    summaries = "".join(f" {fault.summary()}." for fault in faults[:MAX_FAULTS_SHOWN])
    if more := len(faults[MAX_FAULTS_SHOWN:]):
        summaries += f" {more} more fields have problems."
    summaries += "".join(f" {note}." for note in notes)
    where = f" The rejected rows are in {rejects}." if rejects else ""
    return BatchRejected(
        f"{address}: {problem}.{summaries} Nothing was stored.{where} Fix the file and ingest it"
        " again.",
        [fault.example() for fault in faults[:MAX_FAULTS_SHOWN]],
    )


def find_faults(rejected: pd.DataFrame) -> list[Fault]:
    """Return the faults of rejected rows by field, the most frequent field first."""
    by_field: dict[str, dict[str, list[Problem]]] = {}
    for problems in rejected["problems"]:
        for problem in {one.field: one for one in reversed(problems)}.values():
            by_field.setdefault(problem.field, {}).setdefault(str(problem), []).append(problem)
    faults = [
        Fault(sum(map(len, same.values())), max(same.values(), key=len)[0])
        for same in by_field.values()
    ]
    return sorted(faults, key=lambda fault: -fault.rows)


def shortened(value: Any) -> str:
    """Return a value as text of limited length."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE_SHOWN else f"{text[:MAX_VALUE_SHOWN]}..."


def check_batch(address: str, content: bytes, intake: Intake) -> Checked:
    """Return the checked rows of a file. Raises BatchRejected for an invalid file."""
    contract = intake.contract
    try:
        raw, misshapen, notes = read_table(address, content, contract, intake.table_format)
    except TableError as err:
        raise BatchRejected(f"{err} Nothing was stored.") from err
    checked, rejected = check_rows(address, raw, misshapen, contract)
    unseen = unseen_values(raw.loc[checked.index], checked, contract)
    identity = raw.reindex(columns=IDENTITY).loc[checked.index]
    checked = checked.assign(
        prediction_id=identity["prediction_id"].astype(object),
        predicted_at=identity["predicted_at"].astype("float64"),
    )
    return Checked(checked.reset_index(drop=True), rejected, unseen, notes)


def new_predictions(checked: pd.DataFrame, store: Store) -> pd.DataFrame:
    """Return the rows without predictions that are stored or repeated.

    Each export of the prediction log repeats the predictions of the one before.
    """
    ids = checked["prediction_id"]
    if ids.isna().all():  # spares reading the store
        return checked
    stored = set().union(*map(store.prediction_ids, store.batches()))
    repeated = ids.notna() & (ids.isin(stored) | ids.duplicated())
    return checked[~repeated].reset_index(drop=True)


def count_duplicates(rows: pd.DataFrame, period: str, intake: Intake) -> int:
    """Return how many rows equal an earlier row of the period in input columns and label."""
    store, contract = intake.store, intake.contract
    stored = [store.rows(batch) for batch in store.batches() if batch.period == period]
    columns = [*contract.input_names, contract.target.name]
    texts = pd.Series(row_texts(pd.concat([frame[columns] for frame in (*stored, rows)])))
    return int(texts.duplicated().tail(len(rows)).sum())
