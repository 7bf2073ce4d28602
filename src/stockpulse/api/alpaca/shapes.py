"""Bars and trades in Alpaca's form: short keys, whole numbers as integers."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeAlias

import polars as pl

Row: TypeAlias = dict[str, Any]
"""A bar or a trade as Alpaca's clients read it."""
Times: TypeAlias = Callable[[pl.Series], Sequence[object]]
"""Converts a column of times to the values that an encoding has for them."""

_LARGEST_ID: Final = 2**63 - 1
"""The largest trade id that Alpaca's libraries read."""


def time_texts(times: pl.Series) -> list[str]:
    """Return times as RFC 3339 in UTC, without zeros at the end of the fraction."""
    texts = times.dt.to_string("%Y-%m-%dT%H:%M:%S%.f")  # the fraction has 0, 3 or 6 digits
    return (texts.str.replace(r"(\.\d*?)0+$", "${1}") + "Z").to_list()


def bar_rows(bars: pl.DataFrame, times: Times = time_texts) -> list[Row]:
    """Return one row for each bar of `SERVED_BARS`. A volume that is not known is 0, as Alpaca's have no null."""
    columns = (
        times(bars["ts"]),
        *(bars[name].to_list() for name in ("open", "high", "low", "close")),
        _whole(bars["volume"].fill_null(0)),
        bars["trade_count"].to_list(),
        bars["vwap"].to_list(),
    )
    return [
        dict(zip(("t", "o", "h", "l", "c", "v", "n", "vw"), row, strict=True)) for row in zip(*columns, strict=True)
    ]


def trade_rows(ticks: pl.DataFrame, times: Times = time_texts) -> list[Row]:
    """Return one row for each tick of `SERVED_TICKS`."""
    columns = (
        times(ticks["event_time"]),
        ticks["exchange"].fill_null("").to_list(),
        ticks["price"].to_list(),
        _whole(ticks["volume"]),
        [text.split(",") if text else [] for text in ticks["conditions"]],
        [_number(text, seq) for text, seq in zip(ticks["trade_id"], ticks["seq"], strict=True)],
        ticks["tape"].fill_null("").to_list(),
    )
    return [dict(zip(("t", "x", "p", "s", "c", "i", "z"), row, strict=True)) for row in zip(*columns, strict=True)]


def by_symbol(symbols: pl.Series, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by symbol; the rows of a symbol stand one after the other."""
    return dict(_groups(symbols, rows))


def _groups(symbols: pl.Series, rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for name, group in groupby(zip(symbols, rows, strict=True), key=itemgetter(0)):
        yield name, [row for _, row in group]


def _whole(values: pl.Series) -> list[int | float]:
    """Return whole numbers as integers, because Alpaca's libraries read no others; fractions stay floats."""
    return [int(value) if value.is_integer() else value for value in values]


def _number(trade_id: str | None, seq: int) -> int:
    """Return a trade id as an integer; the number of the record for an id that is not an integer of 64 bits."""
    if trade_id and trade_id.isascii() and trade_id.isdecimal() and int(trade_id) <= _LARGEST_ID:
        return int(trade_id)
    return seq
