"""A batch of labelled rows, checked and added to the training store: `python -m training ingest`.

Before it is a file, of the monthly feed or exported from the prediction log; after it comes the
next training. Rows that break the contract are set aside with what is wrong with them, as those
of the census are; a file that is no batch at all is refused.

    .csv    a header of contract columns and the target, '?' or nothing for a missing value
    .jsonl  {"record": {...}, "label": 0 or 1} a line, as `config.events.LabelledRecord` has it
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
from training.data.census import (
    as_numbers,
    check_rows,
    first_problem,
    misshapen_rows,
    row_texts,
    set_aside,
    write_atomically,
)
from training.data.storage import open_folder, read_file
from training.data.store import Batch, Store

PERIOD = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
FEED_NAME = re.compile(rf"(?P<period>{PERIOD.pattern}).*\.(csv|jsonl)")
IDENTITY = ["prediction_id", "predicted_at"]
LINE_RULE = 'an object {"record": {column: value, ...}, "label": 0 or 1}'
SHOWN = 200  # characters of a line that is no row


class BatchRefused(Exception):
    """The file is no batch; the message names it, what was found and expected, and the remedy."""


class Parsed(NamedTuple):
    """A file's rows by line number, contract columns and target, and the lines that are no rows."""

    raw: pd.DataFrame
    misshapen: pd.DataFrame


class Ingested(NamedTuple):
    """What became of a file."""

    batch: Batch
    is_new: bool
    known: int = 0  # predictions left out: the store had them
    quarantine: Path | None = None  # where the rejected rows are


def ingest(
    address: str, period: str, store: Store, contract: Contract, quarantine: Path
) -> Ingested:
    """Checks the file at a path or gs:// address and appends its valid rows to the store.

    Rejected rows go to a file of their own in the folder `quarantine`. A file that is there
    already changes nothing. Raises BatchRefused, StoreError or FilesUnavailable.
    """
    check_period(period)
    content = read_file(address)
    sha256 = hashlib.sha256(content).hexdigest()
    if batch := store.find(sha256):
        return already_there(batch, address, period)
    checked, rejected = check_batch(address, content, contract)
    rejects = quarantine / f"{period}-{sha256[:12]}.jsonl" if len(rejected) else None
    if rejects:
        set_aside(rejected, rejects)
    if checked.empty:
        where = f", all of them in {rejects}" if rejects else ""
        raise BatchRefused(
            f"{address}: no row fits the contract, e.g. {first_problem(rejected)}{where};"
            " mend the file and ingest it again"
        )
    stored = {batch: store.rows(batch) for batch in store.batches()}
    fresh = new_predictions(checked, list(stored.values()))
    batch = Batch(
        sha256=sha256,
        source=address,
        period=period,
        rows=len(fresh),
        rejected=len(rejected),
        duplicates=count_duplicates(
            fresh, [rows for batch, rows in stored.items() if batch.period == period], contract
        ),
        ingested_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    added = store.append(batch, fresh)
    if added is None:  # by another process, meanwhile
        return already_there(store.find(sha256) or batch, address, period)
    return Ingested(added, True, len(checked) - len(fresh), rejects)


def ingest_feed(
    address: str, store: Store, contract: Contract, quarantine: Path
) -> tuple[list[Ingested], list[str]]:
    """What became of the files of a folder whose names begin with a period, and what was refused.

    A file that the store has is left as it is; one that is refused does not keep the others out.
    Raises StoreError or FilesUnavailable.
    """
    done, refused = [], []
    for name in open_folder(address).names():
        if not (named := FEED_NAME.fullmatch(name)):
            continue
        try:
            file = f"{address.rstrip('/')}/{name}"
            done.append(ingest(file, named["period"], store, contract, quarantine))
        except BatchRefused as err:
            refused.append(str(err))
    return done, refused


def forget_rejected(quarantine: Path, prediction_id: str) -> int:
    """Removes the rejected rows of a prediction from the folder; how many."""
    forgotten = 0
    for path in quarantine.glob("*.jsonl"):
        lines = path.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not is_of(json.loads(line)["row"], prediction_id)]
        if len(kept) < len(lines):
            write_atomically(path, "".join(kept).encode())
            forgotten += len(lines) - len(kept)
    return forgotten


def is_of(row: dict[str, Any] | str, prediction_id: str) -> bool:
    """True if a rejected row is a prediction's; a line that is no row is text that may name it."""
    if isinstance(row, str):
        return f'"{prediction_id}"' in row
    return row.get("prediction_id") == prediction_id


def check_period(period: str) -> None:
    """Raises BatchRefused for what is no month."""
    if not PERIOD.fullmatch(period):
        raise BatchRefused(f"--period {period}: expected a year and a month, as in 2026-10")


