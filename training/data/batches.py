"""A batch of labelled rows, checked and added to the training store: `python -m training ingest`.

A file comes from the monthly feed or from an export of the prediction log. The next training reads
the store. Invalid rows are quarantined with their problems; an invalid file is rejected.

    .csv    a header of contract columns and the target; '?' or an empty field for a missing value
    .jsonl  {"record": {...}, "label": 0 or 1} a line, as in `config.events.LabelledRecord`
"""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pandas as pd

from config.contract import MISSING, Contract, Problem, nearest
from config.events import LabelledRecord
from training.data.parsing import misshapen_rows, to_numbers
from training.data.rows import row_texts
from training.data.storage import Folder, read_file, write_atomically
from training.data.store import Batch, Store
from training.data.validation import check_rows, first_problem, quarantine

PERIOD = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
FEED_NAME = re.compile(rf"(?P<period>{PERIOD.pattern}).*\.(csv|jsonl)")
IDENTITY = ["prediction_id", "predicted_at"]
LINE_RULE = 'an object {"record": {column: value, ...}, "label": 0 or 1}'
MAX_SHOWN = 200  # characters of an invalid line


class BatchRejected(Exception):
    """The file is not a batch; the message has file, problem, expectation and remedy."""


class Parsed(NamedTuple):
    """Rows of a file by line number (contract columns and target), and its misshapen lines."""

    raw: pd.DataFrame
    misshapen: pd.DataFrame


class Ingested(NamedTuple):
    """Result of ingesting one file."""

    batch: Batch
    is_new: bool
    known: int = 0  # skipped predictions: the store has them
    quarantine: Path | None = None  # file of the quarantined rows


