"""The description of where rows come from: the file that SOURCE names, or `source.yaml`.

`download` reads the files, `table_files` their rows, and `dataset` checks and splits them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec
import yaml

from config.contract import Contract, column_name
from training.data.errors import SourceError
from training.data.table_files import TableFormat
from training.settings import Settings

CENSUS = "uci"  # the only source with synthetic rows and with a folder of its own in the settings
SYNTHETIC = "synthetic"
RESERVED_NAMES = (SYNTHETIC, "production", "auto", "source")

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Date = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}\Z")]


class ByFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="files"):
    """Named files are the training split, the others the test split."""

    train: tuple[str, ...]
    test: tuple[str, ...]


class ByHash(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="hash"):
    """A hash of a row's input columns decides, so equal rows are in one split."""

    test_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.3


class ByTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="time"):
    """Rows before a date are the training split, rows from it on the test split."""

    column: str
    test_from: Date


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where rows come from; `source.yaml` explains the keys."""

    name: Name
    files: Mapping[str, Sha256]  # checksum by name; empty: not checked
    split: ByFiles | ByHash | ByTime
    address: str = ""
    format: TableFormat = TableFormat()

    @property
    def is_web(self) -> bool:
        """True if the files are downloaded from the web, and cached."""
        return self.address.startswith(("https://", "http://"))

    @property
    def remedy(self) -> str:
        """What to do if the files cannot be read."""
        names = " and ".join(self.files)
        if self.name == CENSUS:
            return (
                f"Put {names} into a folder and name it in CENSUS_DATA_DIR, or train on synthetic"
                " rows with `--data synthetic`."
            )
        return (
            f"Check `address` and `files` in the description of the source {self.name!r} (SOURCE)."
        )


def load_source(path: Path) -> Source:
    """Return the description of a YAML file. A relative address starts at the file's folder.

    Raises SourceError naming the file and the field.
    """
    try:
        # Scalars are read as text: YAML would read the label `no` as false, and `1` as a number.
        content = yaml.load(path.read_text("utf-8"), yaml.BaseLoader)
        source = msgspec.convert(content, Source, strict=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as err:
        raise SourceError(f"{path}: {err}. Fix the description of the source (SOURCE).") from err
    if problems := list(source_problems(source)):
        raise SourceError("\n".join(f"{path}: {problem}" for problem in problems))
    if source.address and "://" not in source.address:
        address = str((path.parent / source.address).resolve())
        source = msgspec.structs.replace(source, address=address)
    return source


def feed_format(settings: Settings) -> TableFormat:
    """Return the format of ingested files: values as in the described source, any kind of file.

    Without a description it is the default one. Raises SourceError for an invalid description, and
    for a missing one that SOURCE names.
    """
    if not settings.source and not settings.source_path.exists():
        return TableFormat()
    found_in_file = {"kind": None, "separator": None, "header": (), "skip": ""}
    return msgspec.structs.replace(load_source(settings.source_path).format, **found_in_file)


def source_problems(source: Source) -> Iterator[str]:
    """Yield the problems of a description that its types do not show."""
    if source.name in RESERVED_NAMES:
        yield f"name: got {source.name}, expected another than {', '.join(RESERVED_NAMES)}"
    if not source.files:
        yield "files: got none, expected the name of each file with its sha256"
    for name in source.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name:
            yield f"files: got {name!r}, expected a name below `address`"
    if isinstance(source.split, ByFiles):
        for part in ("train", "test"):
            if not getattr(source.split, part):
                yield f"split.{part}: got no file, expected at least one"
        named = [*source.split.train, *source.split.test]
        for name in sorted({*named, *source.files}):
            if name not in source.files:
                yield f"split: got {name}, expected names of `files`"
            elif named.count(name) != 1:
                yield f"split: {name} is named {named.count(name)} times, expected once"


def check_data(data: str, source: Source, other: str) -> None:
    """Raise SourceError unless `data` means the source, synthetic rows or the caller's `other`."""
    if data not in ("source", source.name, SYNTHETIC, other):
        raise SourceError(
            f"data: got {data}, expected source, {source.name} (its name), {SYNTHETIC} or {other}."
            " SOURCE names the description of another source."
        )


def check_source(source: Source, contract: Contract) -> None:
    """Raise SourceError with all problems if a description does not suit a contract."""
    labels = contract.target.labels
    problems = [
        f"format.labels: got {label}, expected {labels[0]} or {labels[1]}"
        for label in source.format.labels.values()
        if label not in labels
    ]
    known = {column_name(name) for name in contract.by_name}
    problems += [
        f"format.missing_in: got {name}, expected a column of the contract"
        for name in source.format.missing_in
        if column_name(name) not in known
    ]
    if isinstance(source.split, ByTime):
        feature = contract.by_name.get(source.split.column)
        if feature is None or feature.kind != "date":
            found = "no such column" if feature is None else f"kind {feature.kind}"
            problems.append(
                f"split.column: got {source.split.column} ({found}), expected a column of kind"
                " date in the contract"
            )
    if problems:
        raise SourceError("\n".join(f"source {source.name}: {problem}" for problem in problems))
