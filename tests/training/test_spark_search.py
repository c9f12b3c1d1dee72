"""The search on two local executors of Spark."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from training.model.pipeline import make_encoder
from training.model.search import Folds, run_search
from training.batch_scoring.spark import with_attempts
from training.batch_scoring.spark_search import SearchFailed, run_spark_search

pytestmark = pytest.mark.slow


@dataclass
class KillsOnce(Folds):
    """Kills the first worker process that uses it, like a lost machine."""

    marker: Path = Path("unset")

    def fit(self, folds, params, limits=None):
        """Fit, except the first time."""
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(folds, params, limits)


class FailsForDeepTrees(Folds):
    """Raises for some settings."""

    def fit(self, folds, params, limits=None):
        """Fit, except deep trees."""
        if params["max_depth"] > 5:
            raise MemoryError("deep trees")
        return super().fit(folds, params, limits)


class Fails(Folds):
    """Raises for every setting."""

    def fit(self, folds, params, limits=None):
        """Raise."""
        raise MemoryError("no memory")


@pytest.fixture
def make_folds(contract, rows, inputs):
    """Return three folds of the made-up rows, of a given class."""
    X = make_encoder(contract).fit_transform(inputs).astype(np.float32)
    return lambda kind: kind(X, rows["income"].to_numpy(), n_folds=3, seed=0)


def test_the_search_returns_the_best_reported_trial(spark, make_folds):
    seen = []
    best = run_spark_search(
        spark, make_folds(Folds), 4, None, seed=1, on_trial=lambda *t: seen.append(t)
    )
    assert len(seen) == 4
    whole = [metrics["cv_log_loss"] for _, metrics in seen if "pruned" not in metrics]
    assert best.metrics["cv_log_loss"] == pytest.approx(min(whole), abs=1e-6)
    assert best.probability.shape == (len(make_folds(Folds).y),)


def test_one_trial_at_a_time_scores_as_on_one_machine(spark, churn, churn_rows):
    """With columns of every kind."""
    folds = Folds.of(churn_rows, churn, n_folds=2, seed=0)
    ours = run_search(folds, 1, None, seed=3)
    theirs = run_spark_search(spark, folds, 1, None, seed=3)
    assert theirs.params == ours.params
    assert theirs.probability == pytest.approx(ours.probability, abs=1e-6)


def test_a_lost_executor_loses_no_trial(spark, make_folds, tmp_path):
    folds = replace(make_folds(KillsOnce), marker=tmp_path / "killed")
    seen = []
    run_spark_search(spark, folds, 2, None, seed=1, on_trial=lambda *trial: seen.append(trial))
    assert folds.marker.exists()
    assert len(seen) == 2 and not any("failed" in metrics for _, metrics in seen)


def test_a_trial_that_fails_is_reported_and_the_others_count(spark, make_folds):
    seen = []
    folds = make_folds(FailsForDeepTrees)
    best = run_spark_search(
        spark, folds, 6, None, seed=0, on_trial=lambda *trial: seen.append(trial)
    )
    failed = [params for params, metrics in seen if "failed" in metrics]
    assert failed and all(params["max_depth"] > 5 for params in failed)
    assert len(seen) == 6 and best.params["max_depth"] <= 5


def test_a_search_without_a_success_raises_the_first_error(spark, make_folds):
    with pytest.raises(SearchFailed, match="(?s)no trial succeeded.*no memory"):
        run_spark_search(spark, make_folds(Fails), 2, None, seed=1)


def test_a_local_master_retries_a_task_like_a_cluster():
    assert with_attempts("local[*]") == "local[*,4]"
    assert with_attempts("local") == "local[1,4]"
    assert with_attempts("local[2,1]") == "local[2,1]"
    assert with_attempts("spark://host:7077") == "spark://host:7077"
