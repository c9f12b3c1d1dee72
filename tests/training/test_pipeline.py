"""Encoder and sampler: real rows pass unchanged, synthetic ones only in `fit`."""

import numpy as np
import pandas as pd
import pytest

from config.feature import Feature
from training.model.pipeline import (
    DEFAULT_PARAMS,
    date_parts,
    make_encoder,
    make_sampler,
)

X = np.array([[20.0, 0], [21, 0], [22, 1], [50, 1], [51, 0], [52, 1], [53, 0], [60, 1]], "float32")
y = np.array([0, 0, 0, 0, 0, 1, 1, 1])
PARAMS = DEFAULT_PARAMS | {"smote_multiplier": 10.0, "smote_neighbours": 2}


def test_smote_keeps_every_real_row_unchanged_and_appends_minority_rows():
    resampled, labels = make_sampler(PARAMS, seed=0).fit_resample(X, y)
    assert np.array_equal(resampled[:8], X) and resampled.dtype == np.float32
    assert labels[8:].tolist() == [1, 1]
    assert ((resampled[8:, 0] >= 52) & (resampled[8:, 0] <= 60)).all()


@pytest.mark.parametrize(
    ("labels", "multiplier", "made"),
    [
        (y, 1.0, 0),
        (y, 1.34, 1),  # 3 rows become 4
        (y, 100.0, 2),  # 5 to 5, never beyond
        (1 - y, 1.34, 1),  # the rarer class, whichever it is
        (np.array([0, 0, 0, 0, 1, 1, 1, 1]), 3.0, 0),
        (np.array([0, 0, 0, 0, 0, 0, 0, 1]), 3.0, 0),  # one row has no neighbour
        (np.array([0, 0, 0, 0, 0, 0, 1, 1]), 2.0, 2),  # fewer neighbours than asked for
    ],
)
def test_smote_multiplies_the_rarer_class_at_most_to_balance(labels, multiplier, made):
    resampled, classes = make_sampler(PARAMS | {"smote_multiplier": multiplier}, 0).fit_resample(
        X, labels
    )
    assert len(resampled) == len(classes) == 8 + made
    assert np.bincount(classes)[np.bincount(labels).argmin()] == np.bincount(labels).min() + made


def test_a_synthetic_row_copies_its_base_row_where_either_row_lacks_a_number():
    """Two rows of the rarer class are each other's neighbours; one lacks the second number."""
    rows = np.array([[0, 5], [1, np.nan], *[[9, 9]] * 6], "float32")
    labels = np.array([1, 1] + [0] * 6)
    made = make_sampler(PARAMS | {"smote_neighbours": 1}, 0).fit_resample(rows, labels)[0][8:]
    assert len(made) == 4 and ((made[:, 0] > 0) & (made[:, 0] < 1)).all()
    missing = np.isnan(made[:, 1])
    assert missing.any() and (made[~missing, 1] == 5).all()  # rows based on either of the two


def test_a_missing_number_counts_as_the_median_among_neighbours():
    """The median is 4. So the row without a number is nearest to the row with 4, not with 90."""
    minority = np.array([[0, np.nan], [1, 4], [-1, 90]], "float32")
    rows = np.concatenate([minority, np.array([[0, 4]] * 9, "float32")])
    labels = np.array([1] * 3 + [0] * 9)
    made = make_sampler(PARAMS | {"smote_neighbours": 1}, 0).fit_resample(rows, labels)[0][12:]
    based_on_it = made[np.isnan(made[:, 1])]
    assert len(based_on_it) > 0 and (based_on_it[:, 0] > 0).all()


def test_a_column_without_numbers_stays_missing():
    rows = np.column_stack([X[:, 0], np.full(8, np.nan, "float32")])
    made = make_sampler(PARAMS, 0).fit_resample(rows, y)[0][8:]
    assert len(made) == 2 and np.isnan(made[:, 1]).all() and not np.isnan(made[:, 0]).any()


def test_neighbours_are_measured_in_standard_deviations():
    """10 dollars are nearer than another category where dollars vary by thousands."""
    minority = np.array([[0, 0], [10, 0], [0, 1], [10, 1]], "float32")
    others = np.array([[-1000, 0], [1000, 1]] * 4, "float32")
    labels = np.array([1] * 4 + [0] * 8)
    sampler = make_sampler(PARAMS | {"smote_neighbours": 1}, seed=0)
    made = sampler.fit_resample(np.concatenate([minority, others]), labels)[0][12:]
    assert len(made) == 4
    assert ((made[:, 0] > 0) & (made[:, 0] < 10)).all()  # between neighbours along the dollars
    assert set(made[:, 1]) <= {0.0, 1.0}  # unscaled, the neighbour would be across this column


def test_education_is_encoded_by_rank_and_missing_categories_as_a_column(contract, inputs):
    few, encoder = make_encoder(contract).fit(inputs.head(1)), make_encoder(contract).fit(inputs)
    assert np.array_equal(few.transform(inputs), encoder.transform(inputs))
    names = list(encoder.get_feature_names_out())
    edges = inputs.head(2).assign(education=["Preschool", "Doctorate"], workclass="?")
    encoded = pd.DataFrame(encoder.transform(edges), columns=names)
    assert encoded["education"].tolist() == [0, 15] and encoded["workclass_?"].tolist() == [1, 1]


def test_a_missing_date_has_no_parts_and_changes_no_other_row():
    """pandas rounded uninitialized memory of a missing day, and some runs failed."""
    feature = Feature("day", "date", "a day", parts=("days", "year", "month", "day"))
    parts = date_parts(pd.DataFrame({"day": [59.0, np.nan, -1.0]}), feature)
    assert parts[0].tolist() == [59, 1970, 3, 1] and parts[2].tolist() == [-1, 1969, 12, 31]
    assert np.isnan(parts[1]).all()
