"""The feature contract of `config/features.yaml`: one loader, one check for every part.

The same `Feature` rules check raw files, data frames and requests. A request is decoded by
`Contract.decoder`, which msgspec compiles from the rules. Only if that rejects it,
`Contract.check` lists every problem.
"""

import difflib
import hashlib
import keyword
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import msgspec
import yaml

from config.runtime.settings import SettingsError

CONTRACT_PATH = Path(__file__).with_name("features.yaml")
PROBABILITY = "{probability}"  # placeholder in the target's messages
MISSING = "?"  # a missing category in the UCI files, the encoder and the graph

# Names of columns that the pipeline adds to rows, and of the graph's steps.
RESERVED_NAMES = frozenset(
    ["prediction_id", "predicted_at", "probability", "income_class", "label", "margin", "margins"]
    + ["at", "part", "digest", "use", "problems", "numbers", "columns", "rows", "encoded"]
)

T = TypeVar("T", bound=msgspec.Struct)


class ContractError(SettingsError):
    """The contract file is invalid; the message names the file and each field."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One invalid field of one record."""

    field: str
    value: Any
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{self.field}: got {self.value!r}, expected {self.expected}{hint}"


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One raw column and its rules; `features.yaml` explains the keys."""

    name: str
    kind: Literal["integer", "nominal", "ordinal"]
    description: str
    unit: str | None = None
    used: bool = True
    minimum: int | None = None
    maximum: int | None = None
    categories: tuple[str, ...] = ()
    missing: Literal["reject", "category"] = "reject"
    unseen: Literal["reject", "missing"] = "reject"
    rank_of: str | None = None
    default: str | int | None = None

    @property
    def is_categorical(self) -> bool:
        """True for nominal and ordinal columns, whose values are strings."""
        return self.kind != "integer"

    @property
    def optional(self) -> bool:
        """True if a request may leave the field out."""
        return not self.used or self.missing == "category"

    @property
    def expected(self) -> str:
        """The rule for a value in words, for error messages."""
        if not self.is_categorical:
            return f"a whole number from {self.minimum} to {self.maximum}"
        words = f"one of {', '.join(self.categories)}"
        return f"{words}, or null" if self.missing == "category" else words

    @property
    def json_type(self) -> Any:
        """The type with which msgspec decodes and validates this column."""
        if not self.is_categorical:
            base: Any = Annotated[int, msgspec.Meta(ge=self.minimum, le=self.maximum)]
        elif self.unseen == "missing":
            base = Annotated[str, msgspec.Meta(max_length=100)]
        else:
            base = Literal[self.categories]
        return Union[base, None] if self.optional else base

    @property
    def documentation(self) -> str:
        """Return what the API document says about this column."""
        sentences = [f"{self.description[0].upper()}{self.description[1:]}."]
        if self.unit:
            sentences.append(f"Unit: {self.unit}.")
        if not self.used:
            sentences.append("The model does not use it.")
        elif self.missing == "category":
            sentences.append("If it is unknown, send null or omit it.")
        if self.rank_of:
            sentences.append(f"If present, it must match {self.rank_of}.")
        if self.unseen == "missing":
            known = ", ".join(self.categories)
            sentences.append(f"Any other value counts as unknown. Known values: {known}.")
        return " ".join(sentences)

    def check(self, value: Any) -> Problem | None:
        """Return the problem with a value, or None. A value of None is a missing one."""
        if value is None:
            return None if self.optional else Problem(self.name, None, self.expected)
        if not self.is_categorical:
            whole = isinstance(value, (int, float)) and not isinstance(value, bool)
            whole = whole and value == value // 1
            if whole and self.minimum <= value <= self.maximum:
                return None
            return Problem(self.name, value, self.expected)
        if isinstance(value, str):
            if value in self.categories or (self.unseen == "missing" and len(value) <= 100):
                return None
            return Problem(self.name, value, self.expected, nearest(value, self.categories))
        return Problem(self.name, value, self.expected)

    def known(self, value: str | int | None) -> str | int:
        """Return the value for the encoder: a missing or unseen category becomes '?'."""
        if self.is_categorical and (value is None or value not in self.categories):
            return MISSING
        assert value is not None
        return value


class Target(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True
):
    """The column to predict and its two labels."""

    name: str
    negative: str
    positive: str
    description: str
    negative_message: str | None = None
    positive_message: str | None = None

    @cached_property
    def labels(self) -> tuple[str, str]:
        """The labels by class: index 0 is the negative one, index 1 the positive."""
        return (self.negative, self.positive)

    @cached_property
    def message_parts(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """For each class, the text of `message` before and after the probability."""
        return (
            self._parts(self.negative, self.negative_message),
            self._parts(self.positive, self.positive_message),
        )

    def _parts(self, label: str, message: str | None) -> tuple[str, str]:
        if message is None:
            message = f"Probably {label} ({self.description}); the probability of {self.positive}"
            message += f" is {PROBABILITY}."
        before, _, after = message.partition(PROBABILITY)
        return before, after

    def message(self, index: int, probability: float) -> str:
        """Return a prediction in words: class `index`, probability of the positive label."""
        before, after = self.message_parts[index]
        return f"{before}{probability:.1%}{after}"


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
    def digest(self) -> str:
        """A short sha256 of the rules; a model trained for another contract has another digest.

        The target's messages are left out: a changed sentence needs no new training.
        """
        target = msgspec.structs.replace(self.target, negative_message=None, positive_message=None)
        rules = msgspec.structs.replace(self, target=target)
        return hashlib.sha256(msgspec.json.encode(rules)).hexdigest()[:16]

    @cached_property
    def record_type(self) -> type[msgspec.Struct]:
        """Return a msgspec struct of one record of a request, which checks fields and ranges.

        An omitted optional field is UNSET; null is None.
        """
        fields: list[Any] = []
        for one in self.features:
            examples = None if one.default is None else [one.default]
            meta = msgspec.Meta(description=one.documentation, examples=examples)
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


def nearest(word: str, candidates: tuple[str, ...]) -> str | None:
    """Return the candidate most like a word, ignoring case; None if none is close."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


