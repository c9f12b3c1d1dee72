"""Send hostile requests to a running service: none may get status 5xx, none may hang.

    make fuzz

Every request gets its own raw connection. Afterwards the same workers must still run and accept a
valid request. Exits 1 otherwise, and shows the first requests that failed.
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
HANG_TIMEOUT_S = 20.0  # much longer, for busy machines
CONNECTIONS = 64
MAX_BODY_BYTES, MAX_RECORDS = 20_000, 50
SHOWN = 5  # failed requests
RESPONSE = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.I)


@dataclass
class Outcome:
    """Counts of all requests, and the failed ones."""

    sent: Counter[str] = field(default_factory=Counter)  # connections by kind
    statuses: Counter[int] = field(default_factory=Counter)
    closed: int = 0  # without a response; allowed if it is not an HTTP request
    bad: list[tuple[str, Hostile]] = field(default_factory=list)  # a 5xx, or a hang
    problems: list[str] = field(default_factory=list)  # of the service after the run

    def note(self, hostile: Hostile, received: bytes | None) -> None:
        """Count one connection; `received` is None if it hung."""
        self.sent[hostile.kind] += 1
        if received is None:
            self.bad.append(("hang", hostile))
            return
        statuses = statuses_of(received)
        self.statuses.update(statuses)
        self.closed += not statuses
        if statuses and max(statuses) >= 500:
            self.bad.append((f"status {max(statuses)}", hostile))


def statuses_of(received: bytes) -> list[int]:
    """Return the statuses of consecutive responses, without `100 Continue`."""
    found, position = [], 0
    while head := RESPONSE.match(received, position):
        position, length = head.end(), LENGTH.search(head[0])
        # A response to HEAD has the length of a body that does not follow.
        if length and not received.startswith(b"HTTP/1.1 ", position):
            position += int(length[1])
        if head[1] != b"100":
            found.append(int(head[1]))
    return found


async def exchange(port: int, hostile: Hostile) -> bytes | None:
    """Return all bytes until the service closes the connection, or None after a timeout."""
    try:
        async with asyncio.timeout(HANG_TIMEOUT_S):
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
    """Send that many requests over CONNECTIONS concurrent connections."""

    async def send_some(n_own: int) -> None:
        for _ in range(n_own):
            hostile = generator.next()
            outcome.note(hostile, await exchange(port, hostile))

    each, more = divmod(n_requests, CONNECTIONS)
    shares = [each + (i < more) for i in range(CONNECTIONS)]
    await asyncio.gather(*map(send_some, shares))


def run(folder: Path, n_requests: int, seed: int) -> Outcome:
    """Start a service, send hostile requests to it, and check it afterwards."""
    contract, outcome = load_contract(), Outcome()
    record: Record = {feature.name: feature.example for feature in contract.inputs}
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
        statuses = statuses_of(asyncio.run(exchange(server.port, good)) or b"")
    text = log.read_text("utf-8", "replace")
    if before != after:
        outcome.problems.append(f"processes: got {after}, expected {before}")
    if statuses != [200]:
        outcome.problems.append(f"valid request: got {statuses}, expected [200]")
    if "Traceback" in text:
        outcome.problems.append(text[text.index("Traceback") :][:3000])
    return outcome


def main() -> None:
    """Run the fuzzer and print its outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    print(f"seed {options.seed}")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), options.requests, options.seed)
    failed = sum(n for status, n in outcome.statuses.items() if status >= 500)
    hung = sum(why == "hang" for why, _ in outcome.bad)
    write(
        "fuzz",
        [
            result("connections", outcome.sent.total(), ""),
            result("responses", outcome.statuses.total(), ""),
            *(result(f"responses {code}", n, "") for code, n in sorted(outcome.statuses.items())),
            result("closed without a response", outcome.closed, ""),
            result("responses 5xx", failed, "", "= 0", failed == 0),
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
