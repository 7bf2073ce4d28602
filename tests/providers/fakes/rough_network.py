"""A network between a client and a server on loopback that fails in the ways in which networks fail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_UnderWay = asyncio.Queue[tuple[float, bytes]]
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None
    swallows: bool = False

    def reset(self) -> None:
        """Close both sides with a TCP reset."""
        for writer in filter(None, (self.client, self.server)):
            peer = writer.get_extra_info("socket")
            if peer is not None and peer.fileno() >= 0:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


class RoughNetwork:
    """Forwards connections to a port, until it is told to fail."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._swallows = False
        self.latency_seconds = 0.0
        """The delay of all bytes, in both directions."""
        self.port = 0
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Reset all connections."""
        for link in self._links:
            link.reset()
        self._links.clear()

    def cut(self) -> None:
        """End all connections as a server does that stops at once: without a close frame."""
        for link in self._links:
            link.client.close()
            if link.server is not None:
                link.server.transport.abort()
        self._links.clear()

    def black_hole(self) -> None:
        """Swallow all bytes of all connections, also of new ones, until `heal`."""
        self._swallows = True
        for link in self._links:
            link.swallows = True

    def half_open(self) -> None:
        """Take the server away from all connections without a word to the clients; new connections work."""
        for link in self._links:
            link.swallows = True
            if link.server is not None:
                link.server.transport.abort()

    def heal(self) -> None:
        """Forward new connections again; those that lost bytes stay dead."""
        self._swallows = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(writer, None, swallows=self._swallows)
        self._links.add(link)
        try:
            from_server, link.server = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            link.reset()
            return
        for source, target in ((reader, link.server), (from_server, writer)):
            under_way: _UnderWay = asyncio.Queue(1000)
            for pump in (self._take(source, under_way), self._deliver(link, under_way, target)):
                task = asyncio.create_task(pump)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _take(self, source: asyncio.StreamReader, under_way: _UnderWay) -> None:
        clock = asyncio.get_running_loop().time
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await under_way.put((clock() + self.latency_seconds, data))
        await under_way.put((clock() + self.latency_seconds, b""))

    async def _deliver(self, link: _Link, under_way: _UnderWay, target: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        with contextlib.suppress(OSError, RuntimeError):  # uvloop raises the latter for a closed connection
            while True:
                at, data = await under_way.get()
                await asyncio.sleep(at - clock())
                if link.swallows:
                    continue
                if not data:
                    target.close()
                    return
                target.write(data)
                await target.drain()