def ingest(
    address: str, period: str, store: Store, contract: Contract, quarantine_dir: Path
) -> Ingested:
    """Check the file at a path or gs:// address and append its valid rows to the store.

    Rejected rows go to a new file in `quarantine_dir`. A file that the store has changes nothing.
    Raises BatchRejected, StoreError or FilesUnavailable.
    """
    check_period(period)
    content = read_file(address)
    sha256 = hashlib.sha256(content).hexdigest()
    if batch := store.find(sha256):
        return known_file(batch, address, period)
    checked, rejected = check_batch(address, content, contract)
    rejects = quarantine_dir / f"{period}-{sha256[:12]}.jsonl" if len(rejected) else None
    if rejects:
        quarantine(rejected, rejects)
    if checked.empty:
        where = f" All rows are in {rejects}." if rejects else ""
        raise BatchRejected(
            f"{address}: no valid row, e.g. {first_problem(rejected)}.{where} Fix the file and"
            " ingest it again."
        )
    new = new_predictions(checked, known_predictions(checked, store))
    same_period = [store.rows(batch) for batch in store.batches() if batch.period == period]
    batch = Batch(
        sha256=sha256,
        source=address,
        period=period,
        rows=len(new),
        rejected=len(rejected),
        duplicates=count_duplicates(new, same_period, contract),
        ingested_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    added = store.append(batch, new)
    if added is None:  # another process was faster
        return known_file(store.find(sha256) or batch, address, period)
    return Ingested(added, True, len(checked) - len(new), rejects)


def ingest_feed(
    address: str, store: Store, contract: Contract, quarantine_dir: Path
) -> tuple[list[Ingested], list[str]]:
    """Ingest each file of a folder whose name starts with a period.

    Returns the results, and the messages of rejected files. A rejected file does not stop the
    others. Raises StoreError or FilesUnavailable.
    """
    done, rejected = [], []
    for name in Folder(address).names():
        if not (named := FEED_NAME.fullmatch(name)):
            continue
        try:
            file = f"{address.rstrip('/')}/{name}"
            done.append(ingest(file, named["period"], store, contract, quarantine_dir))
        except BatchRejected as err:
            rejected.append(str(err))
    return done, rejected


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


def check_period(period: str) -> None:
    """Raise BatchRejected unless the period is a month."""
    if not PERIOD.fullmatch(period):
        raise BatchRejected(f"--period: got {period}, expected a year and a month, as in 2026-10.")


def known_file(batch: Batch, address: str, period: str) -> Ingested:
    """Return the result for a file that the store has. Raises BatchRejected for another period."""
    if batch.period != period:
        raise BatchRejected(
            f"--period: got {period}, expected {batch.period}. The store has {address} (sha256"
            f" {batch.sha256[:12]}) with that period, from {batch.source}. Nothing was added."
        )
    return Ingested(batch, False)


def check_batch(
    address: str, content: bytes, contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the valid rows, with prediction_id and predicted_at, and the rejected rows.

    Raises BatchRejected for an invalid file.
    """
    raw, misshapen = parse(address, content.decode("utf-8-sig", errors="replace"), contract)
    checked, rejected = check_rows(address, raw, misshapen, contract)
    identity = raw.reindex(columns=IDENTITY).loc[checked.index]
    checked = checked.assign(
        prediction_id=identity["prediction_id"].astype(object),
        predicted_at=identity["predicted_at"].astype("float64"),
    )
    return checked.reset_index(drop=True), rejected


def parse(address: str, text: str, contract: Contract) -> Parsed:
    """Return the rows of a file in the format that its name ends in. Raises BatchRejected."""
    kind = Path(address).suffix.lower()
    if kind == ".csv":
        return parse_csv(address, text, contract)
    if kind == ".jsonl":
        return parse_lines(address, text, contract)
    raise BatchRejected(
        f"{address}: unknown format; got {kind!r}, expected .csv (with a header) or .jsonl"
        f" ({LINE_RULE} a line)."
    )


def parse_csv(address: str, text: str, contract: Contract) -> Parsed:
    """Return the rows of a CSV file with a header.

    Whole numbers become int; '?' and empty fields become None.
    """
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows: dict[int, list[str]] = {}
    try:
        header = next(reader, [])
        check_header(address, header, contract)
        rows = {reader.line_num: fields for fields in reader if fields}
    except csv.Error as err:
        raise BatchRejected(
            f"{address}, line {reader.line_num}: {err}; expected comma-separated values, with"
            ' quotes (") around a value that contains a comma.'
        ) from err
    whole = {line: fields for line, fields in rows.items() if len(fields) == len(header)}
    raw = pd.DataFrame.from_dict(whole, orient="index", columns=header, dtype=object)
    raw = raw.replace({MISSING: None, "": None})
    for name in header:
        if name == contract.target.name or not contract[name].is_categorical:
            raw[name] = to_numbers(raw[name])
    return Parsed(raw, misshapen_rows(rows, len(header), separator=","))


def check_header(address: str, header: list[str], contract: Contract) -> None:
    """Raise BatchRejected naming every missing, unknown or repeated column."""
    target = contract.target.name
    known = (*contract.by_name, target)
    missing = [name for name in (*contract.input_names, target) if name not in header]
    problems = [f"missing {', '.join(missing)}"] if missing else []
    for name, count in Counter(header).items():
        if name not in known:
            hint = nearest(name, known)
            problems.append(f"{name}: unknown column" + (f"; did you mean {hint}?" if hint else ""))
        elif count > 1:
            problems.append(f"{name}: got {count} columns, expected one")
    if problems:
        optional = ", ".join(feature.name for feature in contract.features if not feature.used)
        raise BatchRejected(
            f"{address}: wrong header: {'; '.join(problems)}. Expected {', '.join(known)}"
            f" ({optional} may be absent; config/features.yaml). Fix the first line and ingest the"
            " file again."
        )


def parse_lines(address: str, text: str, contract: Contract) -> Parsed:
    """Return the rows of a JSON-lines file.

    Raises BatchRejected if all records lack a needed column.
    """
    decode = msgspec.json.Decoder(LabelledRecord).decode
    rows: dict[int, LabelledRecord] = {}
    misshapen: list[tuple[int, object, list[Problem]]] = []
    for number, line in enumerate(text.split("\n"), start=1):  # a string may hold U+2028
        if not line.strip():
            continue
        try:
            row = decode(line)
        except msgspec.DecodeError as err:
            problem = Problem("line", line[:MAX_SHOWN], f"{LINE_RULE}: {err}")
            misshapen.append((number, line, [problem]))
            continue
        if row.record.keys() <= contract.by_name.keys():
            rows[number] = row
        else:
            misshapen.append((number, msgspec.to_builtins(row), contract.check(row.record)))
    check_columns(address, list(rows.values()), contract)
    seen = [name for name in contract.by_name if any(name in row.record for row in rows.values())]
    raw = pd.DataFrame(
        [[row.record.get(name) for name in seen] for row in rows.values()],
        index=list(rows),
        columns=seen or list(contract.by_name),
        dtype=object,
    )
    raw[contract.target.name] = [row.label for row in rows.values()]
    for name in IDENTITY:
        raw[name] = pd.Series([getattr(row, name) for row in rows.values()], raw.index, object)
    failed = pd.DataFrame(misshapen, columns=["line", "row", "problems"], dtype=object)
    return Parsed(raw, failed)


def check_columns(address: str, rows: list[LabelledRecord], contract: Contract) -> None:
    """Raise BatchRejected naming the needed columns that all records lack."""
    missing = [n for n in contract.input_names if not any(n in row.record for row in rows)]
    if rows and missing:
        raise BatchRejected(
            f"{address}: all records lack {', '.join(missing)}; expected"
            f" {', '.join(contract.input_names)} in each (config/features.yaml). Add them and"
            " ingest the file again."
        )


def known_predictions(checked: pd.DataFrame, store: Store) -> set[str]:
    """Return the ids of all stored predictions, or an empty set if no row has an id."""
    if checked["prediction_id"].isna().all():
        return set()
    return set().union(*map(store.prediction_ids, store.batches()))


def new_predictions(checked: pd.DataFrame, known: set[str]) -> pd.DataFrame:
    """Return the rows without predictions that are known or repeated.

    Each export of the prediction log repeats the predictions of the one before.
    """
    ids = checked["prediction_id"]
    repeated = ids.notna() & (ids.isin(known) | ids.duplicated())
    return checked[~repeated].reset_index(drop=True)


def count_duplicates(rows: pd.DataFrame, stored: list[pd.DataFrame], contract: Contract) -> int:
    """Return how many rows equal an earlier row in input columns and label."""
    columns = [*contract.input_names, contract.target.name]
    frames = [frame[columns] for frame in (*stored, rows)]
    texts = pd.Series(row_texts(pd.concat(frames)))
    return int(texts.duplicated().tail(len(rows)).sum())
