"""The same search with its trials on Spark's executors: hyperopt's SparkTrials.

Trials run side by side, each on one core of an executor, which keeps the folds that it has binned
from one trial to the next. What the best trial reached is sent along with each new one, so that
hopeless settings are given up here too.
"""

import logging
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from hyperopt import STATUS_OK, SparkTrials, fmin, space_eval

from training.model.pipeline import Params
from training.model.search import (
    SPACE,
    Folds,
    OnTrial,
    ToBeat,
    Trial,
    deadline_in,
    evaluate,
    suggest,
)

log = logging.getLogger(__name__)


class SearchFailed(Exception):
    """No trial succeeded; the message has the first one's reason."""


class Objective:
    """A setting's loss, on an executor; sent anew, with what it has to beat, for each trial."""

    def __init__(self, folds: Any) -> None:
        self.folds = folds  # Spark's broadcast of `Folds`: one copy in each worker process
        self.to_beat: ToBeat | None = None

    def __call__(self, point: Params) -> dict[str, object]:
        outcome = evaluate(self.folds.value, point, self.to_beat)
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
    on_trial: OnTrial = lambda params, metrics: None,
) -> Trial:
    """The trial with the least calibrated log loss, as `run_search` has it; spark: a session.

    A trial that fails, after Spark has tried it again, is reported to `on_trial` with the metric
    `failed` and costs the search nothing else. Raises SearchFailed if none succeeded.
    """
    deadline = deadline_in(timeout_s)
    context = spark.sparkContext
    objective = Objective(context.broadcast(replace(folds, threads=1)))

    # In hyperopt's dispatcher thread, where an exception would stop the search without a word.
    def after_each(trials: SparkTrials) -> tuple[bool, list[object]]:
        if best := best_result(results(trials)):
            objective.to_beat = ToBeat(best["fold_losses"], best["loss"])
        return time.monotonic() > deadline, []

    trials = SparkTrials(parallelism=context.defaultParallelism, spark_session=spark)
    with warnings.catch_warnings():
        # hyperopt names no session to Spark's threads, from which they would take tags.
        warnings.filterwarnings("ignore", "Spark session is not provided")
        fmin(
            objective,
            SPACE,
            algo=suggest,
            max_evals=max_evals,
            trials=trials,
            early_stop_fn=after_each,
            return_argmin=False,
            rstate=np.random.default_rng(seed),
        )
    report(trials, on_trial)
    if best := best_result(results(trials)):
        return folds.score(best["point"])
    failed = [one["misc"]["error"][1] for one in every(trials) if "error" in one["misc"]]
    raise SearchFailed(f"no trial succeeded, the first one for: {failed[0]}")


def results(trials: SparkTrials) -> list[dict[str, Any]]:
    """What the trials that are done returned."""
    return [one for one in trials.results if one.get("status") == STATUS_OK]


def best_result(done: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The best of those that were followed to the end."""
    whole = [one for one in done if "pruned" not in one["metrics"]]
    return min(whole, key=lambda one: one["loss"], default=None)


def every(trials: SparkTrials) -> list[dict[str, Any]]:
    """All trials; those that failed are hidden by `trials.trials`."""
    return trials._dynamic_trials  # pylint: disable=protected-access


def report(trials: SparkTrials, on_trial: OnTrial) -> None:
    """Every trial that ended, in the order in which they were asked for."""
    for one in every(trials):
        if one["result"].get("status") == STATUS_OK:
            on_trial(one["result"]["params"], one["result"]["metrics"])
        elif "error" in one["misc"]:
            values = {name: found[0] for name, found in one["misc"]["vals"].items() if found}
            on_trial(space_eval(SPACE, values), {"failed": 1.0})
            log.warning("trial failed number=%d error=%s", one["tid"], one["misc"]["error"][1])
