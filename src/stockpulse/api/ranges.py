"""Ranges `[start, end)` in query parameters.

A plain date means midnight UTC for intraday bars. For bars of days, weeks and months it means that trading date in the
calendar of the exchange, for every time zone of the answer: 2026-10-30 is 30 October in Tokyo and in New York.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Annotated, Final

from fastapi import Depends, Query
from pydantic import WithJsonSchema

from stockpulse.api.context import BarInterval, PathSymbol, QueryInterval
from stockpulse.api.time_params import check_order, parse_time, read_date
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M5, Interval
from stockpulse.market.symbology import Symbol

_TAKES: Final = (
    "RFC 3339, epoch seconds, or a date (2026-02-27 or 20260227), which is the exchange's date for bars of days, weeks"
    " and months, and midnight UTC for shorter bars"
)
_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "string", "format": "date"},
            {"type": "number", "minimum": 0},
        ],
        "examples": ["2026-02-27T09:30:00-05:00", "2026-02-27", 1772202600],
    }
)
_Start = Annotated[str | None, _SCHEMA, Query(description=f"The start of the range: {_TAKES}.")]
_End = Annotated[str | None, _SCHEMA, Query(description=f"The end of the range, excluded: {_TAKES}.")]


@dataclass(frozen=True)
class TimeRange:
    """The times with start <= time < end; None means no bound."""

    start: datetime | None
    end: datetime | None


async def _of_interval(
    symbol: PathSymbol, interval: QueryInterval, start: _Start = None, end: _End = None
) -> TimeRange:
    return _range(symbol, interval, start, end)


async def _of_bars(symbol: PathSymbol, interval: BarInterval, start: _Start = None, end: _End = None) -> TimeRange:
    return _range(symbol, interval, start, end)


async def _of_days(symbol: PathSymbol, start: _Start = None, end: _End = None) -> TimeRange:
    return _range(symbol, D1, start, end)


async def _of_minutes(symbol: PathSymbol, start: _Start = None, end: _End = None) -> TimeRange:
    return _range(symbol, M5, start, end)


#: `async def handler(symbol: PathSymbol, interval: QueryInterval, times: Range)` takes ?start= and ?end=.
Range = Annotated[TimeRange, Depends(_of_interval)]
#: The same beside `interval: BarInterval`.
BarRange = Annotated[TimeRange, Depends(_of_bars)]
#: The same for handlers of daily and of intraday bars, which take no ?interval=.
DailyRange = Annotated[TimeRange, Depends(_of_days)]
IntradayRange = Annotated[TimeRange, Depends(_of_minutes)]


def _range(symbol: Symbol, interval: Interval, start: str | None, end: str | None) -> TimeRange:
    first, last = (
        None if text is None else _bound(text, field, symbol, interval)
        for text, field in ((start, "start"), (end, "end"))
    )
    check_order(first, last)
    return TimeRange(first, last)


def _bound(text: str, field: str, symbol: Symbol, interval: Interval) -> datetime:
    moment = parse_time(text, field)
    date = None if interval.is_intraday else read_date(text)
    if date is None:
        return moment
    return datetime.combine(date, time(), trading_calendar(symbol.calendar).timezone).astimezone(UTC)
