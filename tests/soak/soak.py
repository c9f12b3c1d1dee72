"""Load that does not stop while everything else does, and then the sum of it all.

    make soak                                   (MONGODB_TEST_URI=mongodb://... for MongoDB as well)

Sinks go down and come back, processes are killed with -9, the disk quota is used up, the model is
swapped. In the end every request must be accounted for, and every id that was answered stored
exactly once in every sink. Exits 1 if anything does not add up.
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

DRAINED_WITHIN_S = 180.0  # after the load; the sinks are up by then


class Outcome(NamedTuple):
    """What a soak left behind."""

    ledger: Ledger
    stored: dict[str, list[str]]  # ids, by where
    waiting: dict[str, int]  # events that a sink still had to store
    dead_letters: int
    tracebacks: dict[str, str]  # in the logs, by part
    seconds: dict[str, float]  # when each event happened, from the start of the load

    @property
    def problems(self) -> list[str]:
        """Everything that does not add up; empty if nothing was lost, doubled or made up."""
        one = self.ledger
        total = one.answered + one.refused + one.broken
        found = [f"{one.sent} sent, but {total} accounted for"] * (one.sent != total)
        found += [f"{n} answers {status}" for status, n in one.other.items()]
        found += [f"{one.hung} requests were neither answered nor hung up on"] * bool(one.hung)
        found += ["an id was answered twice"] * (len(set(one.ids)) != len(one.ids))
        for where, ids in self.stored.items():
            lost, extra = set(one.ids) - set(ids), len(ids) - len(one.ids)
            found += [f"{where}: {len(lost)} answered, but not stored"] * bool(lost)
            found += [f"{where}: an id is stored twice"] * (len(set(ids)) != len(ids))
            if extra > one.broken_records:
                found.append(
                    f"{where}: {extra} stored, but not answered; {one.broken_records} broken"
                )
        found += [f"{sink}: {n} events waiting" for sink, n in self.waiting.items() if n]
        found += [f"{self.dead_letters} dead letters"] * bool(self.dead_letters)
        return found + [f"{part}: {text}" for part, text in self.tracebacks.items()]


class Soak:
    """One run: a system, a load on it, and what happens to it meanwhile."""

    def __init__(self, folder: Path, mongodb_uri: str) -> None:
        parts = urlsplit(mongodb_uri)
        self.mongodb_uri = mongodb_uri
        self.database = f"soak_{uuid.uuid4().hex}"
        self.link = Link(parts.hostname or "", parts.port or 27017) if mongodb_uri else None
        through = (
            f"mongodb://127.0.0.1:{self.link.port}/?directConnection=true" if self.link else ""
        )
        self.system = System(folder, through, self.database)
        contract = load_contract()
        record = {feature.name: feature.default for feature in contract.inputs}
        self.load = Load(self.system.settings.prediction_port, record)
        self.happened: dict[str, float] = {}

    def events(self) -> list[tuple[float, str, Callable[[], object | Awaitable[object]]]]:
        """What happens, and when: a share of the run."""
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
        """Loads the system for that long and lets everything happen; then waits for the sinks."""
        await self.restore()
        try:
            with self.system.running():
                await asyncio.gather(self.load.run(rate, seconds), self._happen(seconds))
                await self._drain()
                waiting, n_dead = self.system.waiting(), self.system.dead_letters()
                for part in reversed(self.system.parts):
                    await asyncio.to_thread(part.stop)
            stored = await asyncio.to_thread(self.system.stored, self.mongodb_uri)
        finally:
            await self.cut()
            if self.mongodb_uri:
                await asyncio.to_thread(drop, self.mongodb_uri, self.database)
        tracebacks = {p.name: first_traceback(p.log) for p in self.system.parts}
        found = {name: text for name, text in tracebacks.items() if text}
        return Outcome(self.load.ledger, stored, waiting, n_dead, found, self.happened)

    async def cut(self) -> None:
        """MongoDB cannot be reached."""
        if self.link:
            await self.link.cut()

    async def restore(self) -> None:
        """MongoDB can be reached."""
        if self.link:
            await self.link.restore()

    async def _happen(self, seconds: float) -> None:
        begun = time.monotonic()
        for share, name, act in self.events():
            await asyncio.sleep(max(0.0, begun + share * seconds - time.monotonic()))
            if inspect.iscoroutinefunction(act):
                await act()
            else:
                await asyncio.to_thread(act)
            self.happened[name] = time.monotonic() - begun

    async def _drain(self) -> None:
        deadline = time.monotonic() + DRAINED_WITHIN_S
        while time.monotonic() < deadline and any(self.system.waiting().values()):
            await asyncio.sleep(0.5)


def drop(mongodb_uri: str, database: str) -> None:
    """Removes the soak's own database."""
    client: pymongo.MongoClient = pymongo.MongoClient(mongodb_uri)
    with closing(client):
        client.drop_database(database)


def first_traceback(log: Path) -> str:
    """The first stack trace in a log."""
    text = log.read_text("utf-8", "replace")
    return text[text.index("Traceback") :][:2000] if "Traceback" in text else ""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--rate", type=float, default=300, help="requests a second (300)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), os.environ.get("MONGODB_TEST_URI", ""))
        outcome = asyncio.run(soak.run(options.rate, options.seconds))
    ledger, problems = outcome.ledger, outcome.problems
    results = [
        result("requests sent", ledger.sent, ""),
        result("requests answered", ledger.answered, ""),
        result("requests refused", ledger.refused, ""),
        result("requests broken", ledger.broken, ""),
        result("records answered", len(ledger.ids), ""),
        result("records in broken requests", ledger.broken_records, ""),
    ]
    for where, ids in outcome.stored.items():
        lost = len(set(ledger.ids) - set(ids))
        results.append(result(f"{where}: stored", len(ids), ""))
        results.append(result(f"{where}: answered, but not stored", lost, "", "= 0", not lost))
    results.append(result("problems", len(problems), "", "= 0", not problems))
    write("soak", results)
    print(*(f"{second:7.1f} s  {name}" for name, second in outcome.seconds.items()), sep="\n")
    print(*problems, sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
