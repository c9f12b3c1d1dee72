"""A short run of `make fuzz`, and the counts that it reports."""

from pathlib import Path

import pytest

from config.contract import Contract
from tests.fuzz.fuzz import Outcome, run, statuses_of
from tests.fuzz.hostile import Generator, Hostile


@pytest.mark.slow
def test_no_hostile_request_causes_an_error_or_a_hang(tmp_path: Path) -> None:
    outcome = run(tmp_path, n_requests=3000, seed=7)
    assert not outcome.bad
    assert not outcome.problems
    assert outcome.sent.total() == 3000
    assert len(outcome.sent) == 11  # kinds
    assert {200, 400, 404, 405, 413, 422, 431} <= set(outcome.statuses)


def test_a_seed_determines_the_requests(contract: Contract) -> None:
    record = {feature.name: feature.example for feature in contract.inputs}
    one, other = Generator(3, record), Generator(3, record)
    assert [one.next() for _ in range(200)] == [other.next() for _ in range(200)]
    assert one.next() != Generator(4, record).next()


def test_every_one_of_consecutive_responses_is_counted() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"
    broken = b"HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
    body = b"not HTTP/1.1"  # a body, not the next response
    assert statuses_of(b"HTTP/1.1 100 Continue\r\n\r\n" + ok + body + broken) == [200, 500]
    assert statuses_of(ok + ok + b"x" * 12) == [200, 200]  # the first responds to HEAD
    assert not statuses_of(b"")


def test_server_errors_and_hangs_are_reported() -> None:
    outcome = Outcome()
    hostile = Hostile("kind", b"content")
    outcome.note(hostile, b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    outcome.note(hostile, None)
    outcome.note(hostile, b"")
    assert outcome.bad == [("status 503", hostile), ("hang", hostile)]
    assert (outcome.closed, outcome.sent["kind"]) == (1, 3)
