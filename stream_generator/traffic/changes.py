"""What each drift scenario changes: `scenarios.yaml` beside the contract, or made from the rows.

`config/scenarios.yaml` explains the keys. A scenario that the file leaves out is made from the
contract and the traffic rows, and so are all without a file:

| scenario        | change                                                                     |
| --------------- | -------------------------------------------------------------------------- |
| sudden, gradual | Every second column, beginning with the one that separates the labels most.|
|                 | Numbers and dates move by SHIFT_SD standard deviations, to where the rarer |
|                 | label is more common. Categories get new shares: the rarest is the most    |
|                 | common, and each next one is half as common. `label_rule` draws the labels.|
|                 | That is covariate and concept shift: the rule is not the rows' own.        |
| covariate_shift | The rows of the group below are COVARIATE_SHIFT of all. Records and labels |
|                 | stay, so labels follow from the columns as before.                         |
| label_shift     | LABEL_SHIFT more of the rarer label                                        |
| concept_shift   | the labels of the group that separates the labels most: the most common    |
|                 | category of a column, or the upper half of a number or date                |
| mixed_records   | the column of that group comes from other rows                             |
| unit_change     | the number that changes most, in standard deviations, divided by DIVISOR   |
| missing_field   | the column with `missing: allow` that has the fewest missing values        |
| unseen_category | the column with `unseen: missing` that has the fewest missing values       |
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import yaml

from config.contract import Contract, Feature, contract_path, load_contract, quotes_remedy
from config.runtime.settings import SettingsError
from stream_generator.traffic.label_rule import LabelRule
from stream_generator.traffic.rows import Row, TrafficError, known_value

FILE = "scenarios.yaml"  # beside the contract
SHIFT_SD = 1.0
LABEL_SHIFT = 0.35
COVARIATE_SHIFT = 0.75  # share of the rows
DIVISOR = 10.0
UNSEEN = "Atlantis"
# Where a column must be of one of these kinds.
KINDS = {"sudden.shift": ("integer", "number", "date"), "unit_change": ("integer", "number")}
GROUP_SHARES = (0.2, 0.8)  # a smaller or larger group hides a concept shift
# What a table needs for a scenario.
TWO_VALUES = "a column of the model with two different values"
EXPECTED = {
    "sudden": TWO_VALUES,
    "concept_shift": TWO_VALUES,
    "unit_change": "a number of the model that is within its range after a division",
    "missing_field": "a column with used: true and missing: allow in the contract",
    "unseen_category": "a column with used: true and unseen: missing in the contract",
}
TEXTS = {
    "concept_shift": "labels flipped where {}",
    "covariate_shift": f"{{}} in {COVARIATE_SHIFT:.0%} of the rows",
    "label_shift": "{:.0%} positive labels",
    "mixed_records": "{.column} of other records",
    "missing_field": "{} is null",
}

T = TypeVar("T")
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of the parts of a file."""


class Shift(Part, frozen=True):
    """The columns that `sudden` and `gradual` change."""

    shift: dict[str, float] = {}
    resample: dict[str, dict[Any, Positive]] = {}

    def __str__(self) -> str:
        changes = [f"{name} {step:+g}" for name, step in self.shift.items()]
        if self.resample:
            changes.append(f"new shares of {', '.join(self.resample)}")
        return ", ".join(changes)


class Group(Part, frozen=True):
    """The rows with one of the values of a column, or with a value from a minimum on."""

    column: str
    values: tuple[Any, ...] = ()
    minimum: Any = None  # a number or a date

    def __str__(self) -> str:
        if self.values:
            return f"{self.column} is {' or '.join(map(str, self.values))}"
        return f"{self.column} is {self.minimum} or more"


class UnitChange(Part, frozen=True):
    """A number in another unit."""

    column: str
    divisor: Positive

    def __str__(self) -> str:
        return f"{self.column} divided by {self.divisor:g}"


class UnseenCategory(Part, frozen=True):
    """A value that the contract does not list."""

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column} is {self.value}"


class Described(Part, frozen=True):
    """The content of a file."""

    sudden: Shift | None = None
    label_shift: Share | None = None
    concept_shift: Group | None = None
    unit_change: UnitChange | None = None
    missing_field: str | None = None
    unseen_category: UnseenCategory | None = None


class Column(NamedTuple):
    """An input with at least two values in the rows, and a group of rows by its value."""

    feature: Feature
    values: list[Any]  # as in frames, without missing and invalid ones
    group: Group  # the most common category, or the upper half
    share: float  # of the values in the group
    lean: float  # the group's share of positive labels, less that of the other rows
    null_share: float  # of all rows

    @property
    def gap(self) -> float:
        """How much the group separates the labels."""
        return abs(self.lean)


