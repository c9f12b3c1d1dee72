"""The hyperopt search over the SMOTE and XGBoost parameters, on stratified folds.

Comes after the split, before the refit. Rows are resampled inside the training folds only; what
a fold's validation part scores is what a choice is made on. What makes it quick: rows are encoded
once, each (fold, ratio, neighbours) is resampled and binned once, folds run side by side, and a
setting that two folds show to be hopeless is given up.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xgboost
from hyperopt import STATUS_OK, fmin, hp, tpe
from hyperopt.fmin import generate_trials_to_calculate
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from config.contract import Contract
from training.model.calibration import Platt, fit_platt
from training.model.pipeline import Params, booster_params, make_encoder, make_sampler

OnTrial = Callable[[Params, dict[str, float]], None]

MAX_TREES = 1500
PATIENCE = 20  # rounds without a better validation loss before a fit stops
SCREENING_FOLDS = 2

# When a setting is given up: so much log loss behind the best one, on its first folds together and
# on any of them alone. Two folds rank settings nearly as five do.
HOPELESS, HOPELESS_FOLD = 0.0002, 0.0007
# How early a fold tells: from this many trees on, times the learning rate; and what it may still
# gain, as a share of what the second half of its trees so far has gained.
TELLING_TREES, STILL_TO_GAIN = 8.0, 0.5

# Ratios begin just above the census' own, 0.317: every further step costs
# (`make bench NAME=ablation`).
SPACE = {
    "smote_ratio": hp.choice("smote_ratio", [0.33, 0.36]),
    "smote_neighbours": hp.choice("smote_neighbours", [3, 7]),
    "learning_rate": hp.loguniform("learning_rate", np.log(0.06), np.log(0.15)),
    "max_depth": hp.uniformint("max_depth", 5, 8),
    "min_child_weight": hp.loguniform("min_child_weight", np.log(0.1), np.log(2)),
    "subsample": hp.uniform("subsample", 0.7, 1.0),
    "colsample_bytree": hp.uniform("colsample_bytree", 0.1, 0.5),
    "reg_lambda": hp.loguniform("reg_lambda", np.log(0.3), np.log(3)),
    "gamma": hp.uniform("gamma", 0.0, 1.0),
}

# The first trial: what earlier searches came to, out of fold. Those after it are given up sooner.
START = {
    "smote_ratio": 0,  # of a choice, the place in its list
    "smote_neighbours": 1,
    "learning_rate": 0.085,
    "max_depth": 6,
    "min_child_weight": 0.7,
    "subsample": 0.98,
    "colsample_bytree": 0.23,
    "reg_lambda": 0.33,
    "gamma": 0.2,
}


class Binned(NamedTuple):
    """A fold as XGBoost holds it."""

    train: xgboost.QuantileDMatrix
    valid: xgboost.QuantileDMatrix
    shift: float  # how much SMOTE raised the log-odds of the positive class


class Fit(NamedTuple):
    """One fold's trees, and the log loss of its validation rows after each of them."""

    fold: int
    booster: xgboost.Booster
    losses: np.ndarray


