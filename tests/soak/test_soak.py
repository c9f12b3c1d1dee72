"""A short soak, and the problems that its final check reports."""

import asyncio
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from config.contract import load_contract
from prediction_service.relay.progress import dropped_events
from tests.conftest import wait_until
from tests.soak.load import Ledger, Load
from tests.soak.soak import Outcome, Soak, drop
from tests.soak.system import System
from tests.stream_generator.conftest import random_rows


def outcome(ledger: Ledger, *stored: str, **changes: Any) -> Outcome:
    """Return the outcome of a soak that stored these ids."""
    good = Outcome(ledger, {"journal": list(stored)}, {"mongodb": 0}, 0, {}, {})
    return good._replace(**changes)


@pytest.fixture
def ledger() -> Ledger:
    """Return four requests: two accepted, one rejected, one broken."""
    return Ledger(sent=4, accepted=2, rejected=1, broken=1, broken_records=1, ids=["a", "b"])


@pytest.mark.parametrize("stored", ["ab", "abc"])
def test_a_soak_passes_if_each_accepted_id_is_stored_once(ledger: Ledger, stored: str) -> None:
    """A record of a broken request may be stored or not."""
    assert not outcome(ledger, *stored).problems


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ("a", "journal: 1 accepted, but not stored"),
        ("aba", "journal: duplicate id"),
        ("abcd", "journal: 2 stored, but not accepted; 1 broken"),
    ],
)
def test_lost_duplicate_and_extra_ids_are_reported(
    ledger: Ledger, stored: str, problem: str
) -> None:
    assert outcome(ledger, *stored).problems == [problem]


def test_every_other_problem_is_reported(ledger: Ledger) -> None:
    ledger.sent, ledger.hung, ledger.other = 5, 1, Counter({500: 2})
    ledger.ids.append("a")
    changes: dict[str, Any] = {
        "backlog": {"mongodb": 3},
        "dead_letters": 1,
        "tracebacks": {"relay": "Traceback"},
    }
    assert outcome(ledger, "a", "b", **changes).problems == [
        "5 sent, but 4 accounted for",
        "2 responses 500",
        "1 requests got neither a response nor a closed connection",
        "duplicate id in responses",
        "mongodb: 3 events undelivered",
        "1 dead letters",
        "relay: Traceback",
    ]


def soak(folder: Path, mongodb_uri: str) -> None:
    """Run a short soak with every event. Durations are not checked."""
    one = Soak(folder, mongodb_uri)
    result = asyncio.run(one.run(rate=60, seconds=25))
    assert not result.problems
    assert len(result.seconds) == len(one.events())
    assert result.ledger.rejected and result.ledger.broken and len(result.ledger.ids) > 100
    assert set(result.ledger.versions) == {"1", "2"}
    assert all(result.stored.values())


@pytest.mark.slow
def test_with_mongodb_no_prediction_is_lost_in_any_failure(
    tmp_path: Path, mongodb_uri: str
) -> None:
    soak(tmp_path, mongodb_uri)


@pytest.mark.slow
def test_without_mongodb_the_journals_hold_every_prediction(tmp_path: Path) -> None:
    soak(tmp_path, "")


@pytest.mark.slow
def test_a_monitoring_that_stays_down_costs_no_prediction(tmp_path: Path, mongodb_uri: str) -> None:
    """The load needs more room than there is: a backlog once filled the journals, and then 503."""
    database = f"soak_{uuid.uuid4().hex}"
    system = System(tmp_path, mongodb_uri, database, journal_max_mb=64)
    records = [row.record for row in random_rows(load_contract(), 70)]
    load = Load(system.settings.prediction_port, records)
    try:
        with system.running():
            system.monitoring.kill()
            system.fill_disk(free_mb=12)
            asyncio.run(load.run(rate=150, seconds=90))  # 17 MB
            wait_until(lambda: not system.backlog()["mongodb"], "MongoDB to have every row")
            dropped = dropped_events(system.settings.journal_path)
        recorded = system.recorded(mongodb_uri)
    finally:
        drop(mongodb_uri, database)
    ledger = load.ledger
    assert (ledger.rejected, ledger.broken, dict(ledger.other)) == (0, 0, {})
    assert sorted(recorded) == sorted(ledger.ids)
    assert dropped["evidently"] > 1000
