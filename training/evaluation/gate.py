"""Who may become `production`: a candidate is held against the champion on the same held-out rows.

Comes after registration, before promotion. A candidate must show that it is better, not only
not worse: models that differ by chance must not replace each other. The judge set is an input
and its digest is part of the verdict: after a drift retrain the newest labelled rows judge, and the
census of 1994 is only the floor.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import pandas as pd

from training.evaluation.metrics import interval_ends, measure, segments_of

FLOOR_ROC_AUC = 0.75  # what a first model must reach: far above chance, far below a good one
# How much worse is still not worse: for all rows the other metric may lose this much, and for no
# segment the log loss may have risen by more, at the far end of the interval.
MARGIN_ROC_AUC = 0.002
MARGIN_SEGMENT = 0.02
# A model for a changed world ranks the people of 1994 a little worse: by up to 0.003 with 4,000 new
# rows beside the census's, by up to 0.015 where these weigh three times as much (`make
# benchmark-retraining`). Beyond this it has lost them.
MARGIN_FLOOR_ROC_AUC = 0.02
CENSUS, RECENT = "census", "newest labelled rows"  # names of judge sets
RESAMPLES = 1000
MIN_ROWS, MIN_OF_EACH_CLASS = 200, 30  # below these a segment's interval says nothing
MAX_LATENCY_MS, MAX_SIZE_MB = 5.0, 50.0
LATENCY_ROWS = 200


class Scorer(Protocol):
    """Anything that gives probabilities for a frame, with the facts the gate asks for."""

    metadata: dict[str, str]

    @property
    def threshold(self) -> float:
        """The decision threshold in [0, 1]."""

    @property
    def size_mb(self) -> float:
        """What is loaded to serve it, in megabytes."""

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Probability of the positive label (n_samples,)."""


class Judge(NamedTuple):
    """Labelled rows that no training has seen, with every column, protected ones included."""

    frame: pd.DataFrame
    y: np.ndarray
    digest: str
    name: str = CENSUS


class Interval(NamedTuple):
    """An estimate with the ends of its bootstrap interval."""

    estimate: float
    low: float
    high: float


class Segment(msgspec.Struct, frozen=True):
    """How much the log loss of some of the judge rows rose, from champion to candidate."""

    name: str
    rows: int
    log_loss_rise: Interval | None  # None: too few rows to say
    not_worse: bool


class Model(msgspec.Struct, frozen=True):
    """What the judge rows say of one model."""

    metrics: dict[str, float]
    latency_ms: float  # of one row, the median
    size_mb: float


class Floor(msgspec.Struct, frozen=True):
    """What the judge rows say that the champion must not be far above the candidate on."""

    judge: str
    judge_digest: str
    judge_rows: int
    candidate: dict[str, float]
    champion: dict[str, float]
    roc_auc_gain: Interval


class Verdict(msgspec.Struct, frozen=True):
    """Whether to promote, why in words, and every figure behind it."""

    promote: bool
    reason: str
    judge_digest: str
    judge_rows: int
    candidate: Model
    champion: Model | None = None
    roc_auc_gain: Interval | None = None
    log_loss_gain: Interval | None = None  # above 0 the candidate is better
    segments: tuple[Segment, ...] = ()
    judge: str = CENSUS
    floor: Floor | None = None

    def as_tags(self) -> dict[str, str]:
        """The verdict in short, as tags of a model version."""
        tags = {
            "gate": "passed" if self.promote else "failed",
            "gate_reason": self.reason,
            "judge": self.judge,
            "judge_digest": self.judge_digest,
            "judge_rows": str(self.judge_rows),
        }
        for who, model in (("candidate", self.candidate), ("champion", self.champion)):
            if model is not None:
                for name in ("roc_auc", "log_loss"):
                    tags[f"gate_{who}_{name}"] = f"{model.metrics[name]:.5f}"
        return tags


