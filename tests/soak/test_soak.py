"""A short soak, and what the sum at its end would notice."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.soak.load import Ledger
from tests.soak.soak import Outcome, Soak


def outcome(ledger: Ledger, *stored: str, **changes: Any) -> Outcome:
    """What a soak left behind that stored these ids."""
    good = Outcome(ledger, {"journal": list(stored)}, {"mongodb": 0}, 0, {}, {})
    return good._replace(**changes)


@pytest.fixture
def ledger() -> Ledger:
    """Four requests: two answered, one refused, one broken."""
    return Ledger(sent=4, answered=2, refused=1, broken=1, broken_records=1, ids=["a", "b"])


@pytest.mark.parametrize("stored", ["ab", "abc"])
def test_all_is_well_if_what_was_answered_is_stored_once(ledger: Ledger, stored: str) -> None:
    """A request whose connection broke may be stored or not."""
    assert not outcome(ledger, *stored).problems


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ("a", "journal: 1 answered, but not stored"),
        ("aba", "journal: an id is stored twice"),
        ("abcd", "journal: 2 stored, but not answered; 1 broken"),
    ],
)
def test_what_is_lost_doubled_or_made_up_is_told(ledger: Ledger, stored: str, problem: str) -> None:
    assert outcome(ledger, *stored).problems == [problem]


def test_what_else_does_not_add_up_is_told(ledger: Ledger) -> None:
    ledger.sent, ledger.hung, ledger.other = 5, 1, Counter({500: 2})
    ledger.ids.append("a")
    changes: dict[str, Any] = {
        "waiting": {"mongodb": 3},
        "dead_letters": 1,
        "tracebacks": {"relay": "Traceback"},
    }
    assert outcome(ledger, "a", "b", **changes).problems == [
        "5 sent, but 4 accounted for",
        "2 answers 500",
        "1 requests were neither answered nor hung up on",
        "an id was answered twice",
        "mongodb: 3 events waiting",
        "1 dead letters",
        "relay: Traceback",
    ]


def test_answers_and_refusals_are_counted() -> None:
    ledger = Ledger()
    ledger.note(1, 200, b'{"prediction_id": "a", "model_version": "1"}')
    ledger.note(2, 200, b'[{"prediction_id": "b", "model_version": "2"}, {"prediction_id": "c"}]')
    ledger.note(1, 503, b"")
    ledger.note(1, 500, b"")
    ledger.note_broken(20, hung=False)
    assert (ledger.answered, ledger.refused, ledger.broken) == (2, 1, 1)
    assert (ledger.ids, ledger.broken_records) == (["a", "b", "c"], 20)
    assert (ledger.versions, ledger.other) == (Counter("12"), Counter({500: 1}))


def soak(folder: Path, mongodb_uri: str) -> None:
    """A short one, in which everything happens; how long anything takes is not judged."""
    one = Soak(folder, mongodb_uri)
    left = asyncio.run(one.run(rate=60, seconds=25))
    assert not left.problems
    assert len(left.seconds) == len(one.events())
    assert left.ledger.refused and left.ledger.broken and len(left.ledger.ids) > 100
    assert set(left.ledger.versions) == {"1", "2"}
    assert all(left.stored.values())


@pytest.mark.slow
def test_with_mongodb_nothing_is_lost_whatever_ends(tmp_path: Path, mongodb_uri: str) -> None:
    soak(tmp_path, mongodb_uri)


@pytest.mark.slow
def test_without_mongodb_the_journals_have_it_all(tmp_path: Path) -> None:
    soak(tmp_path, "")
