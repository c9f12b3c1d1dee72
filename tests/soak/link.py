"""A TCP proxy that can be cut and restored, for a server that the test must not stop."""

import asyncio
from contextlib import suppress

from tests.conftest import free_port


class Link:
    """Forwards bytes between its own port and a server, in the caller's event loop."""

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """Accept clients."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """Close every connection and accept no client."""
        if self._server:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with suppress(OSError, asyncio.CancelledError):
            there = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
            finally:
                there[1].close()
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward bytes until the sender closes the connection."""
    while part := await reader.read(1 << 16):
        writer.write(part)
        await writer.drain()
    writer.close()