class Changes:
    """The changes of each scenario for these rows.

    Properties raise SettingsError for an unusable file, and TrafficError if the table cannot have
    the scenario.
    """

    def __init__(self, rows: Sequence[Row], contract: Contract, path: Path | None = None) -> None:
        self.rows = rows
        self.contract = contract
        self._path = path
        self._positive = statistics.fmean(row.label for row in rows)

    def text(self, scenario: str) -> str:
        """Return what a scenario changes in one line."""
        if scenario == "none":
            return "nothing"
        same = {"gradual": "sudden"} | dict.fromkeys(
            ("covariate_shift", "mixed_records"), "concept_shift"
        )
        found = getattr(self, same.get(scenario, scenario))
        return TEXTS.get(scenario, "{}").format(found)

    @cached_property
    def described(self) -> Described:
        """The content of the file; without a file nothing."""
        if self._path is None or not self._path.exists():
            return Described()
        return read_file(self._path, self.contract)

    @cached_property
    def sudden(self) -> Shift:
        """The columns that `sudden` and `gradual` change."""
        return self._part("sudden", lambda: make_shift(self.columns, self._positive < 0.5))

    @cached_property
    def label_rule(self) -> LabelRule:
        """The rule that the labels of changed records follow."""
        return LabelRule(self.rows, self.contract)

    @cached_property
    def label_shift(self) -> float:
        """The share of the positive label."""
        if self._positive in (0, 1):
            raise TrafficError(
                "--scenario label_shift: all rows have the same label; expected both labels."
                " Use another file or scenario."
            )
        more = LABEL_SHIFT if self._positive < 0.5 else -LABEL_SHIFT
        return self.described.label_shift or round(self._positive + more, 2)

    @cached_property
    def concept_shift(self) -> Group:
        """The rows whose labels are flipped, or that are sent more often."""
        return self._part("concept_shift", lambda: best_group(self.columns))

    @cached_property
    def unit_change(self) -> UnitChange:
        """The number that is sent in another unit."""
        return self._part("unit_change", lambda: make_unit_change(self.columns))

    @cached_property
    def missing_field(self) -> str:
        """The column that is sent as null."""
        found = self._most_known(lambda feature: feature.missing == "allow")
        return self._part("missing_field", lambda: found)

    @cached_property
    def unseen_category(self) -> UnseenCategory:
        """The column and its value that the contract does not list."""
        found = self._most_known(lambda one: one.unseen == "missing" and not one.check(UNSEEN))
        made = UnseenCategory(found, UNSEEN) if found else None
        return self._part("unseen_category", lambda: made)

    @cached_property
    def columns(self) -> list[Column]:
        """The inputs with two different values; first those that separate the labels most."""
        found = (column_of(one, self.rows) for one in self.contract.inputs if not one.rank_of)
        return sorted(filter(None, found), key=lambda column: -column.gap)

    def _most_known(self, suits: Callable[[Feature], bool]) -> str | None:
        """Return the suitable input that has the most values in the rows, or None."""
        names = [feature.name for feature in self.contract.inputs if suits(feature)]
        known = Counter(n for row in self.rows for n in names if row.record.get(n) is not None)
        return max(names, key=known.__getitem__, default=None)

    def _part(self, scenario: str, make: Callable[[], T | None]) -> T:
        """Return what the file describes, or what is made from the rows."""
        if not (found := getattr(self.described, scenario) or make()):
            raise TrafficError(
                f"--scenario {scenario}: not possible for this table; got no such column, expected"
                f" {EXPECTED[scenario]}. Use another scenario."
            )
        return found


def load_changes(rows: Sequence[Row]) -> Changes:
    """Return the changes for the contract of the setting CONTRACT, with the file beside it."""
    return Changes(rows, load_contract(), contract_path().with_name(FILE))


def column_of(feature: Feature, rows: Sequence[Row]) -> Column | None:
    """Return an input with its values, or None if it has fewer than two different ones."""
    found = [(known_value(feature, row.record), row.label) for row in rows]
    values = [value for value, _ in found if value is not None]
    if len(set(values)) < 2:
        return None
    group = make_group(feature, values)
    inside = [label for value, label in found if is_in(group, feature.show(value), feature)]
    all_labels = [label for value, label in found if value is not None]
    share = len(inside) / len(values)
    # The mean of all is between those of the two sides.
    lean = (statistics.fmean(inside) - statistics.fmean(all_labels)) / (1 - share)
    n_null = sum(row.record.get(feature.name) is None for row in rows)
    return Column(feature, values, group, share, lean, n_null / len(rows))


def make_group(feature: Feature, values: Sequence[Any]) -> Group:
    """Return the most common category, or the upper half, of two or more different values."""
    if feature.is_categorical:
        return Group(feature.name, (feature.show(Counter(values).most_common(1)[0][0]),))
    # Above the lowest value, so that some rows are outside of the group.
    middle = max(statistics.median_high(values), sorted(set(values))[1])
    return Group(feature.name, minimum=feature.show(middle))


def is_in(group: Group, value: Any, feature: Feature) -> bool:
    """Return True if a JSON value of the group's column is in the group."""
    if group.minimum is None or value is None:
        return value in group.values
    known: Any = feature.known
    return not feature.check(value) and known(value) >= known(group.minimum)


