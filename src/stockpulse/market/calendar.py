"""Trading calendars: the sessions of an exchange, and the buckets of time that events belong to.

Times are UTC microseconds in int64 arrays of any length. A *date* is an int64 too: days since 1970-01-01 on the
exchange's own clock. A calendar is a table with one row per date from 1970 to 2099, built once; every method is then a
look-up in sorted columns.

Sessions from 1990 to 2050 are those of the `exchange_calendars` library, as far as it knows the exchange, with our
corrections. Outside these years the exchange opens on its usual weekdays at its usual hours, without holidays; outside
the table its clock does not change any more either. A lunch break does not end a session.
"""

import functools
import math
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.calendar_corrections import Corrections, Days, shipped_corrections
from stockpulse.market.calendar_names import ALWAYS_OPEN, calendar_name
from stockpulse.market.intervals import D1, MO1, W1, Interval

Times: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

#: The daily label of events that belong to no day.
NO_DAY: Final = int(np.iinfo(np.int64).min)

_SECOND: Final = 1_000_000
_DAY: Final = 86_400 * _SECOND
_EPOCH: Final = date(1970, 1, 1)
_ROWS: Final = (date(2100, 1, 1) - _EPOCH).days
_FIRST_KNOWN: Final = date(1990, 1, 1)
_LAST_KNOWN: Final = date(2050, 12, 31)


