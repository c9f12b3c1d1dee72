"""Sends hostile requests to the running service: none may get a 5xx, none may hang.

    make fuzz

Every request has a connection of its own, over a raw socket. Afterwards the same workers must
still live and answer. Exits 1 if anything was wrong, and shows the first requests that were.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from config.contract import load_contract
from tests.benchmarks.report import result, write
from tests.benchmarks.served_model import TrainedModel
from tests.benchmarks.servers import processes, service
from tests.fuzz.hostile import Generator, Hostile, Record
from tests.prediction_service.conftest import make_package

REQUEST_TIMEOUT_S, KEEPALIVE_S = 5.0, 2  # of the service
HANGS_AFTER_S = 20.0  # far beyond it, for busy machines
AT_ONCE = 64
MAX_BODY_BYTES, MAX_RECORDS = 20_000, 50
SHOWN = 5  # of what was answered badly
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.I)


@dataclass
class Outcome:
    """What became of all requests."""

    sent: Counter[str] = field(default_factory=Counter)  # connections by kind
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0  # closed without an answer, as what is no request may be
    bad: list[tuple[str, Hostile]] = field(default_factory=list)  # a 5xx, or a hang
    problems: list[str] = field(default_factory=list)  # of the service afterwards

    def note(self, hostile: Hostile, answers: bytes | None) -> None:
        """Counts one connection; `answers` is None if it hung."""
        self.sent[hostile.kind] += 1
        if answers is None:
            self.bad.append(("no answer, and not closed", hostile))
            return
        statuses = statuses_of(answers)
        self.statuses.update(statuses)
        self.unanswered += not statuses
        if statuses and max(statuses) >= 500:
            self.bad.append((f"answered {max(statuses)}", hostile))


def statuses_of(answers: bytes) -> list[int]:
    """The statuses of answers behind each other; `100 Continue` is none."""
    found, position = [], 0
    while head := ANSWER.match(answers, position):
        position, length = head.end(), LENGTH.search(head[0])
        # An answer to HEAD tells the length of a body that does not follow.
        if length and not answers.startswith(b"HTTP/1.1 ", position):
            position += int(length[1])
        if head[1] != b"100":
            found.append(int(head[1]))
    return found


async def ask(port: int, hostile: Hostile) -> bytes | None:
    """All that is answered until the service hangs up; None if it does not."""
    try:
        async with asyncio.timeout(HANGS_AFTER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(hostile.content)
                if hostile.hangs_up:
                    writer.write_eof()
                return await reader.read()
            finally:
                writer.close()
    except TimeoutError:
        return None
    except OSError:  # the service hung up before all of it was sent
        return b""


async def send_all(port: int, generator: Generator, n_requests: int, outcome: Outcome) -> None:
    """Sends that many, AT_ONCE at a time."""

    async def send_some(n_own: int) -> None:
        for _ in range(n_own):
            hostile = generator.next()
            outcome.note(hostile, await ask(port, hostile))

    shares = [n_requests // AT_ONCE + (i < n_requests % AT_ONCE) for i in range(AT_ONCE)]
    await asyncio.gather(*map(send_some, shares))


def run(folder: Path, n_requests: int, seed: int) -> Outcome:
    """Starts the service in a folder, sends hostile requests, and looks at it afterwards."""
    contract, outcome = load_contract(), Outcome()
    record: Record = {feature.name: feature.default for feature in contract.inputs}
    package = make_package(contract, folder / "package")
    server = service(folder, 2, TrainedModel(package, folder, [record]))
    server.environment |= {
        "REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S),
        "GUNICORN_CMD_ARGS": f"--keep-alive {KEEPALIVE_S}",
        "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "MAX_RECORDS": str(MAX_RECORDS),
    }
    log, generator = folder / "service.log", Generator(seed, record)
    with server.running([record], log):
        before = processes(server.pid)
        asyncio.run(send_all(server.port, generator, n_requests, outcome))
        after = processes(server.pid)
        good = Hostile("good", generator.valid())
        answered = statuses_of(asyncio.run(ask(server.port, good)) or b"")
    text = log.read_text("utf-8", "replace")
    if before != after:
        outcome.problems.append(f"processes were {before} and are {after}")
    if answered != [200]:
        outcome.problems.append(f"a good request is answered {answered}")
    if "Traceback" in text:
        outcome.problems.append(text[text.index("Traceback") :][:3000])
    return outcome


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    print(f"seed {options.seed}")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), options.requests, options.seed)
    failed = sum(n for status, n in outcome.statuses.items() if status >= 500)
    hung = sum(why.startswith("no answer") for why, _ in outcome.bad)
    write(
        "fuzz",
        [
            result("connections", outcome.sent.total(), ""),
            result("answers", outcome.statuses.total(), ""),
            *(result(f"answers {code}", n, "") for code, n in sorted(outcome.statuses.items())),
            result("closed without an answer", outcome.unanswered, ""),
            result("answers 5xx", failed, "", "= 0", failed == 0),
            result("hangs", hung, "", "= 0", hung == 0),
            result("seconds", time.monotonic() - begun, "s"),
        ],
    )
    for why, hostile in outcome.bad[:SHOWN]:
        print(why, hostile.kind, hostile.content[:2000])
    print(*outcome.problems, sep="\n")
    sys.exit(bool(outcome.bad or outcome.problems))


if __name__ == "__main__":
    main()
