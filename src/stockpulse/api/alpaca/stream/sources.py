"""A source of data for one client, and the live one: the hub."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Final

from stockpulse.api.alpaca.stream.encodings import CHANNEL_OF, Data, HubFormat, code_of
from stockpulse.api.alpaca.stream.errors import StreamError
from stockpulse.api.alpaca.stream.subscriptions import Subscriptions
from stockpulse.hub.hub import Hub
from stockpulse.hub.messages import ALL, Channel, Message, Missed, Topic
from stockpulse.hub.subscriber import SLOW, Closing

_ROWS: Final = 1_000


class Source(ABC):
    """The data of one client. Every source ends when the hub ends its subscriptions."""

    def __init__(self, hub: Hub) -> None:
        self.traffic = hub.traffic
        self._hub = hub
        self._subscriber = hub.join()

    @property
    def closing(self) -> Closing | None:
        """The reason why the hub has ended the subscription; None while it lasts."""
        return self._subscriber.closing

    async def ended(self) -> None:
        """Wait until the hub ends the subscription. Raises StreamError if the client was too slow.

        Alpaca's clients cannot be told that they missed messages: they must connect again and fill the gap.
        """
        await self._subscriber.closed.wait()
        if self.closing is SLOW:
            raise StreamError(407)

    def close(self) -> None:
        """Leave the hub."""
        self._hub.leave(self._subscriber)

    @abstractmethod
    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Send these subscriptions from now on."""

    @abstractmethod
    def frames(self) -> AsyncIterator[bytes]:
        """Yield frames, for ever. Raises StreamError if the client is too slow."""

    def take(self, message: Data) -> Data:  # noqa: ARG002  # there is nothing to control
        """Answer a message that controls a replay. Raises StreamError."""
        raise StreamError(400)


class LiveSource(Source):
    """Sends what the engine makes."""

    def __init__(self, hub: Hub, format: HubFormat) -> None:
        super().__init__(hub)
        self._format = format
        self._subscriptions = Subscriptions(())

    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Change the topics of the hub."""
        before, now = set(_topics(self._subscriptions)), set(_topics(subscriptions))
        self._subscriptions = subscriptions
        self._hub.subscribe(self._subscriber, now - before)
        self._hub.unsubscribe(self._subscriber, before - now)

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield what the hub has for the client."""
        while await self._subscriber.wait():
            for message in self._subscriber.take(_ROWS):
                if isinstance(message, Missed):
                    raise StreamError(407)
                if frame := self._frame(message):
                    yield frame
        await self.ended()

    def _frame(self, message: Message) -> bytes:
        """Return the rows of a message that the client has subscribed to."""
        code = code_of(message)
        wanted = self._subscriptions[CHANNEL_OF[code]] if code else frozenset()
        if not wanted:
            return b""
        rows = message.rows
        if ALL in wanted or all(row["symbol"] in wanted for row in rows):
            return message.encoded(self._format)
        # One topic serves bars and updated bars, and the client may want these of different symbols.
        chosen = [row for row in rows if row["symbol"] in wanted]
        return self._format.rows(message, chosen) if chosen else b""


def _topics(subscriptions: Subscriptions) -> list[Topic]:
    minutes = subscriptions["bars"] | subscriptions["updatedBars"]
    return [
        *(Topic(Channel.TICKS, symbol) for symbol in subscriptions["trades"]),
        *(Topic(Channel.BARS, symbol, "1m") for symbol in minutes),
        *(
            Topic(channel, symbol, "1d")
            for symbol in subscriptions["dailyBars"]
            for channel in (Channel.BARS, Channel.FORMING)
        ),
    ]
