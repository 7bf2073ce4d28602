"""The session of one client, over any transport: its requests, its subscriptions, what it is sent."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from stockpulse import __version__
from stockpulse.api.error_responses import described_error
from stockpulse.api.stream.formats import WireFormat, told_missed
from stockpulse.api.stream.requests import (
    MOST_INDICATORS,
    MOST_SYMBOLS,
    Request,
    read_action,
    read_request,
    read_requests,
)
from stockpulse.api.stream.snapshots import Snapshots
from stockpulse.errors import InvalidInput, StockPulseError, TooLarge, Unavailable
from stockpulse.hub.hub import Hub
from stockpulse.hub.messages import ALL, Channel, Missed, Topic
from stockpulse.postgres.connect import TRANSIENT, is_outage

HEARTBEAT_SECONDS: Final = 15.0
_FRAME_ROWS: Final = 1_000

log = structlog.get_logger(__name__)

Send = Callable[[list[bytes]], Awaitable[None]]
"""Sends encoded messages as one frame, in order; waits while the client reads too slowly."""


class Session:
    """The subscriptions of a client, and the tasks that send their data."""

    def __init__(self, hub: Hub, snapshots: Snapshots, format: WireFormat, send: Send) -> None:
        self._hub = hub
        self._snapshots = snapshots
        self._format = format
        self._send = send
        self._turn = asyncio.Lock()
        """Held while a frame is sent, or a subscription with its snapshot: changes come after the snapshot."""
        self.subscriber = hub.join()

    async def welcome(self) -> None:
        """Say who we are."""
        await self._tell(
            {
                "type": "welcome",
                "stream": self._hub.id,
                "version": __version__,
                "heartbeat_seconds": HEARTBEAT_SECONDS,
            }
        )

    async def take(self, data: bytes | str) -> None:
        """Answer a frame of the client; errors are answers too."""
        try:
            requests = read_requests(self._format.loads(data))
        except StockPulseError as fault:
            await self.tell_error(fault)
            return
        for fields in requests:
            await self._answer(fields)

    async def _answer(self, fields: Mapping[str, Any]) -> None:
        number = fields.get("id")
        try:
            if read_action(fields) == "ping":
                await self._tell({"type": "pong"} | _named(number))
                return
            request = read_request(fields)
            if request.action == "subscribe":
                await self.subscribe(request)
            else:
                self._hub.unsubscribe(self.subscriber, request.topics())
                await self._tell({"type": "unsubscribed"} | request.described() | _named(number))
        except StockPulseError as fault:
            await self.tell_error(fault, number)
        except TRANSIENT as fault:
            if not is_outage(fault):
                raise
            await self.tell_error(Unavailable(), number)

    async def subscribe(self, request: Request) -> None:
        """Subscribe: an answer, then the snapshot, then the changes. Raises StockPulseError."""
        if request.channel not in self._hub.channels:
            raise InvalidInput("channel", f"a process of role api has no {request.channel}; one of role all has")
        topics = request.topics()
        _check_limits(self.subscriber.topics | topics)
        async with self._turn:
            after = None
            if request.resume is not None and request.resume.stream == self._hub.id:
                after = {request.channel: request.resume.seq}
            known = self._hub.seq(request.channel)
            resumed = {one.symbol for one in self._hub.subscribe(self.subscriber, topics, after)}
            answer = {"type": "subscribed"} | request.described() | {"stream": self._hub.id, "seq": known}
            if request.resume is not None:
                answer["resumed"] = sorted(resumed)
            await self._send([self._format.dumps(answer | _named(request.id))])
            async for message in self._snapshots.read(request, resumed):
                await self._send([self._format.dumps(message)])

    async def send(self) -> None:
        """Send messages as they come, until the hub ends the subscription."""
        while await self.subscriber.wait():
            async with self._turn:
                messages = self.subscriber.take(_FRAME_ROWS)
                if messages:
                    await self._send([self._encoded(one) for one in messages])
            if not self.subscriber.is_empty():
                await asyncio.sleep(0)  # a client that always has messages must not hold the event loop

    def _encoded(self, message: Any) -> bytes:
        if isinstance(message, Missed):
            return self._format.dumps(told_missed(message))
        encoded: bytes = message.encoded(self._format)
        return encoded

    async def beat(self) -> None:
        """Send a heartbeat at regular intervals, for ever."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._tell({"type": "heartbeat", "at": datetime.now(UTC)})

    async def tell_error(self, fault: StockPulseError, number: Any = None) -> None:
        """Tell the client an error; `number` is the id of its request."""
        await self._tell({"type": "error"} | described_error(fault) | _named(number))

    async def _tell(self, message: Mapping[str, Any]) -> None:
        async with self._turn:
            await self._send([self._format.dumps(message)])

    async def run(self, *others: Awaitable[None]) -> None:
        """Send until the hub ends the subscription, or until one of the `others` or the sending has ended."""
        tasks = [asyncio.ensure_future(one) for one in (*others, self.send(), self.beat(), self._ended())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self._hub.leave(self.subscriber)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _ended(self) -> None:
        await self.subscriber.closed.wait()


def _named(number: Any) -> dict[str, Any]:
    """Return the `id` of a request for its answer."""
    return {} if number is None else {"id": number}


def _check_limits(topics: Iterable[Topic]) -> None:
    """Raise TooLarge for more subscriptions than a connection takes."""
    counted = [one for one in topics if one.channel not in (Channel.FORMING, Channel.PREVIEWS)]
    if len(counted) > MOST_SYMBOLS:
        raise TooLarge(f"symbols: a connection takes {MOST_SYMBOLS:,} subscriptions at most, or {ALL} for all symbols")
    if sum(one.channel is Channel.INDICATORS for one in counted) > MOST_INDICATORS:
        raise TooLarge(f"indicators: a connection takes {MOST_INDICATORS} of these subscriptions at most")
