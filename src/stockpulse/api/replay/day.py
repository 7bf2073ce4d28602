"""The stored data of a day, for any symbols, in the order of a live stream. It is read piece by piece."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Final

import polars as pl

from stockpulse.aio import offload
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M1, Interval
from stockpulse.market.symbology import Symbol
from stockpulse.market.times import MINUTE_MICROS, from_micros, micros
from stockpulse.storage.bar_reader import FAR_FUTURE, BarReader
from stockpulse.storage.tick_reader import TickReader

_PAGE_ROWS: Final = 10_000


class Kind(StrEnum):
    """The kinds of events of a day."""

    TRADE = "trade"
    MINUTE = "minute"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Event:
    """A trade at its time, or a bar at its end."""

    at: int
    """The time at which it comes, in UTC microseconds."""
    kind: Kind
    row: dict[str, Any]
    """A row of `SERVED_TICKS` or `SERVED_BARS`."""


@dataclass(frozen=True)
class Wanted:
    """The symbols of each kind of events."""

    trades: frozenset[Symbol]
    minutes: frozenset[Symbol]
    days: frozenset[Symbol]

    @property
    def symbols(self) -> frozenset[Symbol]:
        """All of them."""
        return self.trades | self.minutes | self.days


class StoredDay:
    """Reads the events of a date of the exchange."""

    def __init__(self, day: date, ticks: TickReader, bars: BarReader) -> None:
        self._day = day
        self._ticks = ticks
        self._bars = bars

    def span(self, symbols: Iterable[Symbol]) -> tuple[int, int]:
        """Return the first time of the day and the first time after it, over all exchanges of these symbols."""
        spans = [self._span(symbol) for symbol in symbols]
        return min(first for first, _ in spans), max(last for _, last in spans)

    async def events(self, wanted: Wanted, first: int, last: int) -> list[Event]:
        """Return the events with first <= time < last, in order: at equal times, bars come before trades."""
        found = [
            *await self._trades(wanted.trades, first, last),
            *await self._minutes(wanted.minutes, first, last),
            *await self._days(wanted.days, first, last),
        ]
        found.sort(key=lambda event: (event.at, event.kind is Kind.TRADE, event.row.get("seq", 0), event.row["symbol"]))
        return found

    def _span(self, symbol: Symbol) -> tuple[int, int]:
        zone = trading_calendar(symbol.calendar).timezone
        days = (self._day, self._day + timedelta(days=1))
        first, last = (micros(datetime.combine(day, time(), zone).astimezone(UTC)) for day in days)
        return first, last

    async def _trades(self, symbols: frozenset[Symbol], first: int, last: int) -> list[Event]:
        found: list[Event] = []
        for span, group in self._by_span(symbols):
            start, end = max(first, span[0]), min(last, span[1])
            if start >= end:
                continue
            page = await self._ticks.page(group, from_micros(start), from_micros(end), _PAGE_ROWS)
            found += await offload.run_for_reader(len(page.ticks), partial(_trades_of, page.ticks))
            while page.next is not None:
                page = await self._ticks.page(group, from_micros(start), from_micros(end), _PAGE_ROWS, page.next)
                found += await offload.run_for_reader(len(page.ticks), partial(_trades_of, page.ticks))
        return found

    async def _minutes(self, symbols: frozenset[Symbol], first: int, last: int) -> list[Event]:
        """Return the minutes that end in [first, last)."""
        found: list[Event] = []
        for span, group in self._by_span(symbols):
            start, end = max(first - MINUTE_MICROS, span[0]), min(last - MINUTE_MICROS, span[1])
            rows = await self._rows(group, M1, start, end)
            found += [Event(micros(row["ts"]) + MINUTE_MICROS, Kind.MINUTE, row) for row in rows]
        return found

    async def _days(self, symbols: frozenset[Symbol], first: int, last: int) -> list[Event]:
        """Return the daily bars that end in [first, last): at the close of the session."""
        found = []
        for span, group in self._by_span(symbols):
            ends = {symbol.name: _close(symbol, span) for symbol in group}
            if any(first <= end < last for end in ends.values()):
                rows = await self._rows(group, D1, span[0], span[1])
                events = [Event(ends[row["symbol"]], Kind.DAY, row) for row in rows]
                found += [event for event in events if first <= event.at < last]
        return found

    async def _rows(self, symbols: Sequence[Symbol], interval: Interval, start: int, end: int) -> list[dict[str, Any]]:
        if start >= end:
            return []
        read = partial(self._bars.page, symbols, interval, from_micros(start), from_micros(end), _PAGE_ROWS)
        page = await read(closed_until=lambda _: FAR_FUTURE)
        rows = await offload.run_for_reader(len(page.bars), page.bars.to_dicts)
        while page.next is not None:
            page = await read(page.next, closed_until=lambda _: FAR_FUTURE)
            rows += await offload.run_for_reader(len(page.bars), page.bars.to_dicts)
        return rows

    def _by_span(self, symbols: frozenset[Symbol]) -> Iterable[tuple[tuple[int, int], list[Symbol]]]:
        """Group symbols by the beginning and the end of the day at their exchange."""
        groups: dict[tuple[int, int], list[Symbol]] = {}
        for symbol in sorted(symbols, key=lambda one: one.name):
            groups.setdefault(self._span(symbol), []).append(symbol)
        return groups.items()


def _trades_of(ticks: pl.DataFrame) -> list[Event]:
    times = ticks["event_time"].to_physical()
    return [Event(at, Kind.TRADE, row) for at, row in zip(times, ticks.iter_rows(named=True), strict=True)]


def _close(symbol: Symbol, span: tuple[int, int]) -> int:
    """Return the time at which the daily bar is complete: the close, or the last moment of the day."""
    session = trading_calendar(symbol.calendar).session(span[0])
    return min(span[1] - 1, session[1]) if session else span[1] - 1
