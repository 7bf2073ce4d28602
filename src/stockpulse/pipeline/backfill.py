"""Backfill: the missing history of a provider, fetched before its live ticks."""

from datetime import datetime, timedelta
from typing import Final

import numpy as np

from stockpulse.ingest.feed import Feed
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M1, M5, Interval
from stockpulse.market.symbology import Names
from stockpulse.market.times import from_micros, micros
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.providers.base import Provider
from stockpulse.storage.bar_reader import BarReader

DEPTH: Final[dict[Interval, timedelta]] = {
    D1: timedelta(days=730),
    M5: timedelta(days=30),
    M1: timedelta(days=1),
}
"""The depth of the history of a fresh database. 1-minute bars are for the daily bar of the running day."""


class Backfill:
    """Fetches all history of a provider on the first start, and the gap since the last stop on later starts."""

    def __init__(
        self, provider: Provider, ingestor: Ingestor, bars: BarReader, names: Names, feed: Feed | None = None
    ) -> None:
        self._provider = provider
        self._feed = feed or feed_of(provider)
        self._ingestor = ingestor
        self._bars = bars
        self._names = names

    async def run(self, symbols: tuple[str, ...], now: datetime) -> int:
        """Fetch and queue the missing bars; return their number."""
        count = 0
        for interval in (D1, M5, M1):
            for symbol in symbols:
                count += await self._fill(symbol, interval, now)
        return count

    async def _fill(self, symbol: str, interval: Interval, now: datetime) -> int:
        start, end = await self._missing(symbol, interval, now)
        count = 0
        if start < end:
            async for bars in self._provider.history((symbol,), interval.name, start, end):
                receipt = await self._ingestor.submit(bars, self._feed, of_bars=True)
                count += receipt.accepted
        return count

    async def _missing(self, symbol: str, interval: Interval, now: datetime) -> tuple[datetime, datetime]:
        """Return the range from the newest stored bar, which may be incomplete, to the last whole bucket before now."""
        known = self._names.symbols.get(symbol)
        calendar = trading_calendar(known.calendar if known else self._feed.calendar_of(symbol))
        present = np.array([micros(now)])
        today = int(calendar.floor_date(present)[0])
        if interval is D1:
            start, end = micros(now - DEPTH[D1]), today
        elif interval is M5:
            start, end = micros(now - DEPTH[M5]), today
        else:
            start, end = today, int(calendar.bucket(present, M1)[0])
        if known is not None:
            newest = await self._bars.latest(known, interval, 1, now)
            if len(newest):
                start = max(start, micros(newest["ts"][0]))
        return from_micros(start), from_micros(end)
