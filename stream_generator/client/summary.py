"""Count the outcomes of a run and sum them up.

Every record that was sent ends as answered, rejected or failed. A record without an outcome at the
end of the run counts as failed.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

RECORD_OUTCOMES = ("answered", "rejected", "failed")
LABEL_OUTCOMES = ("labels_sent", "labels_failed")
Ended = Literal["done", "deadline", "interrupted"]
NO_RESPONSE = "no response before the end"


class LabelledPrediction(msgspec.Struct, frozen=True):
    """A prediction and the true class of its record, 0 or 1. A line of the --answers file."""

    prediction_id: str
    label: int
    probability: float
    income_class: int
    model_version: str


class Outcome(NamedTuple):
    """The outcome of one request. `kind` is the field of Summary that counts it."""

    kind: str
    size: int  # records or labels
    error: str = ""
    retries: int = 0
    latency_s: float = 0.0
    predictions: Sequence[LabelledPrediction] = ()
    known_later: Sequence[LabelledPrediction] = ()  # the predictions whose label is sent later


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run; sent == answered + rejected + failed.

    The latency of a request with predictions includes its retries. The throughput counts such
    requests and their records over `seconds`: from the first request to the last outcome of a
    record.
    """

    scenario: str
    change: str  # what the scenario changes
    ended: Ended
    sent: int  # records
    answered: int  # with a prediction
    rejected: int  # invalid by the contract (status 422)
    failed: int
    requests: int
    retries: int  # of requests that have an outcome
    labels_sent: int
    labels_failed: int
    labels_unsent: int  # at an interrupt or the deadline
    seconds: float
    requests_per_s: float
    rows_per_s: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    reasons: dict[str, int]  # rejected and failed records and labels by reason

    @property
    def all_delivered(self) -> bool:
        """True if no record and no label failed."""
        return self.failed == 0 and self.labels_failed == 0


class Tally:
    """Counts outcomes. Use it from one thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._latencies_s: list[float] = []
        self._started_at = self._ended_at = now()

    @property
    def finished(self) -> int:
        """The number of records that have an outcome."""
        return sum(self._counts[name] for name in RECORD_OUTCOMES)

    def add_request(self, n_records: int) -> None:
        """Count a request that is sent now."""
        if not self._counts:
            self._started_at = self._now()
        self._counts.update(requests=1, sent=n_records)

    def add(self, outcome: Outcome) -> None:
        """Count the outcome of a request."""
        self._counts[outcome.kind] += outcome.size
        self._counts.update(retries=outcome.retries, known_later=len(outcome.known_later))
        if outcome.error:
            self._reasons[outcome.error] += outcome.size
        if outcome.kind == "answered":
            self._latencies_s.append(outcome.latency_s)
        if outcome.kind in RECORD_OUTCOMES:
            self._ended_at = self._now()

    def summary(self, scenario: str, ended: Ended, change: str = "nothing") -> Summary:
        """Return the summary. Records without an outcome count as failed from now on."""
        counts, latencies = self._counts, self._latencies_s
        percentiles = np.percentile(latencies or [np.nan], (50, 95, 99), method="inverted_cdf")
        p50, p95, p99 = (round(float(s) * 1000, 3) if latencies else None for s in percentiles)
        if unfinished := counts["sent"] - self.finished:
            self.add(Outcome("failed", unfinished, NO_RESPONSE))
        seconds = self._ended_at - self._started_at
        names = ("sent", "requests", "retries", *RECORD_OUTCOMES, *LABEL_OUTCOMES)
        return Summary(
            scenario=scenario,
            change=change,
            ended=ended,
            **{name: counts[name] for name in names},
            labels_unsent=counts["known_later"] - sum(counts[name] for name in LABEL_OUTCOMES),
            seconds=round(seconds, 3),
            requests_per_s=per_second(len(latencies), seconds),
            rows_per_s=per_second(counts["answered"], seconds),
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            latency_p99_ms=p99,
            reasons=dict(self._reasons.most_common()),
        )


def per_second(count: int, seconds: float) -> float:
    """Return a rate; 0 if no time has passed."""
    return round(count / seconds, 1) if seconds else 0.0
