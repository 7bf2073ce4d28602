"""Trading calendars: the sessions of an exchange, and the buckets of time that events belong to.

Times are UTC microseconds in int64 arrays of any length. A *date* is an int64 too: days since 1970-01-01 on the
exchange's own clock. A calendar is a table with one row per date from 1970 to 2099, built once; every method is then a
look-up in sorted columns. Outside the table the exchange opens on its usual weekdays at its usual hours, and its clock
does not change any more. A lunch break does not end a session.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Final, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from stockpulse.market.calendar_corrections import Hours
from stockpulse.market.intervals import D1, MO1, W1, Interval

Times: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

#: The daily label of events that belong to no day.
NO_DAY: Final = int(np.iinfo(np.int64).min)

SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND
EPOCH: Final = date(1970, 1, 1)
ROWS: Final = (date(2100, 1, 1) - EPOCH).days
_FIRST_KNOWN: Final = date(1990, 1, 1)
_LAST_KNOWN: Final = date(2050, 12, 31)


@dataclass(frozen=True, eq=False, slots=True)
class Calendar:
    """The sessions of one exchange; `trading_calendar` returns it. No method raises for any time."""

    name: str
    timezone: ZoneInfo
    midnights: Times  # the first instant of each date
    _begins: Times  # the first instant whose events count to the date: midnight, or the open of the evening before
    opens: Times  # the usual open, if there is no session
    closes: Times
    traded: Flags  # true if there is a session
    _spacing: int  # opens are multiples of this apart

    def floor_date(self, ts: Times) -> Times:
        """Return the midnight, on the exchange's clock, that begins the date of each time."""
        return self._at(self.midnights, self._dates(ts, self.midnights))

    def trading_date(self, ts: Times) -> Times:
        """Return the midnight that labels the date each event counts to, with or without a session."""
        return self._at(self.midnights, self._dates(ts, self._begins))

    def date_span(self, ts: Times) -> tuple[Times, Times]:
        """Return the first instant whose events count to the date of each event, and that of the next date."""
        dates = self._dates(ts, self._begins)
        return self._at(self._begins, dates), self._at(self._begins, dates + 1)

    def trading_day(self, ts: Times, *, extended: bool = False) -> Times:
        """Return the label of each event's daily bucket: midnight of the trading date on the exchange's clock.

        NO_DAY outside the regular session; with `extended` only on dates without one.
        """
        dates = self._dates(ts, self._begins)
        counts = self.traded[_rows(dates)] if extended else self._in_session(ts, dates)
        return np.where(counts, self._at(self.midnights, dates), NO_DAY)

    def day_end(self, labels: Times, *, extended: bool = False) -> Times:
        """Return the ends of daily buckets by their labels: the close, or the end of the date if `extended`.

        A label without a session ends with its date. NO_DAY stays NO_DAY.
        """
        dates = self._dates(labels, self.midnights)
        ends = self._at(self._begins, dates + 1)
        if not extended:
            ends = np.where(self.traded[_rows(dates)], self._at(self.closes, dates), ends)
        return _keep_no_day(labels, ends)

    def bucket(self, ts: Times, interval: Interval) -> Times:
        """Return the start of each event's intraday bucket, on the grid that runs through the open of its date.

        XNYS has hours at 9:30, 10:30 ... and likewise before and after the session. If the grids of two dates do not
        join (a change of the clock, 7m), the last bucket of the earlier date ends at the first whole bucket of the
        later date: no two buckets overlap, and no bucket is longer than the interval.
        """
        micros = _length(interval)
        if self._one_grid(micros):
            return ts - (ts - int(self.opens[0])) % micros
        return ts - (ts - self._at(self.opens, self._grid_dates(ts, micros))) % micros

    def period(self, labels: Times, interval: Interval) -> Times:
        """Return the labels of the weeks (Mondays) or months (firsts) of daily labels, midnights again.

        NO_DAY stays NO_DAY.
        """
        return self._period(labels, interval, ahead=0)

    def bucket_end(self, labels: Times, interval: Interval, *, extended: bool = False) -> Times:
        """Return the ends of buckets by their labels, for any interval: the first time that is outside.

        1d as `day_end`; 1w and 1mo at the midnight that begins the next one; intraday after the interval,
        or earlier where the next date's grid cuts the bucket short (see `bucket`).
        """
        if interval == D1:
            return self.day_end(labels, extended=extended)
        if interval.micros is None:
            return self._period(labels, interval, ahead=1)
        ends = labels + interval.micros
        if self._one_grid(interval.micros):
            return ends
        following = self._grid_dates(labels, interval.micros) + 1
        return np.minimum(ends, self._first_starts(following, interval.micros))

    def label(self, ts: Times, interval: Interval, *, extended: bool = False) -> Times:
        """Return the start of the bucket of each event, for any interval; NO_DAY as in `trading_day`."""
        if interval.is_intraday:
            return self.bucket(ts, interval)
        days = self.trading_day(ts, extended=extended)
        return days if interval == D1 else self.period(days, interval)

    def session(self, day_label: int) -> tuple[int, int] | None:
        """Return open and close of the session with this daily label; None without a session."""
        dates = self._dates(np.array([day_label]), self.midnights)
        if self._at(self.midnights, dates)[0] != day_label or not self.traded[_rows(dates)][0]:
            return None
        return int(self._at(self.opens, dates)[0]), int(self._at(self.closes, dates)[0])

    def sessions(self, start: int, end: int) -> tuple[Times, Times, Times]:
        """Return labels, opens and closes of the sessions with a label in [start, end), within 1970 to 2099."""
        first, last = np.searchsorted(self.midnights, [start, end])
        rows = first + np.flatnonzero(self.traded[first:last])
        return self.midnights[rows], self.opens[rows], self.closes[rows]

    def corrected(self, name: str, days: Iterable[tuple[date, Hours | None]]) -> "Calendar":
        """Return this calendar under another name, with these days at other hours (None: closed)."""
        opens, closes, traded = self.opens.copy(), self.closes.copy(), self.traded.copy()
        for day, hours in days:
            row = (day - EPOCH).days
            traded[row] = hours is not None
            if hours is not None:
                opens[row], closes[row] = (_local(self.timezone, day, at) for at in (hours.open, hours.close))
        return calendar_of(name, self.timezone, self.midnights, opens, closes, traded)

    def _dates(self, ts: Times, begins: Times) -> Times:
        """Return the date of each time; `begins` has the instants at which the dates of the table begin."""
        dates = np.searchsorted(begins, ts, side="right") - 1
        outside = (dates < 0) | (dates == ROWS - 1)
        if outside.any():
            edge = np.where(dates < 0, 0, ROWS - 1)
            dates = np.where(outside, edge + (ts - begins[edge]) // DAY, dates)
        return dates

    def _at(self, column: Times, dates: Times) -> Times:
        """Return the column's time for each date, extrapolated for dates outside the table."""
        rows = _rows(dates)
        return column[rows] if rows is dates else column[rows] + (dates - rows) * DAY

    def in_session(self, ts: Times) -> Flags:
        """Return True for each time within a regular session."""
        return self._in_session(ts, self._dates(ts, self._begins))

    def _in_session(self, ts: Times, dates: Times) -> Flags:
        begun = (ts >= self._at(self.opens, dates)) & (ts < self._at(self.closes, dates))
        return begun & self.traded[_rows(dates)]

    def _one_grid(self, micros: int) -> bool:
        """Return True if the grids of all dates join up, so that flooring is enough.

        The grids of 1m and 5m do: all opens of an exchange are whole multiples of 5 minutes apart. They are also whole
        multiples in UTC, except for XKAR (9:32), so the floor is that of UTC.
        """
        return self._spacing % micros == 0

    def _first_starts(self, dates: Times, micros: int) -> Times:
        """Return the first point of each date's grid on that date."""
        begins = self._at(self._begins, dates)
        return begins + (self._at(self.opens, dates) - begins) % micros

    def _grid_dates(self, ts: Times, micros: int) -> Times:
        """Return the date whose grid each time is on: its own date or, before that grid begins, the date before."""
        dates = self._dates(ts, self._begins)
        return dates - (ts < self._first_starts(dates, micros))

    def _period(self, labels: Times, interval: Interval, ahead: int) -> Times:
        dates = self._dates(labels, self.midnights)
        return _keep_no_day(labels, self._at(self.midnights, _period_starts(dates, interval, ahead)))


def _length(interval: Interval) -> int:
    if interval.micros is None:
        raise ValueError(f"{interval} has no fixed length; ask for its label")
    return interval.micros


def _keep_no_day(labels: Times, times: Times) -> Times:
    return np.where(labels == NO_DAY, NO_DAY, times)


def _rows(dates: Times) -> Times:
    """Return the row of each date; outside the table, that of the same weekday in the first or last week."""
    outside = (dates < 0) | (dates >= ROWS)
    if not outside.any():
        return dates
    edge = np.where(dates < 0, 0, ROWS - 7)
    return np.where(outside, edge + (dates - edge) % 7, dates)


def weekdays(dates: Times) -> Times:
    """Return the weekday of each date; 0 is Monday."""
    return (dates + EPOCH.weekday()) % 7


def _period_starts(dates: Times, interval: Interval, ahead: int) -> Times:
    """Return the first date of the week or month of each date, or of the week or month `ahead` of it."""
    if interval == W1:
        return dates - weekdays(dates) + 7 * ahead
    if interval == MO1:
        months = dates.astype("M8[D]").astype("M8[M]") + ahead
        return months.astype("M8[D]").astype(np.int64)
    raise ValueError(f"{interval} is not made of days; 1w and 1mo are")


def always_open(name: str) -> Calendar:
    """Return a calendar without an end of a session, with the days of UTC."""
    midnights = np.arange(ROWS) * DAY
    return calendar_of(name, ZoneInfo("UTC"), midnights, midnights, midnights + DAY, np.ones(ROWS, np.bool_))


def calendar_of(
    name: str, timezone: ZoneInfo, midnights: Times, opens: Times, closes: Times, traded: Flags
) -> Calendar:
    """Return the calendar of a table: columns with one row per date from 1970 to 2099; see `Calendar`."""
    begins = np.minimum(midnights, opens)
    spacing = math.gcd(int(np.gcd.reduce(np.diff(opens))), DAY)
    return Calendar(name, timezone, midnights, begins, opens, closes, traded, spacing)


def _local(zone: ZoneInfo, day: date, at: time) -> int:
    return int(datetime.combine(day, at, zone).timestamp()) * SECOND
