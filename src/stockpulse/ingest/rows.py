"""Rows as others send them, objects or columns with names of their own, become frames.

What cannot be read is a problem of its row, never of the others. A column is read at once; only the rows
where that leaves nothing are looked at one by one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final

import polars as pl

from stockpulse.errors import shown
from stockpulse.ingest.columns import CODES, IDENTIFIER, NUMBER, TEXT, TIME, Reader, nulls

_INT64_ENDS: Final = 2**63
_EXACT_INTEGERS: Final = 2**53  # below it, a float holds whole numbers exactly
_LONGEST_RAW: Final = 8 * 1024


@dataclass(frozen=True)
class Field:
    """A column of the frame: the names that it may be sent under, the first of which counts, and how it is read."""

    column: str
    reader: Reader
    required: bool = False
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of its names."""
        return (self.column, *self.also)


#: `frames.TICKS` as others send them.
TICK_FIELDS: Final = (
    Field("symbol", TEXT, required=True),
    Field("ts", TIME, required=True, also=("timestamp", "event_time", "time")),
    Field("price", NUMBER, required=True),
    Field("size", NUMBER, required=True, also=("volume",)),
    Field("exchange", TEXT),
    Field("trade_id", IDENTIFIER),
    Field("conditions", CODES),
)


@dataclass(frozen=True)
class Sent:
    """Rows as they were sent."""

    height: int
    #: The values under the first of these names that has one; a list of Python values or a series.
    column: Callable[[Sequence[str]], "list[Any] | pl.Series"]
    #: What was sent as these rows.
    raw: Callable[[list[int]], Iterable[bytes]]
    #: Rows that are no objects, and why.
    broken: Mapping[int, str]


def sent_objects(rows: list[Any], broken: Mapping[int, str], raw: Callable[[list[int]], Iterable[bytes]]) -> Sent:
    """Rows that came as Python values; what is no dict has its reason in `broken`."""
    objects = [row if type(row) is dict else {} for row in rows] if broken else rows

    def column(names: Sequence[str]) -> list[Any]:
        values = [row.get(names[0]) for row in objects]
        for name in names[1:]:
            if None not in values:
                break
            values = [row.get(name) if value is None else value for row, value in zip(objects, values, strict=True)]
        return values

    return Sent(len(rows), column, raw, broken)


def sent_columns(frame: pl.DataFrame, height: int, raw: Callable[[list[int]], Iterable[bytes]]) -> Sent:
    """Rows that came as columns; their number is told apart, since there may be no column at all."""

    def column(names: Sequence[str]) -> pl.Series:
        given = next((name for name in names if name in frame.columns), None)
        return nulls(height, pl.Null()) if given is None else frame[given]

    return Sent(height, column, raw, {})


def assemble(sent: Sent, fields: Sequence[Field]) -> pl.DataFrame:
    """The columns of the fields, then `problem`, why the row is not one (null: it is), and `raw`, what was sent.

    `raw` is null where there is no problem, else readable text of 8 KiB at most.
    """
    columns: dict[str, pl.Series] = {}
    problems = {row: [why] for row, why in sent.broken.items()}
    for field in fields:
        name = field.column
        columns[name], wrong = _read(field, sent.column(field.names))
        if field.required and columns[name].null_count():
            wrong = dict.fromkeys(_rows(columns[name].is_null()), "missing") | wrong
        for row, why in wrong.items():
            if row not in sent.broken:
                problems.setdefault(row, []).append(f"{name}: {why}")
    at = sorted(problems)
    columns["problem"] = _scattered(sent.height, at, ["; ".join(problems[row]) for row in at])
    columns["raw"] = _scattered(sent.height, at, [readable(text) for text in sent.raw(at)])
    return pl.DataFrame(columns)


def readable(raw: bytes) -> str:
    """What was sent as text that can be stored anywhere: no null bytes, nothing that is not UTF-8, 8 KiB at most."""
    return raw[:_LONGEST_RAW].decode("utf-8", "replace").replace("\0", "\ufffd")


def _scattered(height: int, at: list[int], texts: list[str]) -> pl.Series:
    empty = nulls(height, pl.String())
    return empty.scatter(at, texts) if at else empty


# --- one field ---------------------------------------------------------------------------------

#: The column, null where nothing is sent or nothing readable, and why what is sent is not readable.
_Read = tuple[pl.Series, dict[int, str]]


def _read(field: Field, values: list[Any] | pl.Series) -> _Read:
    if isinstance(values, list):
        return _read_list(field, values)
    found = field.reader.at_once(values)
    if found is None:
        why = f"cannot be read from a column of {values.dtype}"
        return nulls(len(values), field.reader.dtype), dict.fromkeys(_rows(values.is_not_null()), why)
    if found.null_count() == values.null_count():  # nearly always
        return found, {}
    left = _rows(values.is_not_null() & found.is_null())
    some = values.gather(left)
    if some.dtype.is_temporal():  # one that Python has no date for
        some = pl.Series([f"{count} of {some.dtype}" for count in some.to_physical()])
    return _read_each(field, found, left, some.to_list())


def _read_list(field: Field, values: list[Any]) -> _Read:
    types = set(map(type, values)) - {NoneType}
    column = _of_one_type(values, types)
    if column is None and len(types) > 1:
        return _read_by_type(field, values, types)
    found = None if column is None else field.reader.at_once(column)
    if column is None or found is None:
        found = nulls(len(values), field.reader.dtype)
        left = [row for row, value in enumerate(values) if value is not None]
    elif found.null_count() == column.null_count():  # nearly always
        return found, {}
    else:
        left = _rows(column.is_not_null() & found.is_null())
    return _read_each(field, found, left, [values[row] for row in left])


def _read_by_type(field: Field, values: list[Any], types: set[type]) -> _Read:
    """Values of one type are a column again; so a value reads the same, whatever the others are."""
    found = nulls(len(values), field.reader.dtype)
    wrong: dict[int, str] = {}
    for one_type in types:
        rows = [row for row, value in enumerate(values) if type(value) is one_type]
        part, why = _read_list(field, [values[row] for row in rows])
        found = found.scatter(rows, part)
        wrong |= {rows[at]: text for at, text in why.items()}
    return found, wrong


def _read_each(field: Field, found: pl.Series, rows: list[int], values: list[Any]) -> _Read:
    """Fill in what only a closer look can read."""
    read: dict[int, object] = {}
    wrong: dict[int, str] = {}
    for row, value in zip(rows, values, strict=True):
        try:
            read[row] = field.reader.one(value)
        except ValueError as why:
            wrong[row] = f"{why}: {shown(value)}"
    return found.scatter(list(read), pl.Series(list(read.values()), dtype=field.reader.dtype)), wrong


def _of_one_type(values: list[Any], types: set[type]) -> pl.Series | None:
    """A series where they are all text or all numbers, none of them changed by it."""
    if not types:
        return pl.Series(values, dtype=pl.Null)
    if types == {str}:
        return pl.Series(values, dtype=pl.String)
    if types == {int} and all(value is None or value < _INT64_ENDS for value in values):
        return pl.Series(values, dtype=pl.Int64)
    if types == {float}:
        return pl.Series(values, dtype=pl.Float64)
    if types == {float, int}:  # 189 among prices
        column = pl.Series(values, dtype=pl.Float64)
        return column if (column.abs() < _EXACT_INTEGERS).all() else None
    return None


def _rows(mask: pl.Series) -> list[int]:
    return mask.arg_true().to_list()
