"""Counting outcomes, and the figures made of them."""

import pytest

from stream_generator.client.summary import AnsweredRow, Tally, per_second, percentile_ms

ROW = AnsweredRow("id", 1, 0.75, 1, "3")


class Hand:
    """A clock that is set by hand."""

    seconds = 100.0

    def now(self) -> float:
        """Its time."""
        return self.seconds


def test_percentiles_are_those_of_nearest_rank() -> None:
    hundred = [n / 1000 for n in range(1, 101)]
    assert [percentile_ms(hundred, p) for p in (50, 95, 99)] == [50, 95, 99]
    assert [percentile_ms([0.002, 0.004], p) for p in (50, 95)] == [2, 4]
    assert percentile_ms([], 50) is None


def test_a_rate_over_no_time_is_zero() -> None:
    assert per_second(10, 4) == 2.5
    assert per_second(0, 0) == 0


def test_figures_follow_from_the_outcomes() -> None:
    hand = Hand()
    tally = Tally(hand.now)
    hand.seconds = 110  # nothing is under way yet: this time does not count
    tally.handed_over(2)
    hand.seconds = 112
    tally.answered([ROW, ROW], latency_s=2.0)
    tally.handed_over(2)
    tally.refused(2, "422")
    tally.handed_over(1)
    hand.seconds = 114
    tally.retried()
    tally.failed(1, "503")
    hand.seconds = 120  # labels: this time does not count either
    tally.labels_due(4)
    tally.labels_sent(1)
    tally.labels_failed(1, "503")
    summary = tally.close("none", "done")
    assert (summary.sent, summary.answered, summary.refused, summary.failed) == (5, 2, 2, 1)
    assert (summary.requests, summary.retries) == (3, 1)
    assert (summary.labels_sent, summary.labels_failed, summary.labels_unsent) == (1, 1, 2)
    assert (summary.seconds, summary.requests_per_s, summary.rows_per_s) == (4, 0.2, 0.5)
    assert (summary.latency_p50_ms, summary.latency_p99_ms) == (2000, 2000)
    assert summary.reasons == {"422": 2, "503": 2}
    assert not summary.all_well


def test_what_has_no_outcome_at_the_end_failed_and_later_news_are_ignored() -> None:
    kept: list[AnsweredRow] = []
    tally = Tally(Hand().now, kept.extend)
    tally.handed_over(3)
    summary = tally.close("none", "interrupted")
    tally.answered([ROW] * 3, latency_s=1)
    tally.failed(3, "too late")
    assert summary.sent == summary.failed == 3
    assert summary.reasons == {"no answer before the end": 3}
    assert tally.close("none", "interrupted") == summary
    assert not kept


@pytest.mark.parametrize(("outcome", "well"), [("refused", True), ("failed", False)])
def test_a_refusal_is_an_outcome_and_a_failure_is_not_well(outcome: str, well: bool) -> None:
    tally = Tally(Hand().now)
    tally.handed_over(1)
    getattr(tally, outcome)(1, "reason")
    assert tally.close("none", "done").all_well is well
