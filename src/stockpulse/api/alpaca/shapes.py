"""Bars and trades in Alpaca's form: short keys, whole numbers as integers."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeAlias

import polars as pl

Row: TypeAlias = dict[str, Any]
"""A bar or a trade as Alpaca's clients read it."""

_LARGEST_ID: Final = 2**63 - 1
"""The largest trade id that Alpaca's libraries read."""


def time_text(moment: datetime) -> str:
    """Return a time in UTC as RFC 3339, without zeros at the end of the fraction."""
    text = moment.isoformat().removesuffix("+00:00")
    return f"{text.rstrip('0') if '.' in text else text}Z"


def bar(row: Mapping[str, Any], time: object) -> Row:
    """Return a row of `SERVED_BARS` in Alpaca's form. A volume that is not known is 0: Alpaca's libraries need one."""
    return {
        "t": time,
        "o": row["open"],
        "h": row["high"],
        "l": row["low"],
        "c": row["close"],
        "v": _whole(row["volume"] or 0.0),
        "n": row["trade_count"],
        "vw": row["vwap"],
    }


def trade(row: Mapping[str, Any], time: object) -> Row:
    """Return a row of `SERVED_TICKS` in Alpaca's form."""
    return {
        "t": time,
        "x": row["exchange"] or "",
        "p": row["price"],
        "s": _whole(row["volume"]),
        "c": row["conditions"].split(",") if row["conditions"] else [],
        "i": _number(row["trade_id"], row["seq"]),
        "z": row["tape"] or "",
    }


def bar_rows(bars: pl.DataFrame) -> list[Row]:
    """Return one row for each bar of `SERVED_BARS`, for JSON."""
    return [bar(row, time_text(row["ts"])) for row in bars.iter_rows(named=True)]


def trade_rows(ticks: pl.DataFrame) -> list[Row]:
    """Return one row for each tick of `SERVED_TICKS`, for JSON."""
    return [trade(row, time_text(row["event_time"])) for row in ticks.iter_rows(named=True)]


def by_symbol(symbols: pl.Series, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by symbol; the rows of a symbol stand one after the other."""
    return dict(_groups(symbols, rows))


def _groups(symbols: pl.Series, rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for name, group in groupby(zip(symbols, rows, strict=True), key=itemgetter(0)):
        yield name, [row for _, row in group]


def _whole(value: float) -> int | float:
    """Return a whole number as an integer, because Alpaca's libraries read no others; a fraction stays a float."""
    return int(value) if value.is_integer() else value


def _number(trade_id: str | None, seq: int) -> int:
    """Return a trade id as an integer; the number of the record for an id that is not an integer of 64 bits."""
    if trade_id and trade_id.isascii() and trade_id.isdecimal() and int(trade_id) <= _LARGEST_ID:
        return int(trade_id)
    return seq
