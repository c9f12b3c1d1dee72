"""The command `init`: a table in, a contract and a source description for it out."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from msgspec.structs import replace

from config.contract import load_contract
from config.feature import MISSING_MARKS
from training.data.errors import TableError
from training.data.proposal.columns import Proposal
from training.data.proposal.kinds import propose
from training.data.proposal.suspicion import compare_columns
from training.data.proposal.text import contract_text, source_name, source_text
from training.data.source import check_source, load_source
from training.data.storage import read_file
from training.data.table_files import (
    KINDS,
    TableFormat,
    decode,
    decompress,
    find_separator,
    read_table,
    without_top,
)

CONTRACT_FILE = "features.yaml"
SOURCE_FILE = "source.yaml"
OTHER_ENCODING = "windows-1252"  # of files that are not UTF-8
FEW_ROWS = 50  # of the rarer label


class Written(NamedTuple):
    """What `init` wrote and found."""

    contract: Path
    source: Path
    lines: list[str]  # a short summary


def init_table(
    address: str, target: str, positive: str, output: str = "", names: Sequence[str] = ()
) -> Written:
    """Write the contract and the source description that suit a table.

    `names` are those of the columns of a file without a header line. Raises TableError for a
    table, a target or a folder that cannot be used, FilesUnavailable for an unreadable file.
    """
    file = PurePosixPath(address).name
    folder = Path(output or source_name(file))
    paths = folder / CONTRACT_FILE, folder / SOURCE_FILE
    for path in paths:
        if path.exists():
            raise TableError(f"{path}: exists. Remove it, or name another folder with --output.")
    content = read_file(address)
    table_format = format_of(file, content, tuple(names))
    table = read_table(address, content, None, table_format)
    if table.raw.empty:
        raise TableError(
            f"{address}: {'; '.join([*table.notes, 'no row has as many fields as the header'])}."
            " Write the file again."
        )
    proposal = propose(table.raw, target, positive, replace(table_format, missing=MISSING_MARKS))
    compare_columns(proposal)
    check_inputs(proposal)
    checksums = {file: hashlib.sha256(content).hexdigest()}
    write_new(paths[0], contract_text(proposal, file))
    write_new(paths[1], source_text(proposal, home(address, folder), checksums))
    check_source(load_source(paths[1]), load_contract(paths[0]))
    notes = list(table.notes)
    if len(table.misshapen):
        notes.append(f"{len(table.misshapen)} line(s) are no rows and were passed over")
    return Written(*paths, [f"{address}: {note}" for note in notes] + [*summary(proposal, address)])


def check_inputs(proposal: Proposal) -> None:
    """Raise TableError with the reasons if a model would have no input."""
    columns = proposal.columns
    if not any(column.is_used for column in columns):
        reasons = "; ".join(f"{one.header}: {one.checks[-1]}" for one in columns)
        raise TableError(
            f"no column can be an input of a model: {reasons or 'there is none'}. Add columns to"
            " the table."
        )


def write_new(path: Path, text: str) -> None:
    """Write a new file. Raises TableError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as err:
        raise TableError(f"{path}: {err.strerror}. Name another folder with --output.") from err


def format_of(file: str, content: bytes, names: tuple[str, ...]) -> TableFormat:
    """Return how a file writes its table, without marks of a missing value: `kinds` counts them."""
    content, plain_name = decompress(file, content)
    kind = KINDS.get(PurePosixPath(plain_name).suffix.lower())
    if kind is None:
        kind = "parquet" if content.startswith(b"PAR1") else "csv"
    found = TableFormat(kind=kind, header=names, missing=())  # type: ignore[arg-type]
    if kind == "parquet":
        return found
    try:
        text = decode(file, content, found)
    except TableError:
        found = replace(found, encoding=OTHER_ENCODING)
        text = decode(file, content, found)
    if kind == "csv":
        text, _, separator = without_top(text, found, [])
        found = replace(found, separator=separator or find_separator(text, None, found))
    return found


def home(address: str, folder: Path) -> str:
    """Return the folder of a table: relative to the description if the table is below it."""
    place = address.rpartition("/")[0] if "://" in address else str(Path(address).resolve().parent)
    if "://" not in address and Path(place).is_relative_to(folder.resolve()):
        return os.path.relpath(place, folder.resolve())
    return place


def summary(proposal: Proposal, address: str) -> Iterator[str]:
    """Yield what was found, in short sentences."""
    target, counts = proposal.target, proposal.labels.value_counts()
    yield f"{address}: {proposal.n_rows:,} rows, {len(proposal.columns) + 1} columns"
    for label in (target.positive, target.negative):
        yield f"{target.name}: {counts[label]:,} rows ({counts[label] / counts.sum():.1%}) {label}"
    if unlabelled := int(proposal.labels.isna().sum()):
        yield f"{target.name}: missing in {unlabelled:,} rows; a training rejects them"
    if (rarer := min(counts)) < FEW_ROWS:
        yield f"{target.name}: only {rarer} rows of the rarer label; a model of so few is uncertain"
    kinds = Counter(one.feature.kind for one in proposal.columns if one.feature)
    yield f"kinds: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
    for column in proposal.columns:
        for check in column.checks:
            unused = "not used: " if column.feature and not column.feature.used else ""
            yield f"CHECK {column.header}: {unused}{check}"
