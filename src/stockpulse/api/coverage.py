"""The coverage of a symbol: complete sessions, missing bars and the reasons."""

import asyncio
from datetime import date as Date  # noqa: N812 - a field has the name of the type
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from stockpulse.api.budget import AnswerRoom
from stockpulse.api.context import CoverageParts, Covering, PathSymbol
from stockpulse.api.error_responses import error_responses
from stockpulse.api.formats import room_for_rows
from stockpulse.api.ranges import DailyRange
from stockpulse.errors import InvalidInput, shown
from stockpulse.market.calendar import Calendar
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5, Interval, parse_interval
from stockpulse.market.symbology import Symbol
from stockpulse.market.times import from_micros, micros
from stockpulse.pipeline.backfill.coverage import Session, coverage

router = APIRouter(tags=["data"])

_DEFAULT_DAYS: Final = {M1: 7, M5: 30, D1: 365}
_MOST_DAYS: Final = {M1: 100, M5: 800, D1: 15_000}
_LISTED: Final = 50
_COLUMNS: Final = 40
"""The memory for a session, in values of a row."""


class MissingBars(BaseModel):
    """Bars that are missing for one reason."""

    start: datetime = Field(examples=["2026-02-27T15:05:00Z"])
    end: datetime = Field(examples=["2026-02-27T15:20:00Z"], description="end of the last missing bar")
    bars: int = Field(examples=[3], description="number of missing bars")
    reason: str = Field(
        examples=["nothing there"],
        description="not asked; refused by the provider; nothing there: the provider has no such bars; gap: a live feed"
        " was interrupted, and the gap is not filled",
    )
    detail: str | None = Field(examples=[None], description="the words of the provider that refused")


class SessionCoverage(BaseModel):
    """A session, or a holiday."""

    date: Date = Field(examples=["2026-02-27"], description="the trading date of the exchange")
    open: datetime | None = Field(examples=["2026-02-27T14:30:00Z"], description="null on a holiday")
    close: datetime | None = Field(examples=["2026-02-27T21:00:00Z"])
    reason: str | None = Field(examples=[None], description="holiday, or null for a session")
    complete: bool = Field(
        examples=[True], description="true if no bar is missing, except those that the provider does not have either"
    )
    expected: int = Field(examples=[78], description="bars of the session that are over by now")
    stored: int = Field(examples=[75])
    missing: list[MissingBars] = Field(description=f"the first {_LISTED} ranges of missing bars")


class IntervalCoverage(BaseModel):
    """The coverage of one interval."""

    interval: str = Field(examples=["5m"])
    start: datetime = Field(examples=["2026-01-28T05:00:00Z"])
    end: datetime = Field(examples=["2026-02-27T21:05:00Z"])
    complete: bool = Field(examples=[False], description="true if all its sessions are complete")
    expected: int = Field(examples=[1638])
    stored: int = Field(examples=[1620])
    sessions: list[SessionCoverage] = Field(description="oldest first; weekends are left out, holidays are not")


class Coverage(BaseModel):
    """The stored bars of a symbol, against the trading calendar."""

    symbol: str = Field(examples=["AAPL"])
    calendar: str = Field(examples=["XNYS"])
    as_of: datetime = Field(examples=["2026-02-27T21:05:00Z"], description="bars that end after this are not expected")
    intervals: list[IntervalCoverage]


@router.get(
    "/coverage/{symbol:path}",
    summary="Complete sessions and missing bars",
    responses=error_responses(404, 413, 422, 503),
)
async def coverage_of_symbol(
    parts: Covering,
    room: AnswerRoom,
    symbol: PathSymbol,
    times: DailyRange,
    interval: Annotated[
        str | None, Query(max_length=32, description="1m, 5m or 1d. Default: all three.", examples=["5m"])
    ] = None,
) -> Coverage:
    """Return, for each interval and session, if all bars are stored, and why others are missing.

    Default range: the last 7 days of 1-minute bars, 30 days of 5-minute bars, a year of daily bars. Without
    `interval`, a longer range is cut to the last 100 days of 1-minute bars and 800 days of 5-minute bars.
    """
    calendar = await asyncio.to_thread(trading_calendar, symbol.calendar)
    as_of = parts.clocks.closed_until(symbol.id)
    intervals = BASE_INTERVALS if interval is None else (_interval(interval),)
    end, found = min(times.end or as_of, as_of), []
    for one in intervals:
        start = _start(one, times.start, end, may_cut=interval is None)
        found.append(await _of_interval(parts, room, symbol, calendar, one, start, end))
    return Coverage(symbol=symbol.name, calendar=symbol.calendar, as_of=as_of, intervals=found)


def _interval(text: str) -> Interval:
    interval = parse_interval(text)
    if interval not in BASE_INTERVALS:
        raise InvalidInput("interval", f"got {shown(text)}; takes 1m, 5m or 1d, from which the others are built")
    return interval


def _start(interval: Interval, start: datetime | None, end: datetime, *, may_cut: bool) -> datetime:
    """Return the start of the range of an interval. Raises InvalidInput for one that is too long."""
    if start is None:
        return end - timedelta(days=_DEFAULT_DAYS[interval])
    most = timedelta(days=_MOST_DAYS[interval])
    if end - start > most and not may_cut:
        raise InvalidInput("start", f"{(end - start).days:,} days; takes at most {most.days:,} days of {interval} bars")
    return min(max(start, end - most), end)


async def _of_interval(
    parts: CoverageParts,
    room: AnswerRoom,
    symbol: Symbol,
    calendar: Calendar,
    interval: Interval,
    start: datetime,
    end: datetime,
) -> IntervalCoverage:
    await room_for_rows(room, (end - start).days + 1, _COLUMNS)
    span = micros(start), micros(end)
    stored, evidence = await parts.facts.of(symbol, interval, span)
    sessions = await asyncio.to_thread(partial(coverage, calendar, interval, span, stored, evidence))
    return IntervalCoverage(
        interval=interval.name,
        start=start,
        end=end,
        complete=all(one.complete for one in sessions),
        expected=sum(one.expected for one in sessions),
        stored=sum(one.stored for one in sessions),
        sessions=[_report_of(one, calendar) for one in sessions],
    )


def _report_of(session: Session, calendar: Calendar) -> SessionCoverage:
    missing = [
        MissingBars(
            start=from_micros(one.start), end=from_micros(one.end), bars=one.bars, reason=one.reason, detail=one.words
        )
        for one in session.missing[:_LISTED]
    ]
    return SessionCoverage(
        date=from_micros(session.label).astimezone(calendar.timezone).date(),
        open=None if session.open is None else from_micros(session.open),
        close=None if session.close is None else from_micros(session.close),
        reason="holiday" if session.open is None else None,
        complete=session.complete,
        expected=session.expected,
        stored=session.stored,
        missing=missing,
    )
