"""A past day of a provider, as trades in event time, for a replay."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.errors import InvalidInput, NotFound
from stockpulse.market.intervals import MINUTES_OF
from stockpulse.market.schemas import BARS, TICKS, kind_of
from stockpulse.providers.base import Capabilities, Provider

_INTERVALS: Final = ("1m", "5m")
_PRICES: Final = ("open", "first", "second", "close")


async def trades_of(
    provider: Provider, has: Capabilities, symbols: Sequence[str], start: datetime, end: datetime, *, bars: bool
) -> pl.DataFrame:
    """Return the trades of a range as TICKS, in event time; with `bars`, four trades for each bar of the provider.

    Raises InvalidInput if the provider has no trades (or bars) of the past, and NotFound if there are none.
    """
    if bars:
        interval = next((one for one in _INTERVALS if one in has.history), None)
        if interval is None:
            raise InvalidInput("--bars", f"{provider.name} has no bars of minutes")
        frames = [trades_of_bars(frame) async for frame in _windows(provider, has, interval, symbols, start, end)]
    elif not has.trades:
        raise InvalidInput("--bars", f"{provider.name} has no trades of the past; with --bars its bars are replayed")
    else:
        frames = [frame async for frame in provider.trades(symbols, start, end) if kind_of(frame) == "ticks"]
    ticks = pl.concat([frame.select(list(TICKS)) for frame in frames]) if frames else TICKS.to_frame()
    if not len(ticks):
        what = "bars" if bars else "trades"
        raise NotFound(f"{provider.name} has no {what} of {', '.join(symbols)} from {start} to {end}")
    return ticks.sort("ts", maintain_order=True)


async def _windows(
    provider: Provider, has: Capabilities, interval: str, symbols: Sequence[str], start: datetime, end: datetime
) -> AsyncIterator[pl.DataFrame]:
    """Yield the bars, for as many symbols at once as the provider takes."""
    most = max(has.history[interval].symbols, 1)
    for first in range(0, len(symbols), most):
        async for frame in provider.history(symbols[first : first + most], interval, start, end):
            yield frame


def trades_of_bars(bars: pl.DataFrame) -> pl.DataFrame:
    """Return four trades for each bar, a quarter of its length apart: open, the two extremes, close.

    The extreme that lies nearer to the open comes first. Each trade has a quarter of the volume, so the bars that are
    built from the trades have the prices and the volume of these bars. The trades have ids: they are stored once.
    """
    rising = pl.col("close") >= pl.col("open")
    length = pl.col("interval").replace_strict(MINUTES_OF, return_dtype=pl.Int64)
    prices = bars.select(list(BARS)).with_columns(
        first=pl.when(rising).then("low").otherwise("high"),
        second=pl.when(rising).then("high").otherwise("low"),
        quarter=pl.duration(seconds=length * 15),
    )
    parts = [
        prices.select(
            "symbol",
            ts=pl.col("ts") + pl.col("quarter") * at,
            price=pl.col(name),
            size=pl.col("volume") / len(_PRICES),
            exchange=pl.lit(None, pl.String),
            trade_id=pl.concat_str(pl.col("ts").dt.epoch("s"), pl.lit(f"-{at}")),
            tape=pl.lit(None, pl.String),
            conditions=pl.lit(None, pl.String),
        )
        for at, name in enumerate(_PRICES)
    ]
    return pl.concat(parts).select(pl.col(name).cast(kind) for name, kind in TICKS.items()).sort("symbol", "ts")
