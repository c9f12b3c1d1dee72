"""The hyperopt search over the SMOTE and XGBoost parameters, on stratified folds.

The split comes before it, the refit after it. Only training parts of folds are resampled; the
validation parts score each setting. The search is fast for four reasons. Rows are encoded once.
Each (fold, ratio, neighbours) is resampled and binned once. Folds run in parallel. A setting that
two folds show to be poor is pruned.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xgboost
from hyperopt import STATUS_OK, fmin, tpe
from hyperopt.fmin import generate_trials_to_calculate
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from config.contract import Contract
from training.model.calibration import Platt, fit_platt
from training.model.pipeline import (
    Params,
    booster_params,
    make_encoder,
    make_sampler,
    synthetic_rows,
)
from training.model.search_space import SearchSpace

OnTrial = Callable[[Params, dict[str, float]], None]

MAX_TREES = 1500
PATIENCE = 20  # rounds without a better validation loss; then a fit stops
SCREENING_FOLDS = 2
STARTUP_TRIALS = 8  # drawn at random before TPE; hyperopt's 20 are all of a default search


class Pruning(NamedTuple):
    """When a setting is given up. Two folds rank settings nearly as five do.

    Chance moves a mean loss by the inverse root of the number of rows, so the margins are divided
    by that root. With 32,561 rows they are 0.0002 and 0.0007.
    """

    margin: float = 0.036  # log loss behind the best setting, mean of the first folds, by the root
    margin_fold: float = 0.126  # the same on one fold
    min_trees: float = 8.0  # of a fit, times the learning rate
    expected_gain: float = 0.5  # further gain, as a share of that of the last half of the trees


class Binned(NamedTuple):
    """A fold as XGBoost's binned matrices."""

    train: xgboost.QuantileDMatrix
    valid: xgboost.QuantileDMatrix
    shift: float  # log-odds of the positive class that SMOTE added


class Fit(NamedTuple):
    """The trees of one fold, and the validation log loss after each tree."""

    fold: int
    booster: xgboost.Booster
    losses: np.ndarray


