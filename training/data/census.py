"""The census files as checked frames: found or downloaded, parsed, held against the contract.

The first step of training. Before it are the files of the UCI "Adult" data set (Becker & Kohavi,
1996, doi:10.24432/C5XW20); after it come the split and the search. Rows that break the contract
are set aside in a quarantine file with what is wrong with them, never dropped in silence.
"""

import hashlib
import io
import json
import logging
import os
import re
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import requests
from tqdm import tqdm

from config.contract import MISSING, Contract, Feature, Problem, load_contract

log = logging.getLogger(__name__)

TRAIN_FILE, TEST_FILE = "adult.data", "adult.test"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
REMEDY = (
    "put adult.data and adult.test into a folder and name it in CENSUS_DATA_DIR, "
    "or train on synthetic rows with `--data synthetic`"
)


class CensusError(Exception):
    """The census files cannot be used; the message says what was found, expected, and to do."""


class CensusUnavailable(CensusError):
    """The census files are not here and could not be fetched."""


@dataclass(frozen=True)
class Origin:
    """Where the files are downloaded from, and the sha256 sums that make them the right ones."""

    url: str
    sums: Mapping[str, str]
    attempts: int = 4
    backoff_s: float = 1.0  # before the second attempt; doubled before each further one
    timeout_s: float = 15.0  # to connect, and from one byte to the next


UCI = Origin(
    url="https://archive.ics.uci.edu/static/public/2/adult.zip",
    sums={
        TRAIN_FILE: "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        TEST_FILE: "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    },
)


@dataclass(frozen=True)
class Census:
    """The official split as checked frames: contract columns in order, then the target as 0/1.

    Integers are int64; categories are strings, with '?' for a missing one.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    source: Literal["uci", "synthetic"]
    problems: Mapping[str, int]  # rejected rows by what was wrong: "age" -> 3
    duplicates: int  # rows equal to an earlier row of their split, all columns; they are kept
    rejected: int = 0  # rows set aside; one may have several problems

    @cached_property
    def digest(self) -> str:
        """sha256 of all values; the same data has the same digest on every machine."""
        content = "\n".join([*row_texts(self.train), "", *row_texts(self.test)])
        return hashlib.sha256(content.encode()).hexdigest()


def load_census(
    contract: Contract,
    cache_dir: Path = Path("data/raw"),
    folder: Path | None = None,
    quarantine: Path = Path("data/quarantine.jsonl"),
    origin: Origin = UCI,
) -> Census:
    """The real census from `folder` if one is named, else from the cache, else downloaded.

    Raises CensusUnavailable if there is no file and no download, CensusError if what is there
    is not the official data or does not fit the contract.
    """
    contents = read_files(folder, cache_dir, origin)
    train, bad_train = read_split(TRAIN_FILE, contents[TRAIN_FILE], contract)
    test, bad_test = read_split(TEST_FILE, contents[TEST_FILE], contract)
    problems = set_aside(pd.concat([bad_train, bad_test]), quarantine)
    duplicates = int(train.duplicated().sum() + test.duplicated().sum())
    rejected = len(bad_train) + len(bad_test)
    log.info(
        "census read train=%d test=%d rejected=%d duplicates=%d",
        *(len(train), len(test), rejected, duplicates),
    )
    return Census(train, test, "uci", problems, duplicates, rejected)


# --- the files ----------------------------------------------------------------------------------


def read_files(folder: Path | None, cache_dir: Path, origin: Origin) -> dict[str, bytes]:
    """The content of each file by its name, with the right sum."""
    if folder is not None:
        return read_folder(folder, origin.sums)
    if all((cache_dir / name).exists() for name in origin.sums):
        try:
            return read_folder(cache_dir, origin.sums)
        except CensusError as err:
            log.warning("cached census is fetched again: %s", err)
    contents = fetch(origin)
    for name, content in contents.items():
        write_atomically(cache_dir / name, content)
    return contents


def read_folder(folder: Path, sums: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a folder. Raises CensusError if one is missing or has another sum."""
    contents = {}
    for name, expected in sums.items():
        path = folder / name
        try:
            contents[name] = path.read_bytes()
        except OSError as err:
            raise CensusError(f"{path}: cannot be read ({err.strerror}); {REMEDY}") from err
        check_sum(str(path), contents[name], expected)
    return contents


