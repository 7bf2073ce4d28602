"""The body of `POST /ticks` as a frame: JSON, one JSON object a line, or Arrow.

What cannot be read is a problem of its row, never of the others. A column is read at once; only the rows
where that leaves nothing are looked at one by one.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final

import orjson
import polars as pl

from stockpulse.api import times
from stockpulse.api.arrow_body import read_arrow
from stockpulse.api.errors import shown
from stockpulse.api.limits import MAX_ROWS, too_many_rows
from stockpulse.errors import InvalidInput
from stockpulse.frames import TICKS, UTC_MICROS

#: `frames.TICKS`, why the row is not one (null: it is), and then what was sent (null where it is one).
PARSED_TICKS: Final = pl.Schema({**TICKS, "problem": pl.String(), "raw": pl.String()})

_JSON: Final = ("application/json", "")
_JSON_LINES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")
_ARROW: Final = ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file")

_LONGEST_TEXT: Final = 256
_LONGEST_RAW: Final = 8 * 1024

_INT64_ENDS: Final = 2**63
_EXACT_INTEGERS: Final = 2**53  # below it, a float holds whole numbers exactly

_NUMBER: Final = r"^[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?$"
_NUMBER_PATTERN: Final = re.compile(_NUMBER, re.ASCII)
#: The usual spelling of a time, which Polars reads as we do; the others are for `times.read_time`.
_TIME: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,9})?"
_ZONE: Final = r"(Z|[+-][0-9]{2}:[0-9]{2})$"


def parse_ticks(body: bytes, content_type: str) -> pl.DataFrame:
    """The ticks of a request, in the order sent, in the schema `PARSED_TICKS`.

    Raises InvalidInput where the body as a whole cannot be read, TooLarge where it is too much.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _JSON:
        return _assemble(_read_json(body))
    if media_type in _JSON_LINES:
        return _assemble(_read_json_lines(body))
    if media_type in _ARROW:
        return _assemble(_sent_columns(read_arrow(body, _NAMES)))
    takes = ", ".join((_JSON[0], _JSON_LINES[0], _ARROW[0]))
    raise InvalidInput("Content-Type", f"got {shown(media_type)}; takes {takes}")


# --- the three ways to send rows ---------------------------------------------------------------


@dataclass(frozen=True)
class _Sent:
    """Rows as they were sent."""

    height: int
    #: The values under the first of these names that has one; a list of Python values or a series.
    column: Callable[[Sequence[str]], "list[Any] | pl.Series"]
    #: What was sent as these rows, as JSON.
    raw: Callable[[list[int]], Iterator[bytes]]
    #: Rows that are no objects, and why.
    broken: Mapping[int, str]


def _read_json(body: bytes) -> _Sent:
    _check_amount(body)
    try:
        rows = orjson.loads(body)
    except ValueError as fault:
        raise InvalidInput("body", f"not JSON: {fault}") from None
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise InvalidInput("body", f"takes an array of objects; got {shown(rows)}")
    if len(rows) > MAX_ROWS:
        raise too_many_rows()
    broken = {at: f"not an object: {shown(row)}" for at, row in enumerate(rows) if type(row) is not dict}
    return _sent_objects(rows, broken, lambda at: (_as_json(rows[row]) for row in at))


def _read_json_lines(body: bytes) -> _Sent:
    _check_amount(body)
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) > MAX_ROWS:
        raise too_many_rows()
    rows, broken = [], {}
    for at, line in enumerate(lines):
        try:
            row = orjson.loads(line)
        except ValueError as fault:
            row, broken[at] = None, f"not JSON: {fault}"
        if type(row) is not dict:
            broken.setdefault(at, f"not an object: {shown(row)}")
        rows.append(row)
    return _sent_objects(rows, broken, lambda at: (lines[row] for row in at))


def _check_amount(body: bytes) -> None:
    """What fits into 64 MB of text can take 3 GB as objects: count the characters that make them."""
    containers = body.count(b"{") + body.count(b"[")
    values = body.count(b",") + body.count(b"\n")
    if containers > 10 * MAX_ROWS or values > 50 * MAX_ROWS:
        raise too_many_rows()


