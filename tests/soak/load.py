"""Open-loop load on `/predict`, and the outcome of each request.

Requests are sent on schedule, whether or not earlier ones have a response. Many independent clients
do the same. A request has one of three outcomes:

- accepted: status 200;
- rejected: status 503, and nothing may be stored;
- broken: no complete response. The client cannot know whether the service stored the records.
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
LIST_EVERY = 10  # requests
TIMEOUT_S = 30.0  # longer than the service's own deadlines
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


@dataclass
class Ledger:
    """Counts of all requests by outcome, and the prediction ids of accepted ones."""

    sent: int = 0
    accepted: int = 0
    rejected: int = 0
    broken: int = 0
    broken_records: int = 0
    hung: int = 0  # of the broken: no response before the timeout
    other: Counter[int] = field(default_factory=Counter)  # statuses that must not occur
    ids: list[str] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)

    def note(self, n_records: int, status: int, body: bytes) -> None:
        """Count a request with a response."""
        if status == 503:
            self.rejected += 1
            return
        if status != 200:
            self.other[status] += 1
            return
        predictions = json.loads(body)
        predictions = predictions if isinstance(predictions, list) else [predictions]
        assert len(predictions) == n_records
        self.accepted += 1
        self.ids += [one["prediction_id"] for one in predictions]
        self.versions[predictions[0]["model_version"]] += 1

    def note_broken(self, n_records: int, hung: bool) -> None:
        """Count a request without a complete response."""
        self.broken += 1
        self.broken_records += n_records
        self.hung += hung


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Load:
    """Sends requests to a port over kept connections; opens one if none is idle."""

    def __init__(self, port: int, records: list[Record]) -> None:
        self.port = port
        self.ledger = Ledger()
        self._records = records
        self._idle: list[Stream] = []

    async def run(self, rate: float, seconds: float) -> None:
        """Send `rate` requests a second; return after the last response."""
        begun, tasks = time.monotonic(), []
        for number in itertools.count():
            due = begun + number / rate
            if due >= begun + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(self._send(number)))
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()

    async def _send(self, number: int) -> None:
        n_records = LONG_LIST if number % LIST_EVERY == 0 else 1
        chosen = range(number, number + n_records)
        records = [self._records[index % len(self._records)] for index in chosen]
        body = json.dumps(records if n_records > 1 else records[0]).encode()
        head = "POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self.ledger.sent += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, response = await self._exchange(head.encode() + body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as err:
            self.ledger.note_broken(n_records, isinstance(err, TimeoutError))
            return
        self.ledger.note(n_records, status, response)

    def _take_idle(self) -> Stream | None:
        """Return an idle connection; close those that the server has closed."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body.

        Raises OSError, or IncompleteReadError if the response is truncated.
        """
        stream = self._take_idle()
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
