"""A proxy between the app and PostgreSQL that can cut a connection at any message."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

SOCKET = ".s.PGSQL.5432"
_ANSWERED = b"QS"
"""Messages of the client that the server answers at once."""


class Cut(Enum):
    """The fate of the message at which a connection is cut."""

    BEFORE = "the message does not reach the server"
    WITHIN = "half of the message reaches the server"
    AFTER = "the server does what it says, and its answer does not reach the client"
    HALF_OPEN = "the server gets neither the message nor to know that the client is gone"


@dataclass
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    mute: bool = False
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Listens on a socket in its own folder and forwards everything, until `decide` says where to cut."""

    def __init__(self, folder: Path, upstream: Path) -> None:
        self.folder = folder
        self._upstream = upstream / SOCKET
        self._server: asyncio.Server | None = None
        self._links: list[_Link] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.messages: list[bytes] = []
        """The types of the client's messages since it was armed."""
        self.decide: Callable[[int, bytes], Cut | None] = lambda _number, _message: None

    @property
    def dsn(self) -> str:
        return f"postgresql://stockpulse@/stockpulse?port=5432&host={self.folder}"

    async def __aenter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, self.folder / SOCKET)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def arm(self, number: int, cut: Cut) -> None:
        """Cut once, at the client's message with this number, counted from now; later messages pass again."""
        self.messages.clear()

        def decide(at: int, _message: bytes) -> Cut | None:
            if at != number:
                return None
            self.disarm()
            return cut

        self.decide = decide

    def disarm(self) -> None:
        self.decide = lambda _number, _message: None

    def cut_all(self) -> None:
        for link in self._links:
            link.cut()
        self._links.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, to_server)
        self._links.append(link)
        for pump in (self._to_server(link, reader), self._to_client(link, from_server)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _to_server(self, link: _Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, EOFError):
            message = await _message(reader, typed=False)  # the startup packet has no type
            link.server.write(message)
            while True:
                message = await _message(reader)
                self.messages.append(message[:1])
                cut = self.decide(len(self.messages) - 1, message)
                if cut is not None:
                    await self._cut(link, message, cut)
                    return
                link.server.write(message)
                await link.server.drain()
        link.cut()

    async def _cut(self, link: _Link, message: bytes, cut: Cut) -> None:
        if cut is Cut.HALF_OPEN:
            link.client.transport.abort()
            return
        if cut is Cut.WITHIN:
            link.server.write(message[: len(message) // 2])
            await link.server.drain()
        if cut is Cut.AFTER:
            link.mute = True
            link.answered.clear()
            link.server.write(message)
            await link.server.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.answered.wait(), 2 if message[:1] in _ANSWERED else 0.01)
        link.cut()

    async def _to_client(self, link: _Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = await _message(reader)
                if message[:1] in b"ZG":  # ready, or ready for the data of a COPY
                    link.answered.set()
                if not link.mute:
                    link.client.write(message)
                    await link.client.drain()
        link.cut()


async def _message(reader: asyncio.StreamReader, *, typed: bool = True) -> bytes:
    head = await reader.readexactly(5 if typed else 4)
    return head + await reader.readexactly(int.from_bytes(head[-4:], "big") - 4)
