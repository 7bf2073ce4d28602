"""The feed at /v2/test: the symbol FAKEPACA has trades, quotes and bars at any hour, made up from the time."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Final

from stockpulse.api.alpaca.stream.encodings import Data, Encoding
from stockpulse.api.alpaca.stream.sources import Source
from stockpulse.api.alpaca.stream.subscriptions import Subscriptions
from stockpulse.hub.hub import Hub
from stockpulse.market.times import MINUTE_MICROS, SECOND_MICROS, from_micros, micros

SYMBOL: Final = "FAKEPACA"

_SECOND: Final = timedelta(seconds=1)
_SHORTEST_PAUSE: Final = 0.01
_SIZE: Final = 100
_SPREAD: Final = 0.02


class FakeFeed(Source):
    """A trade and a quote each second, a bar each minute; the bar of the last minute comes first."""

    def __init__(self, hub: Hub, encoding: Encoding, now: Callable[[], datetime]) -> None:
        super().__init__(hub)
        self._encoding = encoding
        self._now = now
        self._subscriptions = Subscriptions(())
        self._subscribed = asyncio.Event()

    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Send these subscriptions from now on."""
        self._subscriptions = subscriptions
        self._subscribed.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield a frame each second."""
        await self._subscribed.wait()
        minute = 0
        while True:
            second = micros(self._now()) // SECOND_MICROS * SECOND_MICROS
            found = [message for channel, message in self._at(second) if self._subscriptions.wants(channel, SYMBOL)]
            newest = second // MINUTE_MICROS - 1
            if newest > minute and self._subscriptions.wants("bars", SYMBOL):
                minute = newest
                found.append(self._bar(minute * MINUTE_MICROS))
            if found:
                yield self._encoding.frame(found)
            left = from_micros(second) + _SECOND - self._now()
            await asyncio.sleep(max(left.total_seconds(), _SHORTEST_PAUSE))

    def _at(self, second: int) -> list[tuple[str, Data]]:
        price, time = _price(second), self._encoding.time(from_micros(second))
        trade = {"T": "t", "S": SYMBOL, "i": second // SECOND_MICROS, "x": "N", "p": price, "s": _SIZE}
        bid, ask = round(price - _SPREAD / 2, 2), round(price + _SPREAD / 2, 2)
        quote = {"T": "q", "S": SYMBOL, "bx": "N", "bp": bid, "bs": _SIZE, "ax": "N", "ap": ask, "as": _SIZE}
        common = {"c": ["@"], "t": time, "z": "C"}
        return [("trades", trade | common), ("quotes", quote | common)]

    def _bar(self, start: int) -> Data:
        prices = [_price(start + at * SECOND_MICROS) for at in range(60)]
        return {
            "T": "b",
            "S": SYMBOL,
            "o": prices[0],
            "h": max(prices),
            "l": min(prices),
            "c": prices[-1],
            "v": _SIZE * len(prices),
            "n": len(prices),
            "vw": sum(prices) / len(prices),
            "t": self._encoding.time(from_micros(start)),
        }


def _price(second: int) -> float:
    """Return a price that moves around 100, in cents."""
    return round(100 + 5 * math.sin(second / SECOND_MICROS / 60) + math.sin(second / SECOND_MICROS / 7), 2)
