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
from stockpulse.postgres import connect
from stockpulse.postgres.binary_copy import Layout
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
_LAYOUT: Final = Layout({"ts": "timestamptz", "revision": "int8"} | dict.fromkeys(STORED_INDICATORS, "float8"))
_SELECTED: Final = ", ".join(["ts", "revision", *(f"coalesce({name}, 'NaN')" for name in STORED_INDICATORS)])
_PAGE_ROWS: Final = 1_500
_CALCULATED_CELLS: Final = 250_000
"""The approximate number of values (bars x outputs) that are calculated at once."""
_FEW_ROWS: Final = 100
"""For up to this many rows a prepared query is faster than a COPY."""
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
            page = await self._page(symbol, interval, start or _EPOCH, end, min(limit, _PAGE_ROWS), "DESC")
            pages.insert(0, page[::-1])
            if page.height < _PAGE_ROWS:
                break
            end = page["ts"][-1]
            limit -= page.height
        return pl.concat(pages)

    async def between(
        self, symbol: Symbol, interval: Interval, start: datetime, end: datetime | None
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield all stored rows of bars in [start, end), oldest first, page by page."""
        while True:
            page = await self._page(symbol, interval, start, end or FAR_FUTURE, _PAGE_ROWS, "ASC")
            if page.height:
                start = page["ts"][-1] + (from_micros(1) - _EPOCH)
                yield page
            if page.height < _PAGE_ROWS:
                return

    async def _page(
        self, symbol: Symbol, interval: Interval, start: datetime, end: datetime, limit: int, order: str
    ) -> pl.DataFrame:
        """Return the first `limit` stored rows in [start, end) in this order of time."""
        condition = (
            f"FROM {_TABLE[interval]} WHERE symbol_id = $1 AND ts >= $2 AND ts < $3 ORDER BY ts {order} LIMIT $4"
        )
        arguments = (symbol.id, start, end, limit)
        if limit <= _FEW_ROWS:
            query = f"SELECT {', '.join(SERVED_ANALYTICS)} {condition}"
            return _frame(await self._pool.fetch(query, *arguments), SERVED_ANALYTICS)
        async with self._pool.acquire() as connection:
            data = await connect.copy_out(connection, f"SELECT {_SELECTED} {condition}", *arguments, seconds=60)
        return await offload.in_reader_thread(partial(_unpacked, data))

    async def realtime(self, symbol: Symbol) -> pl.DataFrame:
        """Return the newest real-time row of a symbol, as `SERVED_REALTIME`; empty if the symbol has no row."""
        rows = await self._pool.fetch(
            f"SELECT {', '.join(SERVED_REALTIME)} FROM realtime_analytics"  # noqa: S608 - names of ours
            " WHERE symbol_id = $1 ORDER BY calculated_at DESC LIMIT 1",
            symbol.id,
        )
        return _frame(rows, SERVED_REALTIME)

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


def _unpacked(data: bytes) -> pl.DataFrame:
    """Return the rows of a COPY of `_SELECTED`."""
    columns = _LAYOUT.unpack(data)
    series = [pl.Series("ts", columns.pop("ts")).cast(UTC_MICROS), pl.Series("revision", columns.pop("revision"))]
    return pl.DataFrame([*series, *(pl.Series(name, values, nan_to_null=True) for name, values in columns.items())])


def _frame(rows: Sequence[Any], schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame([tuple(row) for row in rows], schema=schema, orient="row")