def _sent_objects(rows: list[Any], broken: Mapping[int, str], raw: Callable[[list[int]], Iterator[bytes]]) -> _Sent:
    objects = [row if type(row) is dict else {} for row in rows] if broken else rows

    def column(names: Sequence[str]) -> list[Any]:
        values = [row.get(names[0]) for row in objects]
        for name in names[1:]:
            if None not in values:
                break
            values = [row.get(name) if value is None else value for row, value in zip(objects, values, strict=True)]
        return values

    return _Sent(len(rows), column, raw, broken)


def _sent_columns(frame: pl.DataFrame) -> _Sent:
    known = frame.select(name for name in frame.columns if name in _NAMES)

    def column(names: Sequence[str]) -> pl.Series:
        given = [name for name in names if name in known.columns]
        return known[given[0]] if given else _nulls(frame.height, pl.Null())

    def raw(rows: list[int]) -> Iterator[bytes]:
        plain = [_plain(column.gather(rows)).to_list() for column in known]
        values = zip(*plain, strict=True) if plain else ((),) * len(rows)  # rows of nothing that we know
        return (_as_json(dict(zip(known.columns, given, strict=True))) for given in values)

    return _Sent(frame.height, column, raw, {})


# --- columns -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Field:
    """A column of TICKS: what it may be called, and its two ways to be read."""

    names: tuple[str, ...]
    required: bool
    dtype: pl.DataType
    #: A whole column, null where it takes a closer look; None: not a column of such values.
    at_once: Callable[[pl.Series], pl.Series | None]
    #: One value, None where it says nothing; ValueError: why it cannot be read.
    one: Callable[[object], object]


def _assemble(sent: _Sent) -> pl.DataFrame:
    columns: dict[str, pl.Series] = {}
    problems = {row: [why] for row, why in sent.broken.items()}
    for field in _FIELDS:
        name = field.names[0]
        columns[name], wrong = _read(field, sent.column(field.names))
        if field.required:
            wrong = dict.fromkeys(_rows(columns[name].is_null()), "missing") | wrong
        for row, why in wrong.items():
            if row not in sent.broken:
                problems.setdefault(row, []).append(f"{name}: {why}")
    at = sorted(problems)
    raw = [text[:_LONGEST_RAW].decode("utf-8", "replace").replace("\0", "�") for text in sent.raw(at)]
    columns["problem"] = _scattered(sent.height, at, ["; ".join(problems[row]) for row in at])
    columns["raw"] = _scattered(sent.height, at, raw)
    columns["ts"] = columns["ts"].cast(UTC_MICROS)
    return pl.DataFrame(columns, schema=PARSED_TICKS)


def _scattered(height: int, at: list[int], texts: list[str]) -> pl.Series:
    return _nulls(height, pl.String()).scatter(at, texts)


#: The column, null where nothing is sent or nothing readable, and why what is sent is not readable.
_Read = tuple[pl.Series, dict[int, str]]


def _read(field: _Field, values: list[Any] | pl.Series) -> _Read:
    if isinstance(values, list):
        return _read_list(field, values)
    found = field.at_once(values)
    if found is None:
        why = f"cannot be read from a column of {values.dtype}"
        return _nulls(len(values), field.dtype), dict.fromkeys(_rows(values.is_not_null()), why)
    left = _rows(values.is_not_null() & found.is_null())
    some = values.gather(left)
    if some.dtype.is_temporal():  # one that Python has no date for
        some = pl.Series([f"{count} of {some.dtype}" for count in some.to_physical()])
    return _read_each(field, found, left, some.to_list())


def _read_list(field: _Field, values: list[Any]) -> _Read:
    types = set(map(type, values)) - {NoneType}
    column = _of_one_type(values, types)
    if column is None and len(types) > 1:
        return _read_by_type(field, values, types)
    found = None if column is None else field.at_once(column)
    if column is None or found is None:
        found = _nulls(len(values), field.dtype)
        left = [row for row, value in enumerate(values) if value is not None]
    else:
        left = _rows(column.is_not_null() & found.is_null())
    return _read_each(field, found, left, [values[row] for row in left])


