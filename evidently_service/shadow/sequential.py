"""Whether one of two versions is better: a test that may be looked at with every label.

Each labelled row gives a difference: the log loss of the production version minus that of the
shadow version. Someone bets on "the mean difference is above m" with a part of his wealth at each
row, at odds that are fair or worse unless it is true. So a wealth of 20 is an event of probability
1/20 at most, at whichever row one looks: the wealth is an e-value. Here it is the mean wealth of
several fixed bets, because the best bet depends on the unknown mean and spread.

Sources: Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting,
doi:10.1093/jrsssb/qkad009; Ville (1939) for the inequality.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from operator import attrgetter

import msgspec
import numpy as np

from config.runtime.statistics import log_losses
from evidently_service.reference.monitoring_config import DAY_S

# A bet can lose at most all of its stake, so losses need a bound. Probabilities are clipped before
# the loss. A lower clip needs smaller bets, so more labels; a higher one hides overconfidence.
CLIP = 0.01
BOUND = math.log((1 - CLIP) / CLIP)  # of a difference, in nats
# Relative to 1 / BOUND, the bet that a single row could ruin. The best bet is the mean over the
# variance: about 1/2 for a version that differs by noise on its log-odds. That is beyond the
# largest of these, so their weights grow with the bet. Small bets are for noisy differences.
BETS = 0.95 * np.array([1 / 8, 1 / 4, 1 / 2, 1])
LOG_WEIGHTS = np.log(BETS / BETS.sum())
SEGMENT_MARGIN = 0.02  # of log loss, as the gate's
MARGINS = 2**20  # that the search for an end of the interval divides its range into; 0 is one


class Rules(msgspec.Struct, frozen=True):
    """When a test ends."""

    error_rate: float = 0.05  # of each wrong decision, however often one looks
    max_labels: int = 10_000
    max_s: float = math.inf


class Evidence(msgspec.Struct, frozen=True):
    """The labelled rows of all segments or of one."""

    labels: int
    gain: float  # mean log loss of production minus that of the shadow, clipped; in nats
    lower: float  # ends of the interval of the gain, which hold at every number of labels at once
    upper: float
    # Logarithms of the e-values for a shadow that is better or worse by more than a margin.
    log_e_better: float
    log_e_worse: float


class Decision(msgspec.Struct, frozen=True):
    """The end of a test."""

    outcome: str  # better, worse, or undecided at a limit
    why: str  # the outcome, with the segment or limit
    labels: int  # after which it was clear


def loss_differences(y: np.ndarray, production: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Return production's log loss minus the shadow's by row (n_labels,), within +-BOUND.

    y is 0 or 1; the others are probabilities of class 1.
    """
    ours, theirs = (np.clip(p, CLIP, 1 - CLIP) for p in (shadow, production))
    return log_losses(y, theirs) - log_losses(y, ours)


def log_growths(differences: np.ndarray, margin: float) -> np.ndarray:
    """Return by which logarithm each row multiplies the wealth of each bet (n, n_bets)."""
    return np.log1p(np.multiply.outer((differences - margin) / (BOUND + margin), BETS))


def log_mean_wealth(log_wealths: np.ndarray) -> np.ndarray:
    """Return the logarithm of the mean wealth of the bets, which are the last axis."""
    return np.logaddexp.reduce(log_wealths + LOG_WEIGHTS, axis=-1)


def log_e_values(differences: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Return the logarithm of the e-value for a mean above the margin, after each row (n,)."""
    return log_mean_wealth(np.cumsum(log_growths(differences, margin), axis=0))


def log_e_value(differences: np.ndarray, margin: float = 0.0) -> float:
    """Return the last of `log_e_values`; 0 without rows."""
    return float(log_mean_wealth(log_growths(differences, margin).sum(axis=0)))


def interval(differences: np.ndarray, error_rate: float) -> tuple[float, float]:
    """Return the ends of the mean's interval: the margins that the rows do not contradict.

    Each end is wrong with a probability of at most `error_rate`, at whichever row one looks.
    """
    limit, step = -math.log(error_rate), 2 * BOUND / MARGINS

    def lower_end(values: np.ndarray) -> float:
        """Return the highest margin that is contradicted; a lower one always is then, too."""
        contradicted = bisect_left(
            range(1, MARGINS), True, key=lambda n: log_e_value(values, n * step - BOUND) < limit
        )
        return contradicted * step - BOUND

    return lower_end(differences), -lower_end(-differences)


def evidence_of(differences: np.ndarray, margin: float, error_rate: float) -> Evidence:
    """Return the evidence of labelled rows."""
    mean = float(differences.mean()) if len(differences) else 0.0
    return Evidence(
        len(differences),
        mean,
        *interval(differences, error_rate),
        log_e_value(differences, margin),
        log_e_value(-differences, margin),
    )


def first_crossing(
    differences: np.ndarray, rows: np.ndarray, margin: float, limit: float
) -> int | None:
    """Return the number of labels after which an e-value first reaches a limit, if it does.

    rows: the indices of the rows that the e-value is of.
    """
    beyond = np.flatnonzero(log_e_values(differences[rows], margin) >= limit)
    return int(rows[beyond[0]]) + 1 if len(beyond) else None


def decide(
    differences: np.ndarray,
    segments: Mapping[str, np.ndarray],
    rules: Rules,
    *,
    guards: bool,
    age_s: float = 0.0,
) -> Decision | None:
    """Return the first decision that the rows allow, the oldest row first; None: go on.

    segments: the indices of each segment's rows. A challenger must not be worse in one of them by
    more than SEGMENT_MARGIN. With `guards` the shadow is the former production version, and it
    counts if that was better in a segment by as much. The segments share the error rate.
    age_s: seconds since the start of the test.
    """
    limit, n_labels = -math.log(rules.error_rate), len(differences)
    in_segment, every = limit + math.log(max(len(segments), 1)), np.arange(n_labels)
    sign, harmed = (1, "better") if guards else (-1, "worse")
    # Segments come first: `min` takes the first of two ends with the same row.
    ends = [
        (
            first_crossing(sign * differences, rows, SEGMENT_MARGIN, in_segment),
            harmed,
            f"{harmed} for {name}",
        )
        for name, rows in segments.items()
    ]
    ends.append((first_crossing(differences, every, 0, limit), "better", "better"))
    if not guards:
        ends.append((first_crossing(-differences, every, 0, limit), "worse", "worse"))
    if found := [Decision(outcome, why, labels) for labels, outcome, why in ends if labels]:
        return min(found, key=attrgetter("labels"))
    if n_labels >= rules.max_labels:
        return Decision("undecided", f"undecided after {n_labels} labels", n_labels)
    if age_s >= rules.max_s:
        return Decision("undecided", f"undecided after {age_s / DAY_S:.1f} days", n_labels)
    return None
