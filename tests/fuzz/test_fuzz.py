"""A short run of `make fuzz`, and what it counts."""

from pathlib import Path

from config.contract import Contract
from tests.fuzz.fuzz import Outcome, run, statuses_of
from tests.fuzz.hostile import Generator, Hostile


def test_no_hostile_request_breaks_or_holds_the_service(tmp_path: Path) -> None:
    outcome = run(tmp_path, n_requests=3000, seed=7)
    assert not outcome.bad
    assert not outcome.problems
    assert outcome.sent.total() == 3000
    assert len(outcome.sent) == 11  # kinds
    assert {200, 400, 404, 405, 413, 422, 431} <= set(outcome.statuses)


def test_the_same_seed_makes_the_same_requests(contract: Contract) -> None:
    record = {feature.name: feature.default for feature in contract.inputs}
    one, other = Generator(3, record), Generator(3, record)
    assert [one.next() for _ in range(200)] == [other.next() for _ in range(200)]
    assert one.next() != Generator(4, record).next()


def test_answers_behind_each_other_are_all_seen() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"
    broken = b"HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
    body = b"not HTTP/1.1"  # of an answer, not the next one
    assert statuses_of(b"HTTP/1.1 100 Continue\r\n\r\n" + ok + body + broken) == [200, 500]
    assert statuses_of(ok + ok + b"x" * 12) == [200, 200]  # the first to HEAD
    assert not statuses_of(b"")


def test_failures_and_hangs_are_told() -> None:
    outcome = Outcome()
    hostile = Hostile("kind", b"content")
    outcome.note(hostile, b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    outcome.note(hostile, None)
    outcome.note(hostile, b"")
    assert outcome.bad == [("answered 503", hostile), ("no answer, and not closed", hostile)]
    assert (outcome.unanswered, outcome.sent["kind"]) == (1, 3)
