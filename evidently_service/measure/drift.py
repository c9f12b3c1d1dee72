"""Measure drift with Evidently's tests, and render its HTML report.

The only module that imports Evidently; only the measure process loads it. A `Report` draws charts
while it calculates, which takes most of its time. So the tests are called directly, and a `Report`
runs only for a page.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from config.contract import Contract
from evidently_service.reference.monitoring_config import ColumnTest, Monitoring
from evidently_service.store.records import ColumnDrift

with warnings.catch_warnings():
    # Evidently 0.7 uses names that NumPy 2 and Litestar 2 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently import ColumnType, DataDefinition, Dataset, Report
    from evidently.core.report import Snapshot
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset


class Drift(NamedTuple):
    """The drift of each compared feature and output; `report` runs Evidently's report."""

    features: tuple[ColumnDrift, ...]
    prediction: tuple[ColumnDrift, ...]
    window: pd.DataFrame  # the current window
    report: Callable[[], Snapshot]

    @property
    def share_drifted(self) -> float:
        """Drifted features over all features, in [0, 1]."""
        return sum(feature.drifted for feature in self.features) / max(1, len(self.features))

    def html(self) -> str:
        """Return the report as one self-contained page of about 4 MB. Takes seconds."""
        return self.report().get_html_str(as_iframe=False)


def measure_drift(
    reference: pd.DataFrame,
    window: pd.DataFrame,
    monitoring: Monitoring,
    contract: Contract,
    with_outputs: bool = True,
) -> Drift:
    """Compare the current window with the reference data, column by column.

    Both frames as `monitored_frame` returns them. `monitoring` as `Thresholds.apply` returns it:
    every test has a threshold, and every column has values. Missing numbers are left out. Without
    outputs `Drift.prediction` is empty.
    """
    features, outputs = monitoring.features, monitoring.outputs if with_outputs else {}
    columns = DataDefinition(
        numerical_columns=[f.name for f in contract.inputs if not f.is_categorical]
        + ["probability"],
        categorical_columns=[f.name for f in contract.inputs if f.is_categorical]
        + ["income_class"],
    )

    def drift_of(tests: Mapping[str, ColumnTest]) -> tuple[ColumnDrift, ...]:
        found = []
        for name, test in tests.items():
            kind = columns.get_column_type(name)
            score = evidently_score(reference[name], window[name], test, kind)
            found.append(column_drift(name, test, score))
        return tuple(found)

    metrics = _metrics(features, outputs, monitoring.share_drifted)
    report = partial(_run_report, metrics, columns, reference, window)
    return Drift(drift_of(features), drift_of(outputs), window, report)


def evidently_score(
    reference: pd.Series, window: pd.Series, test: ColumnTest, kind: ColumnType
) -> float:
    """Return Evidently's score of a column: a distance, or a p-value for ks."""
    before, after = reference.dropna(), window.dropna()
    found = get_stattest(before, after, kind, test.test)(before, after, kind, test.threshold)
    return float(found.drift_score)


def column_drift(name: str, test: ColumnTest, score: float) -> ColumnDrift:
    """Compare a column's score with its threshold."""
    ratio = test.ratio(score)
    assert test.threshold is not None  # `ratio` checks it
    return ColumnDrift(name, test.test, score, test.threshold, ratio, ratio > 1)


def _metrics(
    features: Mapping[str, ColumnTest], outputs: Mapping[str, ColumnTest], drift_share: float
) -> list[Any]:
    metrics: list[Any] = [
        ValueDrift(column=name, method=test.test, threshold=test.threshold)
        for name, test in outputs.items()
    ]
    if features:  # Evidently would compare all columns
        of_features = DataDriftPreset(
            columns=list(features),
            per_column_method={name: test.test for name, test in features.items()},
            per_column_threshold={name: test.threshold for name, test in features.items()},
            drift_share=drift_share,
        )
        metrics.insert(0, of_features)
    return metrics


def _run_report(
    metrics: list[Any], columns: DataDefinition, reference: pd.DataFrame, window: pd.DataFrame
) -> Snapshot:
    with np.errstate(invalid="ignore"):  # for correlations, constant columns are divided by 0
        return Report(metrics).run(
            Dataset.from_pandas(window, columns), Dataset.from_pandas(reference, columns)
        )
