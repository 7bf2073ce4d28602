"""How rows leave: JSON, CSV, an Arrow stream or Parquet, a chunk at a time.

A format that can be streamed is an `Encoder`: a head, the rows of any number of frames, a tail. Parquet
cannot: its index stands at the end, over all rows.
"""

import asyncio
import re
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from typing import Annotated, Any, Final, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import polars as pl
from fastapi import Depends, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stockpulse.api.errors import shown
from stockpulse.errors import InvalidInput

#: Rows that are encoded at once: what an answer holds in memory, whatever the chunks are.
SLICE_ROWS: Final = 20_000
#: Up to here encoding takes about a millisecond; more of it happens in a thread.
INLINE_ROWS: Final = 2_000
#: Parquet is written in one piece.
MAX_PARQUET_ROWS: Final = 2_000_000

_EXACT_INTEGERS: Final = 2**53  # floats below it hold whole numbers exactly


class Format(StrEnum):
    """The formats that data leaves in, the preferred one first."""

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
    """Rows on their way out, and what JSON has around them: `{**before, key: [rows], **after()}`."""

    chunks: AsyncIterator[pl.DataFrame]
    schema: pl.Schema  # known without a chunk: an answer without rows has columns too
    key: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Callable[[], Mapping[str, Any]] = dict  # asked when the last row is out
    filename: str = "stockpulse"  # without its ending


async def answer(rows: Rows, wanted: Format = Format.JSON, zone: ZoneInfo | None = None) -> Response:
    """Stream `rows`; an error of the first chunk is raised here, where it still can have its status."""
    headers = _headers(wanted, rows.filename)
    if wanted is Format.PARQUET:
        return Response(await _parquet(rows, zone), headers=headers)
    first = await anext(rows.chunks, None)
    return _Stream(_encoder(rows, wanted, zone), first, rows.chunks, headers)


async def answer_frame(
    frame: pl.DataFrame,
    key: str,
    before: Mapping[str, Any],
    wanted: Format = Format.JSON,
    zone: ZoneInfo | None = None,
    *,
    filename: str = "stockpulse",
) -> Response:
    """One small frame; JSON says the `count` before the rows: `{"symbol": …, "count": 5, "ticks": […]}`."""
    before = {**before, "count": frame.height}
    rows = Rows(chunks=_only(frame), schema=frame.schema, key=key, before=before, filename=filename)
    if wanted is Format.PARQUET:
        return await answer(rows, wanted, zone)
    pieces = [piece async for piece in _pieces(_encoder(rows, wanted, zone), rows.chunks)]
    return Response(b"".join(pieces), headers=_headers(wanted, filename))


# --- which format ------------------------------------------------------------------------------

_QUALITY: Final = re.compile(r"\s*q\s*=\s*(1(?:\.0{0,3})?|0(?:\.\d{0,3})?)\s*", re.ASCII | re.IGNORECASE)


def choose_format(name: str | None, accept: str) -> Format:
    """The format that ?format= names; without it, the one that the Accept header likes best."""
    if name is None:
        return max(Format, key=lambda one: _liking(MEDIA_TYPES[one], accept))  # the first of equals
    try:
        return Format(name.strip().lower())
    except ValueError:
        raise InvalidInput("format", f"got {shown(name)}; takes {', '.join(Format)}") from None


def _liking(media_type: str, accept: str) -> tuple[float, int]:
    """The quality that `accept` gives to a media type, and how exactly it names it."""
    names = ("*/*", media_type.partition("/")[0] + "/*", media_type)
    exactness, quality = -1, 0.0
    for part in accept.lower().split(","):
        name, *parameters = part.split(";")
        if name.strip() in names and names.index(name.strip()) > exactness:
            exactness = names.index(name.strip())
            stated = [found for found in map(_QUALITY.fullmatch, parameters) if found]
            quality = float(stated[0][1]) if stated else 1.0
    return (quality, exactness) if quality else (0.0, -1)


def _wanted(
    request: Request,
    format: Annotated[  # noqa: A002  # the name of the parameter
        str | None, Query(description="json, csv, arrow or parquet; without it, the Accept header says.")
    ] = None,
) -> Format:
    return choose_format(format, ",".join(request.headers.getlist("accept")))


#: `async def bars(wanted: Wanted)` takes ?format= and the Accept header.
Wanted = Annotated[Format, Depends(_wanted)]

#: For `responses=` of such a route.
FORMAT_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}}
}


def _headers(wanted: Format, filename: str) -> dict[str, str]:
    charset = "; charset=utf-8" if wanted is Format.CSV else ""
    headers = {"Content-Type": MEDIA_TYPES[wanted] + charset, "Vary": "Accept"}
    if wanted in (Format.CSV, Format.PARQUET):  # what people open in other programs
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", filename)
        headers["Content-Disposition"] = f'attachment; filename="{safe}.{wanted}"'
    return headers


# --- sending -----------------------------------------------------------------------------------


