"""Turns rows from outside, as objects or as columns, into frames.

A value that cannot be read makes a problem of its row and of no other. Columns are converted at once; only the values
that remain are converted one by one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Final

import orjson
import polars as pl

from stockpulse.errors import shown
from stockpulse.market.columns import CODES, IDENTIFIER, NUMBER, TEXT, TIME, Reader, null_where, nulls
from stockpulse.market.schemas import TICKS
from stockpulse.market.times import DAY_MICROS, LATEST

_INT64_ENDS: Final = 2**63
_EXACT_INTEGERS: Final = 2**53  # below it, a float holds whole numbers exactly
LONGEST_RECORD: Final = 8 * 1024
"""The most bytes of a rejected record that could not be read."""
_LONGEST_READABLE: Final = 300
"""A longer text is no value of any field."""
CUT: Final = "…(cut)"
"""The end of a text that was cut. No valid value contains it."""
LONGEST_VALUE: Final = 100
"""The most characters of a text value that a rejected record keeps; every valid value is shorter."""


@dataclass(frozen=True)
class Field:
    """A column of the frame, its reader, and the names that it may be sent under: the first one with a value counts."""

    column: str
    reader: Reader
    required: bool = False
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the most important one first."""
        return (self.column, *self.also)


#: The columns of TICKS as others send them, in that order.
TICK_FIELDS: Final = (
    Field("symbol", TEXT, required=True),
    Field("ts", TIME, required=True, also=("timestamp", "event_time", "time")),
    Field("price", NUMBER, required=True),
    Field("size", NUMBER, required=True, also=("volume",)),
    Field("exchange", TEXT),
    Field("trade_id", IDENTIFIER),
    Field("tape", TEXT),
    Field("conditions", CODES),
)

_OF_TICK: Final = {one.column: one for one in TICK_FIELDS}

#: The columns of CORRECTIONS as others send them.
CORRECTION_FIELDS: Final = (
    _OF_TICK["symbol"],
    replace(_OF_TICK["trade_id"], required=True),
    _OF_TICK["ts"],
    _OF_TICK["exchange"],
    *(replace(_OF_TICK[name], required=False) for name in ("price", "size")),
    *(_OF_TICK[name] for name in ("conditions", "tape")),
    replace(_OF_TICK["trade_id"], column="new_trade_id"),
)

#: TICKS after reading. If a row is not a tick, `problem` is the reason and `raw` its original text; else they are null.
PARSED_TICKS: Final = pl.Schema({**TICKS, "problem": pl.String(), "raw": pl.String()})


Values = list[Any] | pl.Series


@dataclass(frozen=True)
class Sent:
    """Rows as they were sent."""

    height: int
    #: Returns the values under each of these names that was sent, in this order; at least one column.
    columns: Callable[[Sequence[str]], Sequence[Values]]
    #: Returns the rows at these places as they were sent.
    raw: Callable[[list[int]], Iterable[bytes]]
    #: The rows that are not objects, and the reasons.
    broken: Mapping[int, str]


def sent_objects(rows: list[Any], broken: Mapping[int, str], raw: Callable[[list[int]], Iterable[bytes]]) -> Sent:
    """Return rows that came as Python values; `broken` has the reason of each that is not a dict."""
    objects = [row if type(row) is dict else {} for row in rows] if broken else rows

    def columns(names: Sequence[str]) -> list[Values]:
        values = [row.get(names[0]) for row in objects]
        for name in names[1:]:
            if None not in values:
                break
            values = [row.get(name) if value is None else value for row, value in zip(objects, values, strict=True)]
        return [values]

    return Sent(len(rows), columns, raw, broken)


def sent_columns(frame: pl.DataFrame, height: int, raw: Callable[[list[int]], Iterable[bytes]] | None = None) -> Sent:
    """Return rows that came as columns. `height` is their number, since there may be no column at all.

    Without `raw`, a row is shown as a JSON object of its columns.
    """

    def columns(names: Sequence[str]) -> list[Values]:
        return [frame[name] for name in names if name in frame.columns] or [nulls(height, pl.Null())]

    return Sent(height, columns, raw or (lambda at: _rows_as_json(frame, at)), {})


def _rows_as_json(frame: pl.DataFrame, at: list[int]) -> Iterator[bytes]:
    plain = [_plain(column.gather(at)) for column in frame]
    lists = [(cut(one, LONGEST_VALUE) if one.dtype == pl.String else one).to_list() for one in plain]
    values = zip(*lists, strict=True) if lists else ((),) * len(at)
    return (as_json(dict(zip(frame.columns, row, strict=True))) for row in values)


