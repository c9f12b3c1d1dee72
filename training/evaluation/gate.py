"""The promotion gate: may the candidate replace the champion as `production`?

Runs after registration. Both models are scored on the same holdout set. The candidate must be
significantly better; otherwise models that differ by chance would replace each other. After a drift
retrain the newest labelled rows are the holdout set, and the test split is the floor set. The
verdict records the digest of each set.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import pandas as pd

from config.runtime.statistics import log_losses, percentile_interval
from config.segments import Segment as ContractSegment
from training.evaluation.metrics import groups_of, measure, weighted_auc
from training.evaluation.serving_bounds import MAX_LATENCY_RATIO, is_slower
from training.model.calibration import fit_platt

CHANCE = 0.5  # ROC AUC without skill
# Non-inferiority margins: on all rows and in each segment.
MARGIN_ROC_AUC = 0.002
MARGIN_SEGMENT = 0.02  # of log loss
# On the floor set a model for a changed world loses up to 0.003 of ROC AUC with 4,000 new rows, and
# up to 0.015 if these weigh three times as much (`make bench NAME=retraining`).
MARGIN_FLOOR_ROC_AUC = 0.02
# An interval as wide as the margin on each side would reject every second candidate that is equal.
# Up to this share of the margin the interval decides, with a wider one the estimate. On 1,000 rows
# of the census the interval of two seeds is as wide as the margin (`make bench NAME=gate`).
MAX_HALF_WIDTH = 0.5
TEST_SPLIT, RECENT = "test split", "newest labelled rows"  # names of holdout sets
RESAMPLES = 1000
# The same on the floor set, after each model is calibrated on it: a model for a changed base rate
# is not calibrated there. Honest candidates lose up to 0.016, at most 0.028 by the interval; one
# that gives every Black woman the same probability loses 0.14 (`make bench NAME=retraining`).
MARGIN_FLOOR_SEGMENT = 0.05
MIN_ROWS, MIN_OF_EACH_CLASS = 200, 30  # of a holdout set
MIN_SEGMENT_ROWS, MIN_SEGMENT_CLASS = 200, 20  # with fewer the interval is too wide
MAX_SIZE_MB = 50.0
LATENCY_ROWS = 200


class Scorer(Protocol):
    """A model: probabilities for a frame, and the facts that the gate checks."""

    metadata: dict[str, str]

    @property
    def threshold(self) -> float:
        """The decision threshold in [0, 1]."""

    @property
    def size_mb(self) -> float:
        """Size of the graph in megabytes."""

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the probability of the positive label (n_samples,)."""


class HoldoutSet(NamedTuple):
    """Labelled rows that no training has seen, with every column, protected ones included."""

    frame: pd.DataFrame
    y: np.ndarray
    digest: str
    name: str = TEST_SPLIT
    segments: tuple[ContractSegment, ...] = ()


class Interval(NamedTuple):
    """An estimate with the ends of its bootstrap interval."""

    estimate: float
    low: float
    high: float


class Segment(msgspec.Struct, frozen=True):
    """The rise in log loss from champion to candidate on one segment of the holdout set."""

    name: str
    rows: int
    log_loss_rise: Interval | None  # None: too few rows
    not_worse: bool


class Model(msgspec.Struct, frozen=True):
    """Metrics of one model on the holdout set, and its serving cost."""

    metrics: dict[str, float]
    latency_ms: float  # of one row, the median; the models take turns
    size_mb: float


