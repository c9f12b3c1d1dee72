"""What is measured, and how it is judged: `config/monitoring.yaml`, held against the contract.

The web workers take the dataset's name and the budget from it, `measure` everything else.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from config.contract import Contract, nearest
from config.runtime.settings import SettingsError

OUTPUTS = ("probability", "income_class")  # what the model says, beside the features it saw

# Where small means drift. The others are distances, where large does.
P_VALUES = ("ks", "chisquare")
NUMERIC_ONLY = ("wasserstein", "ks")
CATEGORICAL_ONLY = ("chisquare",)
SMALLEST_P_VALUE = 1e-12  # the logarithm of 0 is none that JSON can carry
# A rarer excess than this cannot be told from the windows that thresholds are bootstrapped from.
SMALLEST_CHANCE = 2e-4
MONTH_S = 30 * 24 * 3600

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class MonitoringError(SettingsError):
    """The monitoring file cannot be used; the message lists all that is wrong in it."""


class ColumnTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The statistical test that watches one column."""

    test: Literal["wasserstein", "jensenshannon", "psi", "ks", "chisquare"]
    threshold: Annotated[float, msgspec.Meta(gt=0)] | None = None  # None: found from the reference

    def ratio(self, score: float) -> float:
        """How far a score is beyond the threshold: above 1 is drift, whatever the test.

        A p-value is compared by its logarithm: one of 1e-12 would dwarf all others on a chart.
        """
        if self.threshold is None:
            raise ValueError(f"{self.test}: no threshold; see evidently_service.verdict.thresholds")
        if self.test in P_VALUES:
            return math.log(max(score, SMALLEST_P_VALUE)) / math.log(self.threshold)
        return score / self.threshold

    def problem(self, numeric: bool) -> str | None:
        """Why this test cannot watch such a column, or None."""
        if self.test in CATEGORICAL_ONLY and numeric:
            return f"{self.test} is for categories; for numbers use wasserstein or jensenshannon"
        if self.test in NUMERIC_ONLY and not numeric:
            return f"{self.test} is for numbers; for categories use jensenshannon"
        if self.test in P_VALUES and self.threshold is not None and self.threshold >= 1:
            return f"the threshold of a p-value is below 1, got {self.threshold}"
        return None


class PredictionTests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tests that watch the model's two outputs."""

    probability: ColumnTest
    income_class: ColumnTest


class Monitoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One monitored dataset; the fields are explained in `config/monitoring.yaml`."""

    dataset: str
    window_rows: Count
    min_rows: Count
    min_labels: Count
    min_segment_rows: Count
    measure_period_s: Seconds
    judge_period_s: Seconds
    persistent_windows: Count
    false_alarms_per_month: Positive
    html_period_s: Seconds
    retention_rows: Count
    share_drifted: Share
    roc_auc_floor: Share
    reports_kept: Count
    features: dict[str, ColumnTest]
    prediction: PredictionTests
    window_s: Seconds | None = None

    @property
    def outputs(self) -> dict[str, ColumnTest]:
        """The tests of the model's outputs, by column."""
        return {name: getattr(self.prediction, name) for name in OUTPUTS}

    @property
    def tests(self) -> dict[str, ColumnTest]:
        """The tests of all columns: features, then outputs."""
        return self.features | self.outputs

    @property
    def false_alarm_chance(self) -> float:
        """The budget's share of one column and one window."""
        bounded = sum(test.threshold is None for test in self.tests.values())
        windows = MONTH_S / self.judge_period_s
        return self.false_alarms_per_month / windows / max(bounded, 1)

    def with_thresholds(self, found: dict[str, float]) -> "Monitoring":
        """The same with these columns' thresholds."""

        def given(tests: dict[str, ColumnTest]) -> dict[str, ColumnTest]:
            return {
                name: msgspec.structs.replace(test, threshold=found.get(name, test.threshold))
                for name, test in tests.items()
            }

        prediction = PredictionTests(**given(self.outputs))
        return msgspec.structs.replace(self, features=given(self.features), prediction=prediction)


def load_monitoring(path: Path, contract: Contract) -> Monitoring:
    """The checked file. Raises MonitoringError naming each column or value that is wrong."""
    try:
        monitoring = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), Monitoring)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as err:
        raise MonitoringError(f"{path}: {err}") from err
    if problems := [*_column_problems(monitoring, contract), *_size_problems(monitoring)]:
        raise MonitoringError("\n".join(f"{path}: {problem}" for problem in problems))
    return monitoring


def _column_problems(monitoring: Monitoring, contract: Contract) -> list[str]:
    used = contract.input_names
    problems = [f"features: {name} has no test" for name in used if name not in monitoring.features]
    for name in monitoring.features:
        if name not in used:
            like = nearest(name, used)
            hint = f"; did you mean {like}?" if like else ""
            problems.append(f"features: {name} is no column that the model uses{hint}")
    numeric = {f.name: not f.is_categorical for f in contract.inputs}
    numeric |= {"probability": True, "income_class": False}
    for name, test in (monitoring.features | monitoring.outputs).items():
        if name in numeric and (problem := test.problem(numeric[name])):
            problems.append(f"{name}: {problem}")
    return problems


def _size_problems(monitoring: Monitoring) -> list[str]:
    problems = []
    rows = monitoring.window_rows
    if monitoring.min_rows > rows:
        problems.append(f"min_rows: got {monitoring.min_rows}, expected at most {rows} window_rows")
    if monitoring.min_labels > rows:
        problems.append(
            f"min_labels: got {monitoring.min_labels}, expected at most {rows} window_rows"
        )
    chance = monitoring.false_alarm_chance ** (1 / monitoring.persistent_windows)
    if chance < SMALLEST_CHANCE:
        problems.append(
            f"false_alarms_per_month: got {monitoring.false_alarms_per_month:g}, by which a window"
            f" may exceed a threshold with a chance of {chance:.1g}, expected at least"
            f" {SMALLEST_CHANCE:g}: raise it, judge_period_s or persistent_windows"
        )
    if monitoring.retention_rows < rows:
        kept = monitoring.retention_rows
        problems.append(f"retention_rows: got {kept}, expected at least {rows} window_rows")
    return problems
