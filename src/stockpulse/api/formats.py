"""How rows leave: JSON, CSV, an Arrow stream or Parquet, a chunk at a time."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import polars as pl
from fastapi import Depends, Query, Request
from pydantic import WithJsonSchema
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stockpulse.api.encoders import MEDIA_TYPES, Encoder, Format, Rows, encoder, parquet
from stockpulse.errors import InvalidInput, shown

#: Rows that are encoded at once: what an answer holds in memory, whatever the chunks are.
SLICE_ROWS: Final = 20_000
#: Up to here encoding takes about a millisecond; more of it happens in a thread.
INLINE_ROWS: Final = 2_000
#: Parquet is written in one piece.
MAX_PARQUET_ROWS: Final = 2_000_000


async def answer(rows: Rows, wanted: Format = Format.JSON, zone: ZoneInfo | None = None) -> Response:
    """Stream `rows`; an error of the first chunk is raised here, where it still can have its status."""
    headers = _headers(wanted, rows.filename)
    if wanted is Format.PARQUET:
        return Response(await _parquet(rows, zone), headers=headers)
    first = await anext(rows.chunks, None)
    return _Stream(encoder(rows, wanted, zone), first, rows.chunks, headers)


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
    rows = Rows(chunks=only(frame), schema=frame.schema, key=key, before=before, filename=filename)
    if wanted is Format.PARQUET:
        return await answer(rows, wanted, zone)
    pieces = [piece async for piece in _pieces(encoder(rows, wanted, zone), rows.chunks)]
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


async def _wanted(
    request: Request,
    format: Annotated[  # noqa: A002  # the name of the parameter
        str | None,
        WithJsonSchema({"type": "string", "enum": list(Format)}),
        Query(description="Without it, the Accept header says."),
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
        encoder: Encoder,
        first: pl.DataFrame | None,
        rest: AsyncIterator[pl.DataFrame],
        headers: Mapping[str, str],
    ) -> None:
        self._rest = rest
        self._pieces = _pieces(encoder, only(first), rest)
        super().__init__(self._pieces, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._pieces):
                await super().__call__(scope, receive, send)
        finally:
            await _close(self._rest)


async def _pieces(encoder: Encoder, *sources: AsyncIterator[pl.DataFrame]) -> AsyncGenerator[bytes]:
    yield encoder.head()
    for source in sources:
        async for chunk in source:
            for part in chunk.iter_slices(SLICE_ROWS):
                yield await _aside(part.height, encoder.rows, part)
    yield encoder.tail()


async def only(frame: pl.DataFrame | None) -> AsyncGenerator[pl.DataFrame]:
    """One frame, or none, as chunks."""
    if frame is not None:
        yield frame


async def _close(chunks: AsyncIterator[pl.DataFrame]) -> None:
    if isinstance(chunks, AsyncGenerator):  # with a cursor, perhaps, that it must give back
        await chunks.aclose()


async def _aside(rows: int, encode: Callable[[pl.DataFrame], bytes], frame: pl.DataFrame) -> bytes:
    """Encode here when it is quick, else in a thread, so that others are served meanwhile."""
    return encode(frame) if rows <= INLINE_ROWS else await asyncio.to_thread(encode, frame)


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
    return await _aside(height, partial(parquet, zone=zone), pl.concat(frames))
