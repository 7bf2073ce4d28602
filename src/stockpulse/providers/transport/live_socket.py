"""A WebSocket connection to a provider: one place for broken connections, limits and redaction.

A connection can die without a word: a cable is pulled, a router forgets it, a server hangs. Two watches notice this:

    keepalive   a ping at each heartbeat; the connection is broken if nothing at all arrives until the next one, so it
                is noticed within two heartbeats
    silence     a stream that expects data arms it: a server that answers pings but sends no messages is broken too

A LiveSocket is one connection. It does not reconnect: its faults are transient, and the caller opens the next one.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import DATA_OPCODES, CloseCode, Frame
from websockets.protocol import Event

from stockpulse.errors import shown
from stockpulse.providers.faults import BadReply, MuteStream, ProviderFault, Unreachable
from stockpulse.providers.transport.redaction import Redactor

HEARTBEAT_SECONDS: Final = 10.0
OPEN_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
MAX_MESSAGE_BYTES: Final = 8_000_000
_LONGEST_REFUSAL: Final = 10_000
_QUEUED_FRAMES: Final = 512
"""More frames wait in the socket, and then at the provider."""

_WIRE_LOG: Final = logging.getLogger(f"{__name__}.wire")
_WIRE_LOG.setLevel(logging.CRITICAL + 1)  # at DEBUG, websockets logs addresses and messages, with their keys


@dataclass(frozen=True)
class Refusal:
    """A reply to the handshake that does not open the connection, without keys."""

    provider: str
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    text: str
    """The beginning of the body, for messages."""
    body: str = ""
    """The body, or the beginning of a long one."""


def unreachable(refusal: Refusal) -> ProviderFault:
    """Return the fault for a refusal that says nothing about the key."""
    return Unreachable(f"{refusal.provider} refuses the stream with HTTP {refusal.status}: {refusal.text}")


@dataclass(frozen=True)
class StreamDialect:
    """The way in which one provider's stream is opened and kept alive."""

    url: str
    read_refusal: Callable[[Refusal], ProviderFault] = unreachable
    """Return the fault that the status of a refused handshake means."""
    headers: Mapping[str, str] = field(default_factory=dict)
    heartbeat_seconds: float | None = HEARTBEAT_SECONDS
    """The seconds between two pings. None: the provider answers no pings, and only the silence watch notices."""
    open_seconds: float = OPEN_SECONDS
    max_message_bytes: int = MAX_MESSAGE_BYTES
    is_text: bool = True
    """False: messages are in a binary encoding. Then keys in them are not removed, which would break them."""


class _Connection(ClientConnection):
    """A connection that notes when anything arrived, pongs included, and when a message did."""

    heard_at = 0.0
    message_at = 0.0
    waiting = 0
    """Messages that have arrived and were not received yet."""

    def process_event(self, event: Event) -> None:
        self.heard_at = self.loop.time()
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self.message_at = self.heard_at
            self.waiting += event.fin
        super().process_event(event)


