"""The search: leak-free folds, the same scores as the pipeline, reproducible by seed."""

from dataclasses import replace

import numpy as np
import pytest
from hyperopt import fmin, rand
from sklearn.base import clone

from training.model.calibration import Platt
from training.model.pipeline import DEFAULT_PARAMS, make_encoder, make_pipeline, make_sampler
from training.model.search import (
    STARTUP_TRIALS,
    Folds,
    Pruning,
    count_trials,
    run_search,
    starting_at,
)
from training.model.search_space import DEFAULT_START, Ranges, SearchSpace

PARAMS = DEFAULT_PARAMS | {"smote_multiplier": 3.0, "max_depth": 3}


@pytest.fixture
def folds(contract, rows, inputs):
    """Three folds of the made-up rows, with few trees."""
    X = make_encoder(contract).fit_transform(inputs).astype(np.float32)
    return Folds(X, rows["income"].to_numpy(), n_folds=3, seed=0, max_trees=8)


def test_out_of_fold_scores_are_those_of_the_imblearn_pipeline(contract, rows, inputs, folds):
    """Encoding once and resampling once per fold must not change the model."""
    trial = folds.score(PARAMS)
    assert trial.params["n_estimators"] == 8  # every tree helped, so none was dropped
    y, raw = rows["income"].to_numpy(), np.empty(len(rows), dtype=np.float32)
    plain = make_pipeline(contract, PARAMS | {"n_estimators": 8}, seed=0)
    for train, valid in folds.indices:
        fitted = clone(plain).fit(inputs.iloc[train], y[train])
        raw[valid] = fitted.predict_proba(inputs.iloc[valid])[:, 1]
    assert trial.probability == pytest.approx(trial.platt(raw), abs=1e-6)


def test_scores_on_random_labels_stay_at_chance_where_a_leak_would_not(contract, inputs):
    """Rows resampled before the split are neighbours of validation rows, and beat chance."""
    X = make_encoder(contract).fit_transform(inputs).astype(np.float32)
    y = (np.random.default_rng(1).random(len(X)) < 0.2).astype(int)
    even = PARAMS | {"smote_multiplier": 10.0}
    ours = Folds(X, y, n_folds=3, seed=0).score(even)
    leaking = Folds(*make_sampler(even, seed=0).fit_resample(X, y), n_folds=3, seed=0).score(even)
    assert leaking.metrics["cv_roc_auc"] > 0.75
    assert ours.metrics["cv_roc_auc"] < 0.6


def test_each_number_of_synthetic_rows_and_neighbours_is_binned_once_a_fold(folds):
    first = folds.binned(0, PARAMS)
    assert folds.binned(0, PARAMS | {"max_depth": 5}) is first
    assert folds.binned(0, PARAMS | {"smote_neighbours": 3}) is not first
    balanced, none = (folds.binned(0, PARAMS | {"smote_multiplier": m}) for m in (10.0, 1.0))
    assert folds.binned(0, PARAMS | {"smote_multiplier": 100.0}) is balanced
    assert folds.binned(0, PARAMS | {"smote_multiplier": 1.0, "smote_neighbours": 3}) is none


def test_a_setting_that_is_poor_on_the_first_folds_is_pruned(folds):
    folds = replace(folds, pruning=Pruning(margin=-1.0))  # every setting after the first
    seen = []
    best = run_search(folds, 3, None, seed=1, on_trial=lambda p, metrics: seen.append(metrics))
    assert [metrics.get("pruned") for metrics in seen] == [None, 1, 1]
    assert best.metrics.items() <= seen[0].items()
    assert all("screening_log_loss" in metrics for metrics in seen)


def test_a_fit_that_is_not_expected_to_reach_its_limit_stops_early(folds):
    folds = replace(folds, pruning=Pruning(min_trees=0.3))  # 3 at a learning rate of 0.1
    whole, near, far = (folds.fit([0], PARAMS, limit)[0].losses for limit in (None, [1.0], [0.0]))
    assert np.array_equal(near, whole)
    assert 4 <= len(far) < len(whole) == 8
    assert np.array_equal(far, whole[: len(far)])


def test_validation_losses_stop_at_the_same_tree_whatever_smote_does_to_the_odds(folds):
    """Raised odds alone would make the loss of good trees look bad."""
    few, many = (PARAMS | {"smote_multiplier": multiplier} for multiplier in (1.5, 10.0))
    losses = [folds.fit([0], params)[0].losses for params in (few, many)]
    assert losses[1][-1] == pytest.approx(losses[0][-1], abs=0.03)


def test_the_seed_determines_the_result_and_every_trial_is_reported(folds):
    seen = []
    best = run_search(folds, 3, None, seed=1, on_trial=lambda *trial: seen.append(trial))
    again = run_search(folds, 3, None, seed=1)
    assert len(seen) == 3 and best.params == again.params
    first, second = seen[0][0], seen[1][0]
    assert DEFAULT_START.items() <= first.items()
    assert first["gamma"] == 0 != second["gamma"]
    assert best.metrics["cv_log_loss"] == min(metrics.get("cv_log_loss", 1) for _, metrics in seen)
    assert isinstance(best.platt, Platt) and best.params["n_estimators"] <= 8


def test_trials_are_counted_with_the_number_of_the_best():
    pruned, better = {"pruned": 1.0, "screening_log_loss": 0.1}, {"cv_log_loss": 0.2}
    seen = [{"cv_log_loss": 0.3}, pruned, better, {"failed": 1.0}, {"cv_log_loss": 0.25}]
    assert count_trials(seen) == {"trials": 5, "trials_scored": 3, "best_trial": 3}


def test_tpe_proposes_settings_of_a_search_of_the_default_length(monkeypatch):
    """hyperopt draws its first 20 trials at random, and these were the whole search."""
    drawn = []
    suggest_at_random = rand.suggest
    monkeypatch.setattr(
        rand, "suggest", lambda ids, *others: drawn.append(ids) or suggest_at_random(ids, *others)
    )
    fmin(
        lambda point: point["gamma"],
        SearchSpace().expressions(),
        algo=starting_at(None),
        max_evals=20,
        rstate=np.random.default_rng(0),
        show_progressbar=False,
    )
    assert len(drawn) == STARTUP_TRIALS < 20


def test_a_search_has_the_ranges_and_the_first_trial_of_its_space(folds):
    ranges = Ranges(smote_multiplier=(1.0, 2.0, 4.0), max_depth=(3, 3), gamma=(0.25, 0.5))
    start = DEFAULT_START | {"smote_multiplier": 4.0, "max_depth": 3, "gamma": 0.25}

    def tried(space: SearchSpace) -> list[dict]:
        seen: list[dict] = []
        run_search(
            folds, 4, None, seed=1, space=space, on_trial=lambda params, _: seen.append(params)
        )
        assert all(params["max_depth"] == 3 and 0.25 <= params["gamma"] <= 0.5 for params in seen)
        return seen

    assert start.items() <= tried(SearchSpace(ranges, start))[0].items()
    assert tried(SearchSpace(ranges, None))[0]["gamma"] != 0.25


def test_a_small_table_is_pruned_less_because_chance_moves_its_losses_more(folds):
    small, large = folds.margins, replace(folds, X=np.zeros((60000, 1)), y=np.arange(60000) % 2)
    assert small == pytest.approx(np.array(large.margins) * 10)  # of 600 rows


def test_a_time_limit_ends_the_search_after_at_least_one_trial(folds):
    seen = []
    run_search(folds, 50, 0.001, seed=1, on_trial=lambda *trial: seen.append(trial))
    assert 1 <= len(seen) < 50