class _Stream(StreamingResponse):
    """The encoded chunks; whatever ends it, the source of the chunks is closed.

    A fault on the way leaves as an exception: the server then breaks the connection, and nobody takes
    what arrived for the whole.
    """

    def __init__(
        self,
        encoder: "Encoder",
        first: pl.DataFrame | None,
        rest: AsyncIterator[pl.DataFrame],
        headers: Mapping[str, str],
    ) -> None:
        self._rest = rest
        self._pieces = _pieces(encoder, _only(first), rest)
        super().__init__(self._pieces, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._pieces):
                await super().__call__(scope, receive, send)
        finally:
            await _close(self._rest)


async def _pieces(encoder: "Encoder", *sources: AsyncIterator[pl.DataFrame]) -> AsyncGenerator[bytes]:
    yield encoder.head()
    for source in sources:
        async for chunk in source:
            for part in chunk.iter_slices(SLICE_ROWS):
                yield await _aside(part.height, encoder.rows, part)
    yield encoder.tail()


async def _only(frame: pl.DataFrame | None) -> AsyncGenerator[pl.DataFrame]:
    if frame is not None:
        yield frame


async def _close(chunks: AsyncIterator[pl.DataFrame]) -> None:
    if isinstance(chunks, AsyncGenerator):  # with a cursor, perhaps, that it must give back
        await chunks.aclose()


async def _aside(rows: int, encode: Callable[[pl.DataFrame], bytes], frame: pl.DataFrame) -> bytes:
    """Encode here when it is quick, else in a thread, so that others are served meanwhile."""
    return encode(frame) if rows <= INLINE_ROWS else await asyncio.to_thread(encode, frame)


# --- encoding ----------------------------------------------------------------------------------


class Encoder(Protocol):
    """One format for the rows of one answer."""

    def head(self) -> bytes:
        """What stands before the rows."""

    def rows(self, frame: pl.DataFrame) -> bytes:
        """Some rows, in the order of the calls."""

    def tail(self) -> bytes:
        """What stands after the rows."""


def json_rows(frame: pl.DataFrame, zone: ZoneInfo | None = None) -> bytes:
    """A JSON array of objects; `orjson.Fragment(json_rows(frame))` puts it into something larger."""
    frame = frame.select(_as_text(frame.schema, zone))
    # A volume is a float that counts: 8341, not 8341.0.
    frame = frame.with_columns(column.cast(pl.Int64) for column in frame if _is_whole(column))
    buffer = BytesIO()
    frame.write_json(buffer)
    return buffer.getvalue()


class _Json:
    def __init__(self, rows: Rows, zone: ZoneInfo | None) -> None:
        self._answer = rows
        self._zone = zone
        self._comma = b""

    def head(self) -> bytes:
        before = _members(self._answer.before)
        return b"{" + before + (b"," if before else b"") + orjson.dumps(self._answer.key) + b":["

    def rows(self, frame: pl.DataFrame) -> bytes:
        comma, self._comma = self._comma, b","
        return comma + json_rows(frame.select(self._answer.schema.names()), self._zone)[1:-1]

    def tail(self) -> bytes:
        after = _members(self._answer.after())
        return b"]" + (b"," if after else b"") + after + b"}"


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
        """The schema message and the batches."""
        buffer = BytesIO()
        # The oldest types: not every reader knows string views.
        oldest = pl.CompatLevel.oldest()
        frame.select(self._columns).write_ipc_stream(buffer, compat_level=oldest)
        stream = buffer.getvalue()
        (metadata_bytes,) = struct.unpack_from("<i", stream, 4)
        return stream[: 8 + metadata_bytes], stream[8 + metadata_bytes : -len(self._END)]


def _encoder(rows: Rows, wanted: Format, zone: ZoneInfo | None) -> Encoder:
    match wanted:
        case Format.CSV:
            return _Csv(rows, zone)
        case Format.ARROW:
            return _Arrow(rows, zone)
        case _:
            return _Json(rows, zone)


async def _parquet(rows: Rows, zone: ZoneInfo | None) -> bytes:
    frames, height = [rows.schema.to_frame()], 0
    try:
        async for chunk in rows.chunks:
            frames.append(chunk)
            height += chunk.height
            if height > MAX_PARQUET_ROWS:
                raise InvalidInput(
                    "format",
                    f"parquet takes {MAX_PARQUET_ROWS:,} rows at most: narrow the range or take arrow",
                )
    finally:
        await _close(rows.chunks)

    def encode(frame: pl.DataFrame) -> bytes:
        buffer = BytesIO()
        frame.select(_typed(rows.schema, zone)).write_parquet(buffer)
        return buffer.getvalue()

    return await _aside(height, encode, pl.concat(frames))


# --- columns -----------------------------------------------------------------------------------


def _members(values: Mapping[str, Any]) -> bytes:
    """The members of a JSON object, without its braces."""
    return orjson.dumps(dict(values), option=orjson.OPT_UTC_Z)[1:-1]


def _typed(schema: pl.Schema, zone: ZoneInfo | None) -> list[pl.Expr]:
    """The columns as Arrow and Parquet carry them: times in `zone`, categories as what they stand for."""
    return [_typed_column(name, dtype, zone) for name, dtype in schema.items()]


def _as_text(schema: pl.Schema, zone: ZoneInfo | None) -> list[pl.Expr]:
    """The columns as JSON and CSV write them: RFC 3339 with a fraction only where there is one, no NaN."""
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
