"""The bars that a trading calendar expects, and the ranges to ask for those that are missing.

A range consists of whole units: a unit is a trading date with a session, and half an hour on the running date. So
symbols whose bars are missing at different minutes share a request, and the bars before and after a session come too.

    expected bars    |||||||||||||   |||||||||||||   ||||||
    stored           |||||||||||||   |||||  ||||||   ||
    units            |   Monday      |   Tuesday     |  |  |
    to ask for                       [---------------)  [--)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from stockpulse.market.arrays import Mask
from stockpulse.market.calendar import Calendar, Times
from stockpulse.market.intervals import D1, Interval
from stockpulse.market.times import DAY_MICROS, MINUTE_MICROS

_BLOCK: Final = 30 * MINUTE_MICROS

Span = tuple[int, int]
"""A range of time: start <= ts < end, in UTC microseconds."""


@dataclass(frozen=True, eq=False)
class Expected:
    """The bars that a calendar expects in a range."""

    starts: Times
    """The starts of the bars, ascending."""
    bounds: Times
    """Unit k is the range from bounds[k] to bounds[k + 1]."""

    def count(self, start: int, end: int) -> int:
        """Return the number of bars in [start, end)."""
        first, last = np.searchsorted(self.starts, [start, end])
        return int(last - first)


def expected_bars(calendar: Calendar, interval: Interval, start: int, end: int) -> Expected:
    """Return the bars of the sessions that begin at or after `start` and end by `end`."""
    labels, opens, closes = calendar.sessions(start - 2 * DAY_MICROS, end + DAY_MICROS)
    if interval == D1:
        inside = (labels >= start) & (labels < end)
        return Expected(labels[inside], np.append(labels[inside], end))
    begins = np.minimum(labels, opens)
    inside = (closes > start) & (begins < end)
    begins, opens, closes = begins[inside], opens[inside], closes[inside]
    starts = _starts(opens, closes, interval)
    ends = calendar.bucket_end(starts, interval)
    bounds = np.maximum(begins, start)
    if len(opens) and end < closes[-1]:
        bounds = np.append(bounds, np.arange(opens[-1] + _BLOCK, end, _BLOCK))
    bounds = bounds[bounds >= start]
    return Expected(starts[(starts >= start) & (ends <= end)], np.append(bounds, end))


def _starts(opens: Times, closes: Times, interval: Interval) -> Times:
    """Return the starts of the bars of these sessions."""
    step = interval.micros or DAY_MICROS
    counts = -(-(closes - opens) // step)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    starts: Times = np.repeat(opens, counts) + (np.arange(int(counts.sum())) - first) * step
    return starts


def missing(expected: Expected, stored: Times, asked: Iterable[Span], from_trades: Times | None = None) -> list[Span]:
    """Return the ranges to ask for: units with a bar that is neither stored nor asked for, without the asked ranges.

    `from_trades` are the stored bars that are made of our own ticks. Those beside a missing one count as missing too,
    and so does the newest stored bar: the feed may have begun or ended in the middle of them.
    """
    asked = list(asked)
    wanted = ~_within(expected.starts, asked)
    absent = ~np.isin(expected.starts, stored) & wanted
    if from_trades is not None and len(from_trades):
        ours = np.isin(expected.starts, from_trades)
        absent |= ours & wanted & (expected.starts == stored.max())
        absent |= ours & wanted & _with_neighbours(absent)
    starts = expected.starts[absent]
    units = np.unique(np.searchsorted(expected.bounds, starts, side="right") - 1)
    runs = np.split(units, np.flatnonzero(np.diff(units) > 1) + 1) if len(units) else []
    whole = [(int(expected.bounds[run[0]]), int(expected.bounds[run[-1] + 1])) for run in runs]
    return [one for one in minus(whole, asked) if _any_in(starts, one)]


def _with_neighbours(marks: Mask) -> Mask:
    wider = marks.copy()
    wider[1:] |= marks[:-1]
    wider[:-1] |= marks[1:]
    return wider


def _within(ts: Times, spans: list[Span]) -> Mask:
    """Return True for each time in one of the ranges."""
    inside = np.zeros(len(ts), np.bool_)
    for start, end in spans:
        first, last = np.searchsorted(ts, [start, end])
        inside[first:last] = True
    return inside


def _any_in(ts: Times, span: Span) -> bool:
    first, last = np.searchsorted(ts, span)
    return bool(last > first)


def minus(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return the parts of `spans` that are in none of the others."""
    left = list(spans)
    for start, end in others:
        left = [
            part
            for begin, stop in left
            for part in ((begin, min(stop, start)), (max(begin, end), stop))
            if part[0] < part[1]
        ]
    return left


def common(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return the parts of `spans` that are in one of the others."""
    others = list(others)
    parts = [(max(begin, start), min(stop, end)) for begin, stop in spans for start, end in others]
    return sorted(part for part in parts if part[0] < part[1])
