"""The bars to have."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final

import numpy as np

from stockpulse.market.calendar import Calendar
from stockpulse.market.intervals import D1, Interval
from stockpulse.market.times import DAY_MICROS, micros
from stockpulse.pipeline.backfill.expected import Span
from stockpulse.pipeline.sources import Source

SETTLED: Final = timedelta(seconds=15)
"""A bar is asked for this long after its end, and the delay of the provider: earlier it may be incomplete."""


Bound = int | date
"""A time in UTC microseconds, or a date of the exchange."""


@dataclass(frozen=True)
class Target:
    """The bars to have: those of one interval, in a range, or of the last days."""

    interval: Interval
    days: int | None = None
    """The running date and the days before it; for daily bars, the days before the running date."""
    start: Bound | None = None
    """`days` is for a target without it."""
    end: Bound | None = None
    """None: up to the present."""
    before_today: bool = False
    """True to leave out the running date."""

    def span(self, calendar: Calendar, source: Source, now: datetime) -> Span:
        """Return the range of the bars that `source` can have by now."""
        present = np.array([micros(now - SETTLED) - source.feed.delay_micros])
        today = int(calendar.floor_date(present)[0])
        whole_dates = self.interval == D1 or self.before_today
        end = today if whole_dates else int(calendar.bucket(present, self.interval)[0])
        start = self._first(calendar, today) if self.start is None else _instant(self.start, calendar)
        depth = source.has.history[self.interval.name].depth
        if depth is not None:
            start = max(start, micros(now - depth))
        return start, end if self.end is None else min(end, _instant(self.end, calendar))

    def _first(self, calendar: Calendar, today: int) -> int:
        days = (self.days or 0) - (self.interval != D1)
        return int(calendar.floor_date(np.array([today + DAY_MICROS // 2 - days * DAY_MICROS]))[0])


def _instant(bound: Bound, calendar: Calendar) -> int:
    if isinstance(bound, int):
        return bound
    return micros(datetime.combine(bound, time(), calendar.timezone))