class Floor(msgspec.Struct, frozen=True):
    """Both models on the floor set."""

    judge: str
    judge_digest: str
    judge_rows: int
    candidate: dict[str, float]
    champion: dict[str, float]
    roc_auc_gain: Interval
    segments: tuple[Segment, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """Whether to promote, the reason, and all figures behind it; `judge` is the holdout set."""

    promote: bool
    reason: str
    judge_digest: str
    judge_rows: int
    candidate: Model
    champion: Model | None = None
    roc_auc_gain: Interval | None = None
    log_loss_gain: Interval | None = None  # positive: the candidate is better
    segments: tuple[Segment, ...] = ()
    judge: str = TEST_SPLIT
    floor: Floor | None = None

    @property
    def outcome(self) -> str:
        """The decision in one word: passed or failed."""
        return "passed" if self.promote else "failed"

    def as_tags(self) -> dict[str, str]:
        """Return the main figures as tags of a model version."""
        tags = {
            "gate": self.outcome,
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


class Bootstrap(NamedTuple):
    """The source of resamples: each draws rows with replacement."""

    random: np.random.Generator
    resamples: int

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return means over resampled rows (resamples,)."""
        n = len(values)
        draw = self.random.integers
        return np.array([values[draw(0, n, n)].mean() for _ in range(self.resamples)])

    def counts(self, n: int) -> Iterator[np.ndarray]:
        """Yield how often each of n rows is drawn (n,), for each resample."""
        for _ in range(self.resamples):
            yield np.bincount(self.random.integers(0, n, n), minlength=n)


def gate(
    candidate: Scorer,
    champion: Scorer | None,
    holdout: HoldoutSet,
    floor: HoldoutSet | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    latency_rows: int = LATENCY_ROWS,
) -> Verdict:
    """Return the verdict: promote a candidate that is better and not worse in any segment.

    A model of synthetic rows never replaces one of real rows. A model of real rows replaces one of
    synthetic rows if it is not worse. On the floor set, ROC AUC may fall by no more than a margin.
    """
    ours = candidate.score(holdout.frame)
    latencies = latencies_ms(
        [candidate, champion] if champion else [candidate], holdout.frame.head(latency_rows)
    )
    facts: dict[str, Any] = {
        "judge": holdout.name,
        "judge_digest": holdout.digest,
        "judge_rows": len(holdout.y),
        "candidate": describe(candidate, holdout, ours, latencies[0]),
    }
    bootstrap = Bootstrap(np.random.default_rng(seed), resamples)
    if champion is None:
        return judge_first(facts, holdout.y, ours, bootstrap)
    theirs = champion.score(holdout.frame)
    losses = log_losses(holdout.y, theirs) - log_losses(holdout.y, ours)
    facts["champion"] = describe(champion, holdout, theirs, latencies[1])
    facts["log_loss_gain"] = interval(losses.mean(), bootstrap.means(losses))
    facts["roc_auc_gain"] = auc_gain(holdout.y, ours, theirs, bootstrap)
    facts["segments"] = tuple(compare_segments(holdout, -losses, MARGIN_SEGMENT, bootstrap))
    facts["floor"] = compare_floor(candidate, champion, floor, bootstrap) if floor else None
    if reason := rejection_reason(facts, candidate.metadata, champion.metadata):
        return Verdict(False, reason, **facts)
    gain = facts["log_loss_gain"]
    reason = f"better: log loss by {gain.estimate:.4f} ({gain.low:.4f} to {gain.high:.4f})"
    return Verdict(True, reason, **facts)


def compare_floor(
    candidate: Scorer, champion: Scorer, floor: HoldoutSet, bootstrap: Bootstrap
) -> Floor:
    """Return both models' figures on the floor set.

    For the segments each model is calibrated on the whole set. So a changed base rate does not
    count, and a segment for which the probabilities have become wrong does.
    """
    ours, theirs = candidate.score(floor.frame), champion.score(floor.frame)
    calibrated = [fit_platt(one, floor.y)(one) for one in (ours, theirs)]
    rises = log_losses(floor.y, calibrated[0]) - log_losses(floor.y, calibrated[1])
    return Floor(
        floor.name,
        floor.digest,
        len(floor.y),
        measure(floor.y, ours, candidate.threshold),
        measure(floor.y, theirs, champion.threshold),
        auc_gain(floor.y, ours, theirs, bootstrap),
        tuple(compare_segments(floor, rises, MARGIN_FLOOR_SEGMENT, bootstrap)),
    )


def judge_first(
    facts: dict[str, Any], y: np.ndarray, probability: np.ndarray, bootstrap: Bootstrap
) -> Verdict:
    """Return the verdict on a first model: promote one that is better than no model.

    Its ranking must be better than chance, and its log loss lower than that of the holdout rows'
    own share of positive labels as every row's probability.
    """
    model: Model = facts["candidate"]
    loss, base_loss = model.metrics["log_loss"], log_losses(y, np.full(len(y), y.mean())).mean()
    auc = weighted_auc(y, probability)
    found = interval(auc(np.ones(len(y))), np.array([auc(n) for n in bootstrap.counts(len(y))]))
    words = f"roc_auc {found.estimate:.4f} ({found.low:.4f} to {found.high:.4f})"
    reason = serving_problem(model)
    if not reason and found.low <= CHANCE:
        reason = f"no champion: {words}, expected above {CHANCE}, that of chance"
    if not reason and loss >= base_loss:
        reason = (
            f"no champion: log_loss {loss:.4f}, expected below {base_loss:.4f}, without a model"
        )
    return Verdict(not reason, reason or f"first model: {words}", **facts)


def rejection_reason(facts: dict[str, Any], ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Return why the champion stays, or an empty text."""
    real, champion_real = (metadata["data_source"] != "synthetic" for metadata in (ours, theirs))
    if champion_real and not real:
        return "trained on synthetic rows; the champion was trained on real ones"
    if reason := serving_problem(facts["candidate"], facts["champion"]) or margin_problem(facts):
        return reason
    gain = facts["log_loss_gain"]
    if gain.low <= 0 and (champion_real or not real):
        return f"not shown to be better: log loss by {gain.estimate:.4f}, at least {gain.low:.4f}"
    return ""


def margin_problem(facts: dict[str, Any]) -> str:
    """Return where the candidate may be worse than a margin allows, or an empty text."""
    if problem := auc_problem(facts["roc_auc_gain"], MARGIN_ROC_AUC):
        return problem
    if problem := segment_problem(facts["segments"], MARGIN_SEGMENT):
        return problem
    floor: Floor | None = facts["floor"]
    if floor and (
        problem := auc_problem(floor.roc_auc_gain, MARGIN_FLOOR_ROC_AUC)
        or segment_problem(floor.segments, MARGIN_FLOOR_SEGMENT)
    ):
        return f"{floor.judge}: {problem}"
    return ""


def segment_problem(segments: Sequence[Segment], margin: float) -> str:
    """Return the segments whose log loss may be worse by more than a margin, or an empty text."""
    harmed = "; ".join(segment.name for segment in segments if not segment.not_worse)
    return f"log loss may be worse by more than {margin} for {harmed}" if harmed else ""


def auc_problem(gain: Interval, margin: float) -> str:
    """Return by how much the ROC AUC may be worse if a margin rejects that, or an empty text."""
    loss = Interval(-gain.estimate, -gain.high, -gain.low)
    if is_beyond(loss, margin):
        return f"roc_auc may be worse by {loss.high:.4f}, margin {margin}"
    return ""


def is_beyond(loss: Interval, margin: float) -> bool:
    """Return whether a loss may be beyond a margin.

    The far end of the interval decides if the rows are enough for a narrow one, else the estimate.
    """
    is_narrow = loss.high - loss.estimate <= MAX_HALF_WIDTH * margin
    return loss.estimate > margin or (is_narrow and loss.high > margin)


def serving_problem(model: Model, champion: Model | None = None) -> str:
    """Return why a model is too large, or too slow beside the champion, or an empty text."""
    if model.size_mb > MAX_SIZE_MB:
        return f"size of the graph: {model.size_mb:.0f} MB, expected at most {MAX_SIZE_MB}"
    if champion and is_slower(model.latency_ms, champion.latency_ms):
        return (
            f"latency of one row: {model.latency_ms:.1f} ms, expected at most {MAX_LATENCY_RATIO:g}"
            f" times the champion's {champion.latency_ms:.1f} ms"
        )
    return ""


def describe(
    model: Scorer, holdout: HoldoutSet, probability: np.ndarray, latency_ms: float
) -> Model:
    """Return metrics on the holdout set, and the serving cost."""
    return Model(measure(holdout.y, probability, model.threshold), latency_ms, model.size_mb)


def latencies_ms(models: Sequence[Scorer], frame: pd.DataFrame) -> list[float]:
    """Return each model's median time of scoring one row; the models take turns at each row."""
    taken: list[list[float]] = [[] for _ in models]
    for index in range(len(frame)):
        row = frame.iloc[[index]]
        for model, times in zip(models, taken, strict=True):
            start = time.perf_counter()
            model.score(row)
            times.append(time.perf_counter() - start)
    return [float(np.median(times) * 1000) for times in taken]


def interval(estimate: float, resampled: np.ndarray) -> Interval:
    """Return the estimate with the ends of its bootstrap interval."""
    return Interval(float(estimate), *percentile_interval(resampled))


def auc_gain(y: np.ndarray, ours: np.ndarray, theirs: np.ndarray, bootstrap: Bootstrap) -> Interval:
    """Return how much higher the candidate's ROC AUC is, both on the same resampled rows."""
    auc_ours, auc_theirs = weighted_auc(y, ours), weighted_auc(y, theirs)
    gains = [auc_ours(counts) - auc_theirs(counts) for counts in bootstrap.counts(len(y))]
    ones = np.ones(len(y))
    return interval(auc_ours(ones) - auc_theirs(ones), np.array(gains))


def compare_segments(
    holdout: HoldoutSet, rises: np.ndarray, margin: float, bootstrap: Bootstrap
) -> Iterator[Segment]:
    """Yield the non-inferiority test of each segment, and of each pair of segments.

    Too small segments pass; too small pairs are left out.
    """
    groups = list(groups_of(holdout.frame, holdout.segments))
    pairs = [(f"{a}, {b}", of_a & of_b) for (a, of_a), (b, of_b) in combinations(groups, 2)]
    for number, (name, rows) in enumerate(groups + pairs):
        counts = np.bincount(holdout.y[rows], minlength=2)
        if counts.sum() >= MIN_SEGMENT_ROWS and counts.min() >= MIN_SEGMENT_CLASS:
            rise = interval(rises[rows].mean(), bootstrap.means(rises[rows]))
            yield Segment(name, int(counts.sum()), rise, not is_beyond(rise, margin))
        elif number < len(groups):
            yield Segment(name, int(counts.sum()), None, True)
