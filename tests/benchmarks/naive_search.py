"""A usual search, for comparison: hyperopt over cross_val_score.

Every evaluation encodes, resamples and fits the whole imblearn pipeline in each fold, one fold
after the other. It logs each parameter and metric to MLflow in a call of its own. Space, first
trial and data are those of `training.model.search`; the number of trees is an additional parameter.
"""

import time
from pathlib import Path

import mlflow
import numpy as np
from hyperopt import fmin, hp
from sklearn.model_selection import StratifiedKFold, cross_val_score

from config.contract import Contract
from training.data.dataset import Dataset
from training.model.pipeline import Params, make_pipeline
from training.model.search import starting_at
from training.model.search_space import SearchSpace

N_FOLDS = 5
N_TREES = 300  # of the first trial: about as many as the search finds for it


def naive_search(
    census: Dataset, contract: Contract, space: SearchSpace, max_evals: int, folder: Path
) -> float:
    """Run the search and return its seconds; MLflow stores its runs in `folder`."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/naive.db")
    mlflow.set_experiment("naive")
    X = census.train[list(contract.input_names)]
    y = census.train[contract.target.name].to_numpy()
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)

    def objective(params: Params) -> float:
        with mlflow.start_run():
            pipeline = make_pipeline(contract, params, seed=0)
            losses = -cross_val_score(pipeline, X, y, cv=folds, scoring="neg_log_loss")
            for name, value in params.items():
                mlflow.log_param(name, value)
            mlflow.log_metric("log_loss", float(losses.mean()))
        return float(losses.mean())

    expressions = space.expressions()
    expressions["n_estimators"] = hp.uniformint("n_estimators", 200, 1000)
    first = space.first_point()
    algo = starting_at(first and first | {"n_estimators": N_TREES})
    started = time.monotonic()
    random = np.random.default_rng(0)
    fmin(objective, expressions, algo=algo, max_evals=max_evals, rstate=random)
    return time.monotonic() - started
