"""Receives the body of a request with ticks or corrections, within the memory of requests."""

import asyncio
from collections.abc import Sequence
from typing import Final

import polars as pl
from fastapi import Request

from stockpulse.api.budget import Reservation
from stockpulse.api.limits import MAX_BODY_BYTES
from stockpulse.api.ticks_body import bytes_to_parse, parse_ticks
from stockpulse.errors import InvalidInput, TooLarge
from stockpulse.market.rows import Field

_INLINE_BYTES: Final = 64 * 1024
_STEP_BYTES: Final = 256 * 1024
"""Memory for a body of unknown length is reserved in steps of this size."""
_TICK_BYTES: Final = 500
"""The memory for a parsed tick on its way into the log, and for its reason if it is rejected."""
_FRAME_COPIES: Final = 4
"""The copies of long texts on that way."""


async def received_rows(
    request: Request,
    arrival: Reservation,
    parsing: Reservation,
    fields: Sequence[Field],
    *,
    may_be_empty: bool = False,
) -> pl.DataFrame:
    """Return the rows of the body. Memory is reserved for its bytes, then for parsing, then for the rows alone."""
    content_type = request.headers.get("content-type", "")
    body = await _body(request, arrival)
    if may_be_empty and not body:
        return parse_ticks(b"[]", "application/json", fields)
    if len(body) <= _INLINE_BYTES:
        await _reserve(parsing, bytes_to_parse(body, content_type))
        return parse_ticks(body, content_type, fields)
    await _reserve(parsing, await asyncio.to_thread(bytes_to_parse, body, content_type))
    arrival.shrink_to(0)  # the other reservation includes it
    frame = await asyncio.to_thread(parse_ticks, body, content_type, fields)
    parsing.shrink_to(len(frame) * _TICK_BYTES + _FRAME_COPIES * int(frame.estimated_size()))
    return frame


async def _reserve(room: Reservation, count: int) -> None:
    await room.grow_to(count, "send several requests")


async def _body(request: Request, arrival: Reservation) -> bytearray:
    """Return the body. Raises TooLarge if the body, or its announced length, is too large."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidInput(
            "Content-Encoding", "takes an uncompressed body; Arrow data may be compressed inside the stream"
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        if int(announced) > MAX_BODY_BYTES:
            raise _too_large_a_body()
        # All at once: requests with a part of what they need would wait for each other.
        await _reserve(arrival, int(announced))
    body = bytearray()
    async for piece in request.stream():
        size = len(body) + len(piece)
        if size > MAX_BODY_BYTES:
            raise _too_large_a_body()
        if size > arrival.held:
            await _reserve(arrival, -(-size // _STEP_BYTES) * _STEP_BYTES)
        body += piece
    return body


def _too_large_a_body() -> TooLarge:
    return TooLarge(f"a body may have at most {MAX_BODY_BYTES // 2**20} MiB: send several requests")
