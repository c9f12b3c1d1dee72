"""The model card: figures worked out by hand, and its required statements."""

import json
import re
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from config.contract import Contract
from config.runtime.statistics import percentile_interval
from config.web import STYLE
from tests.conftest import made_up_rows
from training.evaluation.gate import RECENT, TEST_SPLIT, Floor, Interval, Model, Segment, Verdict
from training.evaluation.model_card import (
    Facts,
    calibration_table,
    comparison_table,
    metrics_table,
    model_card,
    search_words,
    segment_words,
)
from training.evaluation.metrics import bootstrap_intervals, measure

FIRST = Verdict(
    True, "first model: <good>", "d1", 500, Model({"roc_auc": 0.9, "log_loss": 0.3}, 1, 1)
)
FIRST_IS_BEST = {"trials": 20, "trials_scored": 1, "best_trial": 1}


def card_of(contract: Contract, source: str = "uci") -> str:
    """The card of a first model that knows a little."""
    rows = made_up_rows(contract, 1500)
    probability = np.clip(0.2 + 0.5 * rows["income"].to_numpy(), 0, 1)
    metadata = {
        "run_id": "r<1>",
        "trained_at": "2026-11-01",
        "data_source": source,
        "joined_rows": "1200",
        "metric_intervals": json.dumps(
            bootstrap_intervals(rows["income"].to_numpy(), probability, 0.5)
        ),
    }
    package: Any = SimpleNamespace(
        contract=contract, threshold=0.5, metadata=metadata, score=lambda _: probability
    )
    facts = Facts("7", "6", 32561, judge_uses=4, search=FIRST_IS_BEST)
    return model_card(facts, package, rows, FIRST)


def test_intervals_are_those_of_the_metrics_on_resampled_rows():
    """The rows have ties, and right and wrong probabilities of 0 and 1."""
    random = np.random.default_rng(2)
    probability = np.round(random.beta(1, 3, 300), 2)
    y = (random.random(300) < probability).astype(int)
    probability[:4], y[:4] = (0, 1, 0, 1), (0, 1, 1, 0)
    drawn = np.random.default_rng(5)
    rows = [drawn.integers(0, 300, 300) for _ in range(40)]
    resampled = [measure(y[one], probability[one], 0.3) for one in rows]
    intervals = bootstrap_intervals(y, probability, 0.3, 40, seed=5)
    assert intervals.keys() == resampled[0].keys() - {"ece"}  # chance adds to it
    for name, interval in intervals.items():
        assert interval == pytest.approx(
            percentile_interval([one[name] for one in resampled])
        ), name


def test_the_card_has_its_required_texts_in_one_file_for_phones_and_dark_mode(contract):
    """The card once did not report that the search pruned every later setting, as on the census.
    Its plot had no text for people who cannot see it.
    """
    page = card_of(contract)
    text = re.sub(r"\s+", " ", page)
    for needed in (
        "1994",
        "neither credit",
        "has judged 4 versions",
        "uses age, race and sex",
        "roc_auc",
        "age 30 to 44",
        "income-classifier, version 7</h1>",
        "The gate <b>passed</b>: first model: &lt;good&gt;.",
        "country of birth, spelt as in the UCI files",
        "Settings that the search tried: 20; scored on every fold: 1. None was better than the",
        'name="viewport"',
    ):
        assert needed in text, needed
    assert "r&lt;1&gt;" in page and "synthetic rows" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is loaded from anywhere
    assert page.count("<table") == page.count('<div class="wide"><table')
    assert STYLE.read_text("utf-8") in page
    alternative = re.search(r'<img alt="([^"]+)"', page)[1]
    assert alternative.startswith("Calibration plot. Mean probability and observed share")
    assert alternative.count(" and ") == 1 + 10 and "0.200 and 0.000" in alternative
    assert search_words(FIRST_IS_BEST | {"best_trial": 12}).endswith("This version has setting 12.")


def test_the_card_of_a_synthetic_model_begins_with_a_warning(contract):
    page = card_of(contract, "synthetic")
    assert page.index("no figure here is about real people") < page.index("Purpose and limits")


