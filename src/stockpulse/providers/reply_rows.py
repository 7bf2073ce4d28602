"""Turns the rows of vendors' replies into frames. A row that cannot be read keeps its reason, and harms no other."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from stockpulse.market.columns import NUMBER
from stockpulse.market.rows import Field, Sent, as_json, assemble, readable, sent_objects
from stockpulse.market.schemas import BARS, CORRECTIONS, TICKS

OPEN: Final = Field("open", NUMBER, required=True, also=("o",))
HIGH: Final = Field("high", NUMBER, required=True, also=("h",))
LOW: Final = Field("low", NUMBER, required=True, also=("l",))
CLOSE: Final = Field("close", NUMBER, required=True, also=("c",))
VOLUME: Final = Field("volume", NUMBER, also=("v",))


def read_objects(rows: Sequence[Any], fields: Sequence[Field]) -> pl.DataFrame:
    """Return the fields of JSON objects, with `problem` and `raw`; an element that is no object is a problem."""
    listed = list(rows)
    broken = {at: "not an object" for at, row in enumerate(listed) if type(row) is not dict}
    return assemble(sent_objects(listed, broken, lambda at: (as_json(listed[row]) for row in at)), fields)


def read_arrays(arrays: Mapping[str, list[Any]], fields: Sequence[Field]) -> pl.DataFrame:
    """Return the fields of parallel arrays of one length, with `problem` and `raw`."""
    height = len(next(iter(arrays.values()), []))

    def columns(names: Sequence[str]) -> list[list[Any] | pl.Series]:
        found: list[list[Any] | pl.Series] = [arrays[name] for name in names if name in arrays]
        return found or [[None] * height]

    def raw(at: list[int]) -> Iterable[bytes]:
        return (as_json({name: values[row] for name, values in arrays.items()}) for row in at)

    return assemble(Sent(height, columns, raw, {}), fields)


def unreadable(message: bytes, problem: str) -> pl.DataFrame:
    """Return a message of a stream that cannot be read, as a row of TICKS with its problem."""
    return as_ticks(pl.DataFrame({"problem": [problem], "raw": [readable(message)]}))


def as_ticks(frame: pl.DataFrame) -> pl.DataFrame:
    """Return TICKS, with `problem` and `raw` if a row has a problem; missing columns become null."""
    return _shaped(frame, TICKS)


def as_bars(frame: pl.DataFrame) -> pl.DataFrame:
    """Return BARS, with `problem` and `raw` if a row has a problem; missing columns become null."""
    return _shaped(frame, BARS)


def as_corrections(frame: pl.DataFrame) -> pl.DataFrame:
    """Return CORRECTIONS, with `problem` and `raw` if a row has a problem; missing columns become null."""
    return _shaped(frame, CORRECTIONS)


def _shaped(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    wrong = "problem" in frame.columns and frame["problem"].null_count() < len(frame)
    return frame.with_columns(missing).select([*schema, *(("problem", "raw") if wrong else ())])
