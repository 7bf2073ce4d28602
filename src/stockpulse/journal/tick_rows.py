"""Write rows of the tick table by COPY, and read them back."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from stockpulse.journal.corrections import cancelled_from
from stockpulse.journal.forgets import stored_forgets, without_forgotten
from stockpulse.journal.segments import table_of
from stockpulse.market.arrays import array_of
from stockpulse.market.schemas import LOGGED_TICKS, UTC_MICROS
from stockpulse.postgres.binary_copy import Layout, in_slices
from stockpulse.postgres.connect import AnyConnection, Connection, copy_in, copy_out

_COPY_SECONDS: Final = 60
_READ_SECONDS: Final = 600
_BLOCK_BYTES: Final = 8192

_FIXED: Final = {
    "seq": "int8",
    "symbol_id": "int4",
    "kind_id": "int4",
    "ts": "timestamptz",
    "received_at": "timestamptz",
    "price": "float8",
    "size": "float8",
}
_WRITTEN: Final = Layout(_FIXED, text="trade_id")
_READ: Final = Layout(_FIXED)

_FROM: Final = "seq >= $1 AND ctid >= $2::text::tid"

COLUMNS: Final = _WRITTEN.columns

KEYS: Final[dict[str, Any]] = {
    "seq": pl.Int64,
    "symbol_id": pl.Int32,
    "kind_id": pl.Int32,
    "ts": UTC_MICROS,
    "trade_id": pl.String,
}
"""The columns that identify a tick with a trade_id."""


def packed(frame: pl.DataFrame) -> list[memoryview | bytes]:
    """Pack `schemas.LOGGED_TICKS` for a COPY."""
    columns = {name: array_of(frame[name]) for name in COLUMNS if name != "trade_id"}
    return _WRITTEN.pack(columns, frame["trade_id"])


async def write(connection: Connection, segment: int, pieces: list[memoryview | bytes]) -> None:
    """Write packed rows into a segment."""
    await copy_in(connection, table_of(segment), COLUMNS, in_slices(pieces), _COPY_SECONDS)


async def read(connection: AnyConnection, segment: int, offset: int, block: int = 0) -> pl.DataFrame:
    """Read the rows of a segment from an offset on, in order, without trade_id, which takes most of the time.

    `block` is the first block of the table to scan.
    """
    return await _read(connection, table_of(segment), _FROM, offset, f"({block},0)")


async def read_where(connection: AnyConnection, condition: str, *arguments: object) -> pl.DataFrame:
    """Read the rows `t` of all segments for which a condition in SQL holds, in order, without trade_id."""
    return await _read(connection, "realtime_prices", condition, *arguments)


async def _read(connection: AnyConnection, table: str, condition: str, *arguments: object) -> pl.DataFrame:
    query = f"SELECT {', '.join(_READ.columns)} FROM {table} t WHERE {condition}"  # noqa: S608 - ours
    rows = _READ.unpack(await copy_out(connection, query, *arguments, seconds=_READ_SECONDS))
    return typed(pl.DataFrame(rows).with_columns(trade_id=None), LOGGED_TICKS).sort("seq")


async def read_whole(connection: AnyConnection, segment: int, offset: int = 0, block: int = 0) -> pl.DataFrame:
    """Read the rows of a segment as `read` does, with trade_id and without ticks that were taken back."""
    place = offset, f"({block},0)"
    rows = (await _read(connection, table_of(segment), _FROM, *place)).drop("trade_id")
    rows = without_forgotten(rows, await stored_forgets(connection))
    if len(rows):
        gone = await cancelled_from(connection, int(rows["seq"][0]), int(rows["seq"][-1]) + 1)
        rows = rows.filter(~rows["seq"].is_in(gone))
    trade_ids = await _read_csv(
        connection,
        f"SELECT seq, trade_id FROM {table_of(segment)} WHERE trade_id IS NOT NULL AND {_FROM}",  # noqa: S608 - ours
        {"seq": pl.Int64, "trade_id": pl.String},
        *place,
    )
    return typed(rows.join(trade_ids, on="seq", how="left", maintain_order="left"), LOGGED_TICKS)


async def newest_identified(connection: AnyConnection, segments: list[int], most: int) -> pl.DataFrame:
    """Return the newest `most` ticks with a trade_id as KEYS, in log order; `segments` are newest first.

    Forgotten ticks are left out: they may be delivered again. Ticks that a correction took back may not.
    """
    found: list[pl.DataFrame] = []
    for segment in segments:
        left = most - sum(map(len, found))
        if left <= 0:
            break
        query = (
            f"SELECT seq, symbol_id, kind_id, extract(epoch FROM ts) * 1000000, trade_id FROM {table_of(segment)}"  # noqa: S608 - ours
            " WHERE trade_id IS NOT NULL ORDER BY seq DESC LIMIT $1"
        )
        schema = KEYS | {"ts": pl.Float64}
        found.append(await _read_csv(connection, query, schema, left))
    keys = pl.concat(found) if found else pl.DataFrame(schema=KEYS)
    keys = keys.with_columns(pl.col("ts").cast(pl.Int64).cast(UTC_MICROS)).sort("seq")
    return without_forgotten(keys, await stored_forgets(connection))


async def _read_csv(
    connection: AnyConnection, query: str, schema: Mapping[str, Any], *arguments: object
) -> pl.DataFrame:
    """Read rows that have a text column: several times as fast as records of the driver."""
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        pieces.append(piece)

    await connection.copy_from_query(
        query, *arguments, output=take, format="csv", force_quote=["trade_id"], timeout=_READ_SECONDS
    )
    text = b"".join(pieces)
    if not text:
        return pl.DataFrame(schema=schema)
    return pl.read_csv(text, has_header=False, schema=dict(schema))


def typed(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Select and cast the columns of a schema."""
    return frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())


async def blocks(connection: AnyConnection, segment: int) -> int:
    """Return the number of disk blocks of a segment."""
    size: int = await connection.fetchval("SELECT pg_relation_size($1::text::regclass)", table_of(segment))
    return size // _BLOCK_BYTES