def _read_by_type(field: _Field, values: list[Any], types: set[type]) -> _Read:
    """Values of one type are a column again; so a value reads the same, whatever the others are."""
    found = _nulls(len(values), field.dtype)
    wrong: dict[int, str] = {}
    for one_type in types:
        rows = [row for row, value in enumerate(values) if type(value) is one_type]
        part, why = _read_list(field, [values[row] for row in rows])
        found = found.scatter(rows, part)
        wrong |= {rows[at]: text for at, text in why.items()}
    return found, wrong


def _read_each(field: _Field, found: pl.Series, rows: list[int], values: list[Any]) -> _Read:
    """Fill in what only a closer look can read."""
    read: dict[int, object] = {}
    wrong: dict[int, str] = {}
    for row, value in zip(rows, values, strict=True):
        try:
            read[row] = field.one(value)
        except ValueError as why:
            wrong[row] = f"{why}: {shown(value)}"
    return found.scatter(list(read), pl.Series(list(read.values()), dtype=field.dtype)), wrong


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


def _nulls(height: int, dtype: pl.DataType) -> pl.Series:
    return pl.repeat(None, height, dtype=dtype, eager=True)


# --- text ----------------------------------------------------------------------------------------


def _text_column(column: pl.Series) -> pl.Series | None:
    if column.dtype in (pl.Null, pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        return None
    closer_look = (column.str.len_bytes() > _LONGEST_TEXT) | column.str.contains("\0", literal=True)
    return _null_where(closer_look | (column == ""), column)


def _id_column(column: pl.Series) -> pl.Series | None:
    return column.cast(pl.String) if column.dtype.is_integer() else _text_column(column)


def _codes_column(column: pl.Series) -> pl.Series | None:
    if not isinstance(column.dtype, pl.List):
        return _text_column(column)
    if column.dtype.inner not in (pl.String, pl.Null, pl.Categorical, pl.Enum):
        return None
    return _text_column(column.cast(pl.List(pl.String)).list.join(",", ignore_nulls=False))


def _one_text(value: object) -> str | None:
    if not isinstance(value, str):
        raise ValueError("not text")  # noqa: TRY004  # the caller's value, not a type of ours
    if len(value) > _LONGEST_TEXT:
        raise ValueError(f"longer than {_LONGEST_TEXT} characters")
    if "\0" in value:
        raise ValueError("has a null byte")
    return value or None  # "" says nothing


def _one_id(value: object) -> str | None:
    return str(value) if type(value) is int else _one_text(value)


def _one_or_more_codes(value: object) -> str | None:
    if not isinstance(value, list):
        return _one_text(value)
    try:
        return _one_text(",".join(value))
    except TypeError:
        raise ValueError("not a list of text") from None


# --- numbers and times -------------------------------------------------------------------------


def _number_column(column: pl.Series) -> pl.Series | None:
    if column.dtype == pl.Null or column.dtype.is_numeric():
        return column.cast(pl.Float64, strict=False)
    if column.dtype != pl.String:
        return None
    numbers = _null_where(~column.str.contains(_NUMBER), column).cast(pl.Float64, strict=False)
    return _null_where(~numbers.is_finite(), numbers)


def _one_number(value: object) -> float:
    if type(value) in (int, float) or (isinstance(value, str) and _NUMBER_PATTERN.match(value)):
        number = float(value)  # type: ignore[arg-type]
        if math.isfinite(number):
            return number
    raise ValueError("not a number")


def _time_column(column: pl.Series) -> pl.Series | None:
    """Microseconds since 1970."""
    if column.dtype == pl.String:
        micros = _micros_of_text(column)
    elif column.dtype == pl.Null or column.dtype.is_integer():
        micros = _micros_of_epoch(column.cast(pl.Int64, strict=False))
    elif column.dtype.is_float():
        micros = _micros_of_epoch(column.cast(pl.Float64))
    elif isinstance(column.dtype, pl.Date | pl.Datetime):
        micros = _micros_of_temporal(column)
    else:
        return None
    return _null_where(~micros.is_between(times.EARLIEST, times.LATEST), micros)


def _one_time(value: object) -> int:
    text = value if isinstance(value, str) else repr(value) if type(value) in (int, float) else ""
    moment = times.read_time(text)
    if moment is None:
        raise ValueError("not a time in the years 1970 to 2200")
    return times.micros(moment)


def _micros_of_text(column: pl.Series) -> pl.Series:
    """What is spelled in the usual way; null for the others."""
    micros = _parsed(column, _TIME + _ZONE, "%Y-%m-%dT%H:%M:%S%.f%#z")
    if micros.null_count() == column.null_count():
        return micros
    naive = _parsed(column, _TIME + "$", "%Y-%m-%dT%H:%M:%S%.f")
    return micros.zip_with(micros.is_not_null(), naive)


def _parsed(column: pl.Series, pattern: str, layout: str) -> pl.Series:
    usual = _null_where(~column.str.contains(pattern), column)
    return usual.str.to_datetime(layout, time_unit="us", strict=False).to_physical()


def _micros_of_epoch(column: pl.Series) -> pl.Series:
    """The unit is told by the size, as in `times`; floats are rounded, they do not hold more."""
    at = pl.col("at").clip(lower_bound=-1)  # before 1970 is out of range by how much so ever
    micros = (
        pl.when(at < times.SECONDS_BELOW)
        .then(at * 1_000_000)
        .when(at < times.MILLIS_BELOW)
        .then(at * 1_000)
        .when(at < times.MICROS_BELOW)
        .then(at)
        .otherwise(at // 1_000)
    )
    micros = micros.round() if column.dtype.is_float() else micros
    return pl.DataFrame({"at": column}).select(micros.cast(pl.Int64, strict=False)).to_series()


def _micros_of_temporal(column: pl.Series) -> pl.Series:
    """In Arrow a time is a number too, and may be one whose microseconds have no 64 bits."""
    unit = column.dtype.time_unit if isinstance(column.dtype, pl.Datetime) else "days"
    counts = column.to_physical().cast(pl.Int64)
    if unit == "ns":
        return counts // 1_000
    micros = {"us": 1, "ms": 1_000, "days": 86_400_000_000}[unit]
    return counts.clip(-1, times.LATEST // micros + 1) * micros


def _null_where(mask: pl.Series, column: pl.Series) -> pl.Series:
    if not mask.any():  # nearly always
        return column
    return column.zip_with(~mask, _nulls(len(column), column.dtype))


_FIELDS: Final = (
    _Field(("symbol",), True, pl.String(), _text_column, _one_text),
    _Field(("ts", "timestamp", "event_time", "time"), True, pl.Int64(), _time_column, _one_time),
    _Field(("price",), True, pl.Float64(), _number_column, _one_number),
    _Field(("size", "volume"), True, pl.Float64(), _number_column, _one_number),
    _Field(("exchange",), False, pl.String(), _text_column, _one_text),
    _Field(("trade_id",), False, pl.String(), _id_column, _one_id),
    _Field(("conditions",), False, pl.String(), _codes_column, _one_or_more_codes),
)
_NAMES: Final = frozenset(name for field in _FIELDS for name in field.names)


# --- what was sent, for the dead letters -------------------------------------------------------


def _as_json(row: object) -> bytes:
    try:
        return orjson.dumps(row, default=str)
    except TypeError:  # nested deeper, or an integer longer, than it writes
        return orjson.dumps(shown(row))


def _plain(column: pl.Series) -> pl.Series:
    """A column that Python has values for: times as the numbers that they are."""
    dtype = column.dtype
    if dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Null, pl.Categorical, pl.Enum):
        return column
    if isinstance(dtype, pl.List) and dtype.inner in (pl.String, pl.Categorical, pl.Enum):
        return column
    if dtype.is_temporal():
        return column.to_physical()
    return pl.repeat(f"a value of {dtype}", len(column), eager=True).alias(column.name)
