"""The feature contract of `config/features.yaml`: one loader, one check for every part.

The same `Feature` rules check raw files, data frames and requests. A request is decoded by
`Contract.decoder`, which msgspec compiles from the rules. Only if that rejects it,
`Contract.check` lists every problem.
"""

import hashlib
import keyword
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_type_hints

import msgspec
import yaml
from pydantic import Field

from config.feature import (
    MAX_NUMBER,
    MISSING,
    NUMBER_TEXT,
    Feature,
    Problem,
    Value,
    json_text,
    near_miss,
    nearest,
)
from config.runtime.settings import BaseSettings, SettingsError, read_settings
from config.segments import Segment

CONTRACT_PATH = Path(__file__).with_name("features.yaml")
PROBABILITY = "{probability}"  # placeholder in the target's messages
BOOLEAN_WORDS = {"true", "false", "t", "f", "yes", "no", "y", "n"}
MAX_CATEGORIES = 1000  # of a column; each is a column of the encoder

# Names of columns that the pipeline adds to rows. The graph's inner names have a point.
RESERVED_NAMES = frozenset(
    ["prediction_id", "predicted_at", "probability", "income_class", "label", "model_version"]
    + ["at", "part", "digest", "use", "problems", "line", "row", "source"]
)

T = TypeVar("T", bound=msgspec.Struct)


class ContractSettings(BaseSettings):
    """Where the contract is, for every part."""

    contract: str = Field(
        str(CONTRACT_PATH),
        description="The contract: a YAML file, see [own-data.md](own-data.md). The files"
        " `source.yaml`, `search.yaml`, `monitoring.yaml` and `scenarios.yaml` beside it belong to"
        " it.",
    )


class ContractError(SettingsError):
    """The contract file is invalid; the message names the file and each field."""


