"""The newest bars, a summary of a window of bars, and the largest moves."""

import math
from collections import defaultdict
from datetime import datetime
from typing import Annotated, Final

import numpy as np
import polars as pl
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from stockpulse.api.budget import AnswerRoom
from stockpulse.api.context import Bars, Clocks, Now, QuerySymbol, Symbols
from stockpulse.api.error_responses import error_responses
from stockpulse.api.formats import ASK_FOR_LESS, FORMAT_RESPONSES, AnswerFormat, answer_frame, room_for_rows
from stockpulse.api.time_params import Zone
from stockpulse.api.windows import Minutes, Window
from stockpulse.market.intervals import M1
from stockpulse.market.symbology import Names, Symbol
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.movers import Move, moves_of
from stockpulse.storage.served_bars import SERVED_BARS

router = APIRouter(tags=["bars"])

MOVE_BYTES: Final = 2_000
"""The memory for the move of a symbol, with the bars that it comes from."""
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
    revision: int = Field(
        examples=[4194329], description="number (`seq`) of the newest record in the bar; grows when the bar changes"
    )
    final: bool = Field(examples=[True], description="false while the bar is forming")
    source: str = Field(examples=["trades"], description="trades, or the provider that sent the bar")


class LatestBars(BaseModel):
    """The newest 1-minute bars of a symbol."""

    symbol: str = Field(examples=["AAPL"])
    count: int = Field(examples=[1])
    bars: list[MinuteBar]


class BarWindow(BaseModel):
    """A summary of the 1-minute bars of a window; prices are null if the window has no bars."""

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
    as_of: datetime = Field(examples=["2026-02-27T12:05:00Z"], description="the market time of the symbol")


class Mover(BaseModel):
    """The move of a symbol's price."""

    symbol: str = Field(examples=["NVDA"])
    price_open: float = Field(examples=[874.50])
    price_close: float = Field(examples=[876.20])
    change_pct: float | None = Field(
        examples=[0.1944], description="null where the change is too large for a number; these rank last"
    )
    as_of: datetime = Field(examples=["2026-02-27T12:05:00Z"], description="the market time of the symbol")


class Movers(BaseModel):
    """The symbols that moved most."""

    window_minutes: int = Field(examples=[5])
    movers: list[Mover]
    as_of: datetime = Field(examples=["2026-02-27T12:05:00Z"], description="the latest of these market times")


@router.get(
    "/bars/latest",
    summary="The newest 1-minute bars of a symbol",
    response_model=LatestBars,
    responses=FORMAT_RESPONSES | error_responses(404, 413, 422, 503),
)
async def latest_bars(
    reader: Bars,
    clocks: Clocks,
    room: AnswerRoom,
    symbol: QuerySymbol,
    format: AnswerFormat,
    zone: Zone,
    limit: Annotated[int, Query(ge=1, le=10_000, description="The maximum number of bars.")] = 10,
) -> Response:
    """Return the newest bars, newest first. The first bar may still be forming: then its `final` is false.

    Other intervals: /ohlc/{symbol}.
    """
    await room_for_rows(room, limit, len(SERVED_BARS))
    bars = await reader.latest(symbol, M1, limit, clocks.closed_until(symbol.id))
    bars = bars[np.arange(bars.height - 1, -1, -1)]
    shown = pl.DataFrame([bars[name].alias(_SHOWN_AS.get(name, name)) for name in _SHOWN])
    return await answer_frame(shown, "bars", {"symbol": symbol.name}, format, zone, filename=f"{symbol.name}_1m")


@router.get(
    "/bars/summary", summary="A summary of the newest 1-minute bars", responses=error_responses(404, 413, 422, 503)
)
async def bar_summary(
    reader: Bars, clocks: Clocks, room: AnswerRoom, symbol: QuerySymbol, minutes: Minutes = 60
) -> BarWindow:
    """Summarise the 1-minute bars that begin in the last `minutes` up to the market time; both ends are included."""
    window = Window(minutes, clocks.of_symbol(symbol.id))
    await room_for_rows(room, minutes, len(SERVED_BARS))
    pages = reader.between(symbol, M1, window.start, window.end, window.as_of, priced=False)
    bars = pl.concat([page async for page in pages] or [SERVED_BARS.to_frame()])
    prices = bars.filter(pl.col("open").is_not_nan())  # the volume of the others counts
    summed = prices.select(
        pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last()
    ).row(0, named=True)
    summed |= bars.select(
        # If one bar has no volume, the sum is unknown.
        pl.when(~pl.col("volume").has_nulls()).then(pl.col("volume").sum()).alias("total_volume"),
        pl.when(~pl.col("trade_count").has_nulls()).then(pl.col("trade_count").sum()).alias("total_ticks"),
    ).row(0, named=True)
    first, last = summed["open"], summed["close"]
    change = None if first is None else (last - first) / first * 100
    return BarWindow(
        symbol=symbol.name,
        window_minutes=minutes,
        bar_count=len(prices),
        change_pct=None if change is None else round(change, 4),
        as_of=window.as_of,
        **summed,
    )


@router.get("/movers", summary="The symbols that moved most", responses=error_responses(413, 422, 503))
async def movers(
    reader: Bars,
    clocks: Clocks,
    names: Symbols,
    now: Now,
    room: AnswerRoom,
    minutes: Minutes = 5,
    limit: Annotated[int, Query(ge=1, le=1000, description="The maximum number of symbols.")] = 5,
) -> Movers:
    """Return the symbols with the largest change, up or down, over the last `minutes`; the largest comes first.

    The window of a symbol ends at its market time, which is its `as_of`: now for a live feed, the time of the newest
    tick for a recording. Both ends are included.
    """
    await room.grow_to(len(names.symbols) * MOVE_BYTES, ASK_FOR_LESS)
    shown = await largest_moves(reader, clocks, names, minutes, limit)
    return Movers(window_minutes=minutes, movers=shown, as_of=max((one.as_of for one in shown), default=now()))


async def largest_moves(
    reader: BarReader, clocks: ProviderClocks, names: Names, minutes: int, limit: int
) -> list[Mover]:
    """Return the largest moves over a window, the largest first."""
    moves: list[tuple[Move, datetime]] = []
    for as_of, symbols in _by_market_time(names, clocks).items():
        window = Window(minutes, as_of)
        bars = await reader.ends_within(M1, [one.id for one in symbols], window.start, window.end)
        moves += [(move, as_of) for move in moves_of(bars, names)]
    moves.sort(key=_rank)
    return [
        Mover(
            symbol=move.symbol,
            price_open=move.price_open,
            price_close=move.price_close,
            change_pct=round(move.change_pct, 4) if math.isfinite(move.change_pct) else None,
            as_of=as_of,
        )
        for move, as_of in moves[:limit]
    ]


def _rank(found: tuple[Move, datetime]) -> tuple[bool, float, str]:
    move, _ = found
    change = move.change_pct
    return (True, 0, move.symbol) if not math.isfinite(change) else (False, -abs(change), move.symbol)


def _by_market_time(names: Names, clocks: ProviderClocks) -> dict[datetime, list[Symbol]]:
    """Group the symbols by the market time of the provider that they follow: one group for all live ones."""
    of_provider = defaultdict(list)
    for symbol in names.symbols.values():
        of_provider[clocks.provider_of(symbol.id)].append(symbol)
    groups: dict[datetime, list[Symbol]] = defaultdict(list)
    for symbols in of_provider.values():
        groups[clocks.of_symbol(symbols[0].id)] += symbols
    return groups
