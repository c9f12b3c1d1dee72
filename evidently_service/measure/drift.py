"""Measure drift with Evidently, and render its HTML report.

The only module that imports Evidently; only the measure process loads it.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from config.contract import Contract
from evidently_service.reference.monitoring_config import ColumnTest, Monitoring
from evidently_service.store.records import ColumnDrift

with warnings.catch_warnings():
    # Evidently 0.7 uses names that NumPy 2 and Litestar 2 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.report import Snapshot
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset


class Drift(NamedTuple):
    """The drift of each compared feature and output, and Evidently's snapshot of it."""

    features: tuple[ColumnDrift, ...]
    prediction: tuple[ColumnDrift, ...]
    window: pd.DataFrame  # the current window
    snapshot: Snapshot

    @property
    def share_drifted(self) -> float:
        """Drifted features over all features, in [0, 1]."""
        return sum(feature.drifted for feature in self.features) / max(1, len(self.features))

    def html(self) -> str:
        """Return the report as one self-contained page of about 4 MB."""
        return self.snapshot.get_html_str(as_iframe=False)


def measure_drift(
    reference: pd.DataFrame,
    window: pd.DataFrame,
    monitoring: Monitoring,
    contract: Contract,
    with_outputs: bool = True,
) -> Drift:
    """Compare the current window with the reference data, column by column.

    Both frames as `monitored_frame` returns them. `monitoring` as `Thresholds.apply` returns it:
    every test has a threshold, and every column has values. Evidently leaves missing numbers out.
    Without outputs `Drift.prediction` is empty.
    """
    features, outputs = monitoring.features, monitoring.outputs if with_outputs else {}
    columns = DataDefinition(
        numerical_columns=[f.name for f in contract.inputs if not f.is_categorical]
        + ["probability"],
        categorical_columns=[f.name for f in contract.inputs if f.is_categorical]
        + ["income_class"],
    )
    metrics: list[Any] = [
        ValueDrift(column=name, method=test.test, threshold=test.threshold)
        for name, test in outputs.items()
    ]
    if features:  # Evidently would compare all columns
        of_features = DataDriftPreset(
            columns=list(features),
            per_column_method={name: test.test for name, test in features.items()},
            per_column_threshold={name: test.threshold for name, test in features.items()},
            drift_share=monitoring.share_drifted,
        )
        metrics.insert(0, of_features)
    with np.errstate(invalid="ignore"):  # for correlations, constant columns are divided by 0
        snapshot = Report(metrics).run(
            Dataset.from_pandas(window, columns), Dataset.from_pandas(reference, columns)
        )
    scores = _scores(snapshot)
    return Drift(
        tuple(column_drift(name, test, scores[name]) for name, test in features.items()),
        tuple(column_drift(name, test, scores[name]) for name, test in outputs.items()),
        window,
        snapshot,
    )


def column_drift(name: str, test: ColumnTest, score: float) -> ColumnDrift:
    """Compare a column's score with its threshold."""
    ratio = test.ratio(score)
    assert test.threshold is not None  # `ratio` checks it
    return ColumnDrift(name, test.test, score, test.threshold, ratio, ratio > 1)


def _scores(snapshot: Snapshot) -> dict[str, float]:
    """Return the score of each column; the preset's count of drifted columns has no column."""
    metrics = snapshot.dict()["metrics"]
    return {m["config"]["column"]: float(m["value"]) for m in metrics if "column" in m["config"]}
