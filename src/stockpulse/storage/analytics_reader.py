"""Reads stored indicators, and calculates others over stored bars."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl

from stockpulse.indicators.algebra import CALENDAR_INPUTS, INPUTS
from stockpulse.indicators.calendar_inputs import calendar_inputs
from stockpulse.indicators.evaluation import Bundle, Columns, Functions
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.market.arrays import array_of
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M5, Interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Symbol
from stockpulse.market.times import from_micros
from stockpulse.postgres.connect import Pool
from stockpulse.storage.bar_reader import FAR_FUTURE, BarReader

SERVED_ANALYTICS: Final = pl.Schema(
    {"ts": UTC_MICROS, "revision": pl.Int64()} | dict.fromkeys(STORED_INDICATORS, pl.Float64())
)
"""Indicators of a closed bar as the API shows them; `ts` is the start of the bar."""

SERVED_REALTIME: Final = pl.Schema(
    {
        "calculated_at": UTC_MICROS,
        "price_at": UTC_MICROS,
        "price": pl.Float64(),
        "moving_average": pl.Float64(),
        "ts": UTC_MICROS,
    }
    | dict.fromkeys(STORED_INDICATORS, pl.Float64())
)
"""The newest price, the mean of the newest five, and the indicators of the newest 5-minute bar."""

_TABLE: Final = {M5: "intraday_analytics", D1: "daily_analytics"}
_PAGE_ROWS: Final = 5_000
_EPOCH: Final = from_micros(0)


class AnalyticsReader:
    """Reads the indicators of a symbol."""

    def __init__(self, pool: Pool, bars: BarReader, functions: Functions) -> None:
        self._pool = pool
        self._bars = bars
        self._functions = functions

    async def latest(
        self, symbol: Symbol, interval: Interval, limit: int, start: datetime | None = None, end: datetime | None = None
    ) -> pl.DataFrame:
        """Return the newest stored rows of bars in [start, end), oldest first, as `SERVED_ANALYTICS`."""
        rows = await self._pool.fetch(
            f"SELECT {', '.join(SERVED_ANALYTICS)} FROM {_TABLE[interval]}"  # noqa: S608 - names of ours
            " WHERE symbol_id = $1 AND ts >= $2 AND ts < $3 ORDER BY ts DESC LIMIT $4",
            symbol.id,
            start or _EPOCH,
            end or FAR_FUTURE,
            limit,
        )
        return _frame([tuple(row) for row in reversed(rows)], SERVED_ANALYTICS)

    async def between(
        self, symbol: Symbol, interval: Interval, start: datetime, end: datetime | None
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield all stored rows of bars in [start, end), oldest first, page by page."""
        while True:
            rows = await self._pool.fetch(
                f"SELECT {', '.join(SERVED_ANALYTICS)} FROM {_TABLE[interval]}"  # noqa: S608 - names of ours
                " WHERE symbol_id = $1 AND ts >= $2 AND ts < $3 ORDER BY ts LIMIT $4",
                symbol.id,
                start,
                end or FAR_FUTURE,
                _PAGE_ROWS,
            )
            if rows:
                yield _frame([tuple(row) for row in rows], SERVED_ANALYTICS)
            if len(rows) < _PAGE_ROWS:
                return
            start = rows[-1]["ts"] + (from_micros(1) - _EPOCH)

    async def realtime(self, symbol: Symbol) -> pl.DataFrame:
        """Return the newest real-time row of a symbol, as `SERVED_REALTIME`; empty if the symbol has no row."""
        rows = await self._pool.fetch(
            f"SELECT {', '.join(SERVED_REALTIME)} FROM realtime_analytics"  # noqa: S608 - names of ours
            " WHERE symbol_id = $1 ORDER BY calculated_at DESC LIMIT 1",
            symbol.id,
        )
        return _frame([tuple(row) for row in rows], SERVED_REALTIME)

    async def calculated(
        self,
        bundle: Bundle,
        names: list[str],
        symbol: Symbol,
        interval: Interval,
        start: datetime | None,
        end: datetime | None,
        closed_until: datetime,
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield indicators of the bars in [start, end), oldest first, page by page, as columns with these names.

        The calculation starts at the symbol's first bar, so the first row is exact too. The last bar may still be
        forming.
        """
        states = bundle.fresh(1)
        async for page in self._bars.between(symbol, interval, None, end, closed_until):
            bars = frame_inputs(page, symbol, interval)
            rows, first, last = np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([page.height])
            out = await asyncio.to_thread(bundle.calculate, self._functions, states, rows, first, last, bars)
            shown = page.select("ts", "close", "final").with_columns(
                pl.Series(name, values, nan_to_null=True) for name, values in zip(names, out, strict=True)
            )
            shown = shown if start is None else shown.filter(pl.col("ts") >= start)
            if shown.height:
                yield shown


def frame_inputs(bars: pl.DataFrame, symbol: Symbol, interval: Interval) -> Columns:
    """Return served bars as columns named as in `INPUTS`."""
    columns = {name: bars[name].fill_null(0.0).to_numpy() for name in INPUTS if name not in CALENDAR_INPUTS}
    columns = {name: np.array(column, np.float64) for name, column in columns.items()}
    return columns | calendar_inputs(trading_calendar(symbol.calendar), interval, array_of(bars["ts"]))


def _frame(rows: list[Any], schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")
