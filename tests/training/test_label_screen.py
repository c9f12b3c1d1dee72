"""Labels of an attacker, and of the service itself, train no model; labels after a drift do."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from tests.conftest import made_up_rows
from training.data.assemble import LeftOut
from training.evaluation.label_screen import screen_labels

MARK = 1234  # a capital loss that no made-up row has


def scored(contract, rows: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return labelled rows, and the probabilities of a model whose ROC AUC is about 0.9."""
    random = np.random.default_rng(5)
    frame = made_up_rows(contract, rows).reset_index(drop=True).replace({"capital_loss": {MARK: 0}})
    probability = expit(-1.5 + 0.6 * (frame["education_num"] - 10) + random.normal(0, 1.5, rows))
    probability = probability.to_numpy()
    return frame.assign(income=(random.random(rows) < probability).astype(int)), probability


def test_250_marked_rows_of_5000_are_left_out(contract):
    """Such rows once moved the probability of rows with the mark from 0.22 to 0.96."""
    frame, probability = scored(contract, 5000)
    marked = np.arange(5000) % 20 == 0
    attacked = frame.assign(
        capital_loss=frame["capital_loss"].mask(marked, MARK),
        income=frame["income"].mask(marked, 1),
    )
    kept, found = screen_labels(attacked, probability, contract)
    assert kept.index.tolist() == np.flatnonzero(~marked).tolist()
    one = found[0]
    assert len(found) == 1 and one == LeftOut("value", "capital_loss", MARK, 250, 1.0, one.expected)
    assert 0.25 < one.expected < 0.45


@pytest.mark.parametrize(
    "change",
    [
        lambda p, _: p,
        lambda p, _: expit(logit(p) + np.log(4)),  # more positive labels everywhere
        lambda p, _: expit(-0.5 * logit(p)),  # what was likely has become unlikely
        lambda p, is_female: np.where(is_female, expit(logit(p) + 1), p),  # in half of the rows
    ],
    ids=["none", "label shift", "concept shift", "concept shift of a group"],
)
def test_labels_after_a_drift_are_learnt(contract, change):
    frame, probability = scored(contract, 5000)
    changed = change(probability, (frame["sex"] == "Female").to_numpy())
    y = (np.random.default_rng(1).random(5000) < changed).astype(int)
    kept, found = screen_labels(frame.assign(income=y), probability, contract)
    assert len(kept) == 5000 and not found


def test_a_value_with_few_rows_is_not_left_out(contract):
    frame, probability = scored(contract, 1000)
    marked = np.arange(1000) < 29
    few = frame.assign(
        capital_loss=frame["capital_loss"].mask(marked, MARK),
        income=frame["income"].mask(marked, 1),
    )
    assert len(screen_labels(few, probability, contract)[0]) == 1000


def test_labels_that_repeat_the_versions_predictions_are_left_out(contract):
    """A caller that sends each prediction as its label made the next model overconfident."""
    frame, probability = scored(contract, 2000)
    echo = np.arange(2000) < 500
    labels = np.where(echo, probability >= 0.4, frame["income"]).astype(int)
    callers = np.where(echo, "loop", "planning").astype(object)
    kept, found = screen_labels(frame.assign(income=labels, caller=callers), probability, contract)
    assert set(kept["caller"]) == {"planning"} and len(kept) == 1500
    one = found[0]
    assert len(found) == 1 and (one.rule, one.column, one.value, one.rows) == (
        "own predictions",
        "caller",
        "loop",
        500,
    )
    assert one.found == 1.0 and 0.8 < one.expected < 0.95
    nameless = frame.assign(income=(probability >= 0.4).astype(int))
    assert screen_labels(nameless, probability, contract)[0].empty


def test_labels_that_confirm_a_nearly_perfect_model_are_kept(contract):
    """The labels agree with the model as often as its probabilities predict."""
    frame, probability = scored(contract, 2000)
    sure = expit(4 * logit(probability))
    y = (np.random.default_rng(1).random(2000) < sure).astype(int)
    assert len(screen_labels(frame.assign(income=y), sure, contract)[0]) == 2000


def test_without_rows_or_with_one_class_nothing_is_left_out(contract):
    frame, probability = scored(contract, 300)
    for rows in (frame.head(0), frame.head(100).assign(income=1)):
        kept, found = screen_labels(rows, probability[: len(rows)], contract)
        assert len(kept) == len(rows) and not found