def gate(
    candidate: Scorer,
    champion: Scorer | None,
    judge: Judge,
    floor: Judge | None = None,
    seed: int = 0,
) -> Verdict:
    """Promotes a candidate that is shown to be better than the champion, and harms no segment.

    A model trained on synthetic rows never replaces one trained on real rows; one trained on
    real rows replaces a synthetic one that it is not worse than. On the rows of `floor` a
    candidate need not be better, but its ROC AUC may not fall by more than a margin.
    """
    ours = candidate.score(judge.frame)
    facts: dict[str, Any] = {
        "judge": judge.name,
        "judge_digest": judge.digest,
        "judge_rows": len(judge.y),
        "candidate": describe(candidate, judge, ours),
    }
    if champion is None:
        return judge_alone(facts)
    theirs = champion.score(judge.frame)
    facts["champion"] = describe(champion, judge, theirs)
    losses = log_losses(judge.y, theirs) - log_losses(judge.y, ours)
    random = np.random.default_rng(seed)
    facts["log_loss_gain"] = interval(losses.mean(), resampled_means(losses, random))
    facts["roc_auc_gain"] = auc_gain(judge.y, ours, theirs, random)
    facts["segments"] = tuple(compare_segments(judge, -losses, random))
    facts["floor"] = compare_floor(candidate, champion, floor, random) if floor else None
    reason = why_not(facts, candidate.metadata, champion.metadata)
    if reason:
        return Verdict(False, reason, **facts)
    gain = facts["log_loss_gain"]
    return Verdict(
        True,
        f"better: log loss by {gain.estimate:.4f} ({gain.low:.4f} to {gain.high:.4f})",
        **facts,
    )


def compare_floor(
    candidate: Scorer, champion: Scorer, floor: Judge, random: np.random.Generator
) -> Floor:
    """Both models on the rows of the floor."""
    ours, theirs = candidate.score(floor.frame), champion.score(floor.frame)
    return Floor(
        floor.name,
        floor.digest,
        len(floor.y),
        measure(floor.y, ours, candidate.threshold),
        measure(floor.y, theirs, champion.threshold),
        auc_gain(floor.y, ours, theirs, random),
    )


def judge_alone(facts: dict[str, Any]) -> Verdict:
    """The verdict on a first model."""
    model: Model = facts["candidate"]
    auc = model.metrics["roc_auc"]
    reason = too_heavy(model)
    if not reason and auc < FLOOR_ROC_AUC:
        reason = f"no champion, but below the floor: roc_auc {auc:.4f}, floor {FLOOR_ROC_AUC}"
    return Verdict(not reason, reason or f"first model: roc_auc {auc:.4f}", **facts)


