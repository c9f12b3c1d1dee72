"""Open-loop load on `/predict`, and what became of each request.

Requests leave when they are due, whether or not earlier ones have been answered, as those of many
independent clients do. A request is answered (200), refused (503, and then nothing may be stored)
or broken (no whole answer: whether it was stored, its client cannot know).
"""

import asyncio
import itertools
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

LONG_LIST = 20  # records
LISTS_EVERY = 10  # every tenth request has a list
ANSWER_WITHIN_S = 30.0  # beyond the service's own deadlines
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


@dataclass
class Ledger:
    """Every request that was sent, and the ids that were answered."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    broken: int = 0
    broken_records: int = 0
    hung: int = 0  # of the broken: no answer, and not hung up on
    other: Counter[int] = field(default_factory=Counter)  # statuses that may not be
    ids: list[str] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)

    def note(self, n_records: int, status: int, body: bytes) -> None:
        """Counts a request that was answered."""
        if status == 503:
            self.refused += 1
            return
        if status != 200:
            self.other[status] += 1
            return
        answers = json.loads(body)
        answers = answers if isinstance(answers, list) else [answers]
        assert len(answers) == n_records
        self.answered += 1
        self.ids += [one["prediction_id"] for one in answers]
        self.versions[answers[0]["model_version"]] += 1

    def note_broken(self, n_records: int, hung: bool) -> None:
        """Counts a request without a whole answer."""
        self.broken += 1
        self.broken_records += n_records
        self.hung += hung


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Load:
    """Sends requests to a port; connections are kept, and made when none is idle."""

    def __init__(self, port: int, record: Record) -> None:
        self.port = port
        self.ledger = Ledger()
        self._record = record
        self._idle: list[Stream] = []

    async def run(self, rate: float, seconds: float) -> None:
        """Sends `rate` requests a second, and waits for the last answer."""
        begun, asked = time.monotonic(), []
        for number in itertools.count():
            due = begun + number / rate
            if due >= begun + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked.append(asyncio.create_task(self._ask(number)))
        await asyncio.gather(*asked)
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, number: int) -> None:
        n_records = LONG_LIST if number % LISTS_EVERY == 0 else 1
        records = [self._record | {"age": 17 + (number + i) % 70} for i in range(n_records)]
        body = json.dumps(records if n_records > 1 else records[0]).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
        self.ledger.sent += 1
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                status, answer = await self._exchange(head.encode() + body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as err:
            self.ledger.note_broken(n_records, isinstance(err, TimeoutError))
            return
        self.ledger.note(n_records, status, answer)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError, or IncompleteReadError where an answer ends early."""
        stream = self._idle.pop() if self._idle else None
        reader, writer = stream or await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
        except BaseException:
            writer.close()
            raise
        if b"\r\nconnection: close" in head.lower():
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split()[1]), body
