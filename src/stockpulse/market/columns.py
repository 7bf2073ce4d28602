"""Readers for fields from outside: text, numbers, times. POST, files, Kafka and dead letters all use these.

A reader has two ways: `at_once` converts a whole column, with null for values that it cannot convert, and `one`
converts a single value or gives the reason why it cannot. If both give a value, the values are equal.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
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

_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK: Final = r"[0-9]{2}:[0-9]{2}"
_SECONDS: Final = rf"^{_DATE}T{_CLOCK}:[0-5][0-9]"
_FRACTION: Final = r"\.[0-9]{1,9}"
#: The formats of a time that Polars parses as `times.read_time` does.
_SPELLINGS: Final = (
    (rf"{_SECONDS}\.[0-9]{{6}}Z$", "%Y-%m-%dT%H:%M:%S.%6fZ"),  # ours: six times as fast as the next
    (rf"{_SECONDS}({_FRACTION})?(Z|[+-]{_CLOCK})$", "%Y-%m-%dT%H:%M:%S%.f%#z"),
    (rf"{_SECONDS}({_FRACTION})?$", "%Y-%m-%dT%H:%M:%S%.f"),
)
#: Further formats, which are rewritten to the format before: a space for the T, no seconds, no clock, an offset as
#: -0500 or -05.
_LOOSE: Final = (
    rf"^(?<date>{_DATE})([Tt ](?<clock>{_CLOCK})(?<seconds>:[0-5][0-9]([.,][0-9]{{1,9}})?)?"
    r" ?(([Zz])|(?<hours>[+-][0-9]{2}):?(?<minutes>[0-9]{2})?)?)?$"
)
_WHOLE_NUMBER: Final = r"^[0-9]{1,18}$"
_SECONDS_AND_FRACTION: Final = r"^(?<whole>[0-9]{9,10})\.(?<fraction>[0-9]{1,18})$"


@dataclass(frozen=True)
class Reader:
    """The type of a field and the two ways to read it."""

    dtype: pl.DataType
    #: Converts a column, leaving null what needs `one`. Returns None for a column of a type that never fits.
    at_once: Callable[[pl.Series], pl.Series | None]
    #: Converts one value; an empty text becomes None. Raises ValueError with the reason.
    one: Callable[[object], object]
    takes: str
    """The values that it takes, for messages."""


def nulls(height: int, dtype: pl.DataType) -> pl.Series:
    """Return a column of nulls."""
    return pl.repeat(None, height, dtype=dtype, eager=True)


def null_where(mask: pl.Series, column: pl.Series) -> pl.Series:
    """Return the column with nulls where the mask is true."""
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
    return value or None  # "" means unknown


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
    column = column.str.strip_chars()
    numbers = null_where(~column.str.contains(_NUMBER), column).cast(pl.Float64, strict=False)
    return null_where(~numbers.is_finite(), numbers)


def _one_number(value: object) -> float:
    if type(value) in (int, float) or (isinstance(value, str) and _NUMBER_PATTERN.match(value.strip())):
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
    if type(value) in (int, float):
        value = format(Decimal(repr(value)), "f")  # and not 1e+17
    moment = times.read_time(value) if isinstance(value, str) else None
    if moment is None:
        raise ValueError("not a time in the years 1970 to 2200")
    return moment


def _micros_of_text(column: pl.Series) -> pl.Series:
    """Return the microseconds of times whose format can be parsed in columns; null for other times."""
    micros = nulls(len(column), pl.Int64())
    for read in (_micros_of_usual, _micros_of_loose, _micros_of_digits):
        found = read(null_where(micros.is_not_null(), column))
        if found.null_count() == column.null_count():
            return found
        micros = micros.zip_with(micros.is_not_null(), found)
        if micros.null_count() == column.null_count():
            break
    return micros


def _micros_of_usual(column: pl.Series) -> pl.Series:
    micros = nulls(len(column), pl.Int64())
    for pattern, layout in _SPELLINGS:
        usual = null_where(~column.str.contains(pattern), column)
        found = usual.str.to_datetime(layout, time_unit="us", strict=False, cache=False).to_physical()
        if found.null_count() == column.null_count():
            return found
        micros = micros.zip_with(micros.is_not_null(), found)
    return micros


def _micros_of_loose(column: pl.Series) -> pl.Series:
    parts = column.str.strip_chars().str.extract_groups(_LOOSE).struct.unnest()
    seconds = pl.col("seconds").str.replace(",", ".", literal=True).fill_null(":00")
    offset = (pl.col("hours") + ":" + pl.col("minutes").fill_null("00")).fill_null("+00:00")
    usual = pl.col("date") + "T" + pl.col("clock").fill_null("00:00") + seconds + offset
    return _micros_of_usual(parts.select(usual).to_series())


def _micros_of_digits(column: pl.Series) -> pl.Series:
    """Return numbers that arrived as text, exactly: a float would round the digits that are cut here."""
    text = column.str.strip_chars()
    whole = _micros_of_epoch(null_where(~text.str.contains(_WHOLE_NUMBER), text).cast(pl.Int64))
    if whole.null_count() == column.null_count():
        return whole
    parts = text.str.extract_groups(_SECONDS_AND_FRACTION).struct.unnest()
    fraction = pl.col("fraction").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64)
    exact = parts.select(pl.col("whole").cast(pl.Int64) * times.SECOND_MICROS + fraction).to_series()
    return whole.zip_with(whole.is_not_null(), exact)


def _micros_of_epoch(column: pl.Series) -> pl.Series:
    """Return times from numbers whose size determines their unit, as in `times`; floats round to a microsecond."""
    at = pl.col("at").clip(lower_bound=-1)  # any time before 1970 is out of range
    micros = (
        pl.when(at < times.SECONDS_BELOW)
        .then(at * times.SECOND_MICROS)
        .when(at < times.MILLIS_BELOW)
        .then(at * 1_000)
        .when(at < times.MICROS_BELOW)
        .then(at)
        .otherwise(at // 1_000)
    )
    micros = micros.round() if column.dtype.is_float() else micros
    frame = pl.DataFrame({"at": column})
    found = frame.select(micros.cast(pl.Int64, strict=False)).to_series()
    if frame.select(_is_date(pl.col("at")).any()).item():
        dates = pl.col("at").cast(pl.Int64, strict=False).cast(pl.String).str.to_date("%Y%m%d", strict=False)
        as_dates = frame.select(dates.cast(pl.Int64) * times.DAY_MICROS).to_series()
        found = found.zip_with(~frame.select(_is_date(pl.col("at")).fill_null(value=False)).to_series(), as_dates)
    return found


def _is_date(numbers: pl.Expr) -> pl.Expr:
    return numbers.is_between(times.FIRST_DATE, times.LAST_DATE) & (numbers == numbers.floor())


def _micros_of_temporal(column: pl.Series) -> pl.Series:
    """Return times of Arrow, which are numbers and may be too large for 64 bits of microseconds."""
    unit = column.dtype.time_unit if isinstance(column.dtype, pl.Datetime) else "days"
    counts = column.to_physical().cast(pl.Int64)
    if unit == "ns":
        return counts // 1_000
    micros = {"us": 1, "ms": 1_000, "days": times.DAY_MICROS}[unit]
    return counts.clip(-1, times.LATEST // micros + 1) * micros


TEXT: Final = Reader(pl.String(), _text_column, _one_text, "text")
IDENTIFIER: Final = Reader(pl.String(), _id_column, _one_id, "text or whole numbers")
CODES: Final = Reader(pl.String(), _codes_column, _one_or_more_codes, "text or lists of text")
"""Text, or a list of it, which becomes one text joined by commas."""
NUMBER: Final = Reader(pl.Float64(), _number_column, _one_number, "numbers")
WHOLE: Final = Reader(pl.Int64(), _whole_column, _one_whole, "whole numbers")
FLAG: Final = Reader(pl.Boolean(), _flag_column, _one_flag, "true and false")
TIME: Final = Reader(UTC_MICROS, _time_column, _one_time, "times, RFC 3339 text or seconds, ms, µs or ns since 1970")