class Target(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True
):
    """The column to predict and its two labels."""

    name: str
    negative: str
    positive: str
    description: str
    limits: str | None = None
    negative_message: str | None = None
    positive_message: str | None = None
    aliases: tuple[str, ...] = ()

    @cached_property
    def labels(self) -> tuple[str, str]:
        """The labels by class: index 0 is the negative one, index 1 the positive."""
        return (self.negative, self.positive)

    def class_of(self, value: Any) -> int | None:
        """Return the class, 0 or 1, of a label as a table has it; None for an unknown one.

        Labels are compared as text. The numbers 0 and 1 are classes too, unless a label is a number
        or a word for one: with the positive label `no`, 1 could mean either class.
        """
        text = json_text(value)
        if text in self.labels:
            return self.labels.index(text)
        like_number = any(
            NUMBER_TEXT.fullmatch(label) or label.lower() in BOOLEAN_WORDS for label in self.labels
        )
        return int(text) if text in ("0", "1") and not like_number else None

    def check(self, value: Any) -> Problem | None:
        """Return the problem with a label as a table has it, or None."""
        if self.class_of(value) is not None:
            return None
        near = near_miss(json_text(value), self.labels)
        expected = f"one of {', '.join(self.labels)}"
        if "0" not in self.labels and self.class_of(0) == 0:
            expected += ", or 0 or 1"
        return Problem(self.name, value, expected, near)

    @cached_property
    def messages(self) -> tuple[str, str]:
        """The text of a prediction of each class, with PROBABILITY in it."""
        rest = f"({self.description}); the probability of {self.positive} is {PROBABILITY}."
        return (
            self.negative_message or f"Called {self.negative} {rest}",
            self.positive_message or f"Called {self.positive} {rest}",
        )

    def message(self, index: int, probability: float) -> str:
        """Return a prediction in words: class `index`, probability of the positive label."""
        return self.messages[index].replace(PROBABILITY, f"{probability:.1%}")


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """All columns of a record, in file order, and the target."""

    target: Target
    features: tuple[Feature, ...]

    def __getitem__(self, name: str) -> Feature:
        return self.by_name[name]

    @cached_property
    def by_name(self) -> dict[str, Feature]:
        """Every raw column, by name."""
        return {feature.name: feature for feature in self.features}

    @cached_property
    def inputs(self) -> tuple[Feature, ...]:
        """The columns the model sees, in contract order."""
        return tuple(feature for feature in self.features if feature.used)

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """The names of the columns the model sees, in contract order."""
        return tuple(feature.name for feature in self.inputs)

    @cached_property
    def example(self) -> dict[str, Value]:
        """A valid record with every column."""
        record = {feature.name: feature.example for feature in self.features}
        for feature in self.features:
            if feature.rank_of:
                source = record[feature.rank_of]
                record[feature.name] = self[feature.rank_of].categories.index(str(source)) + 1
        return record

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The columns whose groups have figures of their own, in contract order."""
        return tuple(Segment.of(feature) for feature in self.features if feature.segment)

    @cached_property
    def digest(self) -> str:
        """A short sha256 of the rules; a model trained for another contract has another digest.

        Texts are left out: a changed sentence needs no new training.
        """
        target = [self.target.name, *self.target.labels]
        rules = [target, [feature.rules for feature in self.features]]
        return hashlib.sha256(msgspec.json.encode(rules)).hexdigest()[:16]

    @cached_property
    def record_type(self) -> type[msgspec.Struct]:
        """Return a msgspec struct of one record of a request, which checks fields and ranges.

        An omitted optional field is UNSET; null is None.
        """
        fields: list[Any] = []
        for one in self.features:
            meta = msgspec.Meta(description=one.documentation, examples=[self.example[one.name]])
            kind: Any = Union[one.json_type, msgspec.UnsetType] if one.optional else one.json_type
            default = [msgspec.UNSET] if one.optional else []
            fields.append((one.name, Annotated[kind, meta], *default))
        # kw_only: in other structs, required fields must come before optional ones.
        return msgspec.defstruct(
            "Record",
            fields,
            namespace={"__doc__": "One record to predict."},
            kw_only=True,
            forbid_unknown_fields=True,
            gc=False,
        )

    @cached_property
    def decoder(self) -> msgspec.json.Decoder:
        """Decoder and validator of a request body: one record or a list of records."""
        record = self.record_type
        return msgspec.json.Decoder(Union[record, list[record]])  # type: ignore[valid-type]

    def check(self, record: Any) -> list[Problem]:
        """Return every problem of one decoded record, in contract order."""
        if not isinstance(record, dict):
            return [Problem("record", record, "an object with the contract's fields")]
        problems = [
            Problem(name, value, "no such field", nearest(name, tuple(self.by_name)))
            for name, value in record.items()
            if name not in self.by_name
        ]
        for feature in self.features:
            if not feature.optional and feature.name not in record:
                expected = f"{feature.expected} (the field is missing)"
                problems.append(Problem(feature.name, None, expected))
            elif problem := feature.check(record.get(feature.name)):
                problems.append(problem)
        return problems or self.check_ranks(record)

    def check_ranks(self, record: dict[str, Any]) -> list[Problem]:
        """Return a problem for each column that contradicts its `rank_of` column."""
        problems = []
        for feature in self.features:
            value = record.get(feature.name)
            if feature.rank_of and value is not None:
                source = record[feature.rank_of]
                rank = self[feature.rank_of].categories.index(source) + 1
                if value != rank:
                    expected = f"{rank}, the rank of {feature.rank_of} {source!r}"
                    problems.append(Problem(feature.name, value, expected))
        return problems


class Outline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file before its parts are checked, so that one problem does not hide others."""

    target: Any
    features: list[Any]


def contract_path() -> Path:
    """Return the path of the contract file: the setting CONTRACT."""
    return Path(read_settings(ContractSettings).contract)


