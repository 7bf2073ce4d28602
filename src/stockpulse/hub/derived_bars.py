"""Publishes what is derived from the stored intervals: bars of other intervals, and indicators.

A change of a base bar marks what depends on it. A task reads the marked bars again, as a request for bars does, so that
the stream and the API show the same. Marks of one bar are worked off together: under load there are fewer messages, and
the last one is right.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import BAR, Rows
from stockpulse.hub.hub import Hub
from stockpulse.hub.live_indicators import LiveIndicators
from stockpulse.hub.marks import Key, Mark, Marks
from stockpulse.hub.messages import Batch, Change, Channel
from stockpulse.hub.served_rows import BAR_COLUMNS
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import Interval
from stockpulse.market.times import from_micros, micros
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.derived_bars import Derivation
from stockpulse.storage.served_bars import SERVED_BARS

_PACE_SECONDS: Final = 0.25
_SINGLE_BARS: Final = 20
"""More bars than this are read as one range."""
_KNOWN_BARS: Final = 4
"""The number of bars of each interval and symbol whose last published version is known."""

Row = dict[str, Any]
_SHOWN: Final = pl.Schema({name: SERVED_BARS[name] for name in BAR_COLUMNS})


class DerivedBars:
    """Keeps the derived bars and indicators of subscribers up to date."""

    def __init__(
        self,
        hub: Hub,
        marks: Marks,
        bars: BarReader,
        indicators: LiveIndicators,
        closed_until: Callable[[int], datetime],
        *,
        extended_day: bool = False,
    ) -> None:
        """`closed_until` returns the time up to which bars of a symbol may be final, by its id."""
        self._hub = hub
        self._marks = marks
        self._bars = bars
        self._indicators = indicators
        self._closed_until = closed_until
        self._extended_day = extended_day
        self._known: dict[Key, dict[int, tuple[int, bool]]] = {}
        """By the start of a bar: the revision that was published last, and if it was final."""
        self._ends: dict[Key, dict[int, int]] = {}
        """The ends of published bars that are not final, by their start."""

    def watch(self, interval: Interval, rows: Rows, change: Change) -> None:
        """Mark what depends on these bars."""
        self._marks.note(interval, rows, change)

    async def run(self) -> None:
        """Publish, for ever."""
        while True:
            await asyncio.sleep(_PACE_SECONDS)
            await self.work()

    async def work(self) -> None:
        """Publish everything that is marked."""
        self._mark_new_and_over()
        for key, bars in self._marks.take():
            interval, symbol = key
            changes = {ts: mark.change for ts, mark in bars.items()}
            if interval.base is not interval:
                changes = await self._publish(key, bars)
            await self._indicators.update(interval, symbol, changes)

    def _mark_new_and_over(self) -> None:
        """Mark the newest bars of new subscriptions, and bars whose time is over."""
        read = self._marks.read()
        for key in self._known.keys() - read:
            del self._known[key]
            self._ends.pop(key, None)
            self._marks.drop([key])
        for key in read - self._known.keys():
            self._known[key] = {}
            self._marks.add(key, {})
        for key, ends in self._ends.items():
            until = micros(self._closed_until(key[1].id))
            over = [start for start, end in ends.items() if end <= until]
            self._marks.add(key, {start: Mark(Change.CLOSED, 0) for start in over}) if over else None
        self._indicators.forget_others(read)

    async def _publish(self, key: Key, bars: dict[int, Mark]) -> dict[int, Change]:
        """Publish the derived bars of these base bars, and the newest one; return those that are final."""
        interval, symbol = key
        how = Derivation(interval, trading_calendar(symbol.calendar), self._extended_day)
        marks = _by_label(how, bars)
        told: dict[int, Change] = {}
        found: set[int] = set()
        for row in await self._rows(key, sorted(marks)):
            start = micros(row["ts"])
            found.add(start)
            revised = start in marks and marks[start].change is not Change.CLOSED
            change = self._tell(key, how, start, row, revised=revised)
            if change is not None:
                told[start] = change
        for start, mark in marks.items():
            if mark.change is Change.REMOVED and start not in found:
                self._remove(key, start, mark.revision)
                told[start] = Change.REMOVED
        return told

    async def _rows(self, key: Key, starts: list[int]) -> list[Row]:
        """Return the bars that begin at these times, and the newest one."""
        interval, symbol = key
        until = self._closed_until(symbol.id)
        ranges = [(start, start + 1) for start in starts]
        if len(starts) > _SINGLE_BARS:
            ranges = [(starts[0], starts[-1] + 1)]
        rows: dict[datetime, Row] = {}
        for first, last in ranges:
            async for page in self._bars.between(symbol, interval, from_micros(first), from_micros(last), until):
                rows |= {row["ts"]: row for row in page.select(BAR_COLUMNS).to_dicts()}
        newest = await self._bars.latest(symbol, interval, 1, until)
        rows |= {row["ts"]: row for row in newest.select(BAR_COLUMNS).to_dicts()}
        return list(rows.values())

    def _tell(self, key: Key, how: Derivation, start: int, row: Row, *, revised: bool) -> Change | None:
        """Publish a bar unless it is known; return the change if it is final."""
        known = self._known.setdefault(key, {})
        before, version = known.get(start), (row["revision"], row["final"])
        if before == version:
            return None
        known[start] = version
        for old in sorted(known)[:-_KNOWN_BARS]:
            del known[old]
        batch, interval = Batch(pl.DataFrame([row], schema=_SHOWN)), key[0].name
        ends = self._ends.setdefault(key, {})
        if not row["final"]:
            end = how.calendar.bucket_end(np.array([start]), how.interval, extended=self._extended_day)
            ends[start] = int(end[0])
            self._hub.publish_newest((Channel.FORMING, interval, ""), Change.FORMING, batch)
            return None
        ends.pop(start, None)
        change = Change.REVISED if revised or (before is not None and before[1]) else Change.CLOSED
        self._hub.publish((Channel.BARS, interval, ""), change, batch)
        return change

    def _remove(self, key: Key, start: int, revision: int) -> None:
        row = dict.fromkeys(_SHOWN) | {"symbol": key[1].name, "ts": from_micros(start), "revision": revision}
        self._known.get(key, {}).pop(start, None)
        self._ends.get(key, {}).pop(start, None)
        batch = Batch(pl.DataFrame([row | {"final": True}], schema=_SHOWN))
        self._hub.publish((Channel.BARS, key[0].name, ""), Change.REMOVED, batch)


def _by_label(how: Derivation, bars: dict[int, Mark]) -> dict[int, Mark]:
    """Return the marks of base bars by the starts of their buckets; of several in a bucket, the strongest."""
    rows = np.zeros(len(bars), BAR)
    rows["ts"] = list(bars)
    marks: dict[int, Mark] = {}
    for start, mark in zip(how.labels(rows).tolist(), bars.values(), strict=True):
        known = marks.get(start)
        if known is None or _strength(mark) > _strength(known):
            marks[start] = mark
    return marks


def _strength(mark: Mark) -> tuple[bool, int]:
    return mark.change is not Change.CLOSED, mark.revision
