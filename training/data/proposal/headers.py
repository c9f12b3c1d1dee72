"""The header of a table and its target, in the contract's words."""

import keyword
import re
from collections import Counter
from collections.abc import Sequence

from config.contract import RESERVED_NAMES, column_name
from config.feature import nearest
from training.data.columns import label_text
from training.data.errors import TableError
from training.data.rows import counted

SHOWN = 40  # characters of a value in a comment


# --- the target ---------------------------------------------------------------------------------


def find_target(headers: Sequence[str], target: str) -> str:
    """Return the header that names the target. Raises TableError if there is none."""
    same = [header for header in headers if column_name(header) == column_name(target)]
    if target in headers or len(same) == 1:
        return target if target in headers else same[0]
    near = nearest(target, tuple(headers))
    hint = f" Did you mean {near}?" if near else ""
    raise TableError(
        f"--target: the table has no column {target}; expected one of {', '.join(headers)}.{hint}"
        " If these are values, name the columns with --names."
    )


def find_labels(header: str, counts: Counter[str], positive: str) -> tuple[str, str]:
    """Return the negative and the positive label. Raises TableError without two labels."""
    values = list(counts)
    given = label_text(positive.strip())
    found = [value for value in values if value == given]
    found = found or [value for value in values if value.lower() == given.lower()]
    shown = ", ".join(
        f"{shorten(value)} ({counted(count)})" for value, count in counts.most_common(10)
    )
    if len(values) > 10:
        shown += f" and {len(values) - 10} more"
    if len(values) != 2:
        raise TableError(
            f"--target: {header} has {counted(len(values), 'different value')}, expected two:"
            f" {shown or 'none'}. Write a column with two values, for example {given} and other."
        )
    if len(found) != 1:
        raise TableError(
            f"--positive: got {positive}, expected a value of {header}: {shown}. Name the value"
            " whose probability the model predicts."
        )
    return next(value for value in values if value != found[0]), found[0]


# --- names --------------------------------------------------------------------------------------


def column_names(headers: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the contract's name and the aliases of each header.

    Raises TableError for headers with the same name.
    """
    names = {header: contract_name(header) for header in headers}
    for name, count in Counter(names.values()).items():
        if count > 1:
            same = ", ".join(header for header in headers if names[header] == name)
            raise TableError(
                f"columns {same}: got one name, {name}, expected several. Rename them."
            )
    return {
        header: (name, () if column_name(name) == column_name(header) else (header,))
        for header, name in names.items()
    }


def contract_name(header: str) -> str:
    """Return a header as the name of a contract's column."""
    name = header.strip()
    if not name.isidentifier():
        name = column_name(name)
    if not name.isidentifier():
        name = re.sub(r"\W+", "_", name).strip("_")
        name = name if name.isidentifier() else f"column_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name in RESERVED_NAMES else name


def in_words(header: str) -> str:
    """Return a header as the start of a description."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", header)
    return " ".join(re.split(r"[\s_.-]+", words)).strip().lower() or "column"


def shorten(text: str) -> str:
    """Return a value for a comment or a message: on one line, not too long."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
