"""The hyperopt search over the SMOTE and XGBoost parameters, on stratified folds.

Comes after the split, before the refit. Rows are resampled inside the training folds only; what
a fold's validation part scores is what a choice is made on. SMOTE's ratio and neighbours are a
small grid, so each (fold, ratio, neighbours) is resampled once and kept.
"""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from hyperopt import STATUS_OK, fmin, hp, tpe
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from training.calibration import Platt, fit_platt
from training.pipeline import Params, make_classifier, make_sampler

MAX_TREES = 1500
PATIENCE = 30  # rounds without a better validation loss before a fit stops

SPACE = {
    "smote_ratio": hp.choice("smote_ratio", [0.35, 0.5, 0.75]),
    "smote_neighbours": hp.choice("smote_neighbours", [3, 7]),
    "learning_rate": hp.loguniform("learning_rate", np.log(0.05), np.log(0.2)),
    "max_depth": hp.uniformint("max_depth", 3, 8),
    "min_child_weight": hp.loguniform("min_child_weight", np.log(0.5), np.log(20)),
    "subsample": hp.uniform("subsample", 0.6, 1.0),
    "colsample_bytree": hp.uniform("colsample_bytree", 0.3, 1.0),
    "reg_lambda": hp.loguniform("reg_lambda", np.log(0.1), np.log(20)),
    "gamma": hp.uniform("gamma", 0.0, 2.0),
}


@dataclass(frozen=True)
class Trial:
    """One setting, scored out of fold over the whole training split."""

    params: Params  # with n_estimators, the mean over the folds
    platt: Platt
    probability: np.ndarray  # (n_samples,) calibrated, out of fold, in row order
    metrics: dict[str, float]


@dataclass
class Folds:
    """The encoded training split, its folds and what has been resampled so far."""

    X: np.ndarray  # (n_samples, n_encoded) float32
    y: np.ndarray  # (n_samples,) 0 or 1
    n_folds: int
    seed: int
    _resampled: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        splitter = StratifiedKFold(self.n_folds, shuffle=True, random_state=self.seed)
        self.indices = list(splitter.split(self.X, self.y))

    def resampled(self, fold: int, params: Params) -> tuple[np.ndarray, np.ndarray]:
        """The training part of a fold after SMOTE."""
        key = (fold, params["smote_ratio"], params["smote_neighbours"])
        if key not in self._resampled:
            train, _ = self.indices[fold]
            sampler = make_sampler(params, self.seed)
            self._resampled[key] = sampler.fit_resample(self.X[train], self.y[train])
        return self._resampled[key]

    def score(self, params: Params) -> Trial:
        """Fits one model a fold, with early stopping, and scores every row out of fold.

        Folds run side by side with one thread each: that uses the cores better than many
        threads on one small fit, which wait for each other most of the time.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            fits = list(pool.map(lambda fold: self._fit(fold, params), range(self.n_folds)))
        raw = np.empty(len(self.y), dtype=np.float32)
        for (_, valid), (scores, _) in zip(self.indices, fits, strict=True):
            raw[valid] = scores
        trees = [count for _, count in fits]
        platt = fit_platt(raw, self.y)
        probability = platt(raw)
        metrics = {
            "cv_log_loss": float(log_loss(self.y, probability)),
            "cv_roc_auc": float(roc_auc_score(self.y, probability)),
        }
        chosen = params | {"n_estimators": round(float(np.mean(trees)))}
        return Trial(chosen, platt, probability, metrics)

    def _fit(self, fold: int, params: Params) -> tuple[np.ndarray, int]:
        """The scores of a fold's validation rows, and how many trees were best for them."""
        X_train, y_train = self.resampled(fold, params)
        stopping = {"n_estimators": MAX_TREES, "early_stopping_rounds": PATIENCE}
        classifier = make_classifier(params | stopping, self.seed, threads=1)
        valid = self.indices[fold][1]
        X_valid, y_valid = self.X[valid], self.y[valid]
        classifier.fit(X_train, y_train, eval_set=[(X_valid, y_valid)], verbose=False)
        return classifier.predict_proba(X_valid)[:, 1], classifier.best_iteration + 1


def run_search(
    folds: Folds,
    max_evals: int,
    timeout_s: float | None,
    seed: int,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Trial:
    """The trial with the least calibrated log loss of a TPE search.

    `on_trial` sees each trial as it ends. At least one trial runs, whatever `timeout_s` says.
    Source: Bergstra et al. (2011), Algorithms for hyper-parameter optimization, NeurIPS 24.
    """
    deadline = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
    best: list[Trial] = []

    def objective(point: Params) -> dict[str, object]:
        trial = folds.score(point)
        on_trial(trial)
        loss = trial.metrics["cv_log_loss"]
        if not best or loss < best[0].metrics["cv_log_loss"]:
            best[:] = [trial]  # only the best one's rows are kept
        return {"loss": loss, "status": STATUS_OK}

    fmin(
        objective,
        SPACE,
        algo=tpe.suggest,
        max_evals=max_evals,
        early_stop_fn=lambda _: (time.monotonic() > deadline, []),  # asked after each trial
        return_argmin=False,
        rstate=np.random.default_rng(seed),
    )
    return best[0]
