"""From providers into the pipeline: their history first, then what they stream."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import polars as pl
import structlog

from stockpulse.ingest.feed import Feed
from stockpulse.market.calendar import trading_calendar
from stockpulse.market.intervals import D1, M1, M5, Interval
from stockpulse.market.symbology import Names
from stockpulse.market.times import from_micros, micros
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.providers.base import Provider
from stockpulse.providers.registry import installed_providers
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.run_log import RunLog

log = structlog.get_logger(__name__)

#: How far back a fresh database is filled. Minutes only for the running day: its daily bar is made of them.
DEPTH: Final[dict[Interval, timedelta]] = {
    D1: timedelta(days=730),
    M5: timedelta(days=30),
    M1: timedelta(days=1),
}


def feed_of(provider: Provider) -> Feed:
    """Return the feed of a provider, with the condition rule that the registry has for its name."""
    return Feed(
        provider.name,
        provider.calendar,
        provider.clock,
        delay_micros=int(provider.delay_seconds * 1_000_000),
        rule=installed_providers().condition_rule(provider.name),
    )


async def follow(provider: Provider, pipeline: Pipeline, runs: RunLog, now: Callable[[], datetime]) -> None:
    """Take in what a provider streams. While the pipeline is full, it waits; of one that cannot, there is a gap."""
    feed, gap = feed_of(provider), None
    async for ticks in provider.stream():
        if not provider.can_wait and not pipeline.has_room(len(ticks)):
            gap = gap or _Gap(now())
            gap.add(ticks)
            pipeline.counters.dropped += len(ticks)
            continue
        if gap is not None:
            await gap.close(provider.name, runs, now())
            gap = None
        durable = await pipeline.enqueue(ticks, feed)
        if provider.can_wait:
            await durable


class _Gap:
    """Ticks that could not be taken."""

    def __init__(self, started: datetime) -> None:
        log.error("no room for what a feed sends, there will be a gap")
        self._started = started
        self._rows = 0
        self._newest: datetime | None = None

    def add(self, ticks: pl.DataFrame) -> None:
        """Count ticks that are lost."""
        self._rows += len(ticks)
        newest = ticks["ts"].max()
        self._newest = newest if isinstance(newest, datetime) else self._newest

    async def close(self, provider: str, runs: RunLog, now: datetime) -> None:
        """There is room again: note what is missing."""
        log.error("a gap in a feed", provider=provider, ticks=self._rows, began=self._started, ended=now)
        await runs.record(f"gap:{provider}", self._rows, self._started, now, watermark=self._newest)


class Backfill:
    """Fills what is missing of a provider's history: all of it on the first start, the gap on a later one."""

    def __init__(self, provider: Provider, pipeline: Pipeline, bars: BarReader, names: Names) -> None:
        self._provider = provider
        self._pipeline = pipeline
        self._bars = bars
        self._names = names

    async def run(self, symbols: tuple[str, ...], now: datetime) -> int:
        """Fetch and take in the missing bars; return how many there were."""
        count = 0
        for interval in (D1, M5, M1):
            for symbol in symbols:
                count += await self._fill(symbol, interval, now)
        return count

    async def _fill(self, symbol: str, interval: Interval, now: datetime) -> int:
        start, end = await self._missing(symbol, interval, now)
        count = 0
        if start < end:
            async for bars in self._provider.history(symbol, interval.name, start, end):
                receipt = await self._pipeline.submit(bars, feed_of(self._provider), of_bars=True)
                count += receipt.accepted
        return count

    async def _missing(self, symbol: str, interval: Interval, now: datetime) -> tuple[datetime, datetime]:
        """From the newest bar, which may be half done, to the last whole bucket before now."""
        known = self._names.symbols.get(symbol)
        calendar = trading_calendar(known.calendar if known else feed_of(self._provider).calendar_of(symbol))
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
