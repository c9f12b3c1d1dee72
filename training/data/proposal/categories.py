"""The kinds of a column of texts: boolean and nominal, and the reasons to leave a column out."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from config.contract import MAX_CATEGORIES
from config.feature import MAX_LENGTH, letters, near_miss
from training.data.proposal.columns import Column
from training.data.proposal.headers import shorten
from training.data.rows import counted

MAX_LISTED = 50  # categories of a column, unless others are too similar to these
ODD_SHARE = 0.05  # of the rows, in a column of numbers or dates
MIN_TEXTS = 20  # a column with so few different texts is nominal
FREE_TEXT_WORDS = 5  # mean words of a value
BOOLEANS = (("no", "yes"), ("n", "y"), ("false", "true"), ("f", "t"), ("off", "on"))
OTHER_DATES = re.compile(
    r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d{2})"
    r"|\d{1,2}\.?[- ][^\W\d]{3,9}\.?[- ]\d{2,4}|[^\W\d]{3,9}\.? \d{1,2}, ?\d{4}"
    r"|(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01]))([T ,].*)?"
)
OTHER_NUMBERS = re.compile(r"-?[$€£¥] ?-?\d[\d.,' ]*|-?\d[\d.,']* ?([%$€£¥]| [A-Za-z]{1,3})")
MISSING_WORDS = frozenset(
    ["unknown", "unk", "missing", "not available", "none", "n.a.", "n/a", "-", "--", "."]
)


def boolean_pair(texts: Sequence[str]) -> tuple[Any, Any] | None:
    """Return the false and the true value of a column with two such texts, or None."""
    by_lower = {text.lower(): text for text in texts}
    if len(texts) != 2 or len(by_lower) != 2:
        return None
    if by_lower.keys() == {"false", "true"}:
        return False, True  # JSON's, however the file writes them
    pairs = (pair for pair in BOOLEANS if by_lower.keys() == {*pair})
    pair = next(pairs, None)
    return (by_lower[pair[0]], by_lower[pair[1]]) if pair else None


def infer_text(column: Column) -> None:
    """Propose a nominal column, or leave out identifiers, dates in other formats and free text."""
    counts = column.counts
    texts = list(counts)
    if reason := text_reason(counts):
        column.leave_out(reason)
        return
    listed = tuple(texts[:MAX_LISTED])
    if any(near_miss(text, listed) for text in texts[MAX_LISTED:MAX_CATEGORIES]):
        listed = tuple(texts)  # an unlisted value that is nearly a listed one would be rejected
        if len(texts) > MAX_CATEGORIES:
            column.leave_out(f"{len(texts):,} different values, some nearly equal: group them")
            return
    if len(texts) > MAX_LISTED:
        share = sum(counts[text] for text in listed) / sum(counts.values())
        column.checks.append(
            f"{len(texts):,} different values; {len(listed)} are listed, {share:.1%} of the rows."
            " Others are read as missing"
        )
    is_open = len(listed) < len(texts) or counts[texts[-1]] == 1
    if is_open and len(listed) == len(texts):
        column.notes.append("some values are in one row each, so others may come: unseen: missing")
    column.propose(categories=listed, unseen="missing" if is_open else "reject", default=texts[0])
    column.checks += category_checks(texts)


def text_reason(counts: Mapping[str, int]) -> str | None:
    """Return why a column of texts cannot be nominal, or None."""
    n_texts, n_rows = len(counts), sum(counts.values())
    if reason := date_reason(counts):
        return reason
    if n_texts <= MIN_TEXTS:
        return None
    example = shorten(next(iter(counts)))
    if all(map(OTHER_NUMBERS.fullmatch, counts)):
        return f"numbers with a sign or a unit, such as {example}: write the numbers alone"
    words = sum(len(text.split()) * count for text, count in counts.items()) / n_rows
    if words >= FREE_TEXT_WORDS and n_texts > MAX_LISTED or max(map(len, counts)) > MAX_LENGTH:
        return f"free text: {n_texts:,} different values of {words:.0f} words"
    if n_texts > n_rows / 2:
        return f"an identifier or free text: {n_texts:,} different values in {counted(n_rows)}"
    return None


def date_reason(counts: Mapping[str, int]) -> str | None:
    """Return the problem with a column whose texts are nearly all dates in another format."""
    dates = [text for text in counts if OTHER_DATES.fullmatch(text)]
    if sum(counts[text] for text in dates) < (1 - ODD_SHARE) * sum(counts.values()):
        return None
    return f"dates in another format, such as {shorten(dates[0])}: write them as YYYY-MM-DD"


def category_checks(texts: Sequence[str]) -> list[str]:
    """Return what looks wrong in a list of categories."""
    checks = []
    words = [text for text in texts if text.lower() in MISSING_WORDS]
    if words:
        checks.append(
            f"{', '.join(map(shorten, words))} may stand for no value; if so, remove it, write"
            " missing: allow, and add it to missing_in of source.yaml"
        )
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(letters(text) or text, []).append(text)
    for same in groups.values():
        if len(same) > 1:
            checks.append(f"{', '.join(map(shorten, same))}: one value in several spellings?")
    return checks
