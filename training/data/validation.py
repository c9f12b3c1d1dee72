"""Raw rows checked against the contract: valid rows typed for the model, the others quarantined.

`table_files` and `feedback` provide the rows. `dataset`, `batches` and `assemble` use the valid
ones.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import structlog

from config.contract import Contract
from config.feature import MISSING, Feature, Problem, is_date, json_text
from training.data.columns import to_json_value, to_text
from training.data.errors import TableError
from training.data.storage import write_atomically

log = structlog.get_logger(__name__)


def check_rows(
    source: str, raw: pd.DataFrame, misshapen: pd.DataFrame, contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the valid rows of a raw frame indexed by line number, and all rejected lines.

    `misshapen` has the columns `line`, `row` and `problems`. The rejected lines have `source` too
    and are in line order, as `quarantine` takes them.
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


def check_frame(frame: pd.DataFrame, contract: Contract) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the valid rows, typed, and the rejected rows with their `problems` (lists).

    frame: DataFrame (n_samples, contract columns and target in any order). Columns that the model
    does not use may be absent. A missing value is null; a missing category may be '?'. The target
    has labels; in the valid rows it has classes. Other valid values are frame values, as
    `Feature.known` returns them, and pass again.
    Raises TableError naming the missing columns.
    """
    target = contract.target.name
    needed = [*contract.input_names, target]
    if missing := [name for name in needed if name not in frame]:
        raise TableError(f"missing column(s) {', '.join(missing)}; the frame has {list(frame)}")
    features = [feature for feature in contract.features if feature.name in frame]
    frame = json_columns(frame, features)
    class_of = {value: contract.target.class_of(value) for value in frame[target].dropna().unique()}
    classes = frame[target].map(class_of)
    valid = classes.notna() & valid_rows(frame, features)
    for feature in features:
        if feature.rank_of:
            valid &= valid_ranks(frame, feature, contract[feature.rank_of])
    kept, rejected = frame[valid], frame[~valid]
    checked = pd.DataFrame(
        {feature.name: typed_column(kept[feature.name], feature) for feature in features}
        | {target: classes[valid].astype("int64")},
        index=kept.index,
    )
    problems = [list(row_problems(row, contract)) for row in records(rejected)]
    return checked, rejected.assign(problems=pd.Series(problems, rejected.index, dtype=object))


def check_inputs(
    frame: pd.DataFrame, contract: Contract
) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """Return the mask of valid rows, these rows typed, and the problems of each rejected row.

    frame: DataFrame (n_samples, the model's input columns), without labels.
    """
    frame = json_columns(frame, contract.inputs)
    valid = valid_rows(frame, contract.inputs)
    kept = frame if valid.all() else frame[valid]
    typed = pd.DataFrame({f.name: typed_column(kept[f.name], f) for f in contract.inputs})
    problems = ["; ".join(map(str, contract.check(row))) for row in records(frame[~valid])]
    return valid.to_numpy(), typed, problems


def json_columns(frame: pd.DataFrame, features: Sequence[Feature]) -> pd.DataFrame:
    """Return the frame with JSON values, and null in place of '?'; numbers and days stay."""
    return frame.assign(**{one.name: json_column(frame[one.name], one) for one in features})


def json_column(column: pd.Series, feature: Feature) -> pd.Series:
    """Return a column whose other Python types, as of Parquet and databases, are JSON values."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.dt.strftime("%Y-%m-%d").astype(object).where(column.notna(), None)
    if not feature.is_categorical and pd.api.types.is_numeric_dtype(column):
        return column
    column = column.astype(object)
    is_text = pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty")
    if feature.kind == "boolean" or not is_text:
        column = column.map(lambda value: json_value(value, feature))
    return column.mask(column == MISSING, None) if feature.is_categorical else column


def json_value(value: Any, feature: Feature) -> Any:
    """Return a Python value as JSON has it; a whole number may stand for a category's text."""
    return feature.show(to_text(value)) if feature.is_categorical else to_json_value(value)


def category_texts(column: pd.Series, feature: Feature) -> pd.Series:
    """Return the text of each JSON value of a categorical column; null stays."""
    return column.map(json_text, na_action="ignore") if feature.kind == "boolean" else column


def valid_rows(frame: pd.DataFrame, features: Sequence[Feature]) -> pd.Series:
    """Return True for each row that keeps the rules of all these features."""
    valid = pd.Series(True, frame.index)
    for feature in features:
        valid &= valid_values(frame[feature.name], feature)
    return valid


