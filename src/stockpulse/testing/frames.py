"""Frames of ticks, bars and corrections from a few rows."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from stockpulse.market.schemas import BARS, CORRECTIONS, TICKS


def ticks_frame(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """Return a frame of `TICKS` with these rows; columns that a row does not name are null."""
    return _frame(TICKS, rows)


def bars_frame(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """Return a frame of `BARS` with these rows; columns that a row does not name are null."""
    return _frame(BARS, rows)


def corrections_frame(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """Return a frame of `CORRECTIONS` with these rows; columns that a row does not name are null."""
    return _frame(CORRECTIONS, rows)


def _frame(schema: pl.Schema, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Return a frame with this schema. Raises ValueError for a column that the schema does not have."""
    found = [dict(row) for row in rows]
    if unknown := sorted({name for row in found for name in row} - schema.keys()):
        raise ValueError(f"no such column: {', '.join(unknown)}; there are {', '.join(schema)}")
    return pl.DataFrame([dict.fromkeys(schema) | row for row in found], schema=schema, orient="row", strict=False)