def best_group(columns: Sequence[Column]) -> Group | None:
    """Return the group that separates the labels most, if possible one of a medium size."""
    low, high = GROUP_SHARES
    best = max(columns, key=lambda one: (low <= one.share <= high, one.gap), default=None)
    return best and best.group


def make_shift(columns: Sequence[Column], positive_is_rarer: bool) -> Shift | None:
    """Return the change of every second column, or None without columns."""
    shift: dict[str, float] = {}
    resample: dict[str, dict[Any, float]] = {}
    for column in columns[::2]:
        feature = column.feature
        if feature.is_categorical:
            resample[feature.name] = make_shares(column)
        else:
            shift[feature.name] = make_step(column, (column.lean >= 0) == positive_is_rarer)
    return Shift(shift, resample) if columns else None


def make_shares(column: Column) -> dict[Any, float]:
    """Return a share for each value: the rarest is the most common. Missing values keep theirs."""
    common_first = [column.feature.show(one) for one, _ in Counter(column.values).most_common()]
    rest = (1 - column.null_share) / (2 ** len(common_first) - 1)
    shares: dict[Any, float] = {one: 2**rank * rest for rank, one in enumerate(common_first)}
    return shares | ({None: column.null_share} if column.null_share else {})


def make_step(column: Column, up: bool) -> float:
    """Return what is added to a number or a date, or subtracted if not `up`, as far as it fits."""
    low, high = column.feature.bounds
    mean, step = statistics.fmean(column.values), SHIFT_SD * statistics.pstdev(column.values)
    step = float(f"{step:.3g}") if column.feature.kind == "number" else max(round(step), 1)
    fits_up, fits_down = high - mean >= step, mean - low >= step
    return step if fits_up and (up or not fits_down) else -step


def make_unit_change(columns: Sequence[Column]) -> UnitChange | None:
    """Return the division of the number that changes most, or None without such a number."""

    def effect(column: Column) -> float:
        changed = (divided(value, DIVISOR, column.feature) for value in column.values)
        gap = statistics.fmean(abs(b - a) for a, b in zip(column.values, changed, strict=True))
        return gap / statistics.pstdev(column.values)

    numbers = [column for column in columns if column.feature.is_number]
    best = max(numbers, key=effect, default=None)
    return UnitChange(best.feature.name, DIVISOR) if best and effect(best) else None


def divided(value: Any, divisor: float, feature: Feature) -> Any:
    """Return a number divided, within its range."""
    return moved(value, lambda number: number / divisor, feature)


def moved(value: Any, change: Callable[[float], float], feature: Feature) -> Any:
    """Return a changed number or date within its range; a missing or invalid value unchanged."""
    if value is None or feature.check(value):
        return value
    number: Any = feature.known(value)
    low, high = feature.bounds
    return feature.show(min(max(change(number), low), high))


def read_file(path: Path, contract: Contract) -> Described:
    """Return the content of a file. Raises SettingsError listing all problems."""
    try:
        content = yaml.safe_load(path.read_text("utf-8")) or {}
        described = msgspec.convert(content, Described)
        problems = list(problems_of(described, contract))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as err:
        problems = [str(err)]
    if problems:
        remedy = f"Fix {path}, or delete it: then the scenarios are made from the contract."
        raise SettingsError("\n".join([*(f"{path}: {one}" for one in problems), remedy]))
    return described


def problems_of(described: Described, contract: Contract) -> Iterator[str]:
    """Yield each column that the model lacks, and each value that the contract rejects."""
    for where, name, values in uses(described):
        feature = contract.by_name.get(name)
        if feature is None or not feature.used:
            yield f"{where}: got {name}, expected one of {', '.join(contract.input_names)}"
            continue
        for problem in filter(None, map(feature.check, values)):
            hint = f". {quotes_remedy(problem.value)}" if isinstance(problem.value, bool) else ""
            yield f"{where}: {problem}{hint}"
        kinds = KINDS.get(where, (feature.kind,))
        if feature.kind not in kinds:
            yield f"{where}: got {name} of kind {feature.kind}, expected {' or '.join(kinds)}"
    unseen = described.unseen_category
    if unseen and unseen.value in getattr(contract.by_name.get(unseen.column), "categories", ()):
        yield f"unseen_category: got {unseen.value}, expected a value that no category has"


def uses(described: Described) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """Yield the scenario, the column and the values of each use of a column."""
    if sudden := described.sudden:
        yield from (("sudden.shift", name, ()) for name in sudden.shift)
        yield from (("sudden.resample", name, list(of)) for name, of in sudden.resample.items())
    if group := described.concept_shift:
        yield "concept_shift", group.column, group.values
        if (minimum := group.minimum) is not None:
            is_date = isinstance(minimum, date)
            yield "concept_shift", group.column, [str(minimum) if is_date else minimum]
    if described.unit_change:
        yield "unit_change", described.unit_change.column, ()
    if described.missing_field:
        yield "missing_field", described.missing_field, [None]
    if unseen := described.unseen_category:
        yield "unseen_category", unseen.column, [unseen.value]
