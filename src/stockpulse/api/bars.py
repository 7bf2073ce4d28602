"""The newest bars, what the bars of a window come to, and what moved most."""

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Annotated, Final

import numpy as np
import polars as pl
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from stockpulse.api.context import Context, Ctx, Minutes, QuerySymbol
from stockpulse.api.error_responses import error_responses
from stockpulse.api.formats import FORMAT_RESPONSES, Wanted, answer_frame
from stockpulse.api.time_params import Zone
from stockpulse.market.intervals import M1
from stockpulse.market.symbology import Symbol
from stockpulse.storage.bar_reader import SERVED_BARS, Move

router = APIRouter(tags=["bars"])

_SHOWN_AS: Final = {"ts": "bucket_start", "volume": "volume_sum", "trade_count": "tick_count"}
_SHOWN: Final = tuple(name for name in SERVED_BARS if name not in ("interval", "filled"))


class MinuteBar(BaseModel):
    """A 1-minute bar."""

    symbol: str = Field(examples=["AAPL"])
    bucket_start: datetime = Field(examples=["2026-02-27T12:05:00Z"])
    open: float = Field(examples=[189.72])
    high: float = Field(examples=[190.11])
    low: float = Field(examples=[189.52])
    close: float = Field(examples=[189.98])
    volume_sum: float | None = Field(examples=[87400])
    tick_count: int | None = Field(examples=[30])
    vwap: float | None = Field(examples=[189.81])
    revision: int = Field(examples=[4194329], description="grows whenever the bar changes")
    final: bool = Field(examples=[True], description="false while the bar is forming")
    source: str = Field(examples=["trades"], description="trades, or the provider whose own bar it is")


class LatestBars(BaseModel):
    """The newest 1-minute bars of a symbol."""

    symbol: str = Field(examples=["AAPL"])
    count: int = Field(examples=[1])
    bars: list[MinuteBar]


class BarWindow(BaseModel):
    """What the 1-minute bars of a window come to; prices are null when there are none."""

    symbol: str = Field(examples=["AAPL"])
    window_minutes: int = Field(examples=[60])
    bar_count: int = Field(examples=[60])
    open: float | None = Field(examples=[189.50])
    high: float | None = Field(examples=[190.75])
    low: float | None = Field(examples=[188.90])
    close: float | None = Field(examples=[190.12])
    change_pct: float | None = Field(examples=[0.3272])
    total_volume: float | None = Field(examples=[5240000])
    total_ticks: int | None = Field(examples=[1800])
    as_of: datetime = Field(examples=["2026-02-27T12:05:00Z"], description="the symbol's present")


class Mover(BaseModel):
    """How a symbol moved."""

    symbol: str = Field(examples=["NVDA"])
    price_open: float = Field(examples=[874.50])
    price_close: float = Field(examples=[876.20])
    change_pct: float = Field(examples=[0.1944])


class Movers(BaseModel):
    """What moved most."""

    window_minutes: int = Field(examples=[5])
    movers: list[Mover]
    as_of: datetime = Field(examples=["2026-02-27T12:05:00Z"])


@router.get(
    "/bars/latest",
    summary="The newest 1-minute bars of a symbol",
    response_model=LatestBars,
    responses=FORMAT_RESPONSES | error_responses(404, 422, 503),
)
async def latest_bars(
    context: Ctx,
    symbol: QuerySymbol,
    wanted: Wanted,
    zone: Zone,
    limit: Annotated[int, Query(ge=1, le=10_000, description="How many.")] = 10,
) -> Response:
    """Newest first; the first one may still be forming, and says so. Other intervals: /ohlc/{symbol}."""
    bars = await context.bars.latest(symbol, M1, limit, context.clocks.closed_until(symbol.id))
    bars = bars[np.arange(bars.height - 1, -1, -1)]
    shown = pl.DataFrame([bars[name].alias(_SHOWN_AS.get(name, name)) for name in _SHOWN])
    return await answer_frame(shown, "bars", {"symbol": symbol.name}, wanted, zone, filename=f"{symbol.name}_1m")


@router.get("/bars/summary", summary="What the bars of a window come to", responses=error_responses(404, 422, 503))
async def bar_summary(context: Ctx, symbol: QuerySymbol, minutes: Minutes = 60) -> BarWindow:
    """Over the 1-minute bars that begin in the minutes before the symbol's present."""
    as_of = context.clocks.of_symbol(symbol.id)
    pages = context.bars.between(symbol, M1, as_of - timedelta(minutes=minutes), as_of, as_of)
    bars = pl.concat([page async for page in pages] or [SERVED_BARS.to_frame()])
    summed = bars.select(
        pl.col("open").first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").last(),
        # A volume that one of the bars does not say makes the sum unknown.
        pl.when(~pl.col("volume").has_nulls()).then(pl.col("volume").sum()).alias("total_volume"),
        pl.when(~pl.col("trade_count").has_nulls()).then(pl.col("trade_count").sum()).alias("total_ticks"),
    ).row(0, named=True)
    first, last = summed["open"], summed["close"]
    change = None if first is None else (last - first) / first * 100
    return BarWindow(
        symbol=symbol.name,
        window_minutes=minutes,
        bar_count=len(bars),
        change_pct=None if change is None else round(change, 4),
        as_of=as_of,
        **summed,
    )


@router.get("/movers", summary="What moved most", responses=error_responses(422, 503))
async def movers(
    context: Ctx,
    minutes: Minutes = 5,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many.")] = 5,
) -> Movers:
    """The largest change first, up or down, over the minutes before each symbol's present."""
    moves: list[Move] = []
    for as_of, symbols in _by_present(context).items():
        moves += await context.bars.moves(symbols, as_of - timedelta(minutes=minutes), as_of)
    moves.sort(key=lambda move: (-abs(move.change_pct), move.symbol))
    shown = [
        Mover(
            symbol=move.symbol,
            price_open=move.price_open,
            price_close=move.price_close,
            change_pct=round(move.change_pct, 4),
        )
        for move in moves[:limit]
    ]
    return Movers(window_minutes=minutes, movers=shown, as_of=context.now())


def _by_present(context: Context) -> dict[datetime, list[Symbol]]:
    """The symbols by how far their provider's time has come: one group for all live ones."""
    groups: dict[datetime, list[Symbol]] = defaultdict(list)
    clocks, now = context.clocks.of_providers(), context.now()
    for symbol in context.names.symbols.values():
        groups[clocks.get(context.clocks.provider_of(symbol.id), now)].append(symbol)
    return groups