def load_contract(path: Path | None = None) -> Contract:
    """Return the contract of a YAML file; without a path, that of the setting CONTRACT.

    Raises ContractError listing all problems of the file.
    """
    path = path or contract_path()
    try:
        outline = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), Outline)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as err:
        raise ContractError(f"{path}: {err}") from err
    problems: list[str] = []

    def read(where: str, part: Any, kind: type[T]) -> T | None:
        part = with_text_of_default(part)
        if found := list(value_problems(part, kind)):
            problems.extend(f"{where}: {problem}" for problem in found)
            return None
        try:
            return msgspec.convert(part, kind)
        except msgspec.ValidationError as err:
            problems.append(f"{where}: {err}")
            return None

    target = read("target", outline.target, Target)
    names = [name_or_place(number, part) for number, part in enumerate(outline.features, start=1)]
    features = [read(*pair, Feature) for pair in zip(names, outline.features)]
    whole = tuple(feature for feature in features if feature)
    problems += [
        f"{name}: named {n} times, expected once" for name, n in Counter(names).items() if n > 1
    ]
    problems += [f"{f.name}: {problem}" for f in whole for problem in feature_problems(f)]
    problems += alias_problems(whole, target)
    if len(whole) == len(features):
        problems += rank_problems({feature.name: feature for feature in whole})
        if not any(feature.used for feature in whole):
            problems.append("features: expected at least one with used: true")
        if sum(feature.weight for feature in whole) > 1:
            problems.append("features: expected at most one with weight: true")
    if target:
        problems += [f"target: {problem}" for problem in target_problems(target, names)]
    if not target or problems:
        raise ContractError("\n".join(f"{path}: {problem}" for problem in problems))
    return Contract(target, whole)


def value_problems(part: Any, kind: type) -> Iterator[str]:
    """Yield a problem for each value that YAML read as another type, or that no rule knows.

    msgspec names only the first one, and not the allowed values.
    """
    if not isinstance(part, dict):
        return
    for key in ("negative", "positive", "categories"):
        given = part.get(key, "")
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, (bool, int, float)):
                got = msgspec.json.encode(value).decode()
                yield f"{key}: got {got}, expected text. {quotes_remedy(value)}"
    for key, rule in get_type_hints(kind).items():
        allowed = get_args(rule)
        if allowed and all(isinstance(one, str) for one in allowed):
            if (value := part.get(key, allowed[0])) not in allowed:
                yield f"{key}: got {value}, expected one of {', '.join(allowed)}"


def with_text_of_default(part: Any) -> Any:
    """Return a feature with the text of a default date, which YAML reads as a date."""
    if isinstance(part, dict) and isinstance(part.get("default"), date):
        return part | {"default": str(part["default"])}
    return part


def quotes_remedy(value: Any) -> str:
    """Return how to write a value as text in YAML."""
    if isinstance(value, bool):
        word = "yes" if value else "no"
        return f'YAML reads yes, no, on and off as booleans: write it in quotes, as in "{word}".'
    return f'Write it in quotes: "{value}".'


def name_or_place(number: int, part: Any) -> str:
    """Return a feature's name, or its place in the list if it has none."""
    name = part.get("name") if isinstance(part, dict) else None
    return str(name or f"feature {number}")


def feature_problems(feature: Feature) -> Iterator[str]:
    """Yield the problems of one feature."""
    if problem := name_problem(feature.name):
        yield problem
    if feature.is_categorical:
        yield from category_problems(feature)
    elif problem := limits_problem(feature):
        yield problem
        return
    if feature.unseen == "missing" and feature.kind not in ("nominal", "ordinal"):
        yield f"unseen: got missing, expected reject, as for every {feature.kind} column"
    if not feature.parts or len(set(feature.parts)) < len(feature.parts):
        yield "parts: expected at least one, each once"
    if problem := segment_problem(feature):
        yield problem
    if feature.weight and not (feature.is_number and not feature.used and feature.bounds[0] > 0):
        yield "weight: expected a number or integer with used: false and a minimum above 0"
    if feature.default is not None and (wrong := feature.check(feature.default)):
        yield f"default: got {wrong.value!r}, expected {wrong.expected}"


def category_problems(feature: Feature) -> Iterator[str]:
    """Yield the problems of a feature's categories, or of a boolean's two values."""
    n_categories = len(feature.categories)
    if feature.kind == "boolean":
        types = {type(value) for value in feature.values}
        if len(set(feature.categories)) != 2 or len(types) != 1 or MISSING in feature.categories:
            yield (
                "values: expected the false and the true value, as in [false, true], [0, 1] or"
                ' ["No", "Yes"]'
            )
    elif len(set(feature.categories) - {MISSING}) < max(1, n_categories):
        yield f"categories: expected at least one, each once, without {MISSING!r}"
    elif n_categories > MAX_CATEGORIES:
        yield (
            f"categories: got {n_categories}, expected at most {MAX_CATEGORIES}. List the commonest"
            " and set unseen: missing"
        )


