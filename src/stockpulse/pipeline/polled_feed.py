"""The live feed of a provider without a stream: its latest prices, again and again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import polars as pl

from stockpulse.pipeline.latest_prices import LatestPrices
from stockpulse.pipeline.sources import Source
from stockpulse.providers.base import ProviderBase

_USUAL_SECONDS: Final = 15.0
"""The pause for a provider that states none."""


class PolledFeed(ProviderBase):
    """A provider whose stream asks for latest prices as often as the provider allows."""

    can_wait = True

    def __init__(
        self, source: Source, prices: LatestPrices, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self.name = source.provider.name
        self.calendar = source.provider.calendar
        self.clock = source.provider.clock
        self.delay_seconds = source.provider.delay_seconds
        self._source = source
        self._prices = prices
        self._sleep = sleep

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield the prices that have changed. Raises the fault of a round in which no symbol has a price."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            found = await self._prices.ask(self._source, self._source.symbols)
            found.raise_fault()
            if len(found.ticks):
                yield found.ticks
            pause = self._source.has.poll_seconds or _USUAL_SECONDS
            await self._sleep(max(0.0, started + pause - loop.time()))
