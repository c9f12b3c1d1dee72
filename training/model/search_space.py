"""The ranges of the hyperparameter search, and the setting that it tries first.

The defaults are wide, for any table. A `search.yaml` beside the contract narrows them for one
target.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import numpy as np
import structlog
import yaml
from hyperopt import hp
from msgspec import Meta

from config.contract import Contract, nearest
from config.runtime.settings import SettingsError
from training.model.pipeline import Params

SEARCH_FILE = "search.yaml"
LOGARITHMIC = ("learning_rate", "min_child_weight", "reg_lambda")

Multiplier = Annotated[float, Meta(ge=1, le=1000)]
Neighbours = Annotated[int, Meta(ge=1, le=100)]
Rate = Annotated[float, Meta(ge=0.001, le=1)]
Depth = Annotated[int, Meta(ge=1, le=20)]
Weight = Annotated[float, Meta(ge=0.001, le=1000)]
Share = Annotated[float, Meta(gt=0, le=1)]
Gain = Annotated[float, Meta(ge=0, le=1000)]

log = structlog.get_logger(__name__)


class SearchError(SettingsError):
    """The search file is invalid; the message lists every problem."""


class Ranges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SMOTE's choices, and the ends of each range of XGBoost. Equal ends fix a parameter."""

    smote_multiplier: tuple[Multiplier, ...] = (1.0, 1.5, 3.0, 10.0)  # 1: no resampling
    smote_neighbours: tuple[Neighbours, ...] = (3, 7)
    learning_rate: tuple[Rate, Rate] = (0.03, 0.3)
    max_depth: tuple[Depth, Depth] = (2, 10)
    min_child_weight: tuple[Weight, Weight] = (0.1, 30.0)
    subsample: tuple[Share, Share] = (0.5, 1.0)
    colsample_bytree: tuple[Share, Share] = (0.1, 1.0)
    reg_lambda: tuple[Weight, Weight] = (0.1, 10.0)
    gamma: tuple[Gain, Gain] = (0.0, 5.0)

    def has(self, name: str, value: float) -> bool:
        """Return whether a trial may have this value of a parameter."""
        values = getattr(self, name)
        return value in values if is_choice(name) else values[0] <= value <= values[1]


# XGBoost's own defaults, with a learning rate at which MAX_TREES suffice.
DEFAULT_START: Params = {
    "smote_multiplier": 1.0,
    "smote_neighbours": 7,
    "learning_rate": 0.1,
    "max_depth": 6,
    "min_child_weight": 1.0,
    "subsample": 1.0,
    "colsample_bytree": 1.0,
    "reg_lambda": 1.0,
    "gamma": 0.0,
}


@dataclass(frozen=True)
class SearchSpace:
    """The ranges, and the parameters of the first trial, if any."""

    ranges: Ranges = Ranges()
    start: Params | None = field(default_factory=DEFAULT_START.copy)

    def expressions(self) -> dict[str, Any]:
        """Return the ranges as hyperopt takes them."""
        names = Ranges.__struct_fields__
        return {name: expression(name, getattr(self.ranges, name)) for name in names}

    def first_point(self) -> dict[str, float] | None:
        """Return the first trial as hyperopt takes it: a choice by its index."""
        if self.start is None:
            return None
        point = {}
        for name, value in self.start.items():
            values = getattr(self.ranges, name)
            if len(set(values)) > 1:
                point[name] = values.index(value) if is_choice(name) else value
        return point


def is_choice(name: str) -> bool:
    """Return whether the values of a parameter are a list, not the ends of a range."""
    return name.startswith("smote_")


def expression(name: str, values: tuple[float, ...]) -> Any:
    """Return the values of one parameter as hyperopt takes them."""
    if len(set(values)) == 1:
        return values[0]
    if is_choice(name):
        return hp.choice(name, list(values))
    if isinstance(values[0], int) and isinstance(values[1], int):
        return hp.uniformint(name, *values)
    if name in LOGARITHMIC:
        return hp.loguniform(name, *np.log(values))
    return hp.uniform(name, *values)


class Outline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file before its parts are checked, so that one problem does not hide others."""

    target: str
    ranges: dict[str, Any] = {}
    start: dict[str, Any] | None = None


def load_search(path: Path, contract: Contract, with_start: bool = True) -> SearchSpace:
    """Return the search space of a file, or the wide one if the file is missing.

    A file of another target is ignored with a log line: its ranges were found on another table.
    Without `with_start` no trial is given. Raises SearchError listing every problem.
    """
    space = read_file(path, contract) if path.exists() else SearchSpace()
    return space if with_start else replace(space, start=None)


def read_file(path: Path, contract: Contract) -> SearchSpace:
    """Return the search space of a file. Raises SearchError listing every problem."""
    try:
        outline = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), Outline)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as err:
        raise SearchError(f"{path}: {err}") from err
    if outline.target != contract.target.name:
        log.warning(
            "search_file_ignored",
            file=str(path),
            target=outline.target,
            expected=contract.target.name,
        )
        return SearchSpace()
    problems: list[str] = []
    found = converted("ranges", outline.ranges, problems)
    problems += [
        f"ranges.{name}: wrong order; got {list(values)}, expected the lower end first."
        for name, values in found.items()
        if not is_choice(name) and values[0] > values[1]
    ]
    ranges = Ranges(**found)
    start = None if outline.start is None else converted("start", outline.start, problems)
    if start is not None:
        problems += start_problems(start, outline.start or {}, ranges)
    if problems:
        raise SearchError("\n".join(f"{path}: {problem}" for problem in problems))
    return SearchSpace(ranges, start)


def converted(part: str, given: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the valid values of `ranges` or `start`, and add the problems of the others."""
    kinds = {one.name: one.type for one in msgspec.structs.fields(Ranges)}
    found = {}
    for name, value in given.items():
        if name not in kinds:
            like = nearest(name, tuple(kinds))
            hint = f" Did you mean {like}?" if like else ""
            problems.append(f"{part}.{name}: unknown parameter.{hint}")
            continue
        kind = kinds[name] if part == "ranges" else get_args(kinds[name])[0]
        try:
            found[name] = msgspec.convert(value, kind)
            if found[name] == ():
                problems.append(f"{part}.{name}: empty; expected at least one value.")
        except msgspec.ValidationError as err:
            problems.append(f"{part}.{name}: {err}; got {value}.")
    return found


def start_problems(start: Params, given: Mapping[str, Any], ranges: Ranges) -> Iterator[str]:
    """Yield each parameter that `start` lacks or that is outside its range."""
    for name in Ranges.__struct_fields__:
        if name not in given:
            yield f"start.{name}: missing; expected every parameter, or no start."
        elif name in start and not ranges.has(name, start[name]):
            allowed = list(getattr(ranges, name))
            rule = f"one of {allowed}" if is_choice(name) else f"{allowed[0]} to {allowed[1]}"
            yield f"start.{name}: outside its range; got {start[name]}, expected {rule}."
