"""What came of the traffic: outcomes are counted as they happen, and summed up at the end.

Every record that was handed over is in the end answered, refused or failed, whatever happens:
what has no outcome when the tally is closed counts as failed.
"""

import math
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

Ended = Literal["done", "deadline", "interrupted"]
OUTCOMES = {"answered", "refused", "failed"}
NO_ANSWER = "no answer before the end"


class AnsweredRow(msgspec.Struct, frozen=True):
    """One answered record, as a line of the answers file. `label` is the true class, 0 or 1."""

    prediction_id: str
    label: int
    probability: float
    income_class: int
    model_version: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The run in figures; sent == answered + refused + failed.

    A latency is that of an answered request from handing it over, retries included. Throughput
    counts answered requests and records over `seconds`, from the first request handed over to
    the last outcome.
    """

    scenario: str
    ended: Ended
    sent: int  # records handed over
    answered: int
    refused: int  # by the contract (422)
    failed: int
    requests: int
    retries: int
    labels_sent: int
    labels_failed: int
    labels_unsent: int  # held back by an interrupt or the deadline
    seconds: float
    requests_per_s: float
    rows_per_s: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    reasons: dict[str, int]  # why records or labels were refused or failed, and how many

    @property
    def all_well(self) -> bool:
        """True if every record and label that was handed over arrived, accepted or refused."""
        return self.failed == 0 and self.labels_failed == 0


class Tally:
    """Counts outcomes from several threads. `keep` gets the answered rows, one call at a time.

    Once closed, it ignores what still comes in.
    """

    def __init__(
        self,
        now: Callable[[], float],
        keep: Callable[[Sequence[AnsweredRow]], None] = lambda rows: None,
    ) -> None:
        self._now = now
        self._keep = keep
        self._lock = threading.Lock()
        self._open = True
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._latencies_s = array("d")
        self._started_at = self._ended_at = now()

    @property
    def done(self) -> int:
        """Records that have an outcome."""
        return sum(self._counts[name] for name in OUTCOMES)

    def handed_over(self, n_records: int) -> None:
        """A request leaves with so many records."""
        self._add(requests=1, sent=n_records)

    def retried(self) -> None:
        """A request or a batch of labels is sent again."""
        self._add(retries=1)

    def answered(self, rows: Sequence[AnsweredRow], latency_s: float) -> None:
        """A request is answered."""
        with self._lock:
            if self._open:
                self._keep(rows)
                self._latencies_s.append(latency_s)
                self._count(answered=len(rows))

    def refused(self, n_records: int, reason: str) -> None:
        """The service found a request's records invalid."""
        self._add(reason, refused=n_records)

    def failed(self, n_records: int, reason: str) -> None:
        """A request has no usable answer."""
        self._add(reason, failed=n_records)

    def labels_due(self, n_labels: int) -> None:
        """So many labels will be known later."""
        self._add(labels_due=n_labels)

    def labels_sent(self, n_labels: int) -> None:
        """The service accepted labels."""
        self._add(labels_sent=n_labels)

    def labels_failed(self, n_labels: int, reason: str) -> None:
        """Labels did not arrive."""
        self._add(reason, labels_failed=n_labels)

    def close(self, scenario: str, ended: Ended) -> Summary:
        """The summary; from now on nothing is counted."""
        with self._lock:
            self._open = False
            if missing := self._counts["sent"] - self.done:
                self._count(NO_ANSWER, failed=missing)
            return self._summary(scenario, ended)

    def _add(self, reason: str = "", **counts: int) -> None:
        with self._lock:
            if self._open:
                self._count(reason, **counts)

    def _count(self, reason: str = "", **counts: int) -> None:
        """Adds up; the lock is held."""
        if not self._counts:  # the first to be counted is a request handed over
            self._started_at = self._now()
        if not OUTCOMES.isdisjoint(counts):
            self._ended_at = self._now()
        self._counts.update(counts)
        if reason:
            self._reasons.update({reason: sum(counts.values())})

    def _summary(self, scenario: str, ended: Ended) -> Summary:
        counts, latencies = self._counts, sorted(self._latencies_s)
        seconds = max(self._ended_at - self._started_at, 0.0)
        return Summary(
            scenario=scenario,
            ended=ended,
            sent=counts["sent"],
            answered=counts["answered"],
            refused=counts["refused"],
            failed=counts["failed"],
            requests=counts["requests"],
            retries=counts["retries"],
            labels_sent=counts["labels_sent"],
            labels_failed=counts["labels_failed"],
            labels_unsent=counts["labels_due"] - counts["labels_sent"] - counts["labels_failed"],
            seconds=round(seconds, 3),
            requests_per_s=per_second(len(latencies), seconds),
            rows_per_s=per_second(counts["answered"], seconds),
            latency_p50_ms=percentile_ms(latencies, 50),
            latency_p95_ms=percentile_ms(latencies, 95),
            latency_p99_ms=percentile_ms(latencies, 99),
            reasons=dict(self._reasons.most_common()),
        )


def per_second(count: int, seconds: float) -> float:
    """A rate; 0 if no time has passed."""
    return round(count / seconds, 1) if seconds else 0.0


def percentile_ms(sorted_s: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile in milliseconds of sorted seconds; None if there are none."""
    if not sorted_s:
        return None
    rank = math.ceil(len(sorted_s) * percent / 100)
    return round(sorted_s[rank - 1] * 1000, 3)
