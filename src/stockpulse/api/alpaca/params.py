"""The query parameters of Alpaca's API."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from fastapi import Depends, Path, Query

from stockpulse.api.context import Now, Symbols
from stockpulse.errors import InvalidInput, shown
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import Interval, parse_interval
from stockpulse.market.symbology import Names, Symbol, read_symbol
from stockpulse.market.times import read_date, read_time

MOST_ROWS: Final = 10_000
"""The largest number of rows of a page."""

_NEW_YORK: Final = ZoneInfo("America/New_York")
_MICROSECOND: Final = timedelta(microseconds=1)
_ADJUSTMENTS: Final = frozenset({"raw", "split", "dividend", "spin-off", "all"})


class Feed(StrEnum):
    """Alpaca's feeds. StockPulse has one set of data, and answers with it for every feed."""

    SIP = "sip"
    IEX = "iex"
    DELAYED_SIP = "delayed_sip"
    BOATS = "boats"
    OVERNIGHT = "overnight"
    OTC = "otc"


class Sort(StrEnum):
    """The order by time within a symbol."""

    ASC = "asc"
    DESC = "desc"


@dataclass(frozen=True)
class Asked:
    """The symbols of a request."""

    names: tuple[str, ...]
    """All of them, in their stored form, in the order of the request."""
    known: tuple[Symbol, ...]
    """Those that StockPulse knows."""


@dataclass(frozen=True)
class Page:
    """The page of rows that a request asks for: start <= time < end."""

    start: datetime
    end: datetime
    limit: int
    token: str | None
    descending: bool


# Symbols ----------------------------------------------------------------------------------------


async def _of_query(
    names: Symbols, symbols: Annotated[str, Query(description="Symbols, separated by commas.", examples=["AAPL,MSFT"])]
) -> Asked:
    return _asked(names, symbols.split(","))


async def _of_path(names: Symbols, symbol: Annotated[str, Path(description="A symbol.", examples=["AAPL"])]) -> Asked:
    return _asked(names, [symbol])


#: `async def handler(asked: QuerySymbols)` takes ?symbols=; PathSymbols takes {symbol}.
QuerySymbols = Annotated[Asked, Depends(_of_query)]
PathSymbols = Annotated[Asked, Depends(_of_path)]


def _asked(names: Names, texts: Sequence[str]) -> Asked:
    asked = tuple(dict.fromkeys(_symbol(text) for text in texts))
    return Asked(asked, tuple(names.symbols[name] for name in asked if name in names.symbols))


def _symbol(text: str) -> str:
    """Return a symbol in its stored form. One that is badly formed fails the whole request, as at Alpaca."""
    symbol = read_symbol(text.strip())
    if symbol is None:
        raise InvalidInput("symbols", f"invalid symbol: {shown(text)}")
    return symbol


# Range and page -----------------------------------------------------------------------------------

_TIME: Final = "RFC 3339, or a date"

_Start = Annotated[str | None, Query(description=f"The first time: {_TIME}. Default: the beginning of the day.")]
_End = Annotated[
    str | None, Query(description=f"The last time, included: {_TIME}, which includes that whole day. Default: now.")
]
_Limit = Annotated[
    int, Query(ge=1, le=MOST_ROWS, description="The maximum number of rows of the page, of all symbols together.")
]
_Token = Annotated[str | None, Query(description="`next_page_token` of the page before; all else stays as it was.")]
_Sort = Annotated[Sort, Query(description="The order by time. The symbols are in alphabetical order in any case.")]


async def _of_symbols(
    asked: QuerySymbols,
    now: Now,
    start: _Start = None,
    end: _End = None,
    limit: _Limit = 1000,
    page_token: _Token = None,
    sort: _Sort = Sort.ASC,
) -> Page:
    return _page(asked, now(), start, end, limit, page_token, sort)


async def _of_symbol(
    asked: PathSymbols,
    now: Now,
    start: _Start = None,
    end: _End = None,
    limit: _Limit = 1000,
    page_token: _Token = None,
    sort: _Sort = Sort.ASC,
) -> Page:
    return _page(asked, now(), start, end, limit, page_token, sort)


