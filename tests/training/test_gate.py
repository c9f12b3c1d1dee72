"""The gate: clearly better passes, clearly worse does not, synthetic never replaces real."""

import numpy as np
import pytest

from tests.conftest import made_up_rows
from training.gate import Judge, gate


class FakeScorer:
    """Probabilities from a function of the label: `skill` 0 is chance, 1 is perfect."""

    threshold = 0.5

    def __init__(self, skill: float, data_source: str = "uci") -> None:
        self.skill = skill
        self.metadata = {"data_source": data_source}

    def score(self, frame):
        """Between a coin and the truth."""
        noise = np.random.default_rng(0).random(len(frame))
        return np.clip(self.skill * frame["income"] + (1 - self.skill) * noise, 0.01, 0.99)


@pytest.fixture(scope="module")
def judge(contract):
    """Held-out rows."""
    rows = made_up_rows(contract, 2000)
    return Judge(rows, rows["income"].to_numpy(), digest="d1")


def test_a_first_model_is_promoted_if_it_is_far_above_chance(judge):
    assert gate(FakeScorer(0.6), None, judge).promote
    refused = gate(FakeScorer(0.0), None, judge)
    assert not refused.promote and "below the floor" in refused.reason


def test_a_clearly_worse_candidate_is_kept_back_with_the_figures(judge):
    verdict = gate(FakeScorer(0.3), FakeScorer(0.6), judge)
    assert not verdict.promote and "roc_auc worse by" in verdict.reason
    tags = verdict.as_tags()
    assert tags["gate"] == "failed" and tags["judge_digest"] == "d1"
    assert float(tags["gate_candidate_roc_auc"]) < float(tags["gate_champion_roc_auc"])


@pytest.mark.parametrize("candidate_skill", [0.6, 0.5])
def test_a_candidate_that_is_as_good_or_better_is_promoted(judge, candidate_skill):
    assert gate(FakeScorer(candidate_skill), FakeScorer(0.5), judge).promote


def test_a_synthetic_model_never_replaces_a_real_one_however_good(judge):
    verdict = gate(FakeScorer(0.9, "synthetic"), FakeScorer(0.3), judge)
    assert not verdict.promote and "synthetic" in verdict.reason


def test_a_real_model_may_replace_a_synthetic_one(judge):
    assert gate(FakeScorer(0.5), FakeScorer(0.5, "synthetic"), judge).promote


def test_a_model_that_answers_nonsense_is_an_error_not_a_promotion(judge):
    class Broken(FakeScorer):
        """Answers NaN."""

        def score(self, frame):
            return np.full(len(frame), np.nan)

    with pytest.raises(ValueError):
        gate(Broken(0.5), FakeScorer(0.5), judge)
