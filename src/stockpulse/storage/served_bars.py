"""Bars for the API and the derived topics: names for ids, floats for exact sums."""

from collections.abc import Callable
from typing import Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import Rows, volume_of, vwap_of
from stockpulse.market.arrays import Ints
from stockpulse.market.intervals import Interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names

SERVED_BARS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "interval": pl.String(),
        "ts": UTC_MICROS,
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "trade_count": pl.Int64(),
        "vwap": pl.Float64(),
        "revision": pl.Int64(),
        "final": pl.Boolean(),
        "source": pl.String(),
        "filled": pl.Boolean(),
    }
)
"""The columns of a served bar.

`source` is "trades" for a bar built from trades, else the provider that sent the bar. `filled` marks a bar that
`gap_filling` added for a bucket without a trade.
"""


def served_bars(rows: Rows, interval: Interval, names: Names) -> pl.DataFrame:
    """Convert the engine's rows to `SERVED_BARS`."""

    def source(provider_id: int) -> str:
        return names.provider_by_id[provider_id].name if provider_id else "trades"

    # Built series by series: for ten bars, one expression costs as much as this whole function.
    counts = pl.Series(np.ascontiguousarray(rows["trade_count"]))
    return pl.DataFrame(
        {
            "symbol": _named(rows["symbol_id"], lambda number: names.symbol_by_id[number].name),
            "interval": pl.Series([interval.name], dtype=pl.String).new_from_index(0, len(rows)),
            "ts": pl.Series(np.ascontiguousarray(rows["ts"])).cast(UTC_MICROS),
            **{name: np.ascontiguousarray(rows[name]) for name in ("open", "high", "low", "close")},
            "volume": pl.Series(volume_of(rows), nan_to_null=True),
            "trade_count": counts if (rows["trade_count"] >= 0).all() else counts.set(counts < 0, None),
            "vwap": pl.Series(vwap_of(rows), nan_to_null=True),
            "revision": np.ascontiguousarray(rows["revision"]),
            "final": np.ascontiguousarray(rows["final"]),
            "source": _named(rows["provider_id"], source),
            "filled": np.zeros(len(rows), np.bool_),
        },
        schema=SERVED_BARS,
    )


def _named(numbers: Ints, name_of: Callable[[int], str]) -> pl.Series:
    """Return names for ids; there are few distinct ids."""
    distinct, at = np.unique(numbers, return_inverse=True)
    names = pl.Series([name_of(int(number)) for number in distinct], dtype=pl.String)
    return names.new_from_index(0, len(numbers)) if len(distinct) == 1 else names.gather(at)