def valid_values(column: pd.Series, feature: Feature) -> pd.Series:
    """Return True for each value that keeps its feature's rules, as `Feature.check` has them."""
    null = column.isna()
    if feature.is_categorical:
        valid = category_texts(column, feature).isin(feature.categories)
        if feature.unseen == "missing":
            unlisted = column[~valid & ~null].unique()
            unseen = [value for value in unlisted if feature.check(value) is None]
            valid |= column.isin(unseen)
    else:
        numbers = frame_numbers(column, feature)
        low, high = feature.bounds
        valid = (numbers >= low) & (numbers <= high) & ~((numbers == 0) & np.signbit(numbers))
        if feature.kind == "integer":
            valid &= numbers % 1 == 0
    return valid.where(~null, feature.optional).astype(bool)


def frame_numbers(column: pd.Series, feature: Feature) -> pd.Series:
    """Return the numbers of a column, or the days of its dates, and NaN for other values."""
    if feature.kind != "date":
        return numeric(column)
    days = {text: feature.known(text) for text in column.dropna().unique() if is_date(text)}
    return column.map(days).astype("float64").fillna(numeric(column))


def numeric(column: pd.Series) -> pd.Series:
    """Return the numbers of a column as float64, and NaN for text and bool."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.astype("float64")
    is_number = column.map(lambda value: isinstance(value, Real) and not isinstance(value, bool))
    return pd.to_numeric(column.where(is_number.astype(bool)), errors="coerce").astype("float64")


def valid_ranks(frame: pd.DataFrame, feature: Feature, source: Feature) -> pd.Series:
    """Return True for each value that is null or the rank of its row's category in `source`."""
    ranks = {category: rank for rank, category in enumerate(source.categories, start=1)}
    column = frame[feature.name]
    return column.isna() | (numeric(column) == frame[source.name].map(ranks))


def typed_column(column: pd.Series, feature: Feature) -> pd.Series:
    """Return valid values as frame values: what the encoder takes."""
    if feature.is_categorical:
        texts = category_texts(column, feature)
        return texts.where(texts.isin(feature.categories), MISSING).astype(object)
    if feature.kind == "integer" and feature.missing == "reject":
        # Only an unused column has nulls.
        return column.astype("Int64" if column.isna().any() else "int64")
    return frame_numbers(column, feature)


def unseen_values(
    frame: pd.DataFrame, typed: pd.DataFrame, contract: Contract
) -> dict[str, dict[str, int]]:
    """Return the values that the contract does not list and that are read as missing.

    `frame` has valid rows before they are `typed`. The result has the number of rows by column and
    value, the most frequent value first.
    """
    found = {}
    for feature in contract.features:
        if feature.unseen == "missing" and feature.name in typed:
            values = frame[feature.name].astype(object)
            given = values.notna() & (values != MISSING)
            unseen = values[given.to_numpy() & (typed[feature.name] == MISSING).to_numpy()]
            if len(unseen):
                counts = unseen.value_counts()
                found[feature.name] = dict(zip(counts.index.map(str), counts.tolist()))
    return found


def known_categories(feature: Feature) -> list[str]:
    """Return the categories of a checked column, with '?' if it may occur."""
    return [*feature.categories, MISSING] if feature.has_missing else list(feature.categories)


def row_problems(row: dict[str, Any], contract: Contract) -> Iterator[Problem]:
    """Yield the problems of one raw row and its label."""
    label = row.pop(contract.target.name)
    yield from contract.check({name: row[name] for name in row if name in contract.by_name})
    if problem := contract.target.check(label):
        yield problem


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as dictionaries of plain Python values, with None for null."""
    plain = frame.astype(object)
    rows = plain.where(plain.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def quarantine(rejected: pd.DataFrame, path: Path) -> dict[str, int]:
    """Write rejected rows to a file, one JSON object a line; return the rows per faulty field."""
    counts: Counter[str] = Counter()
    lines = []
    for row in rejected.to_dict("records"):
        counts.update({problem.field for problem in row["problems"]})
        row["problems"] = [str(problem) for problem in row["problems"]]
        lines.append(json.dumps(row))
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    if lines:  # no log line contains a value of a record
        fields = dict(sorted(counts.items()))
        log.warning("rows_quarantined", rows=len(lines), fields=fields, file=str(path))
    return dict(counts)


def first_problem(rejected: pd.DataFrame) -> str:
    """Return the first problem of a rejected frame, without the value of the record."""
    problem: Problem = rejected["problems"].iloc[0][0]
    return f"{problem.field}: expected {problem.expected}"