class GiveUp(xgboost.callback.TrainingCallback):
    """Stops a fit that is not on the way to a validation log loss of `limit`."""

    def __init__(self, limit: float, learning_rate: float) -> None:
        super().__init__()
        self.limit = limit
        self.first = math.ceil(TELLING_TREES / learning_rate)

    def after_iteration(
        self, model: Any, epoch: int, evals_log: xgboost.callback.TrainingCallback.EvalsLog
    ) -> bool:
        """Whether to stop after this tree, by what the trees before it have gained."""
        losses: Any = evals_log["valid"]["logloss"]
        to_come = STILL_TO_GAIN * (losses[epoch // 2] - losses[epoch])
        return epoch >= self.first and losses[epoch] - to_come > self.limit


@dataclass(frozen=True)
class Trial:
    """One setting, scored out of fold over the whole training split."""

    params: Params  # with n_estimators, the same for every fold
    platt: Platt
    probability: np.ndarray  # (n_samples,) calibrated, out of fold, in row order
    metrics: dict[str, float]


class ToBeat(NamedTuple):
    """What the best trial so far reached, which the next ones are held against."""

    fold_losses: tuple[float, ...]
    log_loss: float


class Outcome(NamedTuple):
    """What became of one setting of a search."""

    params: Params
    metrics: dict[str, float]  # with `pruned` where the first folds were enough
    loss: float  # for the search; of a pruned setting, as far as it was followed
    fold_losses: tuple[float, ...]  # of its first folds, likewise
    trial: Trial | None  # None if it was pruned


@dataclass
class Folds:
    """The encoded training split, its folds and what has been resampled and binned so far."""

    X: np.ndarray  # (n_samples, n_encoded) float32
    y: np.ndarray  # (n_samples,) 0 or 1
    n_folds: int
    seed: int
    threads: int | None = None  # folds that are fitted side by side; None: one for each core
    _binned: dict = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, frame: pd.DataFrame, contract: Contract, n_folds: int, seed: int) -> "Folds":
        """The folds of a checked frame with its target."""
        X = make_encoder(contract).fit_transform(frame[list(contract.input_names)])
        y = frame[contract.target.name].to_numpy()
        return cls(X.astype(np.float32), y, n_folds, seed)

    def __post_init__(self) -> None:
        splitter = StratifiedKFold(self.n_folds, shuffle=True, random_state=self.seed)
        self.indices = list(splitter.split(self.X, self.y))

    def resampled(self, fold: int, params: Params) -> tuple[np.ndarray, np.ndarray]:
        """The training part of a fold after SMOTE."""
        train, _ = self.indices[fold]
        return make_sampler(params, self.seed).fit_resample(self.X[train], self.y[train])

    def binned(self, fold: int, params: Params) -> Binned:
        """A fold, resampled and binned, made once for each of SMOTE's settings.

        The validation rows start from the log-odds that SMOTE has not raised, so that their loss
        says when to stop whatever the ratio.
        """
        key = (fold, params["smote_ratio"], params["smote_neighbours"])
        if key not in self._binned:
            train, valid = self.indices[fold]
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
        """One model a fold; a fit that cannot come near its fold's limit of log loss stops early.

        Folds run side by side with one thread each: that uses the cores better than many
        threads on one small fit, which wait for each other most of the time.
        """
        with ThreadPoolExecutor(self.threads or os.cpu_count()) as pool:
            return list(pool.map(self._fit, folds, repeat(params), limits or repeat(math.inf)))

    def _fit(self, fold: int, params: Params, limit: float) -> Fit:
        binned = self.binned(fold, params)
        seen: dict[str, dict[str, list[float]]] = {}
        booster = xgboost.train(
            booster_params(params, self.seed, threads=1) | {"eval_metric": "logloss"},
            binned.train,
            MAX_TREES,
            evals=[(binned.valid, "valid")],
            early_stopping_rounds=PATIENCE,
            evals_result=seen,
            verbose_eval=False,
            callbacks=[GiveUp(limit, params["learning_rate"])],
        )
        return Fit(fold, booster, np.array(seen["valid"]["logloss"]))

    def trial(self, params: Params, fits: Sequence[Fit]) -> Trial:
        """The setting scored out of fold, from a fit of every fold.

        The number of trees is the one that is best over all folds together: were it each
        fold's own, a fold's rows would have chosen how they are scored.
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
        """The setting on every fold."""
        return self.trial(params, self.fit(range(self.n_folds), params))


def log_odds(y: np.ndarray) -> float:
    """The log-odds of the positive class (n_samples,)."""
    return float(np.log(y.sum() / (len(y) - y.sum())))


def mean_losses(fits: Sequence[Fit]) -> np.ndarray:
    """The mean loss over folds after each tree that all of them have."""
    shortest = min(len(fit.losses) for fit in fits)
    return np.mean([fit.losses[:shortest] for fit in fits], axis=0)


def best_trees(fits: Sequence[Fit]) -> int:
    """The number of trees with the least mean loss."""
    return int(mean_losses(fits).argmin()) + 1


def evaluate(folds: Folds, point: Params, to_beat: ToBeat | None) -> Outcome:
    """A setting on its first folds, and on the others unless these show it to be hopeless."""
    screening = range(min(SCREENING_FOLDS, folds.n_folds))
    limits = [loss + HOPELESS_FOLD for loss in to_beat.fold_losses] if to_beat else None
    fits = folds.fit(screening, point, limits)
    losses = tuple(float(fit.losses.min()) for fit in fits)
    metrics = {"screening_log_loss": float(np.mean(losses))}
    if to_beat:
        behind = float(np.mean(losses) - np.mean(to_beat.fold_losses))
        if behind > HOPELESS:
            metrics["pruned"] = 1.0
            return Outcome(point, metrics, to_beat.log_loss + behind, losses, None)
    trial = folds.trial(point, fits + folds.fit(range(len(screening), folds.n_folds), point))
    return Outcome(
        trial.params, trial.metrics | metrics, trial.metrics["cv_log_loss"], losses, trial
    )


def suggest(new_ids: list[int], domain: Any, trials: Any, seed: int) -> list[Any]:
    """`START`, then what TPE proposes: an algorithm as hyperopt's `fmin` takes it.

    Source: Bergstra et al. (2011), Algorithms for hyper-parameter optimization, NeurIPS 24.
    """
    if new_ids == [0]:
        first = generate_trials_to_calculate([START])
        first.refresh()
        return list(first.trials)
    return list(tpe.suggest(new_ids, domain, trials, seed))


def run_search(
    folds: Folds,
    max_evals: int,
    timeout_s: float | None,
    seed: int,
    on_trial: OnTrial = lambda params, metrics: None,
) -> Trial:
    """The trial with the least calibrated log loss of a TPE search, on this machine.

    `on_trial` sees each setting as it ends. At least one trial runs, whatever `timeout_s` says.
    """
    deadline = deadline_in(timeout_s)
    best: list[Outcome] = []

    def objective(point: Params) -> dict[str, object]:
        to_beat = ToBeat(best[0].fold_losses, best[0].loss) if best else None
        outcome = evaluate(folds, point, to_beat)
        on_trial(outcome.params, outcome.metrics)
        if outcome.trial and (not to_beat or outcome.loss < to_beat.log_loss):
            best[:] = [outcome]  # only the best one's rows are kept
        return {"loss": outcome.loss, "status": STATUS_OK}

    fmin(
        objective,
        SPACE,
        algo=suggest,
        max_evals=max_evals,
        early_stop_fn=lambda _: (time.monotonic() > deadline, []),  # asked after each trial
        return_argmin=False,
        rstate=np.random.default_rng(seed),
    )
    assert best[0].trial is not None
    return best[0].trial


def deadline_in(timeout_s: float | None) -> float:
    """When, on the monotonic clock, no further trial is started."""
    return time.monotonic() + (math.inf if timeout_s is None else timeout_s)