class Prune(xgboost.callback.TrainingCallback):
    """Stop a fit that is not expected to reach a validation log loss of `limit`."""

    def __init__(self, limit: float, learning_rate: float, pruning: Pruning) -> None:
        super().__init__()
        self.limit = limit
        self.first = math.ceil(pruning.min_trees / learning_rate)
        self.expected_gain = pruning.expected_gain

    def after_iteration(
        self, model: Any, epoch: int, evals_log: xgboost.callback.TrainingCallback.EvalsLog
    ) -> bool:
        """Return True to stop after this tree."""
        losses: Any = evals_log["valid"]["logloss"]
        further = self.expected_gain * (losses[epoch // 2] - losses[epoch])
        return epoch >= self.first and losses[epoch] - further > self.limit


@dataclass(frozen=True)
class Trial:
    """One setting, scored out of fold on the whole training split."""

    params: Params  # with n_estimators, the same for every fold
    platt: Platt
    probability: np.ndarray  # (n_samples,) calibrated, out of fold, in row order
    metrics: dict[str, float]

    def recalibrated(self, y: np.ndarray, rows: np.ndarray) -> "Trial":
        """Return the trial with its calibration fitted again on some of the rows.

        y: labels (n_samples,). rows: mask (n_samples,).
        """
        again = fit_platt(self.probability[rows], y[rows])
        return replace(self, platt=self.platt.then(again), probability=again(self.probability))


class Best(NamedTuple):
    """The losses of the best trial so far, which prune later ones."""

    fold_losses: tuple[float, ...]
    log_loss: float


class Outcome(NamedTuple):
    """Result of one setting of a search."""

    params: Params
    metrics: dict[str, float]  # with `pruned` if the first folds decided
    loss: float  # for the search; an estimate for a pruned setting
    fold_losses: tuple[float, ...]  # of its first folds
    trial: Trial | None  # None if pruned


@dataclass
class Folds:
    """The encoded training split, its folds, and the cache of resampled and binned folds."""

    X: np.ndarray  # (n_samples, n_encoded) float32
    y: np.ndarray  # (n_samples,) 0 or 1
    n_folds: int
    seed: int
    threads: int | None = None  # folds fitted in parallel; None: one per core
    max_trees: int = MAX_TREES
    pruning: Pruning = Pruning()
    _binned: dict = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, frame: pd.DataFrame, contract: Contract, n_folds: int, seed: int) -> "Folds":
        """Return the folds of a checked frame with its target."""
        X = make_encoder(contract).fit_transform(frame[list(contract.input_names)])
        y = frame[contract.target.name].to_numpy()
        return cls(X.astype(np.float32), y, n_folds, seed)

    def __post_init__(self) -> None:
        splitter = StratifiedKFold(self.n_folds, shuffle=True, random_state=self.seed)
        self.indices = list(splitter.split(self.X, self.y))

    @property
    def margins(self) -> tuple[float, float]:
        """The margins of pruning in log loss: of the mean of the first folds, and of one fold."""
        root = math.sqrt(len(self.y))
        return self.pruning.margin / root, self.pruning.margin_fold / root

    def resampled(self, fold: int, params: Params) -> tuple[np.ndarray, np.ndarray]:
        """Return the training part of a fold after SMOTE."""
        train, _ = self.indices[fold]
        return make_sampler(params, self.seed).fit_resample(self.X[train], self.y[train])

    def binned(self, fold: int, params: Params) -> Binned:
        """Return a fold, resampled and binned; cached per setting of SMOTE.

        The validation rows start from log-odds without SMOTE's shift, so their loss shows when to
        stop for any number of synthetic rows.
        """
        train, valid = self.indices[fold]
        n_made = synthetic_rows(self.y[train], params["smote_multiplier"])
        key = (fold, n_made, params["smote_neighbours"] if n_made else 0)
        if key not in self._binned:
            X_train, y_train = self.resampled(fold, params)
            shift = log_odds(y_train) - log_odds(self.y[train])
            ours = xgboost.QuantileDMatrix(X_train, y_train, nthread=1)
            theirs = xgboost.QuantileDMatrix(self.X[valid], self.y[valid], ref=ours, nthread=1)
            theirs.set_base_margin(np.full(len(valid), -shift))
            self._binned[key] = Binned(ours, theirs, shift)
        return self._binned[key]

    def fit(
        self, folds: Sequence[int], params: Params, limits: Sequence[float] | None = None
    ) -> list[Fit]:
        """Fit one model per fold; prune a fit that is not expected to reach its fold's limit.

        Each fold has one thread: many threads on one small fit mostly wait for each other.
        """
        with ThreadPoolExecutor(self.threads or os.cpu_count()) as pool:
            return list(pool.map(self._fit, folds, repeat(params), limits or repeat(math.inf)))

    def _fit(self, fold: int, params: Params, limit: float) -> Fit:
        binned = self.binned(fold, params)
        seen: dict[str, dict[str, list[float]]] = {}
        booster = xgboost.train(
            booster_params(params, self.seed, threads=1) | {"eval_metric": "logloss"},
            binned.train,
            self.max_trees,
            evals=[(binned.valid, "valid")],
            early_stopping_rounds=PATIENCE,
            evals_result=seen,
            verbose_eval=False,
            callbacks=[Prune(limit, params["learning_rate"], self.pruning)],
        )
        return Fit(fold, booster, np.array(seen["valid"]["logloss"]))

    def trial(self, params: Params, fits: Sequence[Fit]) -> Trial:
        """Return the setting scored out of fold, from a fit of every fold.

        All folds get the number of trees that is best over all of them. With a number per fold, a
        fold's validation rows would influence their own score.
        """
        trees = best_trees(fits)
        raw = np.empty(len(self.y))
        for fold, booster, _ in fits:
            binned = self.binned(fold, params)
            margin = booster.predict(binned.valid, output_margin=True, iteration_range=(0, trees))
            raw[self.indices[fold][1]] = expit(margin + binned.shift)
        platt = fit_platt(raw, self.y)
        probability = platt(raw)
        metrics = {
            "cv_log_loss": float(log_loss(self.y, probability)),
            "cv_roc_auc": float(roc_auc_score(self.y, probability)),
        }
        chosen = params | {"n_estimators": trees}
        return Trial(chosen, platt, probability, metrics)

    def score(self, params: Params) -> Trial:
        """Return the setting fitted and scored on every fold."""
        return self.trial(params, self.fit(range(self.n_folds), params))


def log_odds(y: np.ndarray) -> float:
    """Return the log-odds of the positive class in labels (n_samples,)."""
    return float(np.log(y.sum() / (len(y) - y.sum())))


def best_trees(fits: Sequence[Fit]) -> int:
    """Return the number of trees, of those that all folds have, with the minimum mean loss."""
    shortest = min(len(fit.losses) for fit in fits)
    return int(np.mean([fit.losses[:shortest] for fit in fits], axis=0).argmin()) + 1


def evaluate(folds: Folds, point: Params, best: Best | None) -> Outcome:
    """Score a setting on its first folds, and on the others unless it is pruned."""
    screening = range(min(SCREENING_FOLDS, folds.n_folds))
    margin, margin_fold = folds.margins
    limits = [loss + margin_fold for loss in best.fold_losses] if best else None
    fits = folds.fit(screening, point, limits)
    losses = tuple(float(fit.losses.min()) for fit in fits)
    metrics = {"screening_log_loss": float(np.mean(losses))}
    if best:
        behind = float(np.mean(losses) - np.mean(best.fold_losses))
        if behind > margin:
            metrics["pruned"] = 1.0
            return Outcome(point, metrics, best.log_loss + behind, losses, None)
    trial = folds.trial(point, fits + folds.fit(range(len(screening), folds.n_folds), point))
    return Outcome(
        trial.params, trial.metrics | metrics, trial.metrics["cv_log_loss"], losses, trial
    )


def starting_at(point: dict[str, float] | None) -> Callable[..., list[Any]]:
    """Return an algorithm for hyperopt's `fmin`: a first trial, if given, then TPE's.

    Source: Bergstra et al. (2011), Algorithms for hyper-parameter optimization, NeurIPS 24.
    """

    def suggest(new_ids: list[int], domain: Any, trials: Any, seed: int) -> list[Any]:
        if new_ids == [0] and point is not None:
            first = generate_trials_to_calculate([point])
            first.refresh()
            return list(first.trials)
        return list(tpe.suggest(new_ids, domain, trials, seed, n_startup_jobs=STARTUP_TRIALS))

    return suggest


def run_search(
    folds: Folds,
    max_evals: int,
    timeout_s: float | None,
    *,
    seed: int,
    space: SearchSpace = SearchSpace(),
    on_trial: OnTrial = lambda params, metrics: None,
) -> Trial:
    """Return the trial with the minimum calibrated log loss of a TPE search on this machine.

    `on_trial` is called after each trial. At least one trial runs, even with `timeout_s` 0.
    """
    deadline = deadline_in(timeout_s)
    found: list[Outcome] = []  # the best one; only its rows stay in memory

    def objective(point: Params) -> dict[str, object]:
        best = Best(found[0].fold_losses, found[0].loss) if found else None
        outcome = evaluate(folds, point, best)
        on_trial(outcome.params, outcome.metrics)
        if outcome.trial and (not best or outcome.loss < best.log_loss):
            found[:] = [outcome]
        return {"loss": outcome.loss, "status": STATUS_OK}

    fmin(
        objective,
        space.expressions(),
        algo=starting_at(space.first_point()),
        max_evals=max_evals,
        early_stop_fn=lambda _: (time.monotonic() > deadline, []),  # called after each trial
        return_argmin=False,
        rstate=np.random.default_rng(seed),
    )
    assert found[0].trial is not None
    return found[0].trial


def count_trials(trials: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how many trials ran, how many were scored on every fold, and the best one's number.

    trials: the metrics of each, in order.
    """
    losses = {
        number: metrics["cv_log_loss"]
        for number, metrics in enumerate(trials, start=1)
        if "cv_log_loss" in metrics
    }
    return {
        "trials": len(trials),
        "trials_scored": len(losses),
        "best_trial": min(losses, key=losses.__getitem__),
    }


def deadline_in(timeout_s: float | None) -> float:
    """Return the time on the monotonic clock after which no trial starts."""
    return time.monotonic() + (math.inf if timeout_s is None else timeout_s)
