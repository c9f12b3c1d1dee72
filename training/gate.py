"""Who may become `production`: a candidate is held against the champion on held-out rows.

Comes after registration, before promotion. The judge set is an input and its digest is part of
the verdict: after a drift retrain it is not the one of 1994.
"""

from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from training.evaluation import measure

MARGINS = {"roc_auc": 0.002, "log_loss": 0.004}  # how much worse still counts as not worse
FLOOR_ROC_AUC = 0.75  # what a first model must reach: far above chance, far below a good one


class Scorer(Protocol):
    """Anything that gives probabilities for a frame, with the facts the gate asks for."""

    metadata: dict[str, str]

    @property
    def threshold(self) -> float:
        """The decision threshold in [0, 1]."""

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Probability of the positive label (n_samples,)."""


@dataclass(frozen=True)
class Judge:
    """Labelled rows that no training has seen."""

    frame: pd.DataFrame
    y: np.ndarray
    digest: str


@dataclass(frozen=True)
class Verdict:
    """Whether to promote, why in words, and the figures behind it."""

    promote: bool
    reason: str
    candidate: dict[str, float]
    champion: dict[str, float] | None
    judge_digest: str
    judge_rows: int

    def as_tags(self) -> dict[str, str]:
        """The verdict as tags of a model version."""
        tags = {
            "gate": "passed" if self.promote else "failed",
            "gate_reason": self.reason,
            "judge_digest": self.judge_digest,
            "judge_rows": str(self.judge_rows),
        }
        for who in ("candidate", "champion"):
            for name, value in (asdict(self)[who] or {}).items():
                if name in MARGINS:
                    tags[f"gate_{who}_{name}"] = f"{value:.5f}"
        return tags


def gate(candidate: Scorer, champion: Scorer | None, judge: Judge) -> Verdict:
    """Promote unless the candidate is worse than the champion by more than a margin.

    A model trained on synthetic rows never replaces one trained on real rows; one trained on
    real rows always may replace a synthetic one that it is not worse than.
    """
    ours = measure(judge.y, candidate.score(judge.frame), candidate.threshold)
    theirs = champion_facts = None
    if champion is not None:
        theirs = measure(judge.y, champion.score(judge.frame), champion.threshold)
        champion_facts = champion.metadata
    promote, reason = decide(candidate.metadata, ours, champion_facts, theirs)
    return Verdict(promote, reason, ours, theirs, judge.digest, len(judge.y))


def decide(
    facts: dict[str, str],
    ours: dict[str, float],
    champion_facts: dict[str, str] | None,
    theirs: dict[str, float] | None,
) -> tuple[bool, str]:
    """The decision and its reason, from the two models' facts and metrics on the judge set."""
    if theirs is None or champion_facts is None:
        reached = ours["roc_auc"] >= FLOOR_ROC_AUC
        words = "first model" if reached else "no champion, but below the floor"
        return reached, f"{words}: roc_auc {ours['roc_auc']:.4f}, floor {FLOOR_ROC_AUC}"
    if facts["data_source"] == "synthetic" and champion_facts["data_source"] != "synthetic":
        return False, "trained on synthetic rows; the champion was trained on real ones"
    losses = {
        "roc_auc": theirs["roc_auc"] - ours["roc_auc"],
        "log_loss": ours["log_loss"] - theirs["log_loss"],
    }
    worse = [
        f"{name} worse by {loss:.4f}, margin {MARGINS[name]}"
        for name, loss in losses.items()
        if not loss <= MARGINS[name]  # written so that NaN fails
    ]
    if worse:
        return False, "; ".join(worse)
    return True, f"not worse than the champion: roc_auc by {-losses['roc_auc']:+.4f}"
