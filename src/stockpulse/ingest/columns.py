"""How what was sent in one field is read: a whole column at once, or one value with a closer look.

Both say the same. A column leaves null what it cannot tell at a glance; only that is looked at one by one.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.market import times
from stockpulse.market.schemas import UTC_MICROS

_LONGEST_TEXT: Final = 256
_INT64_ENDS: Final = 2**63
_EXACT_INTEGERS: Final = 2**53  # below it, a float holds whole numbers exactly

_NUMBER: Final = r"^[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?$"
_NUMBER_PATTERN: Final = re.compile(_NUMBER, re.ASCII)
_WHOLE: Final = r"^[+-]?[0-9]{1,18}$"
_WHOLE_PATTERN: Final = re.compile(_WHOLE)

#: The usual spellings of a time, which Polars reads as we do; the others are for `times.read_time`.
_SECONDS: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9]"
_SPELLINGS: Final = (
    (_SECONDS + r"\.[0-9]{6}Z$", "%Y-%m-%dT%H:%M:%S.%6fZ"),  # ours: six times as fast as the next
    (_SECONDS + r"(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$", "%Y-%m-%dT%H:%M:%S%.f%#z"),
    (_SECONDS + r"(\.[0-9]{1,9})?$", "%Y-%m-%dT%H:%M:%S%.f"),
)


@dataclass(frozen=True)
class Reader:
    """What a field holds, and its two ways to be read."""

    dtype: pl.DataType
    #: A whole column, null where it takes a closer look; None: not a column of such values.
    at_once: Callable[[pl.Series], pl.Series | None]
    #: One value, None where it says nothing; ValueError: why it cannot be read.
    one: Callable[[object], object]


def nulls(height: int, dtype: pl.DataType) -> pl.Series:
    """A column of nulls."""
    return pl.repeat(None, height, dtype=dtype, eager=True)


def null_where(mask: pl.Series, column: pl.Series) -> pl.Series:
    """The column without the values under the mask."""
    if not mask.any():  # nearly always
        return column
    return column.zip_with(~mask, nulls(len(column), column.dtype))


# --- text ----------------------------------------------------------------------------------------


def _text_column(column: pl.Series) -> pl.Series | None:
    if column.dtype in (pl.Null, pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        return None
    closer_look = (column.str.len_bytes() > _LONGEST_TEXT) | column.str.contains("\0", literal=True)
    return null_where(closer_look | (column == ""), column)


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


# --- numbers -----------------------------------------------------------------------------------


def _number_column(column: pl.Series) -> pl.Series | None:
    if column.dtype == pl.Null or column.dtype.is_numeric():
        return column.cast(pl.Float64, strict=False)
    if column.dtype != pl.String:
        return None
    numbers = null_where(~column.str.contains(_NUMBER), column).cast(pl.Float64, strict=False)
    return null_where(~numbers.is_finite(), numbers)


def _one_number(value: object) -> float:
    if type(value) in (int, float) or (isinstance(value, str) and _NUMBER_PATTERN.match(value)):
        number = float(value)  # type: ignore[arg-type]
        if math.isfinite(number):
            return number
    raise ValueError("not a number")


def _whole_column(column: pl.Series) -> pl.Series | None:
    if column.dtype.is_integer() or column.dtype == pl.Null:
        return column.cast(pl.Int64, strict=False)
    if column.dtype.is_float():
        exact = (column.floor() == column) & (column.abs() < _EXACT_INTEGERS)
        return null_where(~exact, column).cast(pl.Int64, strict=False)
    if column.dtype != pl.String:
        return None
    return null_where(~column.str.contains(_WHOLE), column).cast(pl.Int64, strict=False)


def _one_whole(value: object) -> int:
    if isinstance(value, str) and _WHOLE_PATTERN.fullmatch(value):
        return int(value)
    if type(value) is float and value.is_integer() and abs(value) < _EXACT_INTEGERS:
        return int(value)
    if type(value) is int and -_INT64_ENDS <= value < _INT64_ENDS:
        return value
    raise ValueError("not a whole number")


def _flag_column(column: pl.Series) -> pl.Series | None:
    return column.cast(pl.Boolean) if column.dtype in (pl.Boolean, pl.Null) else None


def _one_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("not true or false")


# --- times ---------------------------------------------------------------------------------------


def _time_column(column: pl.Series) -> pl.Series | None:
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
    return null_where(~micros.is_between(times.EARLIEST, times.LATEST), micros).cast(UTC_MICROS)


def _one_time(value: object) -> datetime:
    text = value if isinstance(value, str) else repr(value) if type(value) in (int, float) else ""
    moment = times.read_time(text)
    if moment is None:
        raise ValueError("not a time in the years 1970 to 2200")
    return moment


def _micros_of_text(column: pl.Series) -> pl.Series:
    """What is spelled in a usual way; null for the others."""
    micros = nulls(len(column), pl.Int64())
    for pattern, layout in _SPELLINGS:
        usual = null_where(~column.str.contains(pattern), column)
        found = usual.str.to_datetime(layout, time_unit="us", strict=False, cache=False).to_physical()
        if found.null_count() == column.null_count():
            return found
        micros = micros.zip_with(micros.is_not_null(), found)
    return micros


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


TEXT: Final = Reader(pl.String(), _text_column, _one_text)
IDENTIFIER: Final = Reader(pl.String(), _id_column, _one_id)
"""Text, or a number that is one."""
CODES: Final = Reader(pl.String(), _codes_column, _one_or_more_codes)
"""Text, or a list of it, which becomes one text joined by commas."""
NUMBER: Final = Reader(pl.Float64(), _number_column, _one_number)
WHOLE: Final = Reader(pl.Int64(), _whole_column, _one_whole)
FLAG: Final = Reader(pl.Boolean(), _flag_column, _one_flag)
TIME: Final = Reader(UTC_MICROS, _time_column, _one_time)