class Outline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file before its parts are checked, so that one problem does not hide others."""

    target: Any
    features: list[Any]


def load_contract(path: Path = CONTRACT_PATH) -> Contract:
    """Return the contract of a YAML file. Raises ContractError listing all its problems."""
    try:
        outline = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), Outline)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as err:
        raise ContractError(f"{path}: {err}") from err
    problems: list[str] = []

    def read(where: str, part: Any, kind: type[T]) -> T | None:
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
    if len(whole) == len(features):
        problems += rank_problems({feature.name: feature for feature in whole})
    if target:
        problems += [f"target: {problem}" for problem in target_problems(target, names)]
    if not target or problems:
        raise ContractError("\n".join(f"{path}: {problem}" for problem in problems))
    return Contract(target, whole)


def name_or_place(number: int, part: Any) -> str:
    """Return a feature's name, or its place in the list if it has none."""
    name = part.get("name") if isinstance(part, dict) else None
    return str(name or f"feature {number}")


def feature_problems(feature: Feature) -> Iterator[str]:
    """Yield the problems of one feature."""
    if problem := name_problem(feature.name):
        yield problem
    if feature.is_categorical:
        if len(set(feature.categories) - {MISSING}) < max(1, len(feature.categories)):
            yield f"categories: expected at least one, each once, without {MISSING!r}"
    elif feature.minimum is None or feature.maximum is None:
        yield "minimum and maximum: expected both"
        return
    elif feature.minimum > feature.maximum:
        yield f"minimum: got {feature.minimum}, expected at most the maximum, {feature.maximum}"
    if feature.kind != "nominal" and (feature.missing, feature.unseen) != ("reject", "reject"):
        yield f"missing and unseen: expected reject, as for every {feature.kind} column"
    if feature.default is not None and (wrong := feature.check(feature.default)):
        yield f"default: got {wrong.value!r}, expected {wrong.expected}"


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
        source = features.get(feature.rank_of or feature.name)
        if feature.rank_of and (not source or source.kind != "ordinal" or source.optional):
            expected = "an ordinal column with used: true and missing: reject"
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