class _Connect(connect):
    """A handshake that follows no redirects: another host shall not get the key."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class LiveSocket:
    """An open connection. Its methods raise Unreachable or BadReply when it is broken."""

    def __init__(self, provider: str, connection: _Connection, dialect: StreamDialect, redactor: Redactor) -> None:
        self._provider = provider
        self._connection = connection
        self._dialect = dialect
        self._redactor = redactor
        self._loop = asyncio.get_running_loop()
        self._broken: ProviderFault | None = None
        self._silence_seconds = 0.0
        self._silence_timer: asyncio.TimerHandle | None = None

    async def receive(self) -> bytes:
        """Return the next message, of text or binary frames; cancelling loses none. Text has no keys."""
        try:
            message = await self._connection.recv(decode=False)
        except ConnectionClosed as closed:
            raise self._fault_of(closed) from None
        self._connection.waiting -= 1
        return self._redactor.clean_message(message) if self._dialect.is_text else message

    async def receive_waiting(self) -> list[bytes]:
        """Return all messages that have arrived, at least one: under load, few large steps do the work of many."""
        messages = [await self.receive()]
        while self._connection.waiting > 0 and len(messages) < _QUEUED_FRAMES:
            messages.append(await self.receive())
        return messages

    async def send(self, message: str | bytes) -> None:
        """Send a text frame, or a binary one for bytes."""
        try:
            await self._connection.send(message)
        except ConnectionClosed as closed:
            raise self._fault_of(closed) from None

    def watch_silence(self, seconds: float | None) -> None:
        """Break the connection if no message arrives for so many seconds from now on; None: never."""
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None
        if seconds is not None:
            self._silence_seconds = seconds
            self._connection.message_at = self._loop.time()
            self._silence_timer = self._loop.call_later(seconds, self._check_silence)

    def clean(self, text: str) -> str:
        """Return a text without keys."""
        return self._redactor.clean(text)

    async def keep_alive(self, seconds: float) -> None:
        """Send a ping at each heartbeat; return when the connection is broken or closed."""
        pinged_at = self._loop.time()
        while self._broken is None:
            await asyncio.sleep(pinged_at + seconds - self._loop.time())
            pinged_at = self._loop.time()
            try:
                async with asyncio.timeout(seconds):
                    await (await self._connection.ping())
            except TimeoutError:
                self._check_heartbeat(pinged_at, seconds)
            except ConnectionClosed:
                return

    async def close(self) -> None:
        """Close the connection."""
        self.watch_silence(None)
        with contextlib.suppress(ConnectionClosed):
            await self._connection.close()

    def _check_heartbeat(self, pinged_at: float, seconds: float) -> None:
        if self._connection.heard_at < pinged_at and self._reads:
            self._break(Unreachable, f"does not answer the ping of {seconds:g} seconds ago")

    def _check_silence(self) -> None:
        left = self._connection.message_at + self._silence_seconds - self._loop.time()
        if left > 0:
            self._silence_timer = self._loop.call_later(left, self._check_silence)
        elif not self._reads:
            self.watch_silence(self._silence_seconds)
        else:
            self._break(MuteStream, f"sends nothing for {self._silence_seconds:g} seconds")

    @property
    def _reads(self) -> bool:
        """False while messages wait for the reader: then nothing is read from the socket, and silence says nothing."""
        return self._connection.transport.is_reading()

    def _break(self, kind: type[Unreachable], reason: str) -> None:
        self._broken = kind(f"the stream of {self._provider} is broken: it {reason}")
        self._connection.transport.abort()

    def _fault_of(self, closed: ConnectionClosed) -> ProviderFault:
        if self._broken is not None:
            return self._broken
        if closed.rcvd is None and closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
            limit = self._dialect.max_message_bytes
            return BadReply(f"the stream of {self._provider} sent a message of more than {limit} bytes")
        detail = f"closed with {closed.rcvd}" if closed.rcvd is not None else "broken off"
        return Unreachable(f"the stream of {self._provider} is {self._redactor.clean(detail)}")


@asynccontextmanager
async def live_socket(provider: str, dialect: StreamDialect, redactor: Redactor) -> AsyncIterator[LiveSocket]:
    """Open a connection for a while. Raises the ProviderFault of a refused handshake, or Unreachable."""
    socket = LiveSocket(provider, await _opened(provider, dialect, redactor), dialect, redactor)
    pings = asyncio.create_task(_keep_alive(socket, dialect.heartbeat_seconds), name=f"keepalive of {provider}")
    try:
        yield socket
    finally:
        pings.cancel()
        await socket.close()


async def _keep_alive(socket: LiveSocket, seconds: float | None) -> None:
    if seconds is not None:
        await socket.keep_alive(seconds)


async def _opened(provider: str, dialect: StreamDialect, redactor: Redactor) -> _Connection:
    try:
        connection = await _Connect(
            dialect.url,
            additional_headers=dict(dialect.headers),
            open_timeout=dialect.open_seconds,
            close_timeout=CLOSE_SECONDS,
            ping_interval=None,  # keep_alive does it: it aborts at once, and any data is a sign of life
            max_size=dialect.max_message_bytes,
            max_queue=_QUEUED_FRAMES,
            logger=_WIRE_LOG,
            create_connection=_Connection,
        )
    except InvalidStatus as error:
        raise dialect.read_refusal(_refusal(provider, error, redactor)) from None
    except (WebSocketException, OSError, TimeoutError, EOFError) as error:
        detail = redactor.clean(str(error)) or type(error).__name__
        raise Unreachable(f"the stream of {provider} cannot be opened: {detail}") from None
    return cast("_Connection", connection)


def _refusal(provider: str, error: InvalidStatus, redactor: Redactor) -> Refusal:
    reply = error.response
    headers = {name.lower(): value for name, value in reply.headers.raw_items()}
    body = redactor.clean((reply.body or b"").decode(errors="replace"))[:_LONGEST_REFUSAL]
    return Refusal(provider, reply.status_code, headers, shown(body[:400]), body)
