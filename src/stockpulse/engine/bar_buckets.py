"""The longer buckets, 5 minutes and a day, that the minutes of a symbol belong to."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from stockpulse.engine.bar_math import Rows, roll_up
from stockpulse.market.arrays import Ints
from stockpulse.market.calendar import NO_DAY, Calendar
from stockpulse.market.intervals import M5, Interval


class Buckets:
    """Assigns minutes to buckets by the calendar of each symbol."""

    def __init__(self, *, extended_day: bool = False) -> None:
        """`extended_day` counts trades before and after the regular session to the day."""
        self._extended_day = extended_day
        self._calendars: list[Calendar | Callable[[], Calendar]] = []
        self._index: dict[Calendar | str, int] = {}
        self._calendar_of = np.zeros(0, np.int64)  # by symbol id, an index into `_calendars`

    def learn(self, symbol_id: int, calendar: Calendar) -> None:
        """Set the calendar of a symbol."""
        self._learn(symbol_id, self._index.setdefault(calendar, len(self._calendars)), calendar)

    def learn_later(self, symbol_id: int, name: str, load: Callable[[str], Calendar]) -> None:
        """Set the calendar of a symbol, which is loaded when it is needed."""
        self._learn(symbol_id, self._index.setdefault(name, len(self._calendars)), partial(load, name))

    def _learn(self, symbol_id: int, index: int, calendar: Calendar | Callable[[], Calendar]) -> None:
        if index == len(self._calendars):
            self._calendars.append(calendar)
        missing = symbol_id + 1 - len(self._calendar_of)
        if missing > 0:
            grown = max(missing, len(self._calendar_of))
            self._calendar_of = np.concatenate([self._calendar_of, np.zeros(grown, np.int64)])
        self._calendar_of[symbol_id] = index

    def _calendar(self, index: int) -> Calendar:
        """Return a calendar; load it if it is needed for the first time."""
        calendar = self._calendars[index]
        if not isinstance(calendar, Calendar):
            calendar = self._calendars[index] = calendar()
        return calendar

    def of(self, interval: Interval, minutes: Rows, *, by_date: bool = False) -> tuple[Ints, Ints]:
        """Return start and end of the 5-minute or daily bucket of each minute.

        Both are NO_DAY for a minute that belongs to no day. `by_date` assigns each minute to the day of its date, also
        outside the session.
        """
        extended = by_date or self._extended_day
        if interval is M5:
            start = minutes["ts"] // M5.micros * M5.micros
            return start, start + M5.micros
        start = np.full(len(minutes), NO_DAY)
        end = np.full(len(minutes), NO_DAY)
        calendar_of = self._calendar_of[minutes["symbol_id"]]
        for index in range(len(self._calendars)):
            rows = np.flatnonzero(calendar_of == index)
            if len(rows) == 0:
                continue
            calendar = self._calendar(index)
            day = calendar.trading_day(minutes["ts"][rows], extended=extended)
            inside = day != NO_DAY
            start[rows] = day
            end[rows[inside]] = calendar.day_end(day[inside], extended=extended)
        return start, end

    def roll_up(self, interval: Interval, minutes: Rows, *, by_date: bool = False) -> Rows:
        """Roll minutes up into their 5-minute or daily bars; minutes that belong to no day are left out."""
        start, end = self.of(interval, minutes, by_date=by_date)
        inside = start != NO_DAY
        return roll_up(minutes[inside], start[inside], end[inside])

    def distinct(self, interval: Interval, minutes: Rows, *, by_date: bool = False) -> tuple[Ints, Ints, Ints]:
        """Return symbol, start and end of the buckets that contain these minutes, each bucket once."""
        start, end = self.of(interval, minutes, by_date=by_date)
        inside = start != NO_DAY
        found = np.stack([minutes["symbol_id"][inside], start[inside], end[inside]])
        symbol_id, start, end = np.unique(found, axis=1) if found.size else found
        return symbol_id, start, end

    def spans(self, interval: Interval, minutes: Rows) -> tuple[Ints, Ints, Ints, Ints]:
        """Return symbol, first minute, end and label of the buckets that contain these minutes.

        Every minute in [first minute, end) belongs to the bucket. A day that opens on the eve begins before
        the midnight that labels it.
        """
        symbol_id, label, end = self.distinct(interval, minutes)
        begin = label.copy()
        if interval is not M5 and len(label):
            calendar_of = self._calendar_of[symbol_id]
            for index in np.unique(calendar_of):
                rows = calendar_of == index
                labels, opens, _ = self._calendar(index).sessions(label[rows].min(), label[rows].max() + 1)
                opening = opens[np.searchsorted(labels, label[rows])]
                begin[rows] = np.minimum(label[rows], opening) if self._extended_day else opening
        return symbol_id, begin, end, label

    def by_calendar(self, symbol_id: Ints) -> Iterator[tuple[Calendar, Ints]]:
        """Yield the calendars of these symbols, each with the places of its symbols."""
        calendar_of = self._calendar_of[symbol_id]
        for index in np.unique(calendar_of):
            yield self._calendar(index), np.flatnonzero(calendar_of == index)
