"""Bars of any interval over any range."""

from collections.abc import AsyncGenerator, AsyncIterator
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from stockpulse.api import context
from stockpulse.api.budget import AnswerRoom
from stockpulse.api.context import BarInterval, PathSymbol
from stockpulse.api.encoders import Rows
from stockpulse.api.error_responses import error_responses
from stockpulse.api.formats import (
    ASK_FOR_LESS,
    FORMAT_RESPONSES,
    AnswerFormat,
    answer,
    answer_frame,
    only,
    room_for_rows,
    room_for_stream,
)
from stockpulse.api.ranges import BarRange
from stockpulse.api.time_params import Zone
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import Interval
from stockpulse.market.symbology import Symbol
from stockpulse.pipeline.backfill.facts import MARKED_BARS
from stockpulse.storage.gap_filling import filled
from stockpulse.storage.served_bars import SERVED_BARS

router = APIRouter(tags=["data"])


class Fill(StrEnum):
    """The treatment of intervals without a trade."""

    NONE = "none"
    FORWARD = "forward"


Filling = Annotated[
    Fill,
    Query(
        description="none: an interval without a trade has no bar. forward: between the first and the last bar, each"
        " interval of a session without a trade gets a bar with the last close, marked as filled."
    ),
]


class Bar(BaseModel):
    """A bar."""

    symbol: str = Field(examples=["AAPL"])
    interval: str = Field(examples=["5m"])
    ts: str = Field(examples=["2026-02-27T12:05:00Z"], description="start of the bar")
    open: float = Field(examples=[189.72])
    high: float = Field(examples=[190.11])
    low: float = Field(examples=[189.52])
    close: float = Field(examples=[189.98])
    volume: float | None = Field(examples=[87400])
    trade_count: int | None = Field(examples=[30])
    vwap: float | None = Field(examples=[189.81])
    revision: int = Field(
        examples=[4194329], description="number (`seq`) of the newest record in the bar; grows when the bar changes"
    )
    final: bool = Field(examples=[True], description="false while the bar is forming")
    source: str | None = Field(
        examples=["trades"], description="trades, or the provider that sent the bar; null for a filled bar"
    )
    filled: bool = Field(
        examples=[False], description="true for a bar without a trade, with the last close: see fill=forward"
    )
    complete: bool | None = Field(
        None,
        examples=[True],
        description="only with complete=true: the bar is final, and no part of it is missing that the providers have",
    )


class Bars(BaseModel):
    """Bars, oldest first."""

    symbol: str = Field(examples=["AAPL"])
    interval: str = Field(examples=["5m"])
    bars: list[Bar]


@router.get(
    "/data/{symbol:path}",
    summary="Bars of a symbol over a range",
    response_model=Bars,
    responses=FORMAT_RESPONSES | error_responses(404, 413, 422, 503),
)
async def data(
    reader: context.Bars,
    seconds: context.Seconds,
    clocks: context.Clocks,
    room: AnswerRoom,
    symbol: PathSymbol,
    interval: BarInterval,
    times: BarRange,
    format: AnswerFormat,
    zone: Zone,
    covering: context.Covering,
    fill: Filling = Fill.NONE,
    complete: Annotated[
        bool, Query(description="true adds `complete` to each bar: false if a part of the bar may be missing.")
    ] = False,
) -> Response:
    """Return the bars that begin in [start, end), oldest first, as a stream. Default: all bars.

    The last bar may still be forming: its `final` is false. Intervals other than 1m, 5m and 1d are built from these,
    and bars of seconds from the ticks that are kept: 500,000 at most. A range whose ticks are not all kept is refused.
    """
    pages: AsyncIterator[pl.DataFrame]
    closed_until = clocks.closed_until(symbol.id)
    await room_for_stream(room, format)
    if interval.is_of_seconds:
        reserve = partial(room.grow_to, too_large=ASK_FOR_LESS)
        pages = only(await seconds.between(symbol, interval, times.start, times.end, closed_until, reserve))
    else:
        pages = reader.between(symbol, interval, times.start, times.end, closed_until)
    pages = _filled(pages, symbol, interval, fill)
    rows = Rows(
        chunks=covering.facts.marked(pages, symbol, interval) if complete else pages,
        schema=MARKED_BARS if complete else SERVED_BARS,
        key="bars",
        header_fields={"symbol": symbol.name, "interval": interval.name},
        filename=f"{symbol.name}_{interval.name}",
    )
    return await answer(rows, format, zone)


class LatestOhlc(Bars):
    """The newest bars, oldest first."""

    count: int = Field(examples=[1])


@router.get(
    "/ohlc/{symbol:path}",
    summary="The newest bars of a symbol",
    response_model=LatestOhlc,
    responses=FORMAT_RESPONSES | error_responses(404, 413, 422, 503),
)
async def ohlc(
    reader: context.Bars,
    seconds: context.Seconds,
    clocks: context.Clocks,
    room: AnswerRoom,
    symbol: PathSymbol,
    interval: BarInterval,
    format: AnswerFormat,
    zone: Zone,
    limit: Annotated[int, Query(ge=1, le=10_000, description="The maximum number of bars with trades.")] = 100,
    fill: Filling = Fill.NONE,
) -> Response:
    """Return the newest `limit` bars, oldest first. The last bar may still be forming: then its `final` is false.

    Filled bars do not use up `limit`, but `count` includes them. Bars of seconds are built from the ticks that are
    kept: there are fewer than `limit` if older ticks are gone.
    """
    base_rows = 0 if interval.is_of_seconds else reader.rows_for_latest(interval, limit)
    await room_for_rows(room, limit + base_rows, len(SERVED_BARS))
    if interval.is_of_seconds:
        reserve = partial(room.grow_to, too_large=ASK_FOR_LESS)
        bars = await seconds.latest(symbol, interval, limit, clocks.closed_until(symbol.id), reserve)
    else:
        bars = await reader.latest(symbol, interval, limit, clocks.closed_until(symbol.id))
    header = {"symbol": symbol.name, "interval": interval.name}
    filename = f"{symbol.name}_{interval.name}"
    if fill is Fill.NONE:
        return await answer_frame(bars, "bars", header, format, zone, filename=filename)
    counted = _Counted(_filled(only(bars), symbol, interval, fill))
    rows = Rows(
        chunks=counted.pages(),
        schema=SERVED_BARS,
        key="bars",
        header_fields=header,
        footer_fields=counted.result,
        filename=filename,
    )
    return await answer(rows, format, zone)


def _filled(
    pages: AsyncIterator[pl.DataFrame], symbol: Symbol, interval: Interval, fill: Fill
) -> AsyncIterator[pl.DataFrame]:
    return pages if fill is Fill.NONE else filled(pages, trading_calendar(symbol.calendar), interval)


class _Counted:
    """Counts the rows that pass: the number of filled bars is known after the last one."""

    def __init__(self, source: AsyncIterator[pl.DataFrame]) -> None:
        self._source = source
        self._rows = 0

    async def pages(self) -> AsyncGenerator[pl.DataFrame]:
        async for page in self._source:
            self._rows += page.height
            yield page

    def result(self) -> dict[str, Any]:
        return {"count": self._rows}
