"""Quality of the census's setting over seeds, and what the mean of several models would cost.

    make bench NAME=seeds

The test split cannot tell a model from its goal if the goal is within the interval of the metric.
The mean is that of the log-odds: one graph with the trees of all models and leaf values divided by
their number. Times are processor time of ONNX Runtime with one thread, the lowest of many rounds.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import xgboost
from onnxruntime import InferenceSession, SessionOptions
from sklearn.pipeline import Pipeline

from config.contract import Contract, load_contract
from tests.benchmarks.census import fit_model, read_census, read_space
from tests.benchmarks.report import result, write
from training.data.dataset import Dataset
from training.evaluation.metrics import bootstrap_intervals, measure
from training.model.onnx_export import FittedModel, as_tensors, to_graph
from training.model.search import Folds

SEEDS = range(5)
MEANS = (1, 3, 5)  # models in one graph
GOALS = {"roc_auc": 0.930, "log_loss": 0.271, "f1": 0.73}
HIGHER_IS_BETTER = ("roc_auc", "f1")
RESAMPLES = 200
ROUNDS = 30
REQUESTS = {"one row": (1, 50), "1,000 rows": (1000, 1)}  # rows, and calls in a round


def mean_booster(boosters: Sequence[xgboost.Booster]) -> xgboost.Booster:
    """Return one booster whose margin is the mean of all."""
    models = [json.loads(one.save_raw("json")) for one in boosters]
    parts = [one["learner"]["gradient_booster"]["model"] for one in models]
    trees = [tree for part in parts for tree in part["trees"]]
    for number, tree in enumerate(trees):
        tree["id"] = number
        tree["split_conditions"] = [
            value / len(models) if child == -1 else value
            for value, child in zip(tree["split_conditions"], tree["left_children"])
        ]
    parts[0]["gbtree_model_param"]["num_trees"] = str(len(trees))
    parts[0] |= {"trees": trees, "tree_info": [0] * len(trees)}
    parts[0]["iteration_indptr"] = list(range(len(trees) + 1))
    return xgboost.Booster(model_file=bytearray(json.dumps(models[0]).encode()))


def mean_model(models: Sequence[FittedModel]) -> FittedModel:
    """Return one model with the trees of all."""
    booster = mean_booster([one.encode_and_classify[-1].get_booster() for one in models])
    classifier = xgboost.XGBClassifier(n_estimators=booster.num_boosted_rounds())
    classifier.load_model(bytearray(booster.save_raw("ubj")))
    parts = [("encoder", models[0].encode_and_classify[0]), ("classifier", classifier)]
    return FittedModel(Pipeline(parts), models[0].platt, models[0].threshold)


def open_graph(model: onnx.ModelProto, path: Path) -> InferenceSession:
    """Store a graph, and return it opened with one thread."""
    onnx.save(model, path)
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return InferenceSession(str(path), options)


def quality(
    y: np.ndarray, probabilities: Sequence[np.ndarray], threshold: float
) -> Iterator[dict[str, Any]]:
    """Yield the mean and range of each metric over the seeds.

    A goal within the interval of the test split is neither met nor missed.
    """
    intervals = bootstrap_intervals(y, probabilities[0], threshold, RESAMPLES, seed=0)
    metrics = [measure(y, one, threshold) for one in probabilities]
    for name, goal in GOALS.items():
        values = [one[name] for one in metrics]
        mean, (low, high) = float(np.mean(values)), intervals[name]
        is_met: bool | None = mean >= goal if name in HIGHER_IS_BETTER else mean <= goal
        if not is_met and low <= goal <= high:
            is_met = None
        title = f"{name} of {len(values)} seeds, {min(values):.4f} to {max(values):.4f}"
        yield result(title, mean, "", f"{goal:g}", is_met)
        yield result(f"{name}, half of the interval of the test split", (high - low) / 2, "")


def times(
    graphs: dict[int, InferenceSession], feeds: dict[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Yield the processor time of each request, and its ratio to that of one model."""
    for name, (rows, calls) in REQUESTS.items():
        request = {column: values[:rows] for column, values in feeds.items()}
        lowest = dict.fromkeys(graphs, np.inf)
        for _ in range(ROUNDS):
            for k, graph in graphs.items():
                started = time.thread_time_ns()
                for _ in range(calls):
                    graph.run(["probability"], request)
                lowest[k] = min(lowest[k], (time.thread_time_ns() - started) / calls / 1e3)
        for k, value in lowest.items():
            yield result(f"mean of {k}: {name}", value, "us")
            if k > 1:
                yield result(f"mean of {k}: {name} / one model", value / lowest[1], "ratio")


def fit_models(contract: Contract, census: Dataset) -> list[FittedModel]:
    """Return the census's setting fitted with each seed."""
    start = read_space(contract).start
    assert start is not None
    best = Folds.of(census.train, contract, n_folds=5, seed=0).score(start)
    return [fit_model(census.train, contract, best, seed) for seed in SEEDS]


def main() -> None:
    """Measure, and write the report."""
    contract = load_contract()
    census = read_census(contract)
    models, y = fit_models(contract, census), census.test[contract.target.name].to_numpy()
    inputs, threshold = census.test[list(contract.input_names)], models[0].threshold
    results = [*quality(y, [model.score(inputs) for model in models], threshold)]
    feeds, graphs = as_tensors(inputs, contract), {}
    for k in MEANS:
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            graphs[k] = open_graph(to_graph(mean_model(models[:k]), contract), path)
            size = path.stat().st_size / 1e6
        metrics = measure(y, graphs[k].run(["probability"], feeds)[0], threshold)
        results += [
            result(f"mean of {k}: test log loss", metrics["log_loss"], ""),
            result(f"mean of {k}: test ROC AUC", metrics["roc_auc"], ""),
            result(f"mean of {k}: graph", size, "MB"),
        ]
    write("seeds", [*results, *times(graphs, feeds)])


if __name__ == "__main__":
    main()