def check_sum(what: str, content: bytes, expected: str) -> None:
    """Raises CensusError, naming both sums, if the content is not the expected one."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CensusError(
            f"{what}: {len(content)} bytes with sha256 {found}, expected {expected}: "
            f"the file is cut off or was changed; {REMEDY}"
        )


def fetch(origin: Origin) -> dict[str, bytes]:
    """The files out of the downloaded zip. Nothing is written until every sum is right."""
    content = download(origin)
    files = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name, expected in origin.sums.items():
            what = f"{name} of {origin.url}"
            try:
                files[name] = archive.read(name)
            except (KeyError, zipfile.BadZipFile) as err:
                raise CensusError(f"{what}: not readable from the zip ({err}); {REMEDY}") from err
            check_sum(what, files[name], expected)
    return files


def download(origin: Origin) -> bytes:
    """The zip file. Failures that may pass are tried again, with a growing pause between."""
    reason = ""
    for attempt in range(origin.attempts):
        if attempt:
            pause_s = origin.backoff_s * 2 ** (attempt - 1)
            log.info("download is tried again in_s=%.1f reason=%s", pause_s, reason)
            time.sleep(pause_s)
        try:
            content = download_once(origin)
            if zipfile.is_zipfile(io.BytesIO(content)):
                return content
            reason = f"the answer is no zip file, it starts with {content[:40]!r}"
        except requests.HTTPError as err:
            reason = str(err)
            if err.response.status_code < 500 and err.response.status_code != 429:
                break
        except requests.RequestException as err:
            reason = str(err)
    raise CensusUnavailable(
        f"{origin.url}: could not be downloaded in {attempt + 1} attempt(s): {reason}; {REMEDY}"
    )


def download_once(origin: Origin) -> bytes:
    """The body of one GET, with a progress bar on a terminal. Raises requests' exceptions."""
    content = io.BytesIO()
    with requests.get(origin.url, stream=True, timeout=origin.timeout_s) as answer:
        answer.raise_for_status()
        size = int(answer.headers.get("Content-Length", 0)) or None
        name = origin.url.rsplit("/", 1)[-1]
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as progress:
            for chunk in answer.iter_content(64 * 1024):
                content.write(chunk)
                progress.update(len(chunk))
    return content.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader finds the old content or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as part:
        part.write(content)
    os.replace(part.name, path)


# --- rows ---------------------------------------------------------------------------------------


def read_split(name: str, content: bytes, contract: Contract) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The checked rows of one file, and the rejected ones with `source`, `row` and `problems`.

    Raises CensusError if the file as a whole does not hold the contract's columns.
    """
    raw, misshapen = parse(name, content.decode("utf-8", errors="replace"), contract)
    checked, rejected = check_rows(name, raw, misshapen, contract)
    if checked.empty:
        raise CensusError(f"{name}: no row fits the contract, e.g. {first_problem(rejected)}")
    return checked.reset_index(drop=True), rejected


def check_rows(
    source: str, raw: pd.DataFrame, misshapen: pd.DataFrame, contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The checked rows of a raw frame indexed by line number, and all rejected ones in line order.

    `misshapen` has the lines that are no rows, with `line`, `row` and `problems`; the rejected
    ones have these and `source`, as `set_aside` takes them.
    """
    checked, rejected = check_frame(raw, contract)
    rows = json.loads(rejected[raw.columns].to_json(orient="records"))
    failed = pd.DataFrame(
        {"line": rejected.index, "row": rows, "problems": rejected["problems"].tolist()},
        dtype=object,
    )
    failed = pd.concat([failed, misshapen]).sort_values("line")
    failed.insert(0, "source", source)
    return checked, failed


