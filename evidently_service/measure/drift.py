"""Evidently, behind plain values: the one module that knows it. Only `measure` imports it.

Takes the reference and the window as data frames and gives scores and an HTML report.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from config.contract import Contract
from config.events import Prediction
from evidently_service.store.records import ColumnDrift
from evidently_service.reference.monitoring_config import ColumnTest, Monitoring

with warnings.catch_warnings():
    # Evidently 0.7 uses what NumPy 2 and Litestar 2 have renamed; ours to ignore, not to mend.
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.report import Snapshot
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset


class Drift(NamedTuple):
    """The drift of each feature and of the model's outputs, and the report that shows it."""

    features: tuple[ColumnDrift, ...]
    prediction: tuple[ColumnDrift, ...]
    window: pd.DataFrame  # what was measured
    snapshot: Snapshot

    @property
    def share_drifted(self) -> float:
        """Drifted features over all features, in [0, 1]."""
        return sum(feature.drifted for feature in self.features) / len(self.features)

    def html(self) -> str:
        """The report as one page of 4 MB that needs nothing from elsewhere."""
        return self.snapshot.get_html_str(as_iframe=False)


def monitored_frame(rows: Iterable[Mapping[str, Any]], contract: Contract) -> pd.DataFrame:
    """The model's columns and outputs of some rows.

    DataFrame (n_rows, n_features + 2), features in contract order, then `probability` and
    `income_class`; a missing or unseen category is '?'. Raises KeyError naming a missing column.
    """
    rows = list(rows)
    columns: dict[str, list[Any]] = {
        feature.name: [feature.known(row[feature.name]) for row in rows]
        for feature in contract.inputs
    }
    columns["probability"] = [float(row["probability"]) for row in rows]
    columns["income_class"] = [int(row["income_class"]) for row in rows]
    return pd.DataFrame(columns)


def as_row(prediction: Prediction) -> dict[str, object]:
    """A prediction as one flat row: its features and the model's outputs."""
    outputs = {"probability": prediction.probability, "income_class": prediction.income_class}
    return {**prediction.features, **outputs}


def measure_drift(
    reference: pd.DataFrame,
    window: pd.DataFrame,
    monitoring: Monitoring,
    contract: Contract,
    with_outputs: bool = True,
) -> Drift:
    """Each column's drift from reference to window, both as `monitored_frame` gives them.

    The monitoring has every threshold. Without outputs `Drift.prediction` is empty.
    """
    features, outputs = monitoring.features, monitoring.outputs if with_outputs else {}
    columns = DataDefinition(
        numerical_columns=[f.name for f in contract.inputs if not f.is_categorical]
        + ["probability"],
        categorical_columns=[f.name for f in contract.inputs if f.is_categorical]
        + ["income_class"],
    )
    report = Report(
        [
            DataDriftPreset(
                columns=list(features),
                per_column_method={name: test.test for name, test in features.items()},
                per_column_threshold={name: test.threshold for name, test in features.items()},
                drift_share=monitoring.share_drifted,
            ),
            *(
                ValueDrift(column=name, method=test.test, threshold=test.threshold)
                for name, test in outputs.items()
            ),
        ]
    )
    snapshot = report.run(
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
    """A column's score held against its threshold."""
    ratio = test.ratio(score)
    assert test.threshold is not None  # `ratio` has seen to it
    return ColumnDrift(name, test.test, score, test.threshold, ratio, ratio > 1)


def _scores(snapshot: Snapshot) -> dict[str, float]:
    """The score of each column; the preset's count of drifted columns has no single column."""
    metrics = snapshot.dict()["metrics"]
    return {m["config"]["column"]: float(m["value"]) for m in metrics if "column" in m["config"]}