#: The page that a request for the symbols of the query, or of the path, asks for.
QueryPage = Annotated[Page, Depends(_of_symbols)]
PathPage = Annotated[Page, Depends(_of_symbol)]


def _page(
    asked: Asked, now: datetime, start: str | None, end: str | None, limit: int, token: str | None, sort: Sort
) -> Page:
    zones = {trading_calendar(symbol.calendar).timezone for symbol in asked.known} or {_NEW_YORK}
    until = now if not end else _last(end, zones)
    since = _beginning(until, zones) if not start else _first(start, zones)
    if since > until:
        raise InvalidInput("end", "is before start")
    return Page(since, until + _MICROSECOND, limit, token or None, sort is Sort.DESC)


def _first(text: str, zones: set[ZoneInfo]) -> datetime:
    """Return the first time that is meant. A date begins at midnight on the clock of the symbols' exchange."""
    day = read_date(text)
    return _time(text, "start") if day is None else _midnight(day, zones)


def _last(text: str, zones: set[ZoneInfo]) -> datetime:
    day = read_date(text)
    if day is None:
        return _time(text, "end")
    return max(_at_midnight(day + timedelta(days=1), zone) for zone in zones) - _MICROSECOND


def _beginning(moment: datetime, zones: set[ZoneInfo]) -> datetime:
    """Return the beginning of the day of a time."""
    return min(_at_midnight(moment.astimezone(zone).date(), zone) for zone in zones)


def _midnight(day: date, zones: set[ZoneInfo]) -> datetime:
    return min(_at_midnight(day, zone) for zone in zones)


def _at_midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _time(text: str, field: str) -> datetime:
    moment = read_time(text)
    if moment is None:
        raise InvalidInput(field, f"got {shown(text)}; takes {_TIME}")
    return moment


# Parameters of bars, and parameters that have one valid effect here ---------------------------------


async def _timeframe(
    timeframe: Annotated[
        str,
        Query(
            description="1Min … 59Min, 1Hour … 4Hour, 6Hour, 8Hour, 12Hour, 1Day, 1Week, 1Month, and the short forms"
            " 1T, 1H, 1D, 1W, 1M.",
            examples=["1Min"],
        ),
    ],
) -> Interval:
    return parse_interval(timeframe, "timeframe")


#: `async def handler(interval: Timeframe)` takes ?timeframe=.
Timeframe = Annotated[Interval, Depends(_timeframe)]


async def _adjustment(
    adjustment: Annotated[
        str,
        Query(description="raw, split, dividend, spin-off, all, or several. Bars are returned as they are stored."),
    ] = "raw",
) -> None:
    if not set(adjustment.split(",")) <= _ADJUSTMENTS:
        raise InvalidInput("adjustment", f"invalid adjustment: {shown(adjustment)}")


async def _asof(
    asof: Annotated[
        str | None, Query(description="A date, or `-`. It has no effect: StockPulse does not rename symbols.")
    ] = None,
) -> None:
    if asof and asof != "-" and not re.fullmatch(r"\d{4}-\d\d-\d\d", asof, re.ASCII):
        raise InvalidInput("asof", f"got {shown(asof)}; takes a date, or -")


async def _feed(
    feed: Annotated[Feed | None, Query(description="Every feed has the same data here.")] = None,
) -> None:
    """Check the feed."""


async def _currency(
    currency: Annotated[str, Query(description="USD: prices are returned as they are stored.")] = "USD",
) -> None:
    if currency.upper() != "USD":
        raise InvalidInput("currency", f"invalid currency: {shown(currency)}: StockPulse converts no prices")


#: `dependencies=` of routes that take these parameters.
COMMON: Final = [Depends(_feed), Depends(_currency)]
HISTORICAL: Final = [*COMMON, Depends(_asof)]
ADJUSTED: Final = [*HISTORICAL, Depends(_adjustment)]