def limit_type(kind: str) -> Any:
    """Return the type or types of minimum, maximum and bounds in the file, for `isinstance`."""
    return {"integer": int, "number": (int, float), "date": date}[kind]


def limits_problem(feature: Feature) -> str | None:
    """Return the problem with minimum and maximum, or None."""
    limits = (feature.minimum, feature.maximum)
    if None in limits:
        return "minimum and maximum: expected both"
    kind = limit_type(feature.kind)
    for name, value in zip(("minimum", "maximum"), limits):
        if not isinstance(value, kind):
            words = {"integer": "a whole number", "number": "a number"}
            return f"{name}: got {value}, expected {words.get(feature.kind, 'a date: YYYY-MM-DD')}"
    low, high = feature.bounds
    if low > high:
        return f"minimum: got {feature.minimum}, expected at most the maximum, {feature.maximum}"
    if max(abs(low), abs(high)) > MAX_NUMBER:
        return (
            f"minimum and maximum: expected at most {MAX_NUMBER:g}, because the graph has float32"
        )
    return None


def segment_problem(feature: Feature) -> str | None:
    """Return the problem with a feature's groups, or None."""
    bounds = feature.segment
    if isinstance(bounds, bool):
        if bounds and not feature.is_categorical:
            return "segment: got true, expected upper bounds of bands, as in [29, 44, 59]"
        return None
    if feature.is_categorical:
        return "segment: got bands, expected true or false, as for every column of categories"
    kind = limit_type(feature.kind)
    if not bounds or not all(isinstance(bound, kind) for bound in bounds):
        words = "whole numbers" if feature.kind == "integer" else f"{feature.kind}s"
        return f"segment: expected upper bounds of bands, which are {words}"
    values = [feature.number(bound) for bound in bounds]
    low, high = feature.bounds
    if values != sorted(set(values)) or not low <= values[0] <= values[-1] < high:
        return (
            "segment: expected upper bounds in ascending order, at least the minimum and below the"
            " maximum"
        )
    return None


def alias_problems(features: Sequence[Feature], target: Target | None) -> Iterator[str]:
    """Yield a problem for each alias that also names another column."""
    named: list[Feature | Target] = [*features, *([target] if target else [])]
    names = [name for one in named for name in (one.name, *one.aliases)]
    columns = Counter(map(column_name, names))
    for one in named:
        for alias in one.aliases:
            if columns[column_name(alias)] > 1:
                yield f"{one.name}: aliases: got {alias}, which names a column already"


def column_name(header: str) -> str:
    """Return a column's name as headers are compared: lower case, with _ for blank, - and point."""
    return re.sub(r"[\s.-]+", "_", header.strip().lower())


def name_problem(name: str) -> str | None:
    """Return the problem with a column's name, or None."""
    if not name.isidentifier() or keyword.iskeyword(name):
        return "name: expected letters, digits and _, starting with a letter; no Python keyword"
    if name in RESERVED_NAMES:
        return "name: the pipeline uses this name for its own column, expected another"
    return None


def rank_problems(features: Mapping[str, Feature]) -> Iterator[str]:
    """Yield a problem for each `rank_of` that names a column without a rank in every record."""
    for feature in features.values():
        if not feature.rank_of:
            continue
        source = features.get(feature.rank_of)
        if not source or source.kind != "ordinal" or source.optional or source.has_missing:
            expected = "an ordinal column with used: true, and missing and unseen: reject"
            yield f"{feature.name}: rank_of: got {feature.rank_of}, expected {expected}"


def target_problems(target: Target, names: Sequence[str]) -> Iterator[str]:
    """Yield the problems of the target, beside features of these names."""
    if target.name in names:
        yield f"name: got {target.name}, which is also a feature"
    elif problem := name_problem(target.name):
        yield problem
    if target.negative == target.positive:
        yield f"negative and positive: got {target.negative!r} twice, expected two labels"
    for message in (target.negative_message, target.positive_message):
        if message is not None and message.count(PROBABILITY) != 1:
            yield f"messages: got {message!r}, expected {PROBABILITY} in it, once"
