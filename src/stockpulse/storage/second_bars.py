"""Bars of seconds, built on query from stored ticks, for one symbol.

The stored 1-minute bars show where there are ticks, and how many: ticks that are no longer kept are noticed, and no bar
is built from a part of its trades. The definition of a bar is the engine's own, so the bars of a minute add up to it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.engine.bar_math import BAR, Rows, bars_of_symbol
from stockpulse.engine.batches import tick_batch
from stockpulse.errors import InvalidInput
from stockpulse.market.arrays import Ints, array_of
from stockpulse.market.intervals import M1, Interval
from stockpulse.market.symbology import Names, Symbol
from stockpulse.market.times import MINUTE_MICROS, from_micros, micros
from stockpulse.storage.bar_reader import FAR_FUTURE, BarReader
from stockpulse.storage.served_bars import SERVED_BARS
from stockpulse.storage.tick_reader import TickReader

_MOST_TICKS: Final = 500_000
"""The largest number of trades in the minutes of a request."""
_TICK_BYTES: Final = 250
"""The memory for a tick from which bars are built."""

Reserve = Callable[[int], Awaitable[object]]
"""Reserves memory, in bytes, before the work."""


@dataclass(frozen=True)
class _Built:
    """The bars of some minutes, and the time from which on all their ticks are stored (UTC microseconds)."""

    bars: Rows
    kept_from: int


class SecondBars:
    """Builds bars of seconds. They are never stored."""

    def __init__(self, bars: BarReader, ticks: TickReader, names: Names, lateness_micros: int) -> None:
        self._bars = bars
        self._ticks = ticks
        self._names = names
        self._lateness = lateness_micros

    async def between(
        self,
        symbol: Symbol,
        interval: Interval,
        start: datetime | None,
        end: datetime | None,
        closed_until: datetime,
        reserve: Reserve,
    ) -> pl.DataFrame:
        """Return the bars whose start lies in [start, end), oldest first, as `SERVED_BARS`.

        Raises InvalidInput if the minutes have too many trades, or if some of their ticks are no longer kept.
        """
        first, last = micros(start) if start else 0, micros(end or FAR_FUTURE)
        minutes = await self._minutes(symbol, first, last, closed_until)
        built = await self._build(symbol, interval, minutes, closed_until, "start", reserve)
        if built.kept_from:
            raise _not_kept(symbol, interval, built.kept_from)
        bars = built.bars[(built.bars["ts"] >= first) & (built.bars["ts"] < last)]
        return self._bars.served(bars, interval)

    async def latest(
        self, symbol: Symbol, interval: Interval, limit: int, closed_until: datetime, reserve: Reserve
    ) -> pl.DataFrame:
        """Return the newest `limit` bars, oldest first, as `SERVED_BARS`: fewer if older ticks are no longer stored.

        Raises InvalidInput if the minutes have too many trades, or if the newest ticks are no longer kept.
        """
        count = -(-limit * _length(interval) // MINUTE_MICROS)
        while True:
            priced = await self._bars.latest(symbol, M1, count, closed_until)
            start = 0 if len(priced) < count else int(array_of(priced["ts"])[0])
            minutes = await self._minutes(symbol, start, micros(FAR_FUTURE), closed_until)
            built = await self._build(symbol, interval, minutes, closed_until, "limit", reserve)
            bars = built.bars[built.bars["ts"] >= built.kept_from]
            if built.kept_from and len(bars) == 0:
                raise _not_kept(symbol, interval, built.kept_from)
            if len(bars) >= limit or built.kept_from or len(priced) < count or count >= limit:
                return self._bars.served(bars[-limit:], interval)
            count = min(2 * count, limit)  # each minute with a price has at least one bar

    async def _minutes(self, symbol: Symbol, first: int, last: int, closed_until: datetime) -> pl.DataFrame:
        """Return the 1-minute bars that overlap [first, last), until they have too many trades."""
        start, end = from_micros(first // MINUTE_MICROS * MINUTE_MICROS), from_micros(last)
        pages, trades = [SERVED_BARS.to_frame()], 0
        async for page in self._bars.between(symbol, M1, start, end, closed_until, priced=False):
            pages.append(page)
            trades += int(page["trade_count"].sum())
            if trades > _MOST_TICKS:
                break
        return pl.concat(pages)

    async def _build(
        self,
        symbol: Symbol,
        interval: Interval,
        minutes: pl.DataFrame,
        closed_until: datetime,
        field: str,
        reserve: Reserve,
    ) -> _Built:
        if minutes.is_empty():
            return _Built(np.empty(0, BAR), 0)
        starts = array_of(minutes["ts"])
        ticks = None
        trades = int(minutes["trade_count"].sum())
        if trades <= _MOST_TICKS:
            await reserve(trades * _TICK_BYTES)
            begin, end = from_micros(int(starts[0])), from_micros(int(starts[-1]) + MINUTE_MICROS)
            ticks = await self._ticks.counted(symbol.id, begin, end, _MOST_TICKS)
        if ticks is None:
            raise InvalidInput(
                field, f"{interval} bars are built from ticks, and takes at most {_MOST_TICKS:,}: ask for fewer bars"
            )
        bars = await offload.run_for_reader(len(ticks), partial(self._bars_of, ticks, interval))
        bars["final"] = bars["end"] <= micros(closed_until) - self._lateness
        kept_from = _kept_from(minutes, starts, bars)
        return _Built(bars[~np.isnan(bars["open"])], kept_from)

    def _bars_of(self, ticks: pl.DataFrame, interval: Interval) -> Rows:
        return bars_of_symbol(*tick_batch(ticks, self._names).trades, _length(interval))


def _length(interval: Interval) -> int:
    if interval.micros is None:
        raise ValueError(f"{interval} has no fixed length")
    return interval.micros


def _kept_from(minutes: pl.DataFrame, starts: Ints, bars: Rows) -> int:
    """Return the end of the last minute with missing ticks; 0 if no tick is missing.

    A minute has at least the trades that its stored bar counts: later ones may have come since it was read. A bar of a
    provider says nothing about ticks.
    """
    counted = np.zeros(len(starts), np.int64)
    np.add.at(counted, np.searchsorted(starts, bars["ts"], side="right") - 1, bars["trade_count"])
    stored = minutes["trade_count"].fill_null(0).to_numpy()
    lacking = np.flatnonzero((minutes["source"] == "trades").to_numpy() & (counted < stored))
    return int(starts[lacking[-1]]) + MINUTE_MICROS if len(lacking) else 0


def _not_kept(symbol: Symbol, interval: Interval, kept_from: int) -> InvalidInput:
    since = from_micros(kept_from).isoformat().replace("+00:00", "Z")
    return InvalidInput(
        "interval",
        f"{interval} bars are built from ticks, and not all ticks of {symbol.name} before {since} are kept any more;"
        " later ones may be, and bars from 1m on are",
    )
