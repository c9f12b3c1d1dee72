"""Counting outcomes, and the figures that follow from them."""

from stream_generator.client.summary import LabelledPrediction, Outcome, Tally

ROW = LabelledPrediction("id", 1, 0.75, 1, "3")


class FakeClock:
    """A clock that is set by hand."""

    seconds = 100.0

    def now(self) -> float:
        """Return its time."""
        return self.seconds


def test_percentiles_are_of_the_nearest_rank() -> None:
    tally = Tally(FakeClock().now)
    for n in range(100, 0, -1):
        tally.add_request(1)
        tally.add(Outcome("answered", 1, latency_s=n / 1000))
    found = tally.summary("none", "done")
    assert (found.latency_p50_ms, found.latency_p95_ms, found.latency_p99_ms) == (50, 95, 99)
    assert (found.seconds, found.rows_per_s) == (0, 0)  # no time has passed


def test_figures_follow_from_the_outcomes() -> None:
    clock = FakeClock()
    tally = Tally(clock.now)
    clock.seconds = 110  # before the first request: this time does not count
    tally.add_request(2)
    clock.seconds = 112
    later = [ROW, ROW]
    tally.add(Outcome("answered", 2, latency_s=2.0, predictions=[ROW, ROW], known_later=later))
    tally.add_request(2)
    tally.add(Outcome("rejected", 2, "422"))
    tally.add_request(1)
    clock.seconds = 114
    tally.add(Outcome("failed", 1, "503", retries=1))
    clock.seconds = 120  # labels: this time does not count either
    tally.add(Outcome("labels_failed", 1, "503"))
    summary = tally.summary("none", "done")
    assert (summary.sent, summary.answered, summary.rejected, summary.failed) == (5, 2, 2, 1)
    assert (summary.requests, summary.retries) == (3, 1)
    assert (summary.labels_sent, summary.labels_failed, summary.labels_unsent) == (0, 1, 1)
    assert (summary.seconds, summary.requests_per_s, summary.rows_per_s) == (4, 0.2, 0.5)
    assert (summary.latency_p50_ms, summary.latency_p99_ms) == (2000, 2000)
    assert summary.reasons == {"422": 2, "503": 2}
    assert not summary.all_delivered