def as_json(row: object) -> bytes:
    """Return a row of any types as JSON, for messages and dead letters."""
    try:
        return orjson.dumps(row, default=str)
    except TypeError:  # nested deeper, or an integer longer, than it writes
        return orjson.dumps(shown(row))


def _plain(column: pl.Series) -> pl.Series:
    """Return a column of values that Python has: dates as text, other times as the numbers that they are."""
    dtype = column.dtype
    if dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Null, pl.Categorical, pl.Enum):
        return column
    if isinstance(dtype, pl.List) and dtype.inner in (pl.String, pl.Categorical, pl.Enum):
        return column
    if dtype == pl.Date:
        days = column.to_physical()
        readable_days = days.is_between(0, LATEST // DAY_MICROS)  # Polars panics at years of six digits
        return null_where(~readable_days, column).cast(pl.String).zip_with(readable_days, days.cast(pl.String))
    if dtype.is_temporal():
        return column.to_physical()
    return pl.repeat(f"a value of {dtype}", len(column), eager=True).alias(column.name)


def assemble(sent: Sent, fields: Sequence[Field]) -> pl.DataFrame:
    """Return the columns of the fields, then `problem` and `raw`, both null for a row without a problem.

    `raw` is the original row, as readable text of at most 8 KiB.
    """
    columns: dict[str, pl.Series] = {}
    problems = {row: [why] for row, why in sent.broken.items()}
    for field in fields:
        name = field.column
        columns[name], wrong = _read_first(field, sent.columns(field.names))
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
    """Return bytes as text that can be stored anywhere: valid UTF-8 without null bytes, 8 KiB at most."""
    kept = raw if len(raw) <= LONGEST_RECORD else raw[: LONGEST_RECORD - len(CUT)]
    text = kept.decode("utf-8", "replace").replace("\0", "\ufffd")
    return text if kept is raw else text + CUT


def cut(texts: pl.Series, length: int) -> pl.Series:
    """Return texts of at most `length` characters, with `CUT` at the end of those that were longer."""
    long = texts.str.len_chars() > length
    if not long.any():
        return texts
    return texts.zip_with(~long.fill_null(value=False), texts.str.slice(0, length - len(CUT)) + CUT)


def _scattered(height: int, at: list[int], texts: list[str]) -> pl.Series:
    empty = nulls(height, pl.String())
    return empty.scatter(at, texts) if at else empty


# --- one field ---------------------------------------------------------------------------------

#: The column, null where nothing was sent or it is not readable, and the reasons of the latter by row.
_Read = tuple[pl.Series, dict[int, str]]


def _read_first(field: Field, columns: Sequence[Values]) -> _Read:
    """Read each row from the first column that has a value for it."""
    values, *others = columns
    found, wrong = _read(field, values)
    for other in others:
        left = [row for row in _rows(found.is_null()) if row not in wrong]
        if not left:
            break
        part, why = _read(field, other.gather(left) if isinstance(other, pl.Series) else [other[row] for row in left])
        found = found.scatter(left, part)
        wrong |= {left[at]: text for at, text in why.items()}
    return found, wrong


def _read(field: Field, values: Values) -> _Read:
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
    if some.dtype == pl.String:
        some = some.str.slice(0, _LONGEST_READABLE)  # Python's copies of long texts would take much memory
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
    """Read the values of each type as a column, so that the result for a value does not depend on the other values."""
    found = nulls(len(values), field.reader.dtype)
    wrong: dict[int, str] = {}
    for one_type in types:
        rows = [row for row, value in enumerate(values) if type(value) is one_type]
        part, why = _read_list(field, [values[row] for row in rows])
        found = found.scatter(rows, part)
        wrong |= {rows[at]: text for at, text in why.items()}
    return found, wrong


def _read_each(field: Field, found: pl.Series, rows: list[int], values: list[Any]) -> _Read:
    """Fill in the values at `rows`, converted one by one."""
    read: dict[int, object] = {}
    wrong: dict[int, str] = {}
    wrong_texts: dict[str, str] = {}  # many rows may have the same
    for row, value in zip(rows, values, strict=True):
        if type(value) is str and value in wrong_texts:
            wrong[row] = wrong_texts[value]
            continue
        try:
            read[row] = field.reader.one(value)
        except ValueError as why:
            wrong[row] = f"{why}: {shown(value)}"
            if type(value) is str:
                wrong_texts[value] = wrong[row]
    return found.scatter(list(read), pl.Series(list(read.values()), dtype=field.reader.dtype)), wrong


def _of_one_type(values: list[Any], types: set[type]) -> pl.Series | None:
    """Return a series if all values are text or all are numbers, and none changes by it."""
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
