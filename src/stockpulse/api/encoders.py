"""Rows as bytes: JSON, CSV, an Arrow stream or Parquet.

Each format is an `Encoder`: a head, the rows of any number of frames, a tail. So an answer of any length leaves in
pieces.
"""

import math
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from io import BytesIO
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import polars as pl

from stockpulse.api.parquet_stream import ParquetStream

_EXACT_INTEGERS: Final = 2**53  # floats below it hold whole numbers exactly
#: For up to this many rows, going value by value is faster than expressions.
_FEW_ROWS: Final = 100
_UTC: Final = ZoneInfo("UTC")
#: The approximate number of values (rows x columns) in a row group of Parquet.
GROUP_CELLS: Final = 500_000


class Format(StrEnum):
    """The formats of an answer, the preferred one first."""

    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


MEDIA_TYPES: Final = {
    Format.JSON: "application/json",
    Format.CSV: "text/csv",
    Format.ARROW: "application/vnd.apache.arrow.stream",
    Format.PARQUET: "application/vnd.apache.parquet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of an answer, and the JSON fields around them: `{**header_fields, key: [rows], **footer_fields()}`."""

    chunks: AsyncIterator[pl.DataFrame]
    schema: pl.Schema  # an answer without rows has columns too
    key: str
    header_fields: Mapping[str, Any] = field(default_factory=dict)
    footer_fields: Callable[[], Mapping[str, Any]] = dict  # called after the last row
    filename: str = "stockpulse"  # without its ending


class Encoder(Protocol):
    """One format for the rows of one answer."""

    def head(self) -> bytes:
        """Return the bytes before the rows."""

    def rows(self, frame: pl.DataFrame) -> bytes:
        """Return the bytes of some rows; the answer has them in the order of the calls."""

    def tail(self) -> bytes:
        """Return the bytes after the rows."""


def json_rows(frame: pl.DataFrame, zone: ZoneInfo | None = None) -> bytes:
    """Return a JSON array of objects; `orjson.Fragment(json_rows(frame))` embeds it into a larger value."""
    if frame.height <= _FEW_ROWS:
        columns = [_json_values(column, zone) for column in frame]
        return orjson.dumps([dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)])
    frame = frame.select(_as_text(frame.schema, zone))
    # A volume is a float that counts: 8341, not 8341.0.
    frame = frame.with_columns(column.cast(pl.Int64) for column in frame if _is_whole(column))
    buffer = BytesIO()
    frame.write_json(buffer)
    return buffer.getvalue()


def _json_values(column: pl.Series, zone: ZoneInfo | None) -> list[Any]:
    """Return the values of one column, the same as the expressions of `_as_text` give."""
    values = column.to_list()
    if isinstance(column.dtype, pl.Datetime):
        return [None if moment is None else _rfc_3339(moment, zone or _UTC) for moment in values]
    if not column.dtype.is_float():
        return values
    values = [value if value is None or math.isfinite(value) else None for value in values]
    if all(value is None or (abs(value) < _EXACT_INTEGERS and value.is_integer()) for value in values):
        return [None if value is None else int(value) for value in values]
    return values


def _rfc_3339(moment: datetime, zone: ZoneInfo) -> str:
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(zone)
    precision = "microseconds" if moment.microsecond % 1000 else "milliseconds" if moment.microsecond else "seconds"
    text = moment.isoformat(timespec=precision)
    return text.removesuffix("+00:00") + "Z" if zone.key == "UTC" else text


class _Json:
    def __init__(self, rows: Rows, zone: ZoneInfo | None) -> None:
        self._answer = rows
        self._zone = zone
        self._comma = b""

    def head(self) -> bytes:
        header = _members(self._answer.header_fields)
        return b"{" + header + (b"," if header else b"") + orjson.dumps(self._answer.key) + b":["

    def rows(self, frame: pl.DataFrame) -> bytes:
        comma, self._comma = self._comma, b","
        names = self._answer.schema.names()
        frame = frame if frame.columns == names else frame.select(names)
        return comma + json_rows(frame, self._zone)[1:-1]

    def tail(self) -> bytes:
        footer = _members(self._answer.footer_fields())
        return b"]" + (b"," if footer else b"") + footer + b"}"


class _Csv:
    def __init__(self, rows: Rows, zone: ZoneInfo | None) -> None:
        self._names = rows.schema.names()
        self._columns = _as_text(rows.schema, zone)

    def head(self) -> bytes:
        return pl.DataFrame(schema=self._names).write_csv().encode()

    def rows(self, frame: pl.DataFrame) -> bytes:
        return frame.select(self._columns).write_csv(include_header=False).encode()

    def tail(self) -> bytes:
        return b""


