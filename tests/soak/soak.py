"""Run constant load while parts of the system fail; then check that no prediction was lost.

    make soak                                   (MONGODB_TEST_URI=mongodb://... for MongoDB as well)

During the load, sinks go down and come back, processes get SIGKILL, the disk quota fills up, and
the model changes. At the end every request must be accounted for. Every sink must hold the id of
every accepted prediction exactly once. Exits 1 otherwise.
"""

import argparse
import asyncio
import inspect
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pymongo

from config.contract import load_contract
from tests.benchmarks.report import result, write
from tests.soak.link import Link
from tests.soak.load import Ledger, Load
from tests.soak.system import System
from tests.stream_generator.conftest import random_rows

DRAIN_TIMEOUT_S = 180.0  # after the load; the sinks are up again by then


class Outcome(NamedTuple):
    """The state after a soak."""

    ledger: Ledger
    stored: dict[str, list[str]]  # ids by sink
    backlog: dict[str, int]  # undelivered events by sink
    dead_letters: int
    tracebacks: dict[str, str]  # in the logs, by part
    seconds: dict[str, float]  # of each event, from the start of the load

    @property
    def problems(self) -> list[str]:
        """Everything wrong: lost, duplicate or unexpected predictions, and errors."""
        one = self.ledger
        total = one.accepted + one.rejected + one.broken
        found = [f"{one.sent} sent, but {total} accounted for"] * (one.sent != total)
        found += [f"{n} responses {status}" for status, n in one.other.items()]
        found += [f"{one.hung} requests got neither a response nor a closed connection"] * bool(
            one.hung
        )
        found += ["duplicate id in responses"] * (len(set(one.ids)) != len(one.ids))
        for sink, ids in self.stored.items():
            lost, extra = set(one.ids) - set(ids), len(ids) - len(one.ids)
            found += [f"{sink}: {len(lost)} accepted, but not stored"] * bool(lost)
            found += [f"{sink}: duplicate id"] * (len(set(ids)) != len(ids))
            if extra > one.broken_records:
                found.append(
                    f"{sink}: {extra} stored, but not accepted; {one.broken_records} broken"
                )
        found += [f"{sink}: {n} events undelivered" for sink, n in self.backlog.items() if n]
        found += [f"{self.dead_letters} dead letters"] * bool(self.dead_letters)
        return found + [f"{part}: {text}" for part, text in self.tracebacks.items()]


class Soak:
    """One run: a system, its load, and the failures during the load."""

    def __init__(self, folder: Path, mongodb_uri: str) -> None:
        parts = urlsplit(mongodb_uri)
        self.mongodb_uri = mongodb_uri
        self.database = f"soak_{uuid.uuid4().hex}"
        self.link = Link(parts.hostname or "", parts.port or 27017) if mongodb_uri else None
        through = (
            f"mongodb://127.0.0.1:{self.link.port}/?directConnection=true" if self.link else ""
        )
        self.system = System(folder, through, self.database)
        records = [row.record for row in random_rows(load_contract(), 70)]
        self.load = Load(self.system.settings.prediction_port, records)
        self.seconds: dict[str, float] = {}

    def events(self) -> list[tuple[float, str, Callable[[], object | Awaitable[object]]]]:
        """Return (share of the run, name, action) of each event."""
        system, ballast = self.system, self.system.settings.journal_path / "ballast"
        return [
            (0.08, "monitoring killed", system.monitoring.kill),
            (0.14, "MongoDB cut off", self.cut),
            (0.20, "worker killed", system.service.kill_worker),
            (0.26, "relay killed", system.relay.kill),
            (0.30, "relay started", system.relay.start),
            (0.34, "disk full", system.fill_disk),
            (0.42, "disk has room", ballast.unlink),
            (0.50, "model swapped", lambda: system.serve("2")),
            (0.60, "MongoDB back", self.restore),
            (0.62, "monitoring started", system.monitoring.start),
            (0.66, "worker killed again", system.service.kill_worker),
            (0.70, "relay killed again", system.relay.kill),
            (0.72, "relay started again", system.relay.start),
            (0.78, "service killed", system.service.kill),
            (0.80, "service started", system.service.start),
            (0.90, "model swapped back", lambda: system.serve("1")),
        ]

    async def run(self, rate: float, seconds: float) -> Outcome:
        """Run load and events for that many seconds, then wait for the sinks."""
        await self.restore()
        try:
            with self.system.running():
                await asyncio.gather(self.load.run(rate, seconds), self._run_events(seconds))
                await self._drain()
                backlog, n_dead = self.system.backlog(), self.system.dead_letters()
                for part in reversed(self.system.parts):
                    await asyncio.to_thread(part.stop)
            stored = await asyncio.to_thread(self.system.stored, self.mongodb_uri)
        finally:
            await self.cut()
            if self.mongodb_uri:
                await asyncio.to_thread(drop, self.mongodb_uri, self.database)
        tracebacks = {p.name: first_traceback(p.log) for p in self.system.parts}
        found = {name: text for name, text in tracebacks.items() if text}
        return Outcome(self.load.ledger, stored, backlog, n_dead, found, self.seconds)

    async def cut(self) -> None:
        """Make MongoDB unreachable."""
        if self.link:
            await self.link.cut()

    async def restore(self) -> None:
        """Make MongoDB reachable."""
        if self.link:
            await self.link.restore()

    async def _run_events(self, seconds: float) -> None:
        begun = time.monotonic()
        for share, name, act in self.events():
            await asyncio.sleep(max(0.0, begun + share * seconds - time.monotonic()))
            if inspect.iscoroutinefunction(act):
                await act()
            else:
                await asyncio.to_thread(act)
            self.seconds[name] = time.monotonic() - begun

    async def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < deadline and any(self.system.backlog().values()):
            await asyncio.sleep(0.5)


def drop(mongodb_uri: str, database: str) -> None:
    """Remove the soak's database."""
    client: pymongo.MongoClient = pymongo.MongoClient(mongodb_uri)
    with closing(client):
        client.drop_database(database)


def first_traceback(log: Path) -> str:
    """Return the first stack trace in a log, or an empty text."""
    text = log.read_text("utf-8", "replace")
    return text[text.index("Traceback") :][:2000] if "Traceback" in text else ""


def main() -> None:
    """Run the soak and print its outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--rate", type=float, default=300, help="requests a second (300)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no process running
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), os.environ.get("MONGODB_TEST_URI", ""))
        outcome = asyncio.run(soak.run(options.rate, options.seconds))
    ledger, problems = outcome.ledger, outcome.problems
    results = [
        result("requests sent", ledger.sent, ""),
        result("requests accepted", ledger.accepted, ""),
        result("requests rejected", ledger.rejected, ""),
        result("requests broken", ledger.broken, ""),
        result("records accepted", len(ledger.ids), ""),
        result("records in broken requests", ledger.broken_records, ""),
    ]
    for sink, ids in outcome.stored.items():
        lost = len(set(ledger.ids) - set(ids))
        results.append(result(f"{sink}: stored", len(ids), ""))
        results.append(result(f"{sink}: accepted, but not stored", lost, "", "= 0", not lost))
    results.append(result("problems", len(problems), "", "= 0", not problems))
    write("soak", results)
    print(*(f"{second:7.1f} s  {name}" for name, second in outcome.seconds.items()), sep="\n")
    print(*problems, sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