@dataclass(frozen=True, eq=False, slots=True)
class Calendar:
    """The sessions of one exchange; `trading_calendar` builds it. No method raises for any time."""

    name: str
    timezone: ZoneInfo
    _midnights: Times  # the first instant of each date
    _begins: Times  # the first instant whose events count to the date: midnight, or the open of the evening before
    _opens: Times  # the usual open, if there is no session
    _closes: Times
    _traded: Flags  # true if there is a session
    _spacing: int  # opens are multiples of this apart

    def floor_date(self, ts: Times) -> Times:
        """Return the midnight, on the exchange's clock, that begins the date of each time."""
        return self._at(self._midnights, self._dates(ts, self._midnights))

    def trading_date(self, ts: Times) -> Times:
        """Return the midnight that labels the date each event counts to, with or without a session."""
        return self._at(self._midnights, self._dates(ts, self._begins))

    def trading_day(self, ts: Times, *, extended: bool = False) -> Times:
        """Return the label of each event's daily bucket: midnight of the trading date on the exchange's clock.

        NO_DAY outside the regular session; with `extended` only on dates without one.
        """
        dates = self._dates(ts, self._begins)
        counts = self._traded[_rows(dates)] if extended else self._in_session(ts, dates)
        return np.where(counts, self._at(self._midnights, dates), NO_DAY)

    def day_end(self, labels: Times, *, extended: bool = False) -> Times:
        """Return the ends of daily buckets by their labels: the close, or the end of the date if `extended`.

        A label without a session ends with its date. NO_DAY stays NO_DAY.
        """
        dates = self._dates(labels, self._midnights)
        ends = self._at(self._begins, dates + 1)
        if not extended:
            ends = np.where(self._traded[_rows(dates)], self._at(self._closes, dates), ends)
        return _keep_no_day(labels, ends)

    def bucket(self, ts: Times, interval: Interval) -> Times:
        """Return the start of each event's intraday bucket, on the grid that runs through the open of its date.

        XNYS has hours at 9:30, 10:30 ... and likewise before and after the session. Where the grids of two
        dates do not join up (a change of the clock, 7m), the last bucket of the earlier one is cut short by
        the first whole bucket of the later one: no two buckets overlap, none is longer than the interval.
        """
        micros = _length(interval)
        if self._one_grid(micros):
            return ts - (ts - int(self._opens[0])) % micros
        return ts - (ts - self._at(self._opens, self._grid_dates(ts, micros))) % micros

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
        """Return open and close of the session with this daily label, None if there is none."""
        dates = self._dates(np.array([day_label]), self._midnights)
        if self._at(self._midnights, dates)[0] != day_label or not self._traded[_rows(dates)][0]:
            return None
        return int(self._at(self._opens, dates)[0]), int(self._at(self._closes, dates)[0])

    def sessions(self, start: int, end: int) -> tuple[Times, Times, Times]:
        """Return labels, opens and closes of the sessions with a label in [start, end), within 1970 to 2099."""
        first, last = np.searchsorted(self._midnights, [start, end])
        rows = first + np.flatnonzero(self._traded[first:last])
        return self._midnights[rows], self._opens[rows], self._closes[rows]

    def _dates(self, ts: Times, begins: Times) -> Times:
        """Return the date of each time; `begins` has the instants at which the dates of the table begin."""
        dates = np.searchsorted(begins, ts, side="right") - 1
        outside = (dates < 0) | (dates == _ROWS - 1)
        if outside.any():
            edge = np.where(dates < 0, 0, _ROWS - 1)
            dates = np.where(outside, edge + (ts - begins[edge]) // _DAY, dates)
        return dates

    def _at(self, column: Times, dates: Times) -> Times:
        """Return the column's time for each date, extrapolated for dates outside the table."""
        rows = _rows(dates)
        return column[rows] if rows is dates else column[rows] + (dates - rows) * _DAY

    def in_session(self, ts: Times) -> Flags:
        """Return which times lie within a regular session."""
        return self._in_session(ts, self._dates(ts, self._begins))

    def _in_session(self, ts: Times, dates: Times) -> Flags:
        begun = (ts >= self._at(self._opens, dates)) & (ts < self._at(self._closes, dates))
        return begun & self._traded[_rows(dates)]

    def _one_grid(self, micros: int) -> bool:
        """Return True if the grids of all dates join up, so that flooring is enough.

        Those of 1m and 5m do: all opens of an exchange are whole multiples of 5 minutes apart. They are such in UTC
        too, except for XKAR (9:32), so the floor is that of UTC.
        """
        return self._spacing % micros == 0

    def _first_starts(self, dates: Times, micros: int) -> Times:
        """Return the first point of each date's grid on that date."""
        begins = self._at(self._begins, dates)
        return begins + (self._at(self._opens, dates) - begins) % micros

    def _grid_dates(self, ts: Times, micros: int) -> Times:
        """Return the date whose grid each time is on: before the first point of its own date's, the day before's."""
        dates = self._dates(ts, self._begins)
        return dates - (ts < self._first_starts(dates, micros))

    def _period(self, labels: Times, interval: Interval, ahead: int) -> Times:
        dates = self._dates(labels, self._midnights)
        return _keep_no_day(labels, self._at(self._midnights, _period_starts(dates, interval, ahead)))


def _length(interval: Interval) -> int:
    if interval.micros is None:
        raise ValueError(f"{interval} has no fixed length; ask for its label")
    return interval.micros


def _keep_no_day(labels: Times, times: Times) -> Times:
    return np.where(labels == NO_DAY, NO_DAY, times)


def _rows(dates: Times) -> Times:
    """Return the row of each date; outside the table, that of the same weekday in the first or last week."""
    outside = (dates < 0) | (dates >= _ROWS)
    if not outside.any():
        return dates
    edge = np.where(dates < 0, 0, _ROWS - 7)
    return np.where(outside, edge + (dates - edge) % 7, dates)


def _weekdays(dates: Times) -> Times:
    """Return the weekday of each date; 0 is Monday."""
    return (dates + _EPOCH.weekday()) % 7


def _period_starts(dates: Times, interval: Interval, ahead: int) -> Times:
    """Return the first date of the week or month of each date, or of the one `ahead` of it."""
    if interval == W1:
        return dates - _weekdays(dates) + 7 * ahead
    if interval == MO1:
        months = dates.astype("M8[D]").astype("M8[M]") + ahead
        return months.astype("M8[D]").astype(np.int64)
    raise ValueError(f"{interval} is not made of days; 1w and 1mo are")


def trading_calendar(name: str) -> Calendar:
    """Return the calendar of an exchange (XNYS, XLON, NYSE, ...), or "24/7": always open, with the days of UTC.

    Raises InvalidInput for an unknown name. The first call for an exchange takes up to some seconds; other threads
    that ask for a calendar meanwhile wait.
    """
    with _BUILDING:  # the filters of warnings belong to all threads
        return _built(calendar_name(name))


def use_corrections(corrections: Corrections) -> None:
    """Correct days of calendars from now on, beside the shipped corrections. Call it before any calendar is in use.

    Raises InvalidInput for a calendar that does not exist.
    """
    for name in corrections:
        trading_calendar(name)
    with _BUILDING:
        _user_corrections.clear()
        _user_corrections.update(corrections)
        _built.cache_clear()


_BUILDING: Final = threading.Lock()
_user_corrections: Final[dict[str, Days]] = {}


@functools.cache
def _built(name: str) -> Calendar:
    if name == ALWAYS_OPEN:
        midnights = np.arange(_ROWS) * _DAY
        traded = np.ones(_ROWS, np.bool_)
        return _calendar(name, ZoneInfo("UTC"), midnights, (midnights, midnights + _DAY), traded)
    with warnings.catch_warnings():
        # The library calls pandas in ways that newer versions of pandas warn about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _from_library(name, *_load(name))


def _calendar(name: str, timezone: ZoneInfo, midnights: Times, hours: tuple[Times, Times], traded: Flags) -> Calendar:
    opens, closes = hours
    begins = np.minimum(midnights, opens)
    spacing = math.gcd(int(np.gcd.reduce(np.diff(opens))), _DAY)
    return Calendar(name, timezone, midnights, begins, opens, closes, traded, spacing)


def _load(name: str) -> tuple[Any, int, int]:
    """Return the library's calendar for the part of 1990 to 2050 that it knows, and the rows of it: [first, last)."""
    import exchange_calendars as library  # noqa: PLC0415 (brings pandas: a second that 24/7 does without)

    if name not in library.get_calendar_names():
        raise InvalidInput("calendar", f"got {shown(name)}; takes 24/7, XNYS, XNAS, XLON, XTKS, XHKG, NYSE, LSE, …")
    try:
        # Only the class has the bounds of its knowledge, and a year that all of them know leads to the class.
        kind = type(library.get_calendar(name, start="2022-01-03", end="2022-12-30"))
        earliest, latest = kind.bound_min(), kind.bound_max()
        first = max(_FIRST_KNOWN, earliest.date()) if earliest else _FIRST_KNOWN
        last = min(_LAST_KNOWN, latest.date()) if latest else _LAST_KNOWN
        return kind(start=str(first), end=str(last)), (first - _EPOCH).days, (last - _EPOCH).days + 1
    except (NotImplementedError, ValueError) as error:
        raise InvalidInput("calendar", f"{name} fails in the installed exchange_calendars") from error


def _from_library(name: str, source: Any, first: int, last: int) -> Calendar:
    """Build the table: usual weekdays and hours, then the library's sessions, then the corrected days."""
    midnights = _local_times(source.tz, [(None, time(0))], 0)
    opens = _local_times(source.tz, source.open_times, source.open_offset)
    closes = _local_times(source.tz, source.close_times, source.close_offset)
    weekdays_open = np.array([day == "1" for day in source.weekmask])
    traded = weekdays_open[_weekdays(np.arange(_ROWS))]
    rows = source.sessions_nanos // (_DAY * 1000)
    traded[first:last] = False
    traded[rows] = True
    opens[rows] = source.opens_nanos // 1000
    closes[rows] = source.closes_nanos // 1000
    for day, hours in _days_to_correct(name, source.name).items():
        row = (day - _EPOCH).days
        traded[row] = hours is not None
        if hours is not None:
            opens[row], closes[row] = (_local(source.tz, day, at) for at in (hours.open, hours.close))
    return _calendar(name, source.tz, midnights, (opens, closes), traded)


def _days_to_correct(name: str, original: str) -> Days:
    """Return the corrected days of a calendar; `name` may be another name (XNAS) of the original (XNYS)."""
    corrections = (shipped_corrections(), _user_corrections)
    return {
        day: hours for known in corrections for one in (original, name) for day, hours in known.get(one, {}).items()
    }


def _local(zone: ZoneInfo, day: date, at: time) -> int:
    return int(datetime.combine(day, at, zone).timestamp()) * _SECOND


def _local_times(zone: ZoneInfo, times: Iterable[tuple[Any, time]], days_later: int) -> Times:
    """Return the UTC time of a time of day on the clock of `zone`, for every date of the table.

    `times` has the time of day that holds since a date (None: always). A midnight that the clock skips becomes the
    first instant of the date; of one that it repeats, the first counts.
    """
    seconds = (np.arange(_ROWS) + days_later) * 86_400
    of_day = np.zeros(_ROWS, np.int64)
    for since, at in times:
        of_day[max(0, (since.date() - _EPOCH).days) if since else 0 :] = (at.hour * 60 + at.minute) * 60
    epoch = datetime(1970, 1, 1, tzinfo=zone)  # adding to it moves the wall clock
    local = (epoch + timedelta(seconds=wall) for wall in (seconds + of_day).tolist())
    return np.array([int(moment.timestamp()) for moment in local]) * _SECOND
