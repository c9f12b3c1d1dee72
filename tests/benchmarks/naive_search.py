"""A usual search, for comparison: hyperopt over cross_val_score, and its best setting refitted.

Every evaluation encodes, resamples and fits the whole imblearn pipeline in each fold, one fold
after the other. It logs each parameter and metric to MLflow in a call of its own. Space, first
trial and data are those of `training.model.search`. The number of trees is an additional parameter;
its range is around what early stopping finds there.
"""

import time
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
from hyperopt import Trials, fmin, hp, space_eval
from imblearn.pipeline import Pipeline
from sklearn.model_selection import StratifiedKFold, cross_val_score

from config.contract import Contract
from training.data.dataset import Dataset
from training.evaluation.metrics import measure
from training.model.pipeline import Params, make_pipeline
from training.model.search import starting_at
from training.model.search_space import SearchSpace

N_FOLDS = 5
N_TREES = 300  # of the first trial: about as many as the search finds for it
TREES = (100, 500)


class Found(NamedTuple):
    """What the naive search took, and its best setting's quality."""

    seconds: float
    cv_log_loss: float
    log_loss: float  # of the test split, as is `roc_auc`
    roc_auc: float


def naive_search(
    census: Dataset, contract: Contract, space: SearchSpace, max_evals: int, folder: Path
) -> Found:
    """Run the search and refit its best setting; MLflow stores its runs in `folder`."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/naive.db")
    mlflow.set_experiment("naive")
    X = census.train[list(contract.input_names)]
    y = census.train[contract.target.name].to_numpy()

    def objective(params: Params) -> float:
        with mlflow.start_run():
            pipeline = make_pipeline(contract, params, seed=0)
            folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
            losses = -cross_val_score(pipeline, X, y, cv=folds, scoring="neg_log_loss")
            for name, value in params.items():
                mlflow.log_param(name, value)
            mlflow.log_metric("log_loss", float(losses.mean()))
        return float(losses.mean())

    expressions = space.expressions()
    expressions["n_estimators"] = hp.uniformint("n_estimators", *TREES)
    first = space.first_point()
    trials, started = Trials(), time.monotonic()
    point = fmin(
        objective,
        expressions,
        algo=starting_at(first and first | {"n_estimators": N_TREES}),
        max_evals=max_evals,
        trials=trials,
        rstate=np.random.default_rng(0),
    )
    best = make_pipeline(contract, space_eval(expressions, point), seed=0).fit(X, y)
    seconds = time.monotonic() - started
    return Found(seconds, min(trials.losses()), *quality(best, census.test, contract))


def quality(pipeline: Pipeline, test: pd.DataFrame, contract: Contract) -> tuple[float, float]:
    """Return log loss and ROC AUC of a pipeline on the test split."""
    probability = pipeline.predict_proba(test[list(contract.input_names)])[:, 1].astype(float)
    metrics = measure(test[contract.target.name].to_numpy(), probability, 0.5)
    return metrics["log_loss"], metrics["roc_auc"]
