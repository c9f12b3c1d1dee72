"""No text has a phrase that a reader must read twice.

Texts are docstrings, comments, strings and test names of Python files, and the whole text of other
files.
"""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Phrase in lower case: what to write instead.
BANNED = {
    r"who comes in": "credentials",
    r"set(s|ting)? aside": "quarantine",
    r"(?<!there )is no (?!longer|more|less|\w+er )": "is not ...",
    r"that (is|are) none": "invalid",
    r"\bbut for\b": "except",
    r"\bof since\b": "from after",
    r"\banew\b": "again",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(is|are|was) away\b": "is unavailable",
    r"\brefuse[sd]?\b": "reject",
    r"\bwhoever\b": "anyone who",
    r"^who (asks|reaches|looks)": "Anyone who",
    r"\bfor good\b": "forever, permanently",
    r"\blets? go of\b": "release, delete",
    r"\bgives? way\b": "is deleted, yields",
    r"\bkeep(s|ing)? house\b": "run maintenance",
    r"\bfor want of\b": "because ... is missing",
    r"\bwithout a word\b": "silently",
    r"\btells? nobody\b": "notifies nobody",
    r"\bcomes? again\b": "duplicate",
    r"\bjudging rows?\b": "holdout rows",
    r"\bno way out\b": "no internet access",
}
RULES = [(re.compile(phrase, re.M), better) for phrase, better in BANNED.items()]
KINDS = {
    ".py",
    ".md",
    ".yaml",
    ".yml",
    ".html",
    ".js",
    ".json",
    ".toml",
    ".ipynb",
    ".tf",
    ".example",
}
NAMES = {"Makefile", "Pipfile", "Dockerfile", "run", "doctor"}


def tracked() -> list[Path]:
    """Return every file of the project. Skips outside of a git checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).exists()]


def texts() -> list[Path]:
    """Return every file with prose, except this one."""
    kept = [one for one in tracked() if one.suffix in KINDS or one.name in NAMES]
    return [one for one in kept if one != Path(__file__)]


def test_every_file_is_a_text_or_a_picture():
    """A test's MLflow database was once committed."""
    for path in tracked():
        assert path.suffix == ".png" or b"\0" not in path.read_bytes(), path


def has_banned_phrase(content: str) -> bool:
    """Return whether a rule matches."""
    return any(rule.search(content) for rule, _ in RULES)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each text of a file in lower case, with the number of its first line."""
    content = path.read_text("utf-8")
    if path.suffix != ".py":
        yield 1, content.lower()
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string.lower()
        elif token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")


def test_no_text_has_a_phrase_that_must_be_read_twice():
    found = []
    for path in texts():
        if not has_banned_phrase(path.read_text("utf-8").lower().replace("_", " ")):  # fast
            continue
        for first_line, text in prose(path):
            for rule, better in RULES:
                for match in rule.finditer(text):
                    line = first_line + text.count("\n", 0, match.start())
                    place = f"{path.relative_to(ROOT)}:{line}"
                    found.append(f"{place}: {match[0]!r}: write {better!r}")
    assert not found, "\n".join(found)


def test_a_banned_phrase_is_found_in_a_docstring_a_comment_and_the_name_of_a_test(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""A line that is none."""\n\nx = 1  # it is away\n\ndef test_it_is_away(): ...'
    )
    lines = [(line, has_banned_phrase(text)) for line, text in prose(path)]
    assert lines == [(1, True), (3, True), (5, True)]
