"""Find drift of columns together that no column shows alone, as of age and hours in opposite order.

A window and the reference data -> `judge`, beside the tests of single columns. A classifier learns
to tell the rows of both apart (classifier two-sample test: Lopez-Paz and Oquab 2017,
arXiv:1610.06545). Without drift its ROC AUC is that of a random part of the reference data against
the rest. SPLITS such parts give the threshold, for the same share of the budget of false alarms as
a column. A shift of one column is found too, but later than by the column's own test.

A window takes 0.2 s of processor time, the threshold of a version and a window size SPLITS of them.
The rows are taken as independent: rows in batches of one kind give more false alarms, and no phase
of calibration widens this threshold.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from config.contract import Contract
from evidently_service.reference.monitoring_config import Monitoring
from evidently_service.reference.reference_data import Reference
from evidently_service.reference.registry import Version
from evidently_service.store.records import JointDrift
from evidently_service.verdict.thresholds import MIN_VALUES, window_size

SPLITS = 20
FOLDS, TREES, LEAVES, LEARNING_RATE = 2, 40, 16, 0.1
MAX_REFERENCE_ROWS = 4000  # more take longer and find little more
MAX_CATEGORIES = 254  # scikit-learn's limit is 255; rarer ones are one category
MIN_REACH = 0.01  # of the threshold over the mean: without usable columns all scores are equal
MIN_SHARE_OF_LOSS = 0.25  # of the largest loss of ROC AUC, for a column to be named


class Fit(NamedTuple):
    """A classifier, and rows that it did not learn from."""

    classifier: HistGradientBoostingClassifier
    rows: np.ndarray  # (n_rows, n_features)
    label: np.ndarray  # (n_rows,), 1 for a row of the window


class JointTest:
    """Compares windows with the reference data, all columns at once."""

    def __init__(self, monitoring: Monitoring, contract: Contract) -> None:
        self.splits = SPLITS  # with fewer, at least 2, the threshold is found sooner and is higher
        self.monitoring = monitoring
        self.contract = contract
        self._version: Version | None = None
        self._found: dict[int, tuple[float, float]] = {}

    def compare(self, reference: Reference, window: pd.DataFrame) -> JointDrift:
        """Return the drift of a window, as `monitored_frame` returns it.

        The columns are those whose random order makes the classifier worse, the worst first. They
        are found only beyond the threshold.
        """
        if reference.version != self._version:
            self._version, self._found = reference.version, {}
        before, after = self._encode(reference.frame), self._encode(window, reference.frame)
        scarce = np.isfinite(before).sum(axis=0) < MIN_VALUES
        before[:, scarce] = after[:, scarce] = 0  # a fold without values would be an error
        size = window_size(self.monitoring, len(window))
        with threadpool_limits(1):  # more threads than idle processors wait for each other
            if size not in self._found:
                self._found[size] = self._without_drift(before, size)
            mean, limit = self._found[size]
            fits = self._fits(before[:MAX_REFERENCE_ROWS], after)
            roc_auc = roc_auc_of(fits)
            ratio = max(0.0, (roc_auc - mean) / (limit - mean))
            columns = self._columns(fits[0]) if ratio > 1 else ()
        return JointDrift(roc_auc, limit, ratio, columns)

    def _encode(self, frame: pd.DataFrame, known: pd.DataFrame | None = None) -> np.ndarray:
        """Return the columns as numbers (n_rows, n_features): categories by rank in `known`."""
        ranked = frame if known is None else known
        columns = []
        for feature in self.contract.inputs:
            values = frame[feature.name]
            if feature.is_categorical:
                names = ranked[feature.name].value_counts().index[: MAX_CATEGORIES - 1]
                codes = names.get_indexer(pd.Index(values))
                columns.append(np.where(codes < 0, len(names), codes))
            else:
                columns.append(values.to_numpy(float))
        return np.column_stack(columns).astype(float)

    def _without_drift(self, rows: np.ndarray, size: int) -> tuple[float, float]:
        """Return the mean ROC AUC of parts of the reference data, and the threshold.

        The threshold is the end of the prediction interval of one more part.
        """
        random, drawn = np.random.default_rng(0), []
        for _ in range(self.splits):
            order = random.permutation(len(rows))[: size + MAX_REFERENCE_ROWS]
            part = min(size, len(order) // 2)
            drawn.append(roc_auc_of(self._fits(rows[order[part:]], rows[order[:part]])))
        k, chance = self.monitoring.persistent_windows, self.monitoring.false_alarm_chance
        reach = stats.t.isf(chance ** (1 / k), self.splits - 1) * math.sqrt(1 + 1 / self.splits)
        mean = float(np.mean(drawn))
        return mean, mean + max(MIN_REACH, float(reach * np.std(drawn, ddof=1)))

    def _fits(self, before: np.ndarray, after: np.ndarray) -> list[Fit]:
        """Return a classifier for each fold, with the rows that it did not learn from."""
        rows = np.concatenate([before, after])
        is_after = np.repeat([0, 1], [len(before), len(after)])
        categorical = [feature.is_categorical for feature in self.contract.inputs]
        fits = []
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        for learn, judge in folds.split(rows, is_after):
            classifier = HistGradientBoostingClassifier(
                learning_rate=LEARNING_RATE,
                max_iter=TREES,
                max_leaf_nodes=LEAVES,
                categorical_features=categorical,
                early_stopping=False,
                random_state=0,
            )
            classifier.fit(rows[learn], is_after[learn])
            fits.append(Fit(classifier, rows[judge], is_after[judge]))
        return fits

    def _columns(self, fit: Fit) -> tuple[str, ...]:
        """Return the columns whose random order loses much of the ROC AUC, the largest loss first.

        Source: permutation importance, Breiman (2001), doi:10.1023/A:1010933404324.
        """
        random, roc_auc, losses = np.random.default_rng(0), roc_auc_of([fit]), {}
        for number, feature in enumerate(self.contract.inputs):
            rows = fit.rows.copy()
            random.shuffle(rows[:, number])
            losses[feature.name] = roc_auc - roc_auc_of([fit._replace(rows=rows)])
        minimum = MIN_SHARE_OF_LOSS * max(losses.values())
        kept = (name for name, loss in losses.items() if loss >= minimum > 0)
        return tuple(sorted(kept, key=lambda name: -losses[name]))


def roc_auc_of(fits: list[Fit]) -> float:
    """Return the mean ROC AUC of classifiers on the rows that they did not learn from."""
    return float(
        np.mean(
            [roc_auc_score(one.label, one.classifier.decision_function(one.rows)) for one in fits]
        )
    )
