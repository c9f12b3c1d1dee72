"""Read `config/monitoring.yaml` and check it against the feature contract.

The web workers use the dataset's name and the budget of false alarms, `measure` and `verdict` the
rest.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import yaml

from config.contract import Contract
from config.feature import nearest
from config.runtime.settings import SettingsError

OUTPUTS = ("probability", "income_class")  # of the model
NUMERIC_TESTS = ("wasserstein", "ks")
CATEGORICAL_TESTS = ("jensenshannon",)
P_VALUE_TESTS = ("ks",)  # small is drift; the others are distances, where large is drift
MIN_P_VALUE = 1e-12  # JSON has no logarithm of 0
MIN_CHANCE = 2e-4  # of exceeding a threshold; the bootstrap has too few windows for less
DAY_S = 24 * 3600
MONTH_S = 30 * DAY_S

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class MonitoringError(SettingsError):
    """The monitoring file is invalid; the message lists every problem."""


class ColumnTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The statistical test of one column."""

    test: str  # one of NUMERIC_TESTS or CATEGORICAL_TESTS
    threshold: Positive | None = None  # None: found from the reference data

    def ratio(self, score: float) -> float:
        """Return how far a score is beyond the threshold; above 1 is drift, for every test.

        P-values are compared by their logarithms: otherwise one of 1e-12 would dwarf the others
        on a chart.
        """
        if self.threshold is None:
            raise ValueError(f"{self.test}: no threshold. Use `Thresholds.apply` first.")
        if self.test in P_VALUE_TESTS:
            minimum = min(MIN_P_VALUE, self.threshold**2)
            return abs(math.log(max(score, minimum)) / math.log(self.threshold))  # not -0.0
        return score / self.threshold

    def widened(self, factor: float) -> "ColumnTest":
        """Return the test with a threshold by which every ratio is divided by this factor."""
        if self.threshold is None or factor == 1:
            return self
        is_p_value = self.test in P_VALUE_TESTS
        return ColumnTest(
            self.test, self.threshold**factor if is_p_value else self.threshold * factor
        )

    def problem(self, is_numeric: bool) -> str | None:
        """Return why this test cannot be used for such a column, or None."""
        tests, kind = (
            (NUMERIC_TESTS, "numbers") if is_numeric else (CATEGORICAL_TESTS, "categories")
        )
        if self.test not in tests:
            rule = f"one of {', '.join(tests)} for a column of {kind}"
            return f"unusable test; got {self.test}, expected {rule}."
        if self.test in P_VALUE_TESTS and self.threshold is not None and self.threshold >= 1:
            return f"invalid threshold; got {self.threshold}, expected a p-value below 1."
        return None


class PredictionTests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tests of the model's two outputs."""

    probability: ColumnTest = ColumnTest(NUMERIC_TESTS[0])
    income_class: ColumnTest = ColumnTest(CATEGORICAL_TESTS[0])


class Monitoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One monitored dataset; `config/monitoring.yaml` explains the fields.

    `load_monitoring` adds the name and the tests that the file leaves out.
    """

    dataset: str = ""
    window_rows: Count = 1000
    min_rows: Count = 500
    min_labels: Count = 200
    min_segment_rows: Count = 30
    measure_period_s: Positive = 5.0
    judge_period_s: Positive = 900.0
    persistent_windows: Count = 2
    false_alarms_per_month: Positive = 1.0
    calibration_windows: Count = 192
    html_period_s: Positive = 60.0
    retention_rows: Count = 50_000
    label_days: Positive = 30.0
    label_rows: Count = 10_000_000
    shadow_error_rate: Share = 0.05
    shadow_max_labels: Count = 10_000
    shadow_days: Positive = 14.0
    share_drifted: Share = 0.2
    max_invalid_share_rise: Share = 0.1
    reports_kept: Count = 20
    features: dict[str, ColumnTest] = {}
    prediction: PredictionTests = PredictionTests()
    window_s: Positive | None = None
    roc_auc_floor: Share | None = None  # None: found from the reference data

    @property
    def label_s(self) -> float:
        """Seconds after its prediction in which a label counts."""
        return self.label_days * DAY_S

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
        """The share of the budget for one window and one column, or for all features together."""
        columns = sum(test.threshold is None for test in self.tests.values())
        windows = MONTH_S / self.judge_period_s
        return self.false_alarms_per_month / windows / (columns + 1)

    def with_tests(self, tests: Mapping[str, ColumnTest]) -> "Monitoring":
        """Return a copy with these columns' tests in place of their own."""
        features = {name: tests.get(name, test) for name, test in self.features.items()}
        outputs = {name: tests.get(name, test) for name, test in self.outputs.items()}
        prediction = PredictionTests(**outputs)
        return msgspec.structs.replace(self, features=features, prediction=prediction)


def load_monitoring(path: Path | None, contract: Contract) -> Monitoring:
    """Read and check the file, and add what it leaves out; without a file every value is a default.

    Raises MonitoringError listing every problem.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8")) if path else None
        monitoring = msgspec.convert(raw or {}, Monitoring)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as err:
        raise MonitoringError(f"{path}: {err}") from err
    tests = {
        one.name: ColumnTest((CATEGORICAL_TESTS if one.is_categorical else NUMERIC_TESTS)[0])
        for one in contract.inputs
    }
    monitoring = msgspec.structs.replace(
        monitoring,
        dataset=monitoring.dataset or contract.target.name,
        features=tests | monitoring.features,  # in contract order
    )
    if problems := [*_column_problems(monitoring, contract), *_size_problems(monitoring)]:
        raise MonitoringError("\n".join(f"{path}: {problem}" for problem in problems))
    return monitoring


def _column_problems(monitoring: Monitoring, contract: Contract) -> list[str]:
    inputs = contract.input_names
    problems = []
    for name in monitoring.features:
        if name not in inputs:
            like = nearest(name, inputs)
            hint = f" Did you mean {like}?" if like else ""
            problems.append(f"features.{name}: not an input column of the model.{hint}")
    is_numeric = {f.name: not f.is_categorical for f in contract.inputs}
    is_numeric |= {"probability": True, "income_class": False}
    for name, test in monitoring.tests.items():
        if name in is_numeric and (problem := test.problem(is_numeric[name])):
            problems.append(f"{name}: {problem}")
    return problems


def _size_problems(monitoring: Monitoring) -> list[str]:
    rows = monitoring.window_rows
    problems = [
        f"{name}: too large; got {value}, expected at most {rows}, as window_rows."
        for name in ("min_rows", "min_labels")
        if (value := getattr(monitoring, name)) > rows
    ]
    if (retention := monitoring.retention_rows) < rows:
        problems.append(
            f"retention_rows: too small; got {retention}, expected at least {rows}, as window_rows."
        )
    if (label_rows := monitoring.label_rows) < retention:
        problems.append(
            f"label_rows: too small; got {label_rows}, expected at least {retention},"
            " as retention_rows."
        )
    chance = monitoring.false_alarm_chance ** (1 / monitoring.persistent_windows)
    if chance < MIN_CHANCE:
        problems.append(
            f"false_alarms_per_month: too small; got {monitoring.false_alarms_per_month:g}, by"
            f" which a window may exceed a threshold with a chance of {chance:.1g}, expected at"
            f" least {MIN_CHANCE:g}. Increase it, judge_period_s or persistent_windows."
        )
    return problems
