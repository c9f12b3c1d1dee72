"""The gate: a clearly better model passes, a worse one does not, synthetic never replaces real."""

import re
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from tests.conftest import made_up_rows
from training.evaluation.gate import (
    MARGIN_FLOOR_ROC_AUC,
    MARGIN_ROC_AUC,
    MARGIN_SEGMENT,
    HoldoutSet,
    Interval,
    gate,
    is_beyond,
)


class Fake:
    """A model that is a function from a frame to probabilities."""

    threshold = 0.5

    def __init__(
        self,
        score: Callable[[pd.DataFrame], np.ndarray],
        data_source: str = "uci",
        size_mb: float = 1.0,
    ) -> None:
        self.score, self.size_mb = score, size_mb
        self.metadata = {"data_source": data_source}


def mixed(frame: pd.DataFrame, skill: float) -> np.ndarray:
    """Return a mix of chance and truth: `skill` 0 is chance, 1 is perfect."""
    noise = np.random.default_rng(0).random(len(frame))
    return np.clip(skill * frame["income"].to_numpy() + (1 - skill) * noise, 0.01, 0.99)


def skilled(skill: float, *how) -> Fake:
    """Return a model of this skill."""
    return Fake(lambda frame: mixed(frame, skill), *how)


def weak(spread: float) -> Fake:
    """Return a ranking little better than chance, calibrated or far too sure of itself."""

    def score(frame: pd.DataFrame) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, 1, len(frame))
        return expit(logit(0.25) + spread * (0.8 * frame["income"].to_numpy() + noise))

    return Fake(score)


def slow(skill: float) -> Fake:
    """Return a model that takes 20 ms per row, as a good model does on a busy machine."""

    def score(frame: pd.DataFrame) -> np.ndarray:
        time.sleep(0.02 if len(frame) == 1 else 0)
        return mixed(frame, skill)

    return Fake(score)


@pytest.fixture(scope="module")
def judge(contract):
    """A holdout set."""
    rows = made_up_rows(contract, 2000)
    y = rows["income"].to_numpy()
    return HoldoutSet(rows, y, digest="d1", segments=contract.segments)


def test_a_first_model_is_promoted_if_it_is_better_than_chance(judge):
    """A table on which the best model reaches 0.7 once never got a first version."""
    hard = gate(weak(0.5), None, judge)
    assert hard.promote and 0.65 < hard.candidate.metrics["roc_auc"] < 0.75
    assert re.fullmatch(r"first model: roc_auc 0\.7\d+ \(0\.6\d+ to 0\.7\d+\)", hard.reason)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (skilled(0.0), "expected above 0.5, that of chance"),
        (weak(4.0), ", without a model"),
        (skilled(0.9, "uci", 80.0), "80 MB"),
    ],
    ids=["chance", "too sure", "too large"],
)
def test_a_first_model_without_skill_or_too_large_to_serve_is_rejected(judge, model, reason):
    verdict = gate(model, None, judge)
    assert not verdict.promote and reason in verdict.reason


def test_few_holdout_rows_have_an_interval_though_some_resamples_lack_a_class(judge):
    y = judge.y
    rare = np.r_[np.flatnonzero(y == 1)[:2], np.flatnonzero(y == 0)[:20]]
    few = HoldoutSet(judge.frame.iloc[rare].reset_index(drop=True), y[rare], "few")
    verdict = gate(skilled(0.6), skilled(0.5), few)
    assert np.isfinite(verdict.roc_auc_gain).all()


def test_a_clearly_worse_candidate_is_rejected_with_the_figures(judge):
    verdict = gate(skilled(0.3), skilled(0.6), judge)
    assert not verdict.promote and "roc_auc may be worse by" in verdict.reason
    tags = verdict.as_tags()
    assert tags["gate"] == "failed" and tags["judge_digest"] == "d1"
    assert float(tags["gate_candidate_roc_auc"]) < float(tags["gate_champion_roc_auc"])


def test_a_clearly_better_candidate_is_promoted_with_its_interval(judge):
    verdict = gate(skilled(0.6), skilled(0.5), judge)
    assert verdict.promote
    gain = verdict.log_loss_gain
    assert 0 < gain.low < gain.estimate < gain.high
    losses = [model.metrics["log_loss"] for model in (verdict.champion, verdict.candidate)]
    assert gain.estimate == pytest.approx(losses[0] - losses[1])