class _Arrow:
    """Polars writes whole streams: schema, batches, end. Their batches, joined, are one stream.

    A message is 0xFFFFFFFF, the length of its metadata, the metadata, the body; a schema has no body,
    the end is a length of 0.
    """

    _END: Final = struct.pack("<Ii", 0xFFFFFFFF, 0)

    def __init__(self, rows: Rows, zone: ZoneInfo | None) -> None:
        self._empty = rows.schema.to_frame()
        self._columns = _typed(rows.schema, zone)

    def head(self) -> bytes:
        return self._parts(self._empty)[0]

    def rows(self, frame: pl.DataFrame) -> bytes:
        return self._parts(frame)[1]

    def tail(self) -> bytes:
        return self._END

    def _parts(self, frame: pl.DataFrame) -> tuple[bytes, bytes]:
        """Return the schema message and the batches."""
        buffer = BytesIO()
        # The oldest types: not every reader knows string views.
        oldest = pl.CompatLevel.oldest()
        frame.select(self._columns).write_ipc_stream(buffer, compat_level=oldest)
        stream = buffer.getvalue()
        (metadata_bytes,) = struct.unpack_from("<i", stream, 4)
        return stream[: 8 + metadata_bytes], stream[8 + metadata_bytes : -len(self._END)]


class _Parquet:
    """Frames are joined until they are worth a row group: each one adds to the index at the end of the file."""

    def __init__(self, rows: Rows, zone: ZoneInfo | None) -> None:
        self._columns = _typed(rows.schema, zone)
        self._stream = ParquetStream(rows.schema.to_frame().select(self._columns))
        self._frames: list[pl.DataFrame] = []
        self._cells = 0

    def head(self) -> bytes:
        return self._stream.head()

    def rows(self, frame: pl.DataFrame) -> bytes:
        self._frames.append(frame.select(self._columns))
        self._cells += frame.height * frame.width
        return self._group() if self._cells >= GROUP_CELLS else b""

    def tail(self) -> bytes:
        last = self._group() if self._cells else b""
        return last + self._stream.tail()

    def _group(self) -> bytes:
        frame = pl.concat(self._frames)
        self._frames, self._cells = [], 0
        return self._stream.part(frame)


def encoder(rows: Rows, format: Format, zone: ZoneInfo | None) -> Encoder:
    """Return an encoder that writes rows in this format."""
    match format:
        case Format.CSV:
            return _Csv(rows, zone)
        case Format.ARROW:
            return _Arrow(rows, zone)
        case Format.PARQUET:
            return _Parquet(rows, zone)
        case Format.JSON:
            return _Json(rows, zone)


# --- columns -----------------------------------------------------------------------------------


def _members(values: Mapping[str, Any]) -> bytes:
    """Return the members of a JSON object, without its braces."""
    return orjson.dumps(dict(values), option=orjson.OPT_UTC_Z)[1:-1]


def _typed(schema: pl.Schema, zone: ZoneInfo | None) -> list[pl.Expr]:
    """Return the columns for Arrow and Parquet: times in `zone`, categories as text."""
    return [_typed_column(name, dtype, zone) for name, dtype in schema.items()]


def _as_text(schema: pl.Schema, zone: ZoneInfo | None) -> list[pl.Expr]:
    """Return the columns for JSON and CSV: RFC 3339 with a fraction only if there is one, no NaN."""
    layout = "%Y-%m-%dT%H:%M:%S%.f" + ("Z" if _zone_name(zone) == "UTC" else "%:z")
    columns = []
    for name, dtype in schema.items():
        column = _typed_column(name, dtype, zone)
        if isinstance(dtype, pl.Datetime):
            column = column.dt.to_string(layout)
        elif dtype.is_float():
            column = pl.when(column.is_finite()).then(column)
        columns.append(column)
    return columns


def _typed_column(name: str, dtype: pl.DataType, zone: ZoneInfo | None) -> pl.Expr:
    column = pl.col(name).cast(dtype)  # a chunk may have nothing but nulls, of no type, in it
    if isinstance(dtype, pl.Datetime):
        column = column if dtype.time_zone else column.dt.replace_time_zone("UTC")
        return column.dt.convert_time_zone(_zone_name(zone))
    return column.cast(pl.String) if isinstance(dtype, pl.Categorical | pl.Enum) else column


def _zone_name(zone: ZoneInfo | None) -> str:
    return zone.key if zone else "UTC"


def _is_whole(column: pl.Series) -> bool:
    if not column.dtype.is_float():
        return False
    values = column.to_numpy()  # a null is a NaN there
    whole = (values == np.floor(values)) & (np.abs(values) < _EXACT_INTEGERS)
    return bool((whole | np.isnan(values)).all())
