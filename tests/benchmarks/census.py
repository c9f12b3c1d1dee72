"""The rows, the search space and the models of the training benchmarks."""

import sys

import pandas as pd
from sklearn.pipeline import Pipeline

from config.contract import CONTRACT_PATH, Contract
from config.runtime.settings import read_settings
from training.data.dataset import Dataset, load_dataset
from training.data.errors import SourceUnavailable
from training.data.synthetic import synthesize
from training.model.calibration import best_f1_threshold
from training.model.onnx_export import FittedModel
from training.model.pipeline import make_pipeline
from training.model.search import Trial
from training.model.search_space import SEARCH_FILE, SearchSpace, load_search
from training.settings import Settings


def read_census(contract: Contract) -> Dataset:
    """Return the real census, or synthetic rows with a warning if it is unavailable."""
    settings = read_settings(Settings)
    try:
        return load_dataset(contract, settings)
    except SourceUnavailable as err:
        print(f"{err}\nSYNTHETIC ROWS: the figures do not describe real people", file=sys.stderr)
        return synthesize(contract)


def read_space(contract: Contract, with_start: bool = True) -> SearchSpace:
    """Return the census's search space, with or without its first trial."""
    return load_search(CONTRACT_PATH.with_name(SEARCH_FILE), contract, with_start)


def fit_model(frame: pd.DataFrame, contract: Contract, best: Trial, seed: int) -> FittedModel:
    """Return a setting fitted on all rows, with its calibration and threshold out of fold."""
    y = frame[contract.target.name].to_numpy()
    pipeline = make_pipeline(contract, best.params, seed)
    steps = pipeline.fit(frame[list(contract.input_names)], y).named_steps
    trees = Pipeline([(name, steps[name]) for name in ("encoder", "classifier")])
    return FittedModel(trees, best.platt, best_f1_threshold(best.probability, y))
