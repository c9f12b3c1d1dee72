"""A proposal as text: `features.yaml` and `source.yaml`, with comments for a person who edits."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import yaml
from msgspec.structs import asdict

from config.feature import Feature
from training.data.proposal.headers import shorten
from training.data.proposal.columns import Column, Proposal
from training.data.rows import counted
from training.data.source import CENSUS, RESERVED_NAMES
from training.data.table_files import TableFormat

WIDTH = 100
TEST_SHARE = 0.25
DEFAULT = Feature("", "", "")  # type: ignore[arg-type]
CONTRACT_HEAD = (
    "The contract of {table}, proposed by `python -m training init` from {rows}. Check each"
    " line, and decide where a comment says CHECK. Write descriptions and units."
    " config/features.yaml explains the keys.",
    "",
    "Ranges have 10% head-room beyond the smallest and the largest value. AUC is that of a model"
    " with this column alone: 0.5 is chance. An order of categories cannot be seen in a table: sort"
    " them and write kind: ordinal. A column that is left out is ignored in files and rejected in"
    " requests.",
)
SOURCE_HEAD = (
    "Where the rows of {name} come from. config/source.yaml explains the keys. A file with another"
    ' checksum is rejected: write "" in place of the checksum if the file may change.'
)


def scalar(value: Any) -> str:
    """Return a value as YAML reads it back, on one line: text such as no and 1 in quotes."""
    flow = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**9)
    return flow.strip()[1:-1]


def comment(text: str, indent: str = "") -> Iterator[str]:
    """Yield the lines of a comment."""
    lines = textwrap.wrap(
        text, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False
    )
    return (f"{indent}# {line}".rstrip() for line in lines or [""])


def contract_text(proposal: Proposal, table: str) -> str:
    """Return the contract as YAML."""
    target, counts = proposal.target, proposal.labels.value_counts()
    share = counts[target.positive] / counts.sum()
    about = {"table": shorten(table), "rows": counted(proposal.n_rows)}
    lines = [
        *(line for text in CONTRACT_HEAD for line in comment(text.format(**about))),
        "",
        "target:",
        f"  name: {scalar(target.name)}",
    ]
    if target.aliases:
        lines.append(f"  aliases: [{scalar(target.aliases[0])}]")
    lines += [
        f"  negative: {scalar(target.negative)}  # {counted(counts[target.negative])}",
        f"  positive: {scalar(target.positive)}  # {counted(counts[target.positive])}, {share:.1%}",
        f"  description: {scalar(target.description)}",
        "",
        "features:",
    ]
    for column in proposal.columns:
        lines += [*column_lines(column), ""]
    return "\n".join(lines)


def column_lines(column: Column) -> Iterator[str]:
    """Yield the lines of one column."""
    if column.feature is None:
        for check in column.checks:
            yield from comment(f"CHECK {shorten(column.header)}: {check}.", "  ")
        return
    notes = [*column.notes, *missing_note(column)]
    if notes:
        yield from comment(f"{'. '.join(note[0].upper() + note[1:] for note in notes)}.", "  ")
    for check in column.checks:
        yield from comment(f"CHECK: {check}.", "  ")
    yield from feature_lines(column.feature, column.counts)


def missing_note(column: Column) -> Iterator[str]:
    """Yield the share of missing values and how the table writes them."""
    n_missing = int(column.texts.isna().sum())
    if n_missing:
        written = ", ".join(map(shorten, column.written))
        marks = f", written {written}" if written else ""
        share = n_missing / len(column.texts)
        yield f"missing in {counted(n_missing)} ({share:.1%}){marks}"


def feature_lines(feature: Feature, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield the keys of a feature that differ from the defaults."""
    keys = {key: value for key, value in asdict(feature).items() if differs(key, value)}
    if not feature.used:
        keys.pop("default", None)
    yield from dump([keys])
    if feature.kind in ("nominal", "ordinal"):
        order = "from lowest to highest" if feature.kind == "ordinal" else "with rows"
        yield f"    categories:  # {order}"
        for category in feature.categories:
            yield f"      - {scalar(category)}  # {counts[category]:,}"


def differs(key: str, value: Any) -> bool:
    """Return True for a value of a feature that is not the default: 0 is not false."""
    return key != "categories" and repr(value) != repr(getattr(DEFAULT, key))


def dump(value: Any) -> list[str]:
    """Return lines of YAML, indented by two."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**9)
    return textwrap.indent(text, "  ").splitlines()


def source_text(proposal: Proposal, name: str, address: str, files: Mapping[str, str]) -> str:
    """Return the description of the source as YAML; `files` are checksums by name."""
    lines = [
        *comment(SOURCE_HEAD.format(name=name)),
        "",
        f"name: {scalar(name)}",
        f"address: {scalar(address)}",
        "files:",
        *(f"  {scalar(file)}: {checksum}" for file, checksum in files.items()),
        "format:",
        *format_lines(proposal.table_format, proposal.columns),
        *comment("A hash of a row's input columns decides, so equal rows are in one split."),
        f"split: {{by: hash, test_share: {TEST_SHARE}}}",
    ]
    for column in proposal.columns:
        if not column.feature or column.feature.kind != "date":
            continue
        assert column.numbers is not None
        days = column.numbers.dropna()
        start = date.fromordinal(int(days.quantile(1 - TEST_SHARE, interpolation="higher")))
        lines += [
            *comment("CHECK: do the rows differ with time? Then test on the latest of them:"),
            f"# split: {{by: time, column: {scalar(column.name)}, test_from: {start}}}",
        ]
    return "\n".join([*lines, ""])


def format_lines(table_format: TableFormat, columns: Sequence[Column]) -> Iterator[str]:
    """Yield the keys of the format that differ from the defaults."""
    keys = format_keys(table_format)
    if table_format.header:
        keys["header"] = table_format.header
    odd = {column.name: column.odd for column in columns if column.feature and column.odd}
    yield from dump(keys | ({"missing_in": odd} if odd else {}))
    marks = sorted({mark for column in columns for mark in column.written})
    shown = f"; found: {', '.join(map(shorten, marks))}" if marks else ""
    missing = ", ".join(map(shorten, TableFormat().missing))
    yield from comment(f"missing: {missing} (default){shown}", "  ")


def format_keys(table_format: TableFormat) -> dict[str, Any]:
    """Return how a file writes its values, where that differs from the defaults."""
    keys = ("kind", "separator", "encoding", "decimal", "thousands")
    found = {key: getattr(table_format, key) for key in keys}
    return {key: value for key, value in found.items() if value != getattr(TableFormat(), key)}


def source_name(file: str) -> str:
    """Return the name of a source for the name of its file."""
    stem = re.sub(r"[^a-z0-9]+", "-", file.partition(".")[0].lower()).strip("-")[:34] or "table"
    return f"{stem}-table" if stem in (*RESERVED_NAMES, CENSUS) else stem
