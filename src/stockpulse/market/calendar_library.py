"""The sessions of exchanges from the library `exchange_calendars`.

Sessions from 1990 to 2050 are the library's, as far as it knows the exchange. In other years the exchange opens on its
usual weekdays at its usual hours, without holidays.
"""

import warnings
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.calendar import DAY, EPOCH, ROWS, SECOND, Calendar, Times, calendar_of, weekdays

_FIRST_KNOWN: Final = date(1990, 1, 1)
_LAST_KNOWN: Final = date(2050, 12, 31)


def calendar_from_library(name: str) -> Calendar:
    """Build the calendar of an exchange; its name is the library's own: XNYS for XNAS. Takes up to some seconds.

    Raises InvalidInput for a name that the library does not know.
    """
    with warnings.catch_warnings():
        # The library calls pandas in ways that newer versions of pandas warn about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _table(*_load(name))


def midnights_of(zone: ZoneInfo) -> Times:
    """Return the first instant of each date from 1970 to 2099 on the clock of `zone`."""
    return _local_times(zone, [(None, time(0))], 0)


def _load(name: str) -> tuple[Any, int, int]:
    """Return the library's calendar for the part of 1990 to 2050 that it knows, and the rows of it: [first, last)."""
    import exchange_calendars as library  # noqa: PLC0415 (brings pandas, which most starts do without)

    if name not in library.get_calendar_names():
        raise InvalidInput("calendar", f"got {shown(name)}; takes 24/7, XNYS, XNAS, XLON, XTKS, XHKG, NYSE, LSE, …")
    try:
        # Only the class has the bounds of its knowledge, and a year that all of them know leads to the class.
        kind = type(library.get_calendar(name, start="2022-01-03", end="2022-12-30"))
        earliest, latest = kind.bound_min(), kind.bound_max()
        first = max(_FIRST_KNOWN, earliest.date()) if earliest else _FIRST_KNOWN
        last = min(_LAST_KNOWN, latest.date()) if latest else _LAST_KNOWN
        return kind(start=str(first), end=str(last)), (first - EPOCH).days, (last - EPOCH).days + 1
    except (NotImplementedError, ValueError) as error:
        raise InvalidInput("calendar", f"{name} fails in the installed exchange_calendars") from error


def _table(source: Any, first: int, last: int) -> Calendar:
    """Fill the table with usual weekdays and hours; then, in the rows [first, last), with the library's sessions."""
    opens = _local_times(source.tz, source.open_times, source.open_offset)
    closes = _local_times(source.tz, source.close_times, source.close_offset)
    weekdays_open = np.array([day == "1" for day in source.weekmask])
    traded = weekdays_open[weekdays(np.arange(ROWS))]
    rows = source.sessions_nanos // (DAY * 1000)
    traded[first:last] = False
    traded[rows] = True
    opens[rows] = source.opens_nanos // 1000
    closes[rows] = source.closes_nanos // 1000
    return calendar_of(source.name, source.tz, midnights_of(source.tz), opens, closes, traded)


def _local_times(zone: ZoneInfo, times: Iterable[tuple[Any, time]], days_later: int) -> Times:
    """Return the UTC time of a time of day on the clock of `zone`, for every date of the table.

    `times` has the time of day that holds since a date (None: always). A midnight that the clock skips becomes the
    first instant of the date; of one that it repeats, the first counts.
    """
    seconds = (np.arange(ROWS) + days_later) * 86_400
    of_day = np.zeros(ROWS, np.int64)
    for since, at in times:
        of_day[max(0, (since.date() - EPOCH).days) if since else 0 :] = (at.hour * 60 + at.minute) * 60
    epoch = datetime(1970, 1, 1, tzinfo=zone)  # adding to it moves the wall clock
    local = (epoch + timedelta(seconds=wall) for wall in (seconds + of_day).tolist())
    return np.array([int(moment.timestamp()) for moment in local]) * SECOND
