"""Bars of any interval over any range."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from stockpulse.api.context import Ctx, PathSymbol, QueryInterval
from stockpulse.api.errors import error_responses
from stockpulse.api.formats import FORMAT_RESPONSES, Rows, Wanted, answer, answer_frame
from stockpulse.api.times import End, Start, Zone
from stockpulse.store.bars import SERVED_BARS

router = APIRouter(tags=["data"])


class Bar(BaseModel):
    """A bar."""

    symbol: str = Field(examples=["AAPL"])
    interval: str = Field(examples=["5m"])
    ts: str = Field(examples=["2026-02-27T12:05:00Z"], description="start of the bucket")
    open: float = Field(examples=[189.72])
    high: float = Field(examples=[190.11])
    low: float = Field(examples=[189.52])
    close: float = Field(examples=[189.98])
    volume: float | None = Field(examples=[87400])
    trade_count: int | None = Field(examples=[30])
    vwap: float | None = Field(examples=[189.81])
    revision: int = Field(examples=[4194329], description="grows whenever the bar changes")
    final: bool = Field(examples=[True], description="false while the bar is forming")
    source: str = Field(examples=["trades"], description="trades, or the provider whose own bar it is")


class Bars(BaseModel):
    """Bars, oldest first."""

    symbol: str = Field(examples=["AAPL"])
    interval: str = Field(examples=["5m"])
    bars: list[Bar]


@router.get(
    "/data/{symbol}",
    summary="Bars of a symbol over a range",
    response_model=Bars,
    responses=FORMAT_RESPONSES | error_responses(404, 422, 503),
)
async def data(
    context: Ctx,
    symbol: PathSymbol,
    interval: QueryInterval,
    start: Start,
    end: End,
    wanted: Wanted,
    zone: Zone,
) -> Response:
    """The bars that begin in [start, end), oldest first, streamed; without bounds all that there are.

    The last one may still be forming, and says so. Intervals other than 1m, 5m and 1d are made of these.
    """
    pages = context.bars.between(symbol, interval, start, end, context.presents.of_symbol(symbol.id))
    rows = Rows(
        chunks=pages,
        schema=SERVED_BARS,
        key="bars",
        before={"symbol": symbol.name, "interval": interval.name},
        filename=f"{symbol.name}_{interval.name}",
    )
    return await answer(rows, wanted, zone)


class LatestOhlc(Bars):
    """The newest bars, oldest first."""

    count: int = Field(examples=[1])


@router.get(
    "/ohlc/{symbol}",
    summary="The newest bars of a symbol",
    response_model=LatestOhlc,
    responses=FORMAT_RESPONSES | error_responses(404, 422, 503),
)
async def ohlc(
    context: Ctx,
    symbol: PathSymbol,
    interval: QueryInterval,
    wanted: Wanted,
    zone: Zone,
    limit: Annotated[int, Query(ge=1, le=10_000, description="How many.")] = 100,
) -> Response:
    """The newest `limit` bars, oldest first; the last one may still be forming, and says so."""
    bars = await context.bars.latest(symbol, interval, limit, context.presents.of_symbol(symbol.id))
    before = {"symbol": symbol.name, "interval": interval.name}
    return await answer_frame(bars, "bars", before, wanted, zone, filename=f"{symbol.name}_{interval.name}")
