"""The guard of one connection: it wraps a protocol of uvicorn and keeps its client within the limits.

It uses these parts of uvicorn's protocols: `transport`, `flow`, `loop`, `cycle` (the newest request) with
`response_started`, `response_complete`, `disconnected`, `message_event` and `waiting_for_100_continue`, and
`on_response_complete`. `uvicorn_server.py` checks that the methods exist.
"""

import asyncio
from typing import Any, ClassVar, Final

import h11

from stockpulse.api.connections.open_connections import OpenConnections, peer_of
from stockpulse.api.connections.refusals import (
    LARGE_HEADER,
    MADE_ROOM,
    SLOW_BODY,
    SLOW_HEADER,
    STALLED,
    Refusal,
)

_LINGER_SECONDS: Final = 2.0
_MOST_UNSENT_BYTES: Final = 8 * 1024 * 1024
_SLOWEST_BYTES_PER_SECOND: Final = 500


class Guard(asyncio.Protocol):
    """The limits for one connection over HTTP/1. A subclass names the parser, a further base class is uvicorn's."""

    open_connections: ClassVar[OpenConnections]
    transport: Any
    flow: Any
    loop: Any
    cycle: Any
    timeout_keep_alive: float

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._peer = ""
        self._is_refused = False
        self._since = 0.0
        """The time from which the client's time counts: of the opening, of the first byte of the header, of the end of
        the header, of the end of the last answer."""
        self._last_byte = 0.0
        self._header_bytes = 0
        """Bytes of a header that is not complete."""
        self._body_bytes = 0
        self._unsent_bytes = 0
        self._unsent_since = 0.0

    # --- the events of the connection ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or refuse it if there are too many."""
        self._since = self._last_byte = now = self.loop.time()
        self._peer = peer_of(transport.get_extra_info("peername"))
        refusal = self.open_connections.refusal(self._peer, now)
        self.open_connections.add(self._peer, self)
        if refusal is None:
            super().connection_made(transport)
        else:
            self.transport = transport
            self._refuse(refusal)

    def data_received(self, data: bytes) -> None:
        """Give the bytes to the parser, but never more bytes of a header than the limit allows."""
        if self._is_refused:
            return
        self._last_byte = self.loop.time()
        if self._in_header():
            self._take_header(data)
        else:
            self._take_body(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no longer."""
        self.open_connections.remove(self._peer, self)
        if self.flow is not None:
            super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin the time in which the next request must begin."""
        self._since = self.loop.time()
        super().on_response_complete()  # type: ignore[misc]

    # --- the calls of the other connections -----------------------------------------------------

    def waited(self, now: float) -> float:
        """Return the seconds that the server has waited for this client; 0 while the client waits for the server."""
        if self._is_refused or self.transport.is_closing():
            return 0.0
        if self._awaits_body():
            return now - self._last_byte
        return 0.0 if self._answering() else now - self._since

    def make_room(self) -> None:
        """Close the connection at once."""
        if self._header_bytes or self._in_body():
            self._refuse(MADE_ROOM)
        else:
            self.open_connections.note(MADE_ROOM.reason, self._peer)
            self.transport.close()

    def check(self, now: float) -> None:
        """Close the connection if its client takes too long."""
        limits = self.open_connections.limits
        is_closing = self.transport.is_closing()
        if self._stalls(now, _LINGER_SECONDS if is_closing or self._is_refused else limits.body_seconds):
            self.open_connections.note(STALLED, self._peer)
            self.transport.abort()
        elif self._is_refused:
            if now - self._since > _LINGER_SECONDS:
                self.transport.abort()
        elif is_closing:
            return
        elif self._in_body():
            self._check_body(now, limits.body_seconds)
        elif self._answering():
            self._since = now
        elif self._header_bytes:
            if now - self._since > limits.header_seconds:
                self._refuse(SLOW_HEADER)
        elif now - self._since > max(limits.idle_seconds, self.timeout_keep_alive):
            self.transport.close()

    # --- the parser ----------------------------------------------------------------------------

    def _in_header(self) -> bool:
        """Return True if the next bytes belong to a header."""
        raise NotImplementedError

    def _in_body(self) -> bool:
        """Return True if the next bytes belong to a body."""
        raise NotImplementedError

    def _take_header(self, data: bytes) -> None:
        newest, room = self.cycle, self.open_connections.limits.header_bytes - self._header_bytes
        if not self._header_bytes:
            self._since = self._last_byte
        super().data_received(data if len(data) <= room else data[:room])
        if self.transport.get_protocol() is not self:  # a WebSocket now, which counts itself
            self.open_connections.remove(self._peer, self)
        elif self.cycle is not newest:
            self._header_bytes = self._body_bytes = 0
            self._since = self._last_byte
            if len(data) > room:
                self.data_received(data[room:])
        elif not self.transport.is_closing():
            self._header_bytes += len(data)
            if len(data) > room:
                self._refuse(LARGE_HEADER)

    def _take_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        super().data_received(data)

    def _awaits_body(self) -> bool:
        """Return True if the server waits for bytes of a body."""
        return self._in_body() and not (self.flow.read_paused or self.cycle.waiting_for_100_continue)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # --- the limits ----------------------------------------------------------------------------

    def _check_body(self, now: float, seconds: float) -> None:
        """Refuse a body that stops, or that arrives very slowly; the time in which the server reads nothing is free."""
        if not self._awaits_body():
            self._since = self._last_byte = now
            self._body_bytes = 0
        elif now - self._last_byte > seconds or self._body_bytes < _SLOWEST_BYTES_PER_SECOND * (
            now - self._since - seconds
        ):
            self._refuse(SLOW_BODY)

    def _stalls(self, now: float, seconds: float) -> bool:
        """Return True if the client has read nothing of the waiting bytes of an answer for so many seconds."""
        waiting = self.transport.get_write_buffer_size()
        if not waiting or waiting != self._unsent_bytes:
            self._unsent_bytes, self._unsent_since = waiting, now
        return waiting > 0 and now - self._unsent_since > seconds

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with the refusal, unless an answer has begun, and close.

        A client that still sends would lose the answer if the server closed at once. So the server reads on for a
        short time, and drops what it reads; not if it needs the room.
        """
        self._is_refused = True
        self._since = self.loop.time()
        self.open_connections.note(refusal.reason, self._peer)
        if self._answering() or (self.flow is not None and self._in_body()):
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        self.transport.write(refusal.answer())
        if refusal.retry_after is None and self.transport.can_write_eof():
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()


class HttpToolsGuard(Guard):
    """The guard for uvicorn's `HttpToolsProtocol`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reads_body = False
        self._bytes_beside_body = 0
        """Bytes since the last piece of the body: of sizes of chunks, and of fields after the body."""

    def on_headers_complete(self) -> None:
        """Note the end of the header."""
        self._reads_body = True
        self._bytes_beside_body = 0
        super().on_headers_complete()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        """Note a piece of the body."""
        self._bytes_beside_body = 0
        super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        """Note the end of the body."""
        self._reads_body = False
        super().on_message_complete()  # type: ignore[misc]

    def _in_header(self) -> bool:
        return not self._reads_body

    def _in_body(self) -> bool:
        return self._reads_body

    def _take_body(self, data: bytes) -> None:
        """Give the bytes to the parser. It collects the fields after a body without a limit, like those of a header."""
        self._bytes_beside_body += len(data)
        super()._take_body(data)
        if self._reads_body and self._bytes_beside_body > self.open_connections.limits.header_bytes:
            self._refuse(LARGE_HEADER)


class H11Guard(Guard):
    """The guard for uvicorn's `H11Protocol`. h11 itself limits the fields after a body."""

    conn: h11.Connection

    def _in_header(self) -> bool:
        return self.conn.their_state is h11.IDLE

    def _in_body(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY


class WebSocketGuard(asyncio.Protocol):
    """Counts the connection of a WebSocket, which took the place of one over HTTP. uvicorn pings its client.

    The app stops sending while a client reads nothing, but uvicorn answers each ping at once. So a client that sends
    pings and reads no answers would fill the memory.
    """

    open_connections: ClassVar[OpenConnections]
    transport: Any
    _unsent_bytes = 0
    _unsent_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        self._peer = peer_of(transport.get_extra_info("peername"))
        self.open_connections.add(self._peer, self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no longer."""
        self.open_connections.remove(self._peer, self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the bytes to the parser, unless too many bytes wait for the client."""
        if self.transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            self.open_connections.note(STALLED, self._peer)
            self.transport.abort()
        else:
            super().data_received(data)

    def waited(self, _now: float) -> float:
        """Return 0: a WebSocket may be silent."""
        return 0.0

    def make_room(self) -> None:
        """Do nothing: `waited` offers no room."""

    def check(self, now: float) -> None:
        """Drop the connection if it is being closed and the client does not read what is left."""
        waiting = self.transport.get_write_buffer_size()
        if not (waiting and self.transport.is_closing()) or waiting != self._unsent_bytes:
            self._unsent_bytes, self._unsent_since = waiting, now
        elif now - self._unsent_since > _LINGER_SECONDS:
            self.open_connections.note(STALLED, self._peer)
            self.transport.abort()