def test_the_calibration_error_is_shown_beside_that_of_a_calibrated_model():
    """Two rows at 0.25 with one label of 1, two at 0.75 with one: the slope is 0."""
    y, probability = np.array([0, 1, 0, 1]), np.array([0.25, 0.25, 0.75, 0.75])
    table = calibration_table(y, probability)
    assert list(table.index) == ["excess", "slope", "intercept", "ece"]
    assert table["value"].tolist() == pytest.approx([0, 0, 0, 0.25], abs=1e-6)
    chance = 2 * np.sqrt(2 * 0.25 * 0.75 * 2 / np.pi) / 4
    assert table["calibrated"].tolist() == pytest.approx([0, 1, 0, chance])
    assert table.loc["slope", "from"] < 0 < table.loc["slope", "to"]
    assert table.loc["ece", ["from", "to"]].isna().all()


def test_without_a_model_the_metrics_are_those_of_the_base_rate():
    """One row of four is positive, so its share is 0.25."""
    y, probability = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3])
    intervals = bootstrap_intervals(y, probability, 0.5)
    table = metrics_table(y, probability, 0.5, intervals)
    baseline = table["without a model"]
    assert baseline["roc_auc"] == 0.5 and baseline["accuracy"] == 0.75 and baseline["f1"] == 0
    assert baseline["log_loss"] == pytest.approx(-(np.log(0.25) + 3 * np.log(0.75)) / 4)


def test_after_drift_the_card_compares_both_versions_on_the_newest_rows():
    """The card of such a version once had figures of the test split alone."""
    models = [Model({"roc_auc": auc, "log_loss": 1 - auc}, 1, 1) for auc in (0.8, 0.7)]
    gain = Interval(0.1, 0.05, 0.15)
    floor = Floor(
        TEST_SPLIT, "d2", 8000, {"roc_auc": 0.90}, {"roc_auc": 0.91}, Interval(-0.01, -0.02, 0)
    )
    harmed = Segment("sex Female", 600, Interval(0.01, -0.02, 0.04), False)
    verdict = Verdict(
        False, "worse", "d1", 1500, *models, gain, gain, (harmed,), judge=RECENT, floor=floor
    )
    table = comparison_table(verdict)
    assert list(table) == ["this version", "production before", "gain", "from", "to"]
    assert table.loc["newest labelled rows, 1,500 rows: roc_auc"].tolist() == [0.8, 0.7, *gain]
    assert table.loc["test split, 8,000 rows: roc_auc"].tolist() == [0.9, 0.91, -0.01, -0.02, 0]
    assert table.loc["sex Female, 600 rows: log_loss"].tolist()[2:] == [-0.01, -0.04, 0.02]
    assert list(comparison_table(FIRST)) == ["this version"]


def test_the_card_has_the_contracts_words(contract):
    words = {"description": "whether a subscriber leaves", "limits": "Only for <this> year."}
    target = msgspec.structs.replace(contract.target, positive="<leaves>", **words)
    other = msgspec.structs.replace(contract, target=target)
    page = card_of(other)
    assert "Estimates whether a subscriber leaves. Only for &lt;this&gt; year." in page
    assert "share of &lt;leaves&gt;" in page
    own, _, _ = page.partition("<h2>Features")
    assert not re.search("census|1994|50,000|relationship", own)


def test_the_card_of_another_table_names_its_groups_or_their_absence(churn, contract):
    """A card of another table once described sex, race and the census of 1994."""
    assert segment_words(churn) == ("The contract names no groups: no column has the key segment.")
    names = {"plan", "tenure", "account"}
    features = tuple(
        (
            msgspec.structs.replace(one, segment=one.is_categorical or (40,))
            if one.name in names
            else one
        )
        for one in churn.features
    )
    assert segment_words(msgspec.structs.replace(churn, features=features)) == (
        "The model uses tenure and plan. The model does not use account."
        " The team that trains it decides that."
    )
    target = msgspec.structs.replace(contract.target, limits=None)
    other = msgspec.structs.replace(contract, target=target)
    assert "states no limits" in card_of(other)
