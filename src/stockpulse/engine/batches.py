"""Conversions of frames of the log to the engine's records."""

from collections.abc import Callable
from typing import Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import from_provider
from stockpulse.engine.step import ProviderBars, TickBatch
from stockpulse.market.arrays import array_of
from stockpulse.market.calendar import Calendar
from stockpulse.market.intervals import D1, M1, M5
from stockpulse.market.symbology import Names

_LONGEST_FIRST: Final = (D1, M5, M1)


def tick_batch(frame: pl.DataFrame, names: Names) -> TickBatch:
    """Convert a frame of `schemas.LOGGED_TICKS` to arrays."""
    kind_id = frame["kind_id"].to_numpy()
    return TickBatch(
        seq=frame["seq"].to_numpy(),
        symbol_id=frame["symbol_id"].to_numpy().astype(np.int64),
        provider_id=names.providers_of(kind_id),
        ts=array_of(frame["ts"]),
        price=frame["price"].to_numpy(),
        size=frame["size"].to_numpy(),
        flags=names.flags_of(kind_id),
    )


def bar_batches(
    frame: pl.DataFrame, calendar_of: Callable[[int], Calendar], *, extended_day: bool
) -> list[ProviderBars]:
    """Convert a frame of `schemas.LOGGED_BARS` to the engine's records.

    The longest interval is first: a bar in the frame then never replaces one that was built from newer minutes
    of the same frame, and no revision goes down.
    """
    batches = []
    for interval in _LONGEST_FIRST:
        bars = frame.filter(pl.col("minutes") == interval.minutes)
        if len(bars) == 0:
            continue
        columns = {name: array_of(bars[name]) for name in bars.columns}
        ts, symbol_id = columns["ts"], columns["symbol_id"]
        if interval is D1:
            end = np.empty(len(ts), np.int64)
            for symbol in np.unique(symbol_id):
                rows = symbol_id == symbol
                end[rows] = calendar_of(int(symbol)).day_end(ts[rows], extended=extended_day)
        else:
            end = ts + interval.micros
        batches.append(ProviderBars(interval, from_provider(columns, columns["seq"], end)))
    return batches
