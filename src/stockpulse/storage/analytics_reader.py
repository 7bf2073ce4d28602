"""Reads stored indicators, and calculates others over stored bars."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.indicators.algebra import CALENDAR_INPUTS, INPUTS
from stockpulse.indicators.calendar_inputs import calendar_inputs
from stockpulse.indicators.evaluation import Bundle, Columns, Functions
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.market.arrays import Floats, array_of
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
_PAGE_ROWS: Final = 1_000
_CALCULATED_CELLS: Final = 250_000
"""The approximate number of values (bars x outputs) that are calculated at once."""
_FEW_ROWS: Final = 100
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
        pages: list[pl.DataFrame] = []
        end = end or FAR_FUTURE
        while limit > 0:
            rows = await self._pool.fetch(
                f"SELECT {', '.join(SERVED_ANALYTICS)} FROM {_TABLE[interval]}"  # noqa: S608 - names of ours
                " WHERE symbol_id = $1 AND ts >= $2 AND ts < $3 ORDER BY ts DESC LIMIT $4",
                symbol.id,
                start or _EPOCH,
                end,
                min(limit, _PAGE_ROWS),
            )
            if rows:
                end = rows[-1]["ts"]
                pages.insert(0, await _frame_of(rows[::-1], SERVED_ANALYTICS))
            if len(rows) < _PAGE_ROWS:
                break
            limit -= len(rows)
        return pl.concat(pages) if pages else SERVED_ANALYTICS.to_frame()

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
                yield await _frame_of(rows, SERVED_ANALYTICS)
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
        return await _frame_of(rows, SERVED_REALTIME)

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
        states = bundle.fresh(1)  # go from piece to piece
        height = max(1, _CALCULATED_CELLS // max(1, bundle.outputs))

        def calculate(bars: pl.DataFrame) -> pl.DataFrame:
            rows, first, last = np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([bars.height])
            inputs = frame_inputs(bars, symbol, interval)
            out = bundle.calculate(self._functions, states, rows, first, last, inputs)
            if start is not None:
                bars, out = _from(start, bars, out)
            return bars.select("ts", "close", "final").with_columns(
                pl.Series(name, values, nan_to_null=True) for name, values in zip(names, out, strict=True)
            )

        async for page in self._bars.between(symbol, interval, None, end, closed_until):
            for piece in page.iter_slices(height):
                shown = await offload.in_reader_thread(partial(calculate, piece))
                if shown.height:
                    yield shown


def _from(start: datetime, bars: pl.DataFrame, out: Floats) -> tuple[pl.DataFrame, Floats]:
    """Return the bars from a time on, and their outputs."""
    at = int(bars["ts"].search_sorted(start))
    return bars[at:], out[:, at:]


def frame_inputs(bars: pl.DataFrame, symbol: Symbol, interval: Interval) -> Columns:
    """Return served bars as columns named as in `INPUTS`."""
    columns = {name: bars[name].fill_null(0.0).to_numpy() for name in INPUTS if name not in CALENDAR_INPUTS}
    columns = {name: np.array(column, np.float64) for name, column in columns.items()}
    return columns | calendar_inputs(trading_calendar(symbol.calendar), interval, array_of(bars["ts"]))


async def _frame_of(rows: Sequence[Any], schema: pl.Schema) -> pl.DataFrame:
    def frame() -> pl.DataFrame:
        return pl.DataFrame([tuple(row) for row in rows], schema=schema, orient="row")

    return frame() if len(rows) <= _FEW_ROWS else await offload.in_reader_thread(frame)
