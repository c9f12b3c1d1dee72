"""The command `init`: a table in, a contract and a source description for it out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from msgspec.structs import replace

from config.contract import load_contract
from config.feature import MISSING_MARKS
from training.data.errors import TableError
from training.data.proposal.columns import Proposal
from training.data.proposal.files import address_from, find_files
from training.data.proposal.kinds import propose
from training.data.proposal.suspicion import compare_columns
from training.data.proposal.text import contract_text, format_keys, source_name, source_text
from training.data.rows import counted
from training.data.source import check_source, load_source

CONTRACT_FILE = "features.yaml"
SOURCE_FILE = "source.yaml"
FEW_ROWS = 50  # of the rarer label


class Written(NamedTuple):
    """What `init` wrote and found."""

    contract: Path
    source: Path
    lines: list[str]  # a short summary


def init_table(
    addresses: Sequence[str],
    target: str,
    positive: str,
    output: str = "",
    names: Sequence[str] = (),
) -> Written:
    """Write the contract and the source description that suit a table of one or more files.

    addresses: files or folders. `names` are those of the columns of files without a header line.
    Raises TableError for a table, a target or a folder that cannot be used, FilesUnavailable for
    an unreadable file.
    """
    name = PurePosixPath(addresses[0]).name
    folder = Path(output or source_name(name))
    paths = folder / CONTRACT_FILE, folder / SOURCE_FILE
    for path in paths:
        if path.exists():
            raise TableError(f"{path}: exists. Remove it, or name another folder with --output.")
    files = find_files(addresses)
    raw = files.read(tuple(names))
    table_format = replace(files.table_format, missing=MISSING_MARKS)
    proposal = propose(raw, target, positive, table_format)
    compare_columns(proposal)
    check_inputs(proposal)
    address = address_from(paths[1], files.folder)
    write_new(paths[0], contract_text(proposal, name))
    write_new(paths[1], source_text(proposal, source_name(name), address, files.checksums))
    check_source(load_source(paths[1]), load_contract(paths[0]))
    return Written(*paths, [*files.notes, *summary(proposal, name)])


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


def summary(proposal: Proposal, name: str) -> Iterator[str]:
    """Yield what was found, in short sentences."""
    target, counts = proposal.target, proposal.labels.value_counts()
    yield f"{name}: {counted(proposal.n_rows)}, {len(proposal.columns) + 1} columns"
    keys = format_keys(proposal.table_format)
    yield f"{name}: read as {', '.join(f'{key} {value!r}' for key, value in keys.items())}"
    for label in (target.positive, target.negative):
        share = counts[label] / counts.sum()
        yield f"{target.name}: {counted(counts[label])} ({share:.1%}) {label}"
    if unlabelled := int(proposal.labels.isna().sum()):
        yield f"{target.name}: missing in {counted(unlabelled)}; a training rejects them"
    if (rarer := min(counts)) < FEW_ROWS:
        yield (
            f"{target.name}: only {counted(rarer)} of the rarer label; a model of so few is"
            " uncertain"
        )
    kinds = Counter(one.feature.kind for one in proposal.columns if one.feature)
    yield f"kinds: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
    for column in proposal.columns:
        for check in column.checks:
            unused = "not used: " if column.feature and not column.feature.used else ""
            yield f"CHECK {column.header}: {unused}{check}"