def parse(name: str, text: str, contract: Contract) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The raw frame of a file's text, indexed by line number, and the lines that are no rows.

    Whole numbers become int and '?' becomes None; nothing else is judged here. Raises
    CensusError if the file, not just a line of it, has another number of columns.
    """
    columns = [*contract.by_name, contract.target.name]
    rows = split_lines(text)
    width = Counter(map(len, rows.values())).most_common(1)[0][0] if rows else 0
    if width != len(columns):
        raise CensusError(
            f"{name}: {len(rows)} rows of {width} fields, expected {len(columns)} fields: "
            f"{', '.join(columns)} (config/features.yaml); {REMEDY}"
        )
    whole = {number: fields for number, fields in rows.items() if len(fields) == width}
    frame = pd.DataFrame.from_dict(whole, orient="index", columns=columns).replace({MISSING: None})
    for feature in contract.features:
        if not feature.is_categorical:
            frame[feature.name] = as_numbers(frame[feature.name])
    frame[contract.target.name] = frame[contract.target.name].str.removesuffix(".")
    return frame, misshapen_rows(rows, width)


def split_lines(text: str) -> dict[int, list[str]]:
    """The fields of each row by its line number, counted from 1.

    Blank lines and the test file's first line (`|1x3 Cross validator`) are not rows.
    """
    return {
        number: line.split(", ")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("|")
    }


def misshapen_rows(rows: dict[int, list[str]], width: int, separator: str = ", ") -> pd.DataFrame:
    """The rows that have more or fewer fields, as rejected rows."""
    expected = f"{width} fields, separated by {separator!r}"
    failed = [
        (number, separator.join(fields), [Problem("row", f"{len(fields)} fields", expected)])
        for number, fields in rows.items()
        if len(fields) != width
    ]
    return pd.DataFrame(failed, columns=["line", "row", "problems"], dtype=object)


def as_numbers(column: pd.Series) -> pd.Series:
    """A text column with its whole numbers as int; other text stays, for the check to refuse."""
    return column.map(lambda text: int(text) if text and WHOLE_NUMBER.fullmatch(text) else text)


def check_frame(frame: pd.DataFrame, contract: Contract) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that keep the contract, typed, and the others with a `problems` column (lists).

    frame: DataFrame (n_samples, contract columns and target in any order). A missing value is
    null, a missing category also '?', so that a checked frame passes again; the target is one of
    the two labels, or already 0 or 1. Columns that the model does not use may be absent. In the
    checked frame a missing or unseen category is '?', as the encoder knows it.
    Raises CensusError naming the columns that are missing.
    """
    target = contract.target.name
    needed = [*contract.input_names, target]
    if missing := [name for name in needed if name not in frame]:
        raise CensusError(f"missing column(s) {', '.join(missing)}; the frame has {list(frame)}")
    features = [feature for feature in contract.features if feature.name in frame]
    frame = without_marks(frame, features)
    classes: dict[str | int, int] = {contract.target.negative: 0, contract.target.positive: 1}
    income = frame[target].map(classes | {0: 0, 1: 1})
    valid = income.notna() & keep_rules(frame, features)
    for feature in features:
        if feature.rank_of:
            valid &= check_rank(frame, feature, contract[feature.rank_of])
    kept, rejected = frame[valid], frame[~valid]
    checked = pd.DataFrame(
        {feature.name: typed_column(kept[feature.name], feature) for feature in features}
        | {target: income[valid].astype("int64")},
        index=kept.index,
    )
    problems = [list(row_problems(row, contract)) for row in records(rejected)]
    return checked, rejected.assign(problems=pd.Series(problems, rejected.index, dtype=object))


def without_marks(frame: pd.DataFrame, features: Sequence[Feature]) -> pd.DataFrame:
    """The frame with null in place of '?'."""
    categories = frame[[feature.name for feature in features if feature.is_categorical]]
    return frame.assign(**categories.mask(categories == MISSING, None))


def keep_rules(frame: pd.DataFrame, features: Sequence[Feature]) -> pd.Series:
    """True for the rows in which every one of these columns keeps its feature's rules."""
    valid = pd.Series(True, frame.index)
    for feature in features:
        valid &= check_column(frame[feature.name], feature)
    return valid


def check_inputs(
    frame: pd.DataFrame, contract: Contract
) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """(mask of the valid rows, those rows as the model takes them, what is wrong with each other).

    frame: DataFrame (n_samples, the model's input columns); the label is not asked for.
    """
    frame = without_marks(frame, contract.inputs)
    valid = keep_rules(frame, contract.inputs)
    kept = frame if valid.all() else frame[valid]
    typed = pd.DataFrame({f.name: typed_column(kept[f.name], f) for f in contract.inputs})
    problems = ["; ".join(map(str, contract.check(row))) for row in records(frame[~valid])]
    return valid.to_numpy(), typed, problems


def check_column(column: pd.Series, feature: Feature) -> pd.Series:
    """True where a value keeps its feature's rules, as `Feature.check` has them."""
    null = column.isna()
    if feature.is_categorical:
        valid = column.isin(feature.categories)
        if feature.unseen == "missing":
            valid |= column.map(lambda value: isinstance(value, str) and len(value) <= 100)
    else:
        numbers = numeric(column)
        valid = (numbers >= feature.minimum) & (numbers <= feature.maximum) & (numbers % 1 == 0)
    return valid.where(~null, feature.optional).astype(bool)


