"""The files of a table: found, read as texts, and with a format that fits all of them."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from msgspec.structs import replace

from training.data.errors import EmptyTable, TableError
from training.data.rows import counted
from training.data.storage import SCHEME, delta_notes, read_file, visible_files
from training.data.table_files import (
    KINDS,
    TableFormat,
    decode,
    decompress,
    find_separator,
    read_table,
    suffix_of,
    without_top,
)

OTHER_ENCODING = "windows-1252"  # of files that are not UTF-8


@dataclass
class Files:
    """Files below a folder, which make one table."""

    folder: str
    names: list[str]
    notes: list[str] = field(default_factory=list)
    table_format: TableFormat = TableFormat()
    checksums: dict[str, str] = field(default_factory=dict)  # of the files with rows

    def read(self, header: tuple[str, ...]) -> pd.DataFrame:
        """Return all rows as texts. Raises TableError unless all files have one form."""
        frames: dict[str, pd.DataFrame] = {}
        for name in self.names:
            content = read_file(f"{self.folder}/{name}")
            table_format = format_of(name, content, header)
            try:
                raw, misshapen, notes = read_table(name, content, None, table_format)
            except EmptyTable:
                if len(self.names) == 1:
                    raise
                self.notes.append(f"{name}: left out, it has no rows")
                continue
            if frames:
                first = next(iter(frames))
                if table_format != self.table_format:
                    raise TableError(f"{name}: another format than {first}. {ONE_FORM}")
                if odd := {*raw} ^ {*frames[first]}:
                    columns = f"other columns than {first}: {', '.join(sorted(odd))}"
                    raise TableError(f"{name}: {columns} are in one of both. {ONE_FORM}")
            if len(misshapen):
                notes.append(f"passed over {counted(len(misshapen), 'line')} without a row")
            if raw.empty:
                raise TableError(
                    f"{name}: {'; '.join(notes)}; no row has as many fields as the header. Write"
                    " the file again."
                )
            self.table_format, frames[name] = table_format, raw
            self.checksums[name] = hashlib.sha256(content).hexdigest()
            self.notes += [f"{name}: {note}" for note in notes]
        if not frames:
            raise TableError(f"{self.folder}: no rows in any file. Write the files again.")
        return pd.concat(frames.values(), ignore_index=True)


ONE_FORM = "Write all files of a table in one form, or name fewer files."


def find_files(addresses: Sequence[str]) -> Files:
    """Return the files at addresses of files and folders. Raises TableError if there are none."""
    found: list[str] = []
    folders: list[str] = []
    others: list[str] = []
    notes: list[str] = []
    for address in addresses:
        address = address if address.startswith(SCHEME) else str(Path(address).resolve())
        names = [f"{address.rstrip('/')}/{name}" for name in visible_files(address)]
        if names == [f"{address}/"]:
            names, folders = [address], [*folders, f"{address.rpartition('/')[0]}/"]
        else:
            folders.append(f"{address.rstrip('/')}/")
            others += [name for name in names if suffix_of(name) not in KINDS]
            notes += delta_notes(address)
        found += [name for name in names if name not in others]
    if not found:
        raise TableError(
            f"{', '.join(addresses)}: no table; got {', '.join(others) or 'no file'}, expected"
            f" files that end in {', '.join(KINDS)}, also with .gz."
        )
    if others:
        notes.append(f"passed over, because of their endings: {', '.join(others)}")
    folder = os.path.commonprefix(folders).rpartition("/")[0]
    return Files(folder, [name[len(folder) + 1 :] for name in found], notes)


def format_of(file: str, content: bytes, names: tuple[str, ...]) -> TableFormat:
    """Return how a file writes its table, without marks of a missing value: `kinds` counts them."""
    kind = KINDS.get(suffix_of(file), "parquet" if content.startswith(b"PAR1") else "csv")
    found = TableFormat(kind=kind, header=names, missing=())  # type: ignore[arg-type]
    if kind == "parquet":
        return found
    content = decompress(file, content)
    try:
        text = decode(file, content, found)
    except TableError:
        found = replace(found, encoding=OTHER_ENCODING)
        text = decode(file, content, found)
    if kind == "csv":
        text, _, separator = without_top(text, found, [])
        found = replace(found, separator=separator or find_separator(text, None, found))
    return found


def address_from(description: Path, folder: str) -> str:
    """Return a folder of files: relative to the folder of the description if it is below that."""
    base = description.parent.resolve()
    if not folder.startswith(SCHEME) and Path(folder).is_relative_to(base):
        return os.path.relpath(folder, base)
    return folder