def why_not(facts: dict[str, Any], ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Why the champion stays, or nothing if it does not."""
    real, champion_real = (who["data_source"] != "synthetic" for who in (ours, theirs))
    if champion_real and not real:
        return "trained on synthetic rows; the champion was trained on real ones"
    if reason := too_heavy(facts["candidate"]):
        return reason
    if reason := beyond_margins(facts):
        return reason
    gain = facts["log_loss_gain"]
    if gain.low <= 0 and (champion_real or not real):
        return f"not shown to be better: log loss by {gain.estimate:.4f}, at least {gain.low:.4f}"
    return ""


def beyond_margins(facts: dict[str, Any]) -> str:
    """Where the candidate may be worse than the champion by more than is allowed, or nothing."""
    auc: Interval = facts["roc_auc_gain"]
    if auc.low < -MARGIN_ROC_AUC:
        return f"roc_auc may be worse by {-auc.low:.4f}, margin {MARGIN_ROC_AUC}"
    floor: Floor | None = facts["floor"]
    if floor and floor.roc_auc_gain.low < -MARGIN_FLOOR_ROC_AUC:
        worse = -floor.roc_auc_gain.low
        return f"{floor.judge}: roc_auc may be worse by {worse:.4f}, margin {MARGIN_FLOOR_ROC_AUC}"
    harmed = [segment.name for segment in facts["segments"] if not segment.not_worse]
    if harmed:
        return f"log loss may be worse by more than {MARGIN_SEGMENT} for {', '.join(harmed)}"
    return ""


def too_heavy(model: Model) -> str:
    """Why a model cannot be served, or nothing."""
    if model.latency_ms > MAX_LATENCY_MS:
        return f"one row takes {model.latency_ms:.1f} ms, at most {MAX_LATENCY_MS}"
    if model.size_mb > MAX_SIZE_MB:
        return f"the graph has {model.size_mb:.0f} MB, at most {MAX_SIZE_MB}"
    return ""


def describe(model: Scorer, judge: Judge, probability: np.ndarray) -> Model:
    """Metrics on the judge rows, and what serving costs."""
    metrics = measure(judge.y, probability, model.threshold)
    return Model(metrics, latency_ms(model, judge.frame), model.size_mb)


def latency_ms(model: Scorer, frame: pd.DataFrame) -> float:
    """The median time to score one row."""
    rows = [frame.iloc[[index]] for index in range(min(LATENCY_ROWS, len(frame)))]
    taken = []
    for row in rows:
        start = time.perf_counter()
        model.score(row)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken) * 1000)


def log_losses(y: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The log loss of each row (n_samples,), in nats."""
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.where(y == 1, np.log(p), np.log1p(-p))


def resampled_means(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Means over rows drawn with replacement (RESAMPLES,)."""
    n = len(values)
    return np.array([values[random.integers(0, n, n)].mean() for _ in range(RESAMPLES)])


def interval(estimate: float, resampled: np.ndarray) -> Interval:
    """The estimate with the ends of its bootstrap interval."""
    return Interval(float(estimate), *interval_ends(resampled))


def auc_gain(
    y: np.ndarray, ours: np.ndarray, theirs: np.ndarray, random: np.random.Generator
) -> Interval:
    """How much higher the candidate's ROC AUC is; both on the same drawn rows."""
    auc_ours, auc_theirs = weighted_auc(y, ours), weighted_auc(y, theirs)
    n = len(y)
    gains = []
    for _ in range(RESAMPLES):
        weight = np.bincount(random.integers(0, n, n), minlength=n)
        gains.append(auc_ours(weight) - auc_theirs(weight))
    ones = np.ones(n)
    return interval(auc_ours(ones) - auc_theirs(ones), np.array(gains))


def weighted_auc(y: np.ndarray, probability: np.ndarray) -> Callable[[np.ndarray], float]:
    """A function from row weights (n_samples,) to the ROC AUC; rows are sorted once for all."""
    order = np.argsort(probability, kind="stable")
    positive = y[order] == 1
    starts = np.flatnonzero(np.r_[True, np.diff(probability[order]) > 0])  # ties share a rank

    def auc(weight: np.ndarray) -> float:
        sorted_weight = weight[order]
        up = np.add.reduceat(np.where(positive, sorted_weight, 0), starts)
        down = np.add.reduceat(np.where(positive, 0, sorted_weight), starts)
        below = np.cumsum(down) - down / 2
        return float((up * below).sum() / (up.sum() * down.sum()))

    return auc


def compare_segments(
    judge: Judge, rises: np.ndarray, random: np.random.Generator
) -> Iterator[Segment]:
    """Non-inferiority in each segment, where it has the rows to say anything."""
    for name, rows in segments_of(judge.frame):
        counts = np.bincount(judge.y[rows], minlength=2)
        if counts.sum() < MIN_ROWS or counts.min() < MIN_OF_EACH_CLASS:
            yield Segment(name, int(counts.sum()), None, True)
            continue
        rise = interval(rises[rows].mean(), resampled_means(rises[rows], random))
        yield Segment(name, int(counts.sum()), rise, rise.high <= MARGIN_SEGMENT)
