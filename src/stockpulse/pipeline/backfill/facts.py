"""The facts for the coverage of a symbol: stored bars, asked ranges, gaps of feeds."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.market.calendar import Calendar, Times
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import Interval
from stockpulse.market.symbology import Symbol
from stockpulse.market.times import LATEST, micros
from stockpulse.pipeline.backfill.coverage import Evidence, incomplete
from stockpulse.pipeline.backfill.expected import Span
from stockpulse.postgres.connect import Pool
from stockpulse.storage.asked_ranges import asked_of_symbol
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.feed_gaps import FeedGaps
from stockpulse.storage.served_bars import SERVED_BARS

MARKED_BARS: Final = pl.Schema({**SERVED_BARS, "complete": pl.Boolean()})
"""Served bars with a mark: `complete` is False if a part of the bar may be missing."""


class Facts:
    """Reads the facts from the database."""

    def __init__(self, pool: Pool, bars: BarReader, feeds_of: Callable[[str], list[str]]) -> None:
        """`feeds_of` returns the providers whose live feeds have a symbol."""
        self._pool = pool
        self._bars = bars
        self._feeds_of = feeds_of

    async def of(self, symbol: Symbol, interval: Interval, span: Span) -> tuple[Times, Evidence]:
        """Return the starts of stored bars in a range, and the evidence about the others."""
        found = await self._bars.starts(interval, {symbol.id: span})
        return found[symbol.id][0], await self.evidence(symbol, interval)

    async def evidence(self, symbol: Symbol, interval: Interval) -> Evidence:
        """Return the asked ranges of a symbol, and the gaps of its feeds that are not filled."""
        asked = await asked_of_symbol(self._pool, interval, symbol.name)
        gaps = await FeedGaps(self._pool).unfilled_of_symbol(symbol.name, self._feeds_of(symbol.name))
        spans = [(micros(one.start), LATEST if one.end is None else micros(one.end)) for one in gaps]
        return Evidence(asked, spans)

    async def marked(
        self, pages: AsyncIterator[pl.DataFrame], symbol: Symbol, interval: Interval
    ) -> AsyncGenerator[pl.DataFrame]:
        """Yield pages of `SERVED_BARS` as `MARKED_BARS`."""
        calendar = await asyncio.to_thread(trading_calendar, symbol.calendar)
        evidence = await self.evidence(symbol, interval.base)
        async for page in pages:
            starts = page["ts"].to_physical().to_numpy()
            if len(starts) == 0:
                continue
            ends = calendar.bucket_end(starts, interval)
            span = int(starts[0]), int(ends[-1])
            stored, _ = (await self._bars.starts(interval.base, {symbol.id: span}))[symbol.id]
            mark = partial(_complete, page, ends, calendar, interval.base, span, stored, evidence)
            yield await offload.run_for_reader(len(stored), mark)


def _complete(
    page: pl.DataFrame,
    ends: Times,
    calendar: Calendar,
    base: Interval,
    span: Span,
    stored: Times,
    evidence: Evidence,
) -> pl.DataFrame:
    """Mark bars as complete that are final, of which no part is missing, and that no gap of a feed touches."""
    starts = page["ts"].to_physical().to_numpy()
    missing = incomplete(calendar, base, span, stored, evidence)
    whole = np.searchsorted(missing, ends) == np.searchsorted(missing, starts)
    for start, end in evidence.gaps:
        whole &= (ends <= start) | (starts >= end)
    return page.with_columns(complete=pl.Series(whole & page["final"].to_numpy()))
