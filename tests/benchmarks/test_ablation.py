"""The comparison with training without incomplete rows."""

import numpy as np

from tests.benchmarks.benchmark_ablation import CompleteRows
from training.model.pipeline import DEFAULT_PARAMS


def test_incomplete_rows_are_scored_and_not_learnt() -> None:
    """The comparison once learnt them: it overrides a step of `Folds` that had gone."""
    X = np.arange(120, dtype=np.float32).reshape(60, 2)
    y = np.tile([0, 1], 30)
    X[::3, 0] = np.nan
    folds = CompleteRows(X, y, n_folds=3, seed=0)
    train, valid = folds.indices[0]
    binned = folds.binned(0, DEFAULT_PARAMS | {"smote_multiplier": 1.0})
    assert binned.train.num_row() == np.isfinite(X[train, 0]).sum() < len(train)
    assert binned.valid.num_row() == len(valid)