def numeric(column: pd.Series) -> pd.Series:
    """The numbers of a column as float64; what is no number (a text, a bool) is NaN."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.astype("float64")
    is_number = column.map(lambda value: isinstance(value, Real) and not isinstance(value, bool))
    return pd.to_numeric(column.where(is_number.astype(bool)), errors="coerce").astype("float64")


def check_rank(frame: pd.DataFrame, feature: Feature, source: Feature) -> pd.Series:
    """True where a value is the rank of its source's category, or null."""
    ranks = {category: rank for rank, category in enumerate(source.categories, start=1)}
    column = frame[feature.name]
    return column.isna() | (numeric(column) == frame[source.name].map(ranks))


def typed_column(column: pd.Series, feature: Feature) -> pd.Series:
    """Valid values as the encoder takes them; only an unused column of numbers may hold nulls."""
    if feature.is_categorical:
        return column.where(column.isin(feature.categories), MISSING).astype(object)
    return column.astype("Int64" if column.isna().any() else "int64")


def row_problems(row: dict[str, Any], contract: Contract) -> Iterator[Problem]:
    """What is wrong with one raw row: the contract's words, and the label."""
    target = contract.target
    label = row.pop(target.name)
    yield from contract.check({name: row[name] for name in row if name in contract.by_name})
    if label not in (*target.labels, 0, 1):
        yield Problem(target.name, label, f"one of {', '.join(target.labels)}")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of plain Python values, None for null."""
    plain = frame.astype(object)
    rows = plain.where(plain.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def set_aside(rejected: pd.DataFrame, quarantine: Path) -> dict[str, int]:
    """Writes the quarantine file, one JSON object per row; returns rows by faulty field."""
    counts: Counter[str] = Counter()
    lines = []
    for row in rejected.to_dict("records"):
        counts.update({problem.field for problem in row["problems"]})
        row["problems"] = [str(problem) for problem in row["problems"]]
        lines.append(json.dumps(row))
    write_atomically(quarantine, "".join(f"{line}\n" for line in lines).encode())
    if lines:  # no log line holds a value of a record
        fields = dict(sorted(counts.items()))
        log.warning("rows rejected count=%d fields=%s file=%s", len(lines), fields, quarantine)
    return dict(counts)


def first_problem(rejected: pd.DataFrame) -> str:
    """The first problem in a rejected frame, in words but for the value, which is a record's."""
    if rejected.empty:
        return "there is no row"
    problem: Problem = rejected["problems"].iloc[0][0]
    return f"{problem.field}: expected {problem.expected}"


# --- the test split, divided --------------------------------------------------------------------


def split_judge_traffic(
    test: pd.DataFrame, contract: Contract | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that judge models, and the rows that are sent to the service; about half each.

    The side follows from the columns that the service sees, so that two people who look alike
    to it are on one side, whatever their label, and a row is on the same side in every run.
    """
    digests = row_digests(test, contract or load_contract())
    judges = np.array([int(digest[-1], 16) % 2 == 0 for digest in digests], dtype=bool)
    return test[judges], test[~judges]


def row_digests(frame: pd.DataFrame, contract: Contract) -> list[str]:
    """For each row, the sha256 of the columns the model sees."""
    texts = row_texts(frame[list(contract.input_names)])
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def row_texts(frame: pd.DataFrame) -> list[str]:
    """Each row as one line, its values separated by commas."""
    return list(map(",".join, zip(*(frame[name].astype(str) for name in frame))))


# --- rows that travel ---------------------------------------------------------------------------


def write_traffic(frame: pd.DataFrame, contract: Contract, path: Path) -> None:
    """Writes rows as requests with their labels: `{"record": {...}, "label": 0}` a line.

    A record has the columns that the model sees, with null for a missing category.
    """
    inputs = frame[list(contract.input_names)]
    inputs = inputs.mask(inputs == MISSING, None)
    bodies = inputs.to_json(orient="records", lines=True).splitlines()
    lines = zip(bodies, frame[contract.target.name], strict=True)
    text = "".join(f'{{"record":{body},"label":{label}}}\n' for body, label in lines)
    write_atomically(path, text.encode())
