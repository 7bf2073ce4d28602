"""Conversions between the engine's rows of bars and the rows of the database and of the topic of bars."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import BAR, Rows, set_sums
from stockpulse.engine.exact_sums import UNKNOWN
from stockpulse.market.arrays import array_of
from stockpulse.market.intervals import D1, M1, M5, Interval
from stockpulse.market.times import micros
from stockpulse.postgres import connect
from stockpulse.postgres.binary_copy import Layout
from stockpulse.postgres.connect import AnyConnection

TABLE: Final[dict[Interval, str]] = {M1: "bars_1m", M5: "intraday_ohlcv", D1: "historical_ohlcv"}

LAYOUT: Final = Layout(
    {
        "symbol_id": "int4",
        "ts": "timestamptz",
        "ends_at": "timestamptz",
        "open": "float8",
        "high": "float8",
        "low": "float8",
        "close": "float8",
        "open_us": "int8",
        "open_seq": "int8",
        "close_us": "int8",
        "close_seq": "int8",
        "volume_units": "int8",
        "volume_picos": "int8",
        "vwap_units": "int8",
        "vwap_picos": "int8",
        "notional_high": "int8",
        "notional_middle": "int8",
        "notional_low": "int8",
        "trade_count": "int8",
        "revision": "int8",
        "provider_id": "int4",
        "by_minutes": "bool",
    }
)

_RENAMED: Final = {"ends_at": "end", "open_us": "open_ts", "close_us": "close_ts"}


def columns_of(rows: Rows) -> dict[str, Any]:
    """Convert the engine's rows to the columns of `LAYOUT`."""
    return {name: rows[_RENAMED.get(name, name)] for name in LAYOUT.columns}


def unpack(data: bytes) -> Rows:
    """Convert the bytes of a COPY of stored bars to the engine's rows, which are final and not dirty."""
    return _rows(LAYOUT.unpack(data))


def rows_of_topic(bars: pl.DataFrame, provider_ids: Mapping[str, int]) -> Rows:
    """Convert bars of the topic (`codecs.OHLCV`) to the engine's rows, without their symbols."""
    rows = np.zeros(len(bars), BAR)
    for name in ("open", "high", "low", "close", "revision", "final"):
        rows[name] = bars[name].to_numpy()
    rows["ts"] = array_of(bars["timestamp"])
    rows["trade_count"] = bars["trade_count"].fill_null(UNKNOWN).to_numpy()
    set_sums(rows, *(bars[name].fill_null(float("nan")).to_numpy() for name in ("volume", "vwap")))
    rows["provider_id"] = [provider_ids.get(source, 0) for source in bars["source"]]
    return rows


def _rows(columns: Mapping[str, Any]) -> Rows:
    rows = np.zeros(len(columns["ts"]), BAR)
    for name, values in columns.items():
        rows[_RENAMED.get(name, name)] = values
    rows["final"] = True
    return rows


async def copy_out(connection: AnyConnection, query: str, *arguments: Any) -> Rows:
    """Return the bars that a query of `LAYOUT.columns` finds."""
    return unpack(await connect.copy_out(connection, query, *arguments, seconds=60))


async def fetch_out(connection: AnyConnection, query: str, *arguments: Any) -> Rows:
    """Do the same as `copy_out` by a prepared query: for ten bars it takes a sixth of the time of a COPY."""
    records = await connection.fetch(query, *arguments)
    columns: dict[str, Any] = {name: [record[name] for record in records] for name in LAYOUT.columns}
    for name in ("ts", "ends_at"):
        columns[name] = [micros(moment) for moment in columns[name]]
    return _rows(columns)
