"""Records that could not be taken, kept with the reason."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from stockpulse.database.connect import AnyConnection, Pool
from stockpulse.store.partitions import DEAD_LETTERS, Partitions


class DeadLetters:
    """Writes rejected records."""

    def __init__(self, pool: Pool, partitions: Partitions) -> None:
        self._pool = pool
        self._partitions = partitions

    async def write(self, source: str, rejected: pl.DataFrame, now: datetime) -> None:
        """Keep rejected rows (columns reason, raw); durable when it returns."""
        await self._partitions.ensure(DEAD_LETTERS, [now], now)
        records = [
            (now, source, _storable(reason), _storable(raw)) for reason, raw in rejected.select("reason", "raw").rows()
        ]
        async with self._pool.acquire() as connection:
            await connection.copy_records_to_table(
                "dead_letters", records=records, columns=("received_at", "source", "reason", "record")
            )


@dataclass(frozen=True)
class Place:
    """Where records stand: a partition of a topic, whose offsets are counted from `first_seq`."""

    topic: str
    partition: int
    first_seq: int


async def keep_unreadable(connection: AnyConnection, rows: pl.DataFrame, place: Place, now: datetime) -> None:
    """Keep what could not be taken from a topic (columns seq, reason, raw), within a transaction."""
    records = [
        (now, place.topic, _storable(reason), _storable(raw), place.topic, place.partition, seq - place.first_seq)
        for seq, reason, raw in rows.select("seq", "reason", "raw").rows()
    ]
    columns = ("received_at", "source", "reason", "record", "topic", "topic_partition", "topic_offset")
    await connection.copy_records_to_table("dead_letters", records=records, columns=columns)


def _storable(raw: str | None) -> str | None:
    """PostgreSQL's text holds every character but NUL."""
    return None if raw is None else raw.replace("\0", "\ufffd")
