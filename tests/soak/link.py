"""A way to a server that can be cut and restored, for a server that is not ours to end."""

import asyncio
from contextlib import suppress

from tests.conftest import free_port


class Link:
    """Carries bytes between its own port and a server; runs in the caller's event loop."""

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """Lets clients through."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """Hangs up on everybody and lets nobody through."""
        if self._server:
            self._server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        with suppress(OSError, asyncio.CancelledError):
            there = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
            finally:
                there[1].close()
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on what comes until the sender hangs up."""
    while part := await reader.read(1 << 16):
        writer.write(part)
        await writer.drain()
    writer.close()
