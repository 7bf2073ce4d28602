"""The rows of the tick table's segments: written by COPY, read back into memory."""

from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.database.connect import AnyConnection, Connection, copy_in, copy_out
from stockpulse.database.copy import Layout, in_slices
from stockpulse.frames import LOGGED_TICKS
from stockpulse.journal.segments import table_of

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

Key = tuple[str, str, str, str, datetime]
"""Provider, symbol, exchange, trade_id, time."""


def packed(frame: pl.DataFrame) -> list[memoryview | bytes]:
    """`frames.LOGGED_TICKS` as the pieces of a COPY."""
    columns = {name: frame[name].to_physical().to_numpy() for name in COLUMNS if name != "trade_id"}
    return _WRITTEN.pack(columns, frame["trade_id"])


async def write(connection: Connection, segment: int, pieces: list[memoryview | bytes]) -> None:
    """Put rows into a segment."""
    await copy_in(connection, table_of(segment), COLUMNS, in_slices(pieces), _COPY_SECONDS)


async def read(connection: AnyConnection, segment: int, offset: int, block: int = 0) -> pl.DataFrame:
    """The rows of a segment from an offset on, in order, without their trade_id, which would make them long.

    They are looked for from this block of the table on.
    """
    query = f"SELECT {', '.join(_READ.columns)} FROM {table_of(segment)} WHERE {_FROM}"  # noqa: S608 - ours
    rows = _READ.unpack(await copy_out(connection, query, offset, f"({block},0)", seconds=_READ_SECONDS))
    return typed(pl.DataFrame(rows).with_columns(trade_id=None), LOGGED_TICKS).sort("seq")


async def read_whole(connection: AnyConnection, segment: int, offset: int = 0, block: int = 0) -> pl.DataFrame:
    """The same with their trade_id."""
    rows = (await read(connection, segment, offset, block)).drop("trade_id")
    identified = await connection.fetch(
        f"SELECT seq, trade_id FROM {table_of(segment)} WHERE trade_id IS NOT NULL AND {_FROM}",  # noqa: S608 - ours
        offset,
        f"({block},0)",
    )
    schema = {"seq": pl.Int64, "trade_id": pl.String}
    trade_ids = pl.DataFrame([tuple(row) for row in identified], schema=schema, orient="row")
    return typed(rows.join(trade_ids, on="seq", how="left", maintain_order="left"), LOGGED_TICKS)


async def newest_keys(connection: AnyConnection, segments: list[int], most: int) -> list[Key]:
    """What the newest ticks with a trade_id are known by, of these segments, the newest first; in log order."""
    keys: list[Key] = []
    for segment in segments:
        rows = await connection.fetch(
            "SELECT p.name, s.symbol, k.exchange, t.trade_id, t.ts"  # noqa: S608 - names of ours
            f" FROM {table_of(segment)} t JOIN symbols s ON s.id = t.symbol_id"
            " JOIN tick_kinds k ON k.id = t.kind_id JOIN providers p ON p.id = k.provider_id"
            " WHERE t.trade_id IS NOT NULL ORDER BY t.seq DESC LIMIT $1",
            most - len(keys),
        )
        keys += [tuple(row) for row in rows]
    return keys[::-1]


def typed(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """The columns of a schema, in its types."""
    return frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())


async def blocks(connection: AnyConnection, segment: int) -> int:
    """How many blocks of the database a segment takes."""
    size: int = await connection.fetchval("SELECT pg_relation_size($1::text::regclass)", table_of(segment))
    return size // _BLOCK_BYTES
