"""Readers for times that count from 1970 in a unit that the provider's protocol fixes: no guess by their size."""

from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.market import times
from stockpulse.market.columns import Reader, null_where
from stockpulse.market.schemas import UTC_MICROS


def _epoch(unit_micros: int, name: str) -> Reader:
    latest = times.LATEST // unit_micros

    def column(values: pl.Series) -> pl.Series | None:
        if values.dtype == pl.Null:
            return values.cast(UTC_MICROS)
        if not values.dtype.is_numeric():
            return None
        known = null_where(~values.is_between(times.EARLIEST, latest).fill_null(value=False), values)
        counts = known * unit_micros if values.dtype.is_integer() else (known * unit_micros).round()
        return counts.cast(pl.Int64).cast(UTC_MICROS)

    def one(value: object) -> datetime:
        if type(value) in (int, float) and times.EARLIEST <= value <= latest:  # type: ignore[operator]
            return times.from_micros(round(value * unit_micros))  # type: ignore[operator]
        raise ValueError(f"not a number of {name} in the years 1970 to 2200")

    return Reader(UTC_MICROS, column, one, f"{name} since 1970")


SECONDS: Final = _epoch(times.SECOND_MICROS, "seconds")
MILLISECONDS: Final = _epoch(1_000, "milliseconds")