@pytest.mark.parametrize(
    ("candidate", "champion", "reason"),
    [
        (skilled(0.5), skilled(0.5), "not shown to be better"),
        (skilled(0.9, "synthetic"), skilled(0.3), "trained on synthetic rows"),
        (skilled(0.5), skilled(0.5, "synthetic"), ""),
        (skilled(0.5, "synthetic"), skilled(0.5, "synthetic"), "not shown to be better"),
        (skilled(0.9, "uci", 80.0), skilled(0.5), "80 MB"),
    ],
)
def test_an_equal_candidate_replaces_a_champion_of_synthetic_rows_alone(
    judge, candidate, champion, reason
):
    verdict = gate(candidate, champion, judge)
    assert verdict.promote == (not reason) and reason in verdict.reason


@pytest.mark.slow
def test_of_200_equal_candidates_at_most_one_in_twenty_replaces_the_champion():
    """Two models of equal quality: the true probability with different noise."""
    random = np.random.default_rng(7)

    def noisy() -> Fake:
        noise = random.normal(0, 0.3, 500)
        return Fake(lambda frame: expit(frame["margin"].to_numpy() + noise[: len(frame)]))

    promoted = 0
    for _ in range(200):
        margin = random.normal(-1.5, 2, 500)
        y = (random.random(500) < expit(margin)).astype(int)
        judge = HoldoutSet(pd.DataFrame({"margin": margin}), y, "aa")
        promoted += gate(noisy(), noisy(), judge, resamples=100, latency_rows=1).promote
    assert promoted <= 10


def test_a_candidate_that_harms_one_segment_is_rejected_however_good_for_the_rest(judge):
    def score(frame: pd.DataFrame) -> np.ndarray:
        return np.where(frame["race"] == "Black", mixed(frame, 0.42), mixed(frame, 0.8))

    verdict = gate(Fake(score), skilled(0.5), judge)
    assert not verdict.promote and "race Black" in verdict.reason
    named = {segment.name: segment for segment in verdict.segments if not segment.not_worse}
    harmed = named["race Black"]
    assert all("race Black" in name for name in named)
    assert harmed.rows >= 200 and harmed.log_loss_rise.high > 0.02


def test_a_segment_of_few_rows_is_reported_and_not_compared(judge):
    few = judge._replace(frame=judge.frame.head(300), y=judge.y[:300])
    verdict = gate(skilled(0.6), skilled(0.5), few)
    unjudged = [segment for segment in verdict.segments if segment.log_loss_rise is None]
    assert unjudged and all(segment.rows < 200 for segment in unjudged if "race" in segment.name)


def test_a_model_that_is_much_slower_than_the_champion_is_rejected(judge):
    verdict = gate(slow(0.9), skilled(0.5), judge, latency_rows=5)
    assert not verdict.promote and verdict.candidate.latency_ms >= 20
    assert verdict.reason.startswith("latency of one row: 2")
    assert "ms, expected at most 3 times the champion's" in verdict.reason


def test_a_busy_machine_causes_no_rejection(judge):
    """A maximum in milliseconds rejected good models while other work slowed the machine."""
    assert gate(slow(0.9), slow(0.5), judge, latency_rows=5).promote
    assert gate(slow(0.9), None, judge, latency_rows=5).promote


def test_the_floor_set_rejects_a_model_that_is_worse_on_the_census(contract, judge):
    """Better on the holdout set, but worse than the margin on the census."""
    before = made_up_rows(contract, 2000, seed=9)
    floor = HoldoutSet(before, before["income"].to_numpy(), digest="d0", name="census")

    def forgetful(past: float) -> Fake:
        return Fake(lambda frame: mixed(frame, past if frame is before else 0.8))

    recent = judge._replace(name="newest labelled rows")
    rejected = gate(forgetful(past=0.3), skilled(0.5), recent, floor, resamples=200)
    assert not rejected.promote and rejected.reason.startswith("census: roc_auc may be worse by")
    assert rejected.floor.judge_digest == "d0" and rejected.floor.judge_rows == 2000
    assert rejected.floor.roc_auc_gain.low < -0.02 < rejected.log_loss_gain.low

    as_good = gate(forgetful(past=0.5), skilled(0.5), recent, floor, resamples=200)
    assert as_good.promote and as_good.floor.roc_auc_gain.estimate == 0
    assert as_good.judge == as_good.as_tags()["judge"] == "newest labelled rows"
    assert as_good.candidate.metrics != as_good.floor.candidate
    alone = gate(forgetful(past=0.3), skilled(0.5), recent, resamples=200)
    assert alone.promote  # without a floor set


