"""Answers of rows as JSON, CSV, an Arrow stream or Parquet, streamed in chunks."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import polars as pl
from fastapi import Depends, Query, Request
from pydantic import WithJsonSchema
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stockpulse.aio.offload import in_reader_thread
from stockpulse.api.budget import Reservation
from stockpulse.api.encoders import GROUP_CELLS, MEDIA_TYPES, Encoder, Format, Rows, encoder
from stockpulse.errors import InvalidInput, shown

#: The maximum number of rows that are encoded at once, and so held in memory, for chunks of any size.
SLICE_ROWS: Final = 20_000
#: The maximum number of values (rows x columns) in such a slice.
SLICE_CELLS: Final = 100_000
#: Encoding this many values takes about a millisecond; more are encoded in a thread.
INLINE_CELLS: Final = 20_000

_CELL_BYTES: Final = 64
"""The memory for a value of an answer that is made as a whole: as read, in a frame, as text."""
_STREAMED_CELL_BYTES: Final = 32
"""The memory for a value of a page that waits to be sent: in a frame, and partly as text."""
_PAGE_CELLS: Final = 150_000
"""The approximate number of values in a page of a streamed answer."""
ASK_FOR_LESS: Final = "ask for a shorter range, a smaller limit or fewer indicators"


async def room_for_rows(room: Reservation, rows: int, columns: int) -> None:
    """Reserve the memory of an answer with this many rows, which is made as a whole."""
    await room.grow_to(rows * columns * _CELL_BYTES, ASK_FOR_LESS)


async def room_for_stream(room: Reservation, format: Format, kept_cells: int = 0) -> None:
    """Reserve the memory of a streamed answer: a page of it, whatever its length, and values that it keeps."""
    cells = _PAGE_CELLS + kept_cells + (GROUP_CELLS if format is Format.PARQUET else 0)
    await room.grow_to(cells * _STREAMED_CELL_BYTES, ASK_FOR_LESS)


async def answer(rows: Rows, format: Format = Format.JSON, zone: ZoneInfo | None = None) -> Response:
    """Stream `rows`. Raises an error of the first chunk here, while the answer can still have its status."""
    headers = _headers(format, rows.filename)
    first = await anext(rows.chunks, None)
    return _Stream(encoder(rows, format, zone), first, rows.chunks, headers)


async def answer_frame(
    frame: pl.DataFrame,
    key: str,
    header_fields: Mapping[str, Any],
    format: Format = Format.JSON,
    zone: ZoneInfo | None = None,
    *,
    filename: str = "stockpulse",
) -> Response:
    """Answer with one small frame; JSON has the `count` before the rows: `{"symbol": …, "count": 5, "ticks": […]}`."""
    header_fields = {**header_fields, "count": frame.height}
    rows = Rows(chunks=only(frame), schema=frame.schema, key=key, header_fields=header_fields, filename=filename)
    pieces = [piece async for piece in _pieces(encoder(rows, format, zone), rows.chunks)]
    return Response(b"".join(pieces), headers=_headers(format, filename))


# --- which format ------------------------------------------------------------------------------

_QUALITY: Final = re.compile(r"\s*q\s*=\s*(1(?:\.0{0,3})?|0(?:\.\d{0,3})?)\s*", re.ASCII | re.IGNORECASE)


def choose_format(name: str | None, accept: str) -> Format:
    """Return the format that ?format= names; without it, the one that the Accept header prefers."""
    if name is None:
        return max(Format, key=lambda one: _preference(MEDIA_TYPES[one], accept))  # the first of equals
    try:
        return Format(name.strip().lower())
    except ValueError:
        raise InvalidInput("format", f"got {shown(name)}; takes {', '.join(Format)}") from None


def _preference(media_type: str, accept: str) -> tuple[float, int]:
    """Return the quality that `accept` gives to a media type, and how specific the matching range is."""
    names = ("*/*", media_type.partition("/")[0] + "/*", media_type)
    exactness, quality = -1, 0.0
    for part in accept.lower().split(","):
        name, *parameters = part.split(";")
        if name.strip() in names and names.index(name.strip()) > exactness:
            exactness = names.index(name.strip())
            stated = [found for found in map(_QUALITY.fullmatch, parameters) if found]
            quality = float(stated[0][1]) if stated else 1.0
    return (quality, exactness) if quality else (0.0, -1)


async def _chosen(
    request: Request,
    format: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "enum": list(Format)}),
        Query(description="The format of the answer. Without it, the Accept header decides."),
    ] = None,
) -> Format:
    return choose_format(format, ",".join(request.headers.getlist("accept")))


#: `async def bars(format: AnswerFormat)` takes ?format= and the Accept header.
AnswerFormat = Annotated[Format, Depends(_chosen)]

#: For `responses=` of such a route.
FORMAT_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}}
}


def _headers(format: Format, filename: str) -> dict[str, str]:
    charset = "; charset=utf-8" if format is Format.CSV else ""
    headers = {"Content-Type": MEDIA_TYPES[format] + charset, "Vary": "Accept"}
    if format in (Format.CSV, Format.PARQUET):  # files that people open in other programs
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", filename)
        headers["Content-Disposition"] = f'attachment; filename="{safe}.{format}"'
    return headers


# --- sending -----------------------------------------------------------------------------------


class _Stream(StreamingResponse):
    """The encoded chunks; the source of the chunks is closed at every end of the answer.

    A fault in the middle is raised: the server then breaks the connection, so no client takes a part of the
    answer for the whole.
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
    cells = 0
    yield encoder.head()
    for source in sources:
        async for chunk in source:
            height = max(1, min(SLICE_ROWS, SLICE_CELLS // max(1, chunk.width)))
            for part in chunk.iter_slices(height):
                cells += part.height * part.width
                # A large answer is encoded in threads, so that other requests are not blocked.
                encode = partial(encoder.rows, part)
                piece = encode() if cells <= INLINE_CELLS else await in_reader_thread(encode)
                if piece:
                    yield piece
    yield encoder.tail() if cells <= INLINE_CELLS else await in_reader_thread(encoder.tail)


async def only(frame: pl.DataFrame | None) -> AsyncGenerator[pl.DataFrame]:
    """Yield one frame, or nothing for None."""
    if frame is not None:
        yield frame


async def _close(chunks: AsyncIterator[pl.DataFrame]) -> None:
    if isinstance(chunks, AsyncGenerator):  # it may hold a connection
        await chunks.aclose()
