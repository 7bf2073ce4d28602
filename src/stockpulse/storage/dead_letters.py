"""Rejected records, kept with the reason."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.postgres.connect import AnyConnection, Pool
from stockpulse.storage.partitions import DEAD_LETTERS, Partitions


class DeadLetters:
    """Writes rejected records."""

    def __init__(self, pool: Pool, partitions: Partitions) -> None:
        self._pool = pool
        self._partitions = partitions

    async def write(self, source: str, rejected: pl.DataFrame, now: datetime) -> None:
        """Store rejected rows (columns reason, raw); they are durable when this returns."""
        await self._partitions.ensure(DEAD_LETTERS, [now], now)
        records = [
            (now, source, _storable(reason), _storable(raw)) for reason, raw in rejected.select("reason", "raw").rows()
        ]
        async with self._pool.acquire() as connection:
            await connection.copy_records_to_table(
                "dead_letters", records=records, columns=("received_at", "source", "reason", "record")
            )


@dataclass(frozen=True)
class DeadLetter:
    """A rejected record, with its place on a topic if it came from one."""

    id: int
    received_at: datetime
    source: str
    reason: str
    record: str | None
    topic: str | None
    topic_partition: int | None
    topic_offset: int | None
    retried_at: datetime | None


class DeadLetterStore:
    """Reads rejected records."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def newest(self, limit: int, *, source: str | None = None, waiting: bool = False) -> list[DeadLetter]:
        """Return the newest records, newest first: of one `source`, and if `waiting` only those not sent again yet."""
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM dead_letters WHERE ($1::text IS NULL OR source = $1)"  # noqa: S608 - constants
            " AND ($2 OR retried_at IS NULL) ORDER BY received_at DESC, id DESC LIMIT $3",
            source,
            not waiting,
            limit,
        )
        return [DeadLetter(*row) for row in rows]

    async def mark_retried(self, letters: Iterable[DeadLetter], now: datetime) -> None:
        """Note that these records were sent again."""
        keys = [(letter.id, letter.received_at, now) for letter in letters]
        async with self._pool.acquire() as connection:
            await connection.executemany(
                "UPDATE dead_letters SET retried_at = $3 WHERE id = $1 AND received_at = $2", keys
            )


_COLUMNS: Final = "id, received_at, source, reason, record, topic, topic_partition, topic_offset, retried_at"


@dataclass(frozen=True)
class Place:
    """A partition of a topic, whose offset 0 is `first_seq` in the log."""

    topic: str
    partition: int
    first_seq: int


async def keep_unreadable(connection: AnyConnection, rows: pl.DataFrame, place: Place, now: datetime) -> None:
    """Store unreadable records of a topic (columns seq, reason, raw), within a transaction."""
    records = [
        (now, place.topic, _storable(reason), _storable(raw), place.topic, place.partition, seq - place.first_seq)
        for seq, reason, raw in rows.select("seq", "reason", "raw").rows()
    ]
    columns = ("received_at", "source", "reason", "record", "topic", "topic_partition", "topic_offset")
    await connection.copy_records_to_table("dead_letters", records=records, columns=columns)


def _storable(raw: str | None) -> str | None:
    """Replace NUL, the one character that PostgreSQL's text cannot hold."""
    return None if raw is None else raw.replace("\0", "\ufffd")
