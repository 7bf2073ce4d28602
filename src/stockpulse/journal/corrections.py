"""Corrections in the database, and the ticks that they have taken back.

A correction is a record of the log: table `corrections`. Its right trade is a row of the tick table with the same seq.
When a shard processes the record, it finds the trade that the record takes back and stores its seq in the table
`cancelled_ticks`. The row of the tick stays, as with a forget; readers leave it out.
"""

from datetime import datetime
from typing import Any, Final

import polars as pl

from stockpulse.market.schemas import LOGGED_CORRECTIONS
from stockpulse.market.times import EARLIEST, LATEST, from_micros
from stockpulse.postgres.connect import AnyConnection, Connection

CANCELLED: Final = pl.Schema(
    {
        "seq": pl.Int64(),  # of the tick
        "symbol_id": pl.Int32(),
        "ts": LOGGED_CORRECTIONS["ts"],
        "by_seq": pl.Int64(),  # of the correction
    }
)
"""Ticks that corrections have taken back."""

_COLUMNS: Final = ", ".join(LOGGED_CORRECTIONS)
_SECONDS: Final = 60
_FIRST: Final = from_micros(EARLIEST)
_LAST: Final = from_micros(LATEST)


async def write(connection: Connection, corrections: pl.DataFrame) -> None:
    """Store records, a frame of `schemas.LOGGED_CORRECTIONS`."""
    await _copy(connection, "corrections", corrections.select(list(LOGGED_CORRECTIONS)))


async def write_cancelled(connection: Connection, cancelled: pl.DataFrame) -> None:
    """Store the ticks that corrections took back, a frame of CANCELLED."""
    await _copy(connection, "cancelled_ticks", cancelled.select(list(CANCELLED)))


async def _copy(connection: Connection, table: str, frame: pl.DataFrame) -> None:
    await connection.copy_records_to_table(table, records=frame.iter_rows(), columns=frame.columns, timeout=_SECONDS)


async def read(connection: AnyConnection, first: int, end: int) -> pl.DataFrame:
    """Return the records with first <= seq < end, in order, as `schemas.LOGGED_CORRECTIONS`."""
    query = f"SELECT {_COLUMNS} FROM corrections WHERE seq >= $1 AND seq < $2 ORDER BY seq"  # noqa: S608 - ours
    return _frame(await connection.fetch(query, first, end), LOGGED_CORRECTIONS)


async def newest(connection: AnyConnection, most: int) -> pl.DataFrame:
    """Return the newest records that no forget covers, in order: their trades would be new if they came again."""
    query = (
        f"SELECT {_COLUMNS} FROM corrections c WHERE NOT EXISTS (SELECT FROM forgets f WHERE f.seq > c.seq"  # noqa: S608 - ours
        " AND (f.symbol_id IS NULL OR f.symbol_id = c.symbol_id)"
        " AND (f.provider_id IS NULL OR f.provider_id = c.provider_id) AND c.ts >= f.start_at AND c.since < f.end_at)"
        " ORDER BY seq DESC LIMIT $1"
    )
    return _frame(await connection.fetch(query, most), LOGGED_CORRECTIONS).sort("seq")


async def cancelled(
    connection: AnyConnection,
    symbol_id: int,
    start: datetime | None = None,
    end: datetime | None = None,
    before: int | None = None,
) -> list[int]:
    """Return the seqs of the ticks of a symbol with start <= ts < end that corrections took back.

    With `before`, only those of the corrections whose seq is below it.
    """
    rows = await connection.fetch(
        "SELECT seq FROM cancelled_ticks WHERE symbol_id = $1 AND ts >= $2 AND ts < $3"
        " AND ($4::bigint IS NULL OR by_seq < $4)",
        *(symbol_id, start or _FIRST, end or _LAST, before),
    )
    return [row[0] for row in rows]


async def cancelled_by(connection: AnyConnection, first: int, end: int) -> pl.DataFrame:
    """Return the ticks that the corrections with first <= seq < end took back, as CANCELLED, in their order."""
    query = "SELECT seq, symbol_id, ts, by_seq FROM cancelled_ticks WHERE by_seq >= $1 AND by_seq < $2 ORDER BY by_seq"
    return _frame(await connection.fetch(query, first, end), CANCELLED)


async def cancelled_from(connection: AnyConnection, first: int, end: int) -> list[int]:
    """Return the ticks with first <= seq < end that corrections took back."""
    rows = await connection.fetch("SELECT seq FROM cancelled_ticks WHERE seq >= $1 AND seq < $2", first, end)
    return [row[0] for row in rows]


def _frame(rows: list[Any], schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame([tuple(row) for row in rows], schema=schema, orient="row")