def already_there(batch: Batch, address: str, period: str) -> Ingested:
    """The same file again. Raises BatchRefused if it was another month's before."""
    if batch.period != period:
        raise BatchRefused(
            f"{address}: the store has this file (sha256 {batch.sha256[:12]}) as {batch.period},"
            f" from {batch.source}; one file is one period, so --period {period} was not added"
        )
    return Ingested(batch, False)


def check_batch(
    address: str, content: bytes, contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The valid rows, with prediction_id and predicted_at, and those to set aside.

    Raises BatchRefused if the file as a whole is no batch.
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
    """The rows of a file, by how its name ends. Raises BatchRefused."""
    kind = Path(address).suffix.lower()
    if kind == ".csv":
        return parse_csv(address, text, contract)
    if kind == ".jsonl":
        return parse_lines(address, text, contract)
    raise BatchRefused(
        f"{address}: the name ends in {kind!r}, expected .csv (with a header) or .jsonl"
        f" ({LINE_RULE} a line)"
    )


def parse_csv(address: str, text: str, contract: Contract) -> Parsed:
    """The rows of a CSV file with a header. Whole numbers become int, '?' and nothing None."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows: dict[int, list[str]] = {}
    try:
        header = next(reader, [])
        check_header(address, header, contract)
        rows = {reader.line_num: fields for fields in reader if fields}
    except csv.Error as err:
        raise BatchRefused(
            f"{address}, line {reader.line_num}: {err}; expected comma-separated values, quoted"
            ' with " where they hold a comma'
        ) from err
    whole = {line: fields for line, fields in rows.items() if len(fields) == len(header)}
    raw = pd.DataFrame.from_dict(whole, orient="index", columns=header, dtype=object)
    raw = raw.replace({MISSING: None, "": None})
    for name in header:
        if name == contract.target.name or not contract[name].is_categorical:
            raw[name] = as_numbers(raw[name])
    return Parsed(raw, misshapen_rows(rows, len(header), separator=","))


def check_header(address: str, header: list[str], contract: Contract) -> None:
    """Raises BatchRefused naming every column that is missing, unknown or given twice."""
    target = contract.target.name
    known = (*contract.by_name, target)
    missing = [name for name in (*contract.input_names, target) if name not in header]
    problems = [f"missing {', '.join(missing)}"] if missing else []
    for name, count in Counter(header).items():
        if name not in known:
            hint = nearest(name, known)
            problems.append(f"{name}: no such column" + (f"; did you mean {hint}?" if hint else ""))
        elif count > 1:
            problems.append(f"{name}: the column is there {count} times, expected once")
    if problems:
        raise BatchRefused(
            f"{address}: wrong header: {'; '.join(problems)}. Expected {', '.join(known)}"
            f" ({', '.join(unused(contract))} may be left out; config/features.yaml):"
            " mend the first line and ingest the file again"
        )


def unused(contract: Contract) -> list[str]:
    """The columns that the model does not see."""
    return [feature.name for feature in contract.features if not feature.used]


def parse_lines(address: str, text: str, contract: Contract) -> Parsed:
    """The rows of a JSON-lines file. Raises BatchRefused if no record has some needed column."""
    decode = msgspec.json.Decoder(LabelledRecord).decode
    rows: dict[int, LabelledRecord] = {}
    misshapen: list[tuple[int, object, list[Problem]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = decode(line)
        except msgspec.DecodeError as err:
            problem = Problem("line", line[:SHOWN], f"{LINE_RULE}: {err}")
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
    """Raises BatchRefused naming the needed columns that no record has."""
    missing = [n for n in contract.input_names if not any(n in row.record for row in rows)]
    if rows and missing:
        raise BatchRefused(
            f"{address}: no record has {', '.join(missing)}; expected"
            f" {', '.join(contract.input_names)} in each (config/features.yaml): add them and"
            " ingest the file again"
        )


def new_predictions(checked: pd.DataFrame, stored: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows without those predictions that the store has, or that came twice.

    An export of the prediction log holds the predictions of the one before as well.
    """
    known = {key for rows in stored for key in rows["prediction_id"].dropna()}
    ids = checked["prediction_id"]
    again = ids.notna() & (ids.isin(known) | ids.duplicated())
    return checked[~again].reset_index(drop=True)


def count_duplicates(rows: pd.DataFrame, stored: list[pd.DataFrame], contract: Contract) -> int:
    """Rows that equal an earlier one, in what the model sees and the label; they are kept."""
    columns = [*contract.input_names, contract.target.name]
    frames = [frame[columns] for frame in (*stored, rows)]
    texts = pd.Series(row_texts(pd.concat(frames)))
    return int(texts.duplicated().tail(len(rows)).sum())
