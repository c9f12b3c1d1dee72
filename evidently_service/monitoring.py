"""What is measured, and when a score is drift: `config/monitoring.yaml`, held against the contract.

The web workers take the dataset's name and the thresholds from it, `measure` everything else.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from config.contract import Contract, nearest
from config.settings import SettingsError

OUTPUTS = ("probability", "income_class")  # what the model says, beside the features it saw

# Where small means drift. The others are distances, where large does.
P_VALUES = ("ks", "chisquare")
NUMERIC_ONLY = ("wasserstein", "ks")
CATEGORICAL_ONLY = ("chisquare",)
SMALLEST_P_VALUE = 1e-12  # a p-value of 0 would make a ratio that JSON cannot carry

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class MonitoringError(SettingsError):
    """The monitoring file cannot be used; the message lists all that is wrong in it."""


class ColumnTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The statistical test that watches one column."""

    test: Literal["wasserstein", "jensenshannon", "psi", "ks", "chisquare"]
    threshold: Annotated[float, msgspec.Meta(gt=0)]

    def ratio(self, score: float) -> float:
        """How far a score is beyond the threshold: above 1 is drift, whatever the test."""
        if self.test in P_VALUES:
            return self.threshold / max(score, SMALLEST_P_VALUE)
        return score / self.threshold

    def problem(self, numeric: bool) -> str | None:
        """Why this test cannot watch such a column, or None."""
        if self.test in CATEGORICAL_ONLY and numeric:
            return f"{self.test} is for categories; for numbers use wasserstein or jensenshannon"
        if self.test in NUMERIC_ONLY and not numeric:
            return f"{self.test} is for numbers; for categories use jensenshannon"
        if self.test in P_VALUES and self.threshold >= 1:
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
    html_period_s: Seconds
    retention_rows: Count
    share_drifted: Share
    features: dict[str, ColumnTest]
    prediction: PredictionTests

    @property
    def outputs(self) -> dict[str, ColumnTest]:
        """The tests of the model's outputs, by column."""
        return {name: getattr(self.prediction, name) for name in OUTPUTS}


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
    if monitoring.retention_rows < rows:
        kept = monitoring.retention_rows
        problems.append(f"retention_rows: got {kept}, expected at least {rows} window_rows")
    return problems
