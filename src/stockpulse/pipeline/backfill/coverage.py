"""The coverage of a symbol: for each session, the bars that are stored, and the reasons why others are missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final

import numpy as np

from stockpulse.market.arrays import Ints
from stockpulse.market.calendar import Calendar, Times
from stockpulse.market.intervals import D1, Interval
from stockpulse.market.times import DAY_MICROS
from stockpulse.pipeline.backfill.expected import Span, expected_bars
from stockpulse.storage.asked_ranges import Outcome, Ranges

_HALF_YEAR: Final = 183 * DAY_MICROS


class Reason(StrEnum):
    """The reason why bars are missing."""

    NOT_ASKED = "not asked"
    REFUSED = "refused"
    NOTHING = "nothing there"
    GAP = "gap"
    """A live feed was interrupted, and the gap is not filled."""


_REASONS: Final = (Reason.NOT_ASKED, Reason.REFUSED, Reason.NOTHING, Reason.GAP)


@dataclass(frozen=True)
class Evidence:
    """The facts about missing bars of one symbol and interval."""

    asked: Mapping[str, Ranges] = field(default_factory=dict)
    """The ranges that were asked for, by provider."""
    gaps: Sequence[Span] = ()
    """The gaps of live feeds that are not filled."""

    def codes(self, starts: Times) -> Ints:
        """Return the place of the reason in `_REASONS` for each time; a later reason goes first."""
        codes = np.zeros(len(starts), np.int64)
        ranges = [one for of_provider in self.asked.values() for one in of_provider]
        refused = [one for one in ranges if one.outcome is Outcome.REFUSED]
        for one in (*refused, *(one for one in ranges if one.outcome is not Outcome.REFUSED)):
            code = Reason.REFUSED if one.outcome is Outcome.REFUSED else Reason.NOTHING
            _mark(codes, starts, (one.start, one.end), code)
        for span in self.gaps:
            _mark(codes, starts, span, Reason.GAP)
        return codes

    def words(self, start: int) -> str | None:
        """Return the words of a provider that refused the bar at this time."""
        for provider, ranges in self.asked.items():
            for one in ranges:
                if one.outcome is Outcome.REFUSED and one.start <= start < one.end:
                    return one.reason or provider
        return None


def _mark(codes: Ints, starts: Times, span: Span, reason: Reason) -> None:
    first, last = np.searchsorted(starts, span)
    codes[first:last] = _REASONS.index(reason)


@dataclass(frozen=True)
class Missing:
    """Bars that are missing for one reason: start <= ts < end."""

    start: int
    end: int
    bars: int
    reason: Reason
    words: str | None = None


@dataclass(frozen=True)
class Session:
    """The bars of one session; a date without one is a holiday."""

    label: int
    """Midnight of the trading date on the exchange's clock."""
    open: int | None
    close: int | None
    expected: int = 0
    stored: int = 0
    missing: tuple[Missing, ...] = ()

    @property
    def complete(self) -> bool:
        """True if all bars that exist are stored: the providers have no others."""
        return all(one.reason is Reason.NOTHING for one in self.missing)


def coverage(calendar: Calendar, interval: Interval, span: Span, stored: Times, evidence: Evidence) -> list[Session]:
    """Return the sessions and holidays of a range, oldest first. Only bars that end by the end of `span` count."""
    start, end = span
    expected = expected_bars(calendar, interval, start, end)
    labels, opens, closes = calendar.sessions(start - 2 * DAY_MICROS, end + DAY_MICROS)
    # A daily bar counts to the session that its label names, any other to the session that it lies in.
    places = np.searchsorted(labels if interval == D1 else opens, expected.starts, side="right") - 1
    is_stored = np.isin(expected.starts, stored)
    codes = evidence.codes(expected.starts)
    ends = calendar.bucket_end(expected.starts, interval)
    found = []
    for place in np.unique(places):
        first, last = np.searchsorted(places, [place, place + 1])
        part = slice(int(first), int(last))
        missing = _missing(expected.starts[part], ends[part], is_stored[part], codes[part], evidence)
        times = int(labels[place]), int(opens[place]), int(closes[place])
        found.append(Session(*times, int(last - first), int(is_stored[part].sum()), missing))
    return sorted([*found, *_holidays(calendar, labels, span)], key=lambda one: one.label)


def _missing(starts: Times, ends: Times, is_stored: np.ndarray, codes: Ints, evidence: Evidence) -> tuple[Missing, ...]:
    """Return the runs of missing bars with the same reason."""
    marks = np.where(is_stored, -1, codes)
    borders = [0, *(np.flatnonzero(np.diff(marks)) + 1).tolist(), len(marks)]
    runs = []
    for first, last in pairwise(borders):
        if last > first and marks[first] >= 0:
            reason = _REASONS[int(marks[first])]
            words = evidence.words(int(starts[first])) if reason is Reason.REFUSED else None
            runs.append(Missing(int(starts[first]), int(ends[last - 1]), last - first, reason, words))
    return tuple(runs)


def _holidays(calendar: Calendar, labels: Times, span: Span) -> Iterable[Session]:
    """Yield the dates without a session on weekdays that usually have one."""
    around, _, _ = calendar.sessions(span[0] - _HALF_YEAR, span[1] + _HALF_YEAR)
    usual = set(_weekdays(calendar, around).tolist())
    noons = np.arange(span[0] + DAY_MICROS // 2, span[1] + DAY_MICROS // 2, DAY_MICROS)
    dates = np.unique(calendar.floor_date(noons))
    dates = dates[(dates >= span[0]) & (dates < span[1])]
    for date in dates[~np.isin(dates, labels)]:
        if int(_weekdays(calendar, np.array([date]))[0]) in usual:
            yield Session(int(date), None, None)


def _weekdays(calendar: Calendar, labels: Times) -> Ints:
    """Return the weekday of each label on the exchange's clock; 0 is Monday."""
    days = (calendar.floor_date(labels) + DAY_MICROS // 2) // DAY_MICROS
    return (days + 3) % 7


def incomplete(calendar: Calendar, interval: Interval, span: Span, stored: Times, evidence: Evidence) -> Times:
    """Return the starts of bars that are missing although they may exist."""
    expected = expected_bars(calendar, interval, *span)
    absent = ~np.isin(expected.starts, stored)
    starts: Times = expected.starts[absent & (evidence.codes(expected.starts) != _REASONS.index(Reason.NOTHING))]
    return starts
