"""The plan of a backfill: expected bars, less the stored ones, less the ranges that were asked for."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from stockpulse.market.arrays import Ints
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, Interval
from stockpulse.market.symbology import Names
from stockpulse.market.times import EARLIEST, LATEST, micros
from stockpulse.pipeline.backfill.expected import Expected, Span, common, expected_bars, minus, missing
from stockpulse.pipeline.backfill.requests import Request, requests_for
from stockpulse.pipeline.backfill.targets import Target
from stockpulse.pipeline.sources import Source
from stockpulse.storage.asked_ranges import AskedRanges, Outcome, Ranges
from stockpulse.storage.bar_reader import BarReader

_SYMBOLS_AT_ONCE: Final = 20
_REFUSAL_LASTS: Final = timedelta(days=7)
"""For this long, a refusal of the newest range of a symbol holds for later ranges too."""


@dataclass(frozen=True)
class Plan:
    """The requests to one provider for the missing bars of one interval."""

    source: Source
    requests: list[Request]
    expected: Mapping[str, Expected]
    """The expected bars of each symbol."""

    def count(self, request: Request) -> int:
        """Return the number of bars that the calendar expects in the answer to a request."""
        return sum(self.expected[symbol].count(request.start, request.end) for symbol in request.symbols)


class Planner:
    """Compares stored bars and asked ranges with the trading calendar."""

    def __init__(self, bars: BarReader, names: Names, asked: AskedRanges, now: Callable[[], datetime]) -> None:
        self._bars = bars
        self._names = names
        self._asked = asked
        self._now = now

    async def plan(
        self,
        target: Target,
        symbols: Collection[str],
        source: Source,
        earlier: Sequence[Source] = (),
    ) -> Plan:
        """Return the requests to a provider; it is asked only for ranges that the `earlier` ones cannot give."""
        expected = await self._expected(target, symbols, source)
        left = {
            symbol: spans
            for symbol, one in expected.items()
            if (spans := self._not_asked(target.interval, symbol, one, source, earlier))
        }
        wanted: dict[str, list[Span]] = {}
        names = list(left)
        for first in range(0, len(names), _SYMBOLS_AT_ONCE):
            some = names[first : first + _SYMBOLS_AT_ONCE]
            stored = await self._stored(target.interval, {symbol: left[symbol] for symbol in some})
            for symbol in some:
                compare = partial(_missing, target.interval, expected[symbol], left[symbol], stored.get(symbol))
                wanted[symbol] = await asyncio.to_thread(compare)
        history = source.has.history[target.interval.name]
        return Plan(source, requests_for(wanted, target.interval, history), expected)

    async def spans(self, target: Target, symbols: Collection[str], source: Source) -> dict[str, Span]:
        """Return the range of each symbol that the bars of a target lie in."""
        expected = await self._expected(target, symbols, source)
        return {symbol: (int(one.bounds[0]), int(one.bounds[-1])) for symbol, one in expected.items()}

    async def _expected(self, target: Target, symbols: Collection[str], source: Source) -> dict[str, Expected]:
        """Return the expected bars of each symbol; symbols with one calendar share them."""
        of_calendar: dict[str, Expected] = {}
        found = {}
        for symbol in symbols:
            known = self._names.symbols.get(symbol)
            name = known.calendar if known else source.feed.calendar_of(symbol)
            if name not in of_calendar:
                calendar = await asyncio.to_thread(trading_calendar, name)
                start, end = target.span(calendar, source, self._now())
                of_calendar[name] = expected_bars(calendar, target.interval, start, max(start, end))
            found[symbol] = of_calendar[name]
        return found

    def _not_asked(
        self,
        interval: Interval,
        symbol: str,
        expected: Expected,
        source: Source,
        earlier: Sequence[Source],
    ) -> list[Span]:
        """Return the ranges that this provider may be asked for."""
        ranges = self._asked.of(source.name, interval, symbol)
        spans = minus([(int(expected.bounds[0]), int(expected.bounds[-1]))], _closed(ranges, self._now()))
        for other in earlier:
            spans = common(spans, self._left_by(other, interval, symbol))
        return spans

    def _left_by(self, source: Source, interval: Interval, symbol: str) -> list[Span]:
        """Return the ranges that a provider cannot give."""
        history = source.has.history.get(interval.name)
        if history is None:
            return [(EARLIEST, LATEST)]
        ranges = self._asked.of(source.name, interval, symbol)
        refused = [(one.start, one.end) for one in ranges if one.outcome is not Outcome.COMPLETE]
        if history.depth is None:
            return refused
        before = micros(self._now() - history.depth)
        return [(EARLIEST, before), *((max(start, before), end) for start, end in refused if end > before)]

    async def _stored(self, interval: Interval, spans: Mapping[str, Sequence[Span]]) -> dict[str, tuple[Ints, Ints]]:
        known = self._names.symbols
        ids = {known[symbol].id: symbol for symbol in spans if symbol in known}
        whole = {number: (spans[symbol][0][0], spans[symbol][-1][1]) for number, symbol in ids.items()}
        return {ids[number]: found for number, found in (await self._bars.starts(interval, whole)).items()}


def _missing(
    interval: Interval, expected: Expected, left: Sequence[Span], stored: tuple[Ints, Ints] | None
) -> list[Span]:
    """Return the ranges with missing bars. Only a provider's daily bar counts as stored: ours may lack trades."""
    closed = minus([(int(expected.bounds[0]), int(expected.bounds[-1]))], left)
    if stored is None:
        return missing(expected, expected.starts[:0], closed)
    starts, provider_ids = stored
    if interval == D1:
        return missing(expected, starts[provider_ids > 0], closed)
    return missing(expected, starts, closed, starts[provider_ids == 0])


def _closed(ranges: Ranges, now: datetime) -> list[Span]:
    """Return the ranges that are not asked for: those that were, and all later ones after a fresh refusal."""
    spans = [(one.start, one.end) for one in ranges]
    if ranges and ranges[-1].outcome is Outcome.REFUSED and now - ranges[-1].asked_at < _REFUSAL_LASTS:
        spans.append((ranges[-1].end, LATEST))
    return spans