@pytest.fixture
def floor(contract):
    """A floor set with segments, where 3 in 100 are Black women."""
    before = made_up_rows(contract, 8000, seed=9)
    women = (before["race"] == "Black") & (before["sex"] == "Female")
    before = before[~women | (before.index % 4 == 0)].reset_index(drop=True).assign(is_floor=True)
    y = before["income"].to_numpy()
    return HoldoutSet(before, y, "d0", name="census", segments=contract.segments)


def changed(raised: float = 0.0, raised_on_floor: float = 0.0, forgets_women: bool = False) -> Fake:
    """Return a model with a ROC AUC of 0.92 and raised log-odds.

    On the floor set, one that forgets women gives every Black woman 0.24.
    """

    def score(frame: pd.DataFrame) -> np.ndarray:
        margin = 3 * frame["income"].to_numpy() - 2.2 + raised
        margin += np.random.default_rng(0).normal(0, 1.5, len(frame))
        if "is_floor" not in frame:
            return expit(margin)
        women = (frame["race"] == "Black") & (frame["sex"] == "Female")
        return np.where(women & forgets_women, 0.24, expit(margin + raised_on_floor))

    return Fake(score)


def test_the_floor_set_rejects_a_model_that_forgot_a_small_group(judge, floor):
    """After a drift every Black woman had one probability: ROC AUC fell by less than its margin."""
    verdict = gate(changed(forgets_women=True), changed(np.log(3)), judge, floor, resamples=200)
    assert not verdict.promote
    assert verdict.reason.startswith("census: log loss may be worse by more than 0.05 for ")
    assert verdict.reason.endswith("race Black, sex Female")
    assert verdict.floor.roc_auc_gain.estimate > -MARGIN_FLOOR_ROC_AUC


def test_a_new_base_rate_harms_no_group_of_the_floor_set(judge, floor):
    """A model with nine times the odds is right after the drift, not on the census."""
    raised = changed(raised_on_floor=np.log(9))
    verdict = gate(raised, changed(np.log(3)), judge, floor, resamples=200)
    assert verdict.promote, verdict.reason
    assert verdict.floor.candidate["log_loss"] > verdict.floor.champion["log_loss"]
    rises = [one.log_loss_rise.high for one in verdict.floor.segments if one.log_loss_rise]
    assert len(rises) > 10 and max(rises) < 0.001


def test_a_model_that_returns_nan_is_an_error_not_a_promotion(judge):
    with pytest.raises(ValueError):
        gate(Fake(lambda frame: np.full(len(frame), np.nan)), skilled(0.5), judge)


@pytest.mark.parametrize(
    ("loss", "margin", "beyond"),
    [
        (Interval(0.0015, 0.0006, 0.0024), MARGIN_ROC_AUC, True),  # shown by enough rows
        (Interval(-0.0005, -0.0014, 0.0004), MARGIN_ROC_AUC, False),
        (Interval(0.001, -0.018, 0.02), MARGIN_ROC_AUC, False),  # no interval of few is narrower
        (Interval(0.01, -0.01, 0.03), MARGIN_ROC_AUC, True),
        (Interval(0.012, -0.010, 0.034), MARGIN_SEGMENT, False),  # of 200 rows
        (Interval(0.0013, -0.018, 0.0203), MARGIN_FLOOR_ROC_AUC, False),  # as if equal, on 672 rows
    ],
)
def test_the_estimate_decides_where_few_rows_cannot_show_the_margin(loss, margin, beyond):
    """On 700 rows of another table, every candidate might have been worse by more than it. Groups
    of 200 rows once stopped two recalibrated models in five that were better for them.
    """
    assert is_beyond(loss, margin) == beyond
