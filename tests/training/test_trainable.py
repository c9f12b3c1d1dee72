"""Rows that can make no model are rejected before anything is trained."""

import pandas as pd
import pytest
from structlog.testing import capture_logs

from tests.conftest import made_up_rows
from training.data.errors import UntrainableRows
from training.data.trainable import check_trainable


@pytest.fixture
def frame(contract):
    """300 made-up rows, 9 of them of the rarer class."""
    rows = made_up_rows(contract, 2000, seed=3)
    positive = rows[rows["income"] == 1].head(9)
    return pd.concat([rows[rows["income"] == 0].head(291), positive], ignore_index=True)


def problems(train, judged, contract, n_folds=5):
    """Return the lines of the message."""
    with pytest.raises(UntrainableRows) as caught:
        check_trainable(train, judged, contract, n_folds)
    return str(caught.value).splitlines()


def test_nine_rows_of_the_rarer_class_are_enough_for_five_folds(contract, frame):
    check_trainable(frame, {"test split": frame}, contract, 5)
    assert problems(frame, {}, contract, 10) == [
        "income: too few training rows of >50K; got 9, expected at least 10, one for each fold."
        " Add rows of this class, or lower the number of folds (--folds)."
    ]


@pytest.mark.parametrize(("kept", "gone"), [(0, ">50K"), (1, "<=50K")])
def test_rows_of_one_class_are_rejected_with_the_labels_of_the_contract(
    contract, frame, kept, gone
):
    one_class = frame[frame["income"] == kept]
    assert problems(one_class, {"holdout set": one_class}, contract) == [
        f"income: no training row of {gone}; got {len(one_class)} rows in all, expected both"
        " classes. Check the labels in the contract: <=50K and >50K.",
        f"income: no row of {gone} in the holdout set; got {len(one_class)} rows in all, expected"
        " both <=50K and >50K. Add rows to it.",
    ]


def test_a_holdout_set_without_rows_is_rejected_before_the_search(contract, frame):
    (line,) = problems(frame, {"test split": frame.head(0)}, contract)
    assert line.startswith("income: no row of <=50K and >50K in the test split; got 0 rows")
    assert line.endswith("Add different rows: equal ones stay together.")


def test_columns_without_information_are_logged_and_accepted(contract, frame):
    train = frame.assign(workclass="?", age=38, hours_per_week=[40, *[41] * 299])
    with capture_logs() as logs:
        check_trainable(train, {"test split": frame}, contract, 5)
    (found,) = [one for one in logs if one["event"] == "columns_without_information"]
    assert found["missing_in_every_row"] == ["workclass"]
    assert "age" in found["constant"] and "hours_per_week" not in found["constant"]
