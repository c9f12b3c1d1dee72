"""The search of `model.search` with its trials on Spark's executors, by hyperopt's SparkTrials.

Trials run in parallel, each on one core of an executor, which caches its binned folds. Each new
trial gets the losses of the best one, so poor settings are pruned here too.
"""

import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import structlog
from hyperopt import STATUS_OK, SparkTrials, fmin, space_eval

from training.model.pipeline import Params
from training.model.search import (
    Best,
    Folds,
    OnTrial,
    Trial,
    deadline_in,
    evaluate,
    starting_at,
)
from training.model.search_space import SearchSpace

log = structlog.get_logger(__name__)


class SearchFailed(Exception):
    """No trial succeeded; the message has the reason of the first one."""


class Objective:
    """Loss of a setting, on an executor. It is pickled for each trial, with the best losses."""

    def __init__(self, folds: Any) -> None:
        self.folds = folds  # Spark's broadcast of `Folds`: one copy per worker process
        self.best: Best | None = None

    def __call__(self, point: Params) -> dict[str, object]:
        outcome = evaluate(self.folds.value, point, self.best)
        return {
            "loss": outcome.loss,
            "status": STATUS_OK,
            "point": point,
            "params": outcome.params,
            "metrics": outcome.metrics,
            "fold_losses": outcome.fold_losses,
        }


def run_spark_search(
    spark: Any,
    folds: Folds,
    max_evals: int,
    timeout_s: float | None,
    *,
    seed: int,
    space: SearchSpace = SearchSpace(),
    on_trial: OnTrial = lambda params, metrics: None,
) -> Trial:
    """Return the trial with the minimum calibrated log loss, as `run_search`; spark: a session.

    A trial that still fails after Spark's retries gets the metric `failed`. Raises SearchFailed if
    no trial succeeds.
    """
    deadline, expressions = deadline_in(timeout_s), space.expressions()
    context = spark.sparkContext
    objective = Objective(context.broadcast(replace(folds, threads=1)))

    # Runs in hyperopt's dispatcher thread, where an exception would stop the search silently.
    def after_each(trials: SparkTrials) -> tuple[bool, list[object]]:
        if best := best_result(results(trials)):
            objective.best = Best(best["fold_losses"], best["loss"])
        return time.monotonic() > deadline, []

    trials = SparkTrials(parallelism=context.defaultParallelism, spark_session=spark)
    with warnings.catch_warnings():
        # hyperopt passes no session to Spark's threads.
        warnings.filterwarnings("ignore", "Spark session is not provided")
        fmin(
            objective,
            expressions,
            algo=starting_at(space.first_point()),
            max_evals=max_evals,
            trials=trials,
            early_stop_fn=after_each,
            return_argmin=False,
            rstate=np.random.default_rng(seed),
        )
    report(trials, expressions, on_trial)
    if best := best_result(results(trials)):
        return folds.score(best["point"])
    failed = [one["misc"]["error"][1] for one in all_trials(trials) if "error" in one["misc"]]
    raise SearchFailed(f"search: no trial succeeded; the first error: {failed[0]}")


def results(trials: SparkTrials) -> list[dict[str, Any]]:
    """Return the results of the successful trials."""
    return [one for one in trials.results if one.get("status") == STATUS_OK]


def best_result(done: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the best result that was not pruned."""
    whole = [one for one in done if "pruned" not in one["metrics"]]
    return min(whole, key=lambda one: one["loss"], default=None)


def all_trials(trials: SparkTrials) -> list[dict[str, Any]]:
    """Return all trials; `trials.trials` hides the failed ones."""
    return trials._dynamic_trials  # pylint: disable=protected-access


def report(trials: SparkTrials, expressions: dict[str, Any], on_trial: OnTrial) -> None:
    """Report every trial in the order of its number."""
    for one in all_trials(trials):
        if one["result"].get("status") == STATUS_OK:
            on_trial(one["result"]["params"], one["result"]["metrics"])
        elif "error" in one["misc"]:
            values = {name: found[0] for name, found in one["misc"]["vals"].items() if found}
            on_trial(space_eval(expressions, values), {"failed": 1.0})
            log.warning("trial_failed", number=one["tid"], error=one["misc"]["error"][1])
