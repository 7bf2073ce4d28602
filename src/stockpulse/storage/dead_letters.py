"""Rejected records, kept with the reason."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import polars as pl

from stockpulse.market.rows import CUT
from stockpulse.postgres.connect import AnyConnection, Pool
from stockpulse.storage.partitions import DEAD_LETTERS, Partitions
from stockpulse.storage.rejected_kinds import CountingLetter, Kind, RejectedKinds, Share


class DeadLetters:
    """Writes rejected records."""

    def __init__(self, pool: Pool, partitions: Partitions, kinds: RejectedKinds) -> None:
        self._pool = pool
        self._partitions = partitions
        self._kinds = kinds

    async def write(self, source: str, rejected: pl.DataFrame, now: datetime) -> int:
        """Store rejected rows (columns reason, raw); they are durable when this returns.

        Returns the number of rows that were only counted.
        """
        await self._partitions.ensure(DEAD_LETTERS, [now], now)
        with self._kinds.shares(source, rejected, now) as shares:
            async with self._pool.acquire() as connection, connection.transaction():
                return await _store(connection, shares, self._kinds.counting, source, None, now)


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
    count: int
    """The number of records that this one stands for; above 1, the others were only counted."""

    @property
    def is_cut(self) -> bool:
        """True if a value of the record was too long to keep."""
        return CUT in (self.record or "")


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


_COLUMNS: Final = "id, received_at, source, reason, record, topic, topic_partition, topic_offset, retried_at, count"


@dataclass(frozen=True)
class Place:
    """A partition of a topic, whose offset 0 is `first_seq` in the log."""

    topic: str
    partition: int
    first_seq: int


async def keep_unreadable(
    connection: AnyConnection, rows: pl.DataFrame, kinds: RejectedKinds, place: Place, now: datetime
) -> None:
    """Store unreadable records of a topic (columns seq, reason, raw), within a transaction."""
    with kinds.shares(place.topic, rows, now) as shares:
        await _store(connection, shares, kinds.counting, place.topic, place, now)


_STORED: Final = ("received_at", "source", "reason", "record", "topic", "topic_partition", "topic_offset", "count")
_INSERT: Final = (
    f"INSERT INTO dead_letters ({', '.join(_STORED)}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"  # noqa: S608 - constants
    " RETURNING id, received_at"
)


async def _store(
    connection: AnyConnection,
    shares: list[Share],
    counting: dict[Kind, CountingLetter],
    source: str,
    place: Place | None,
    now: datetime,
) -> int:
    """Store the records to keep, and count the others. Return the number of those."""
    records = [record for share in shares for record in _records(share.kept, source, place, now, 1)]
    if records:
        await connection.copy_records_to_table("dead_letters", records=records, columns=_STORED)
    for share in sorted(shares, key=lambda one: one.kind):  # other transactions lock the letters in the same order
        if not share.counted:
            continue
        letter = counting.get(share.kind)
        if letter is None or not await _count_on(connection, letter, share.counted):
            (record,) = _records(share.example, source, place, now, share.counted)
            stored: Any = await connection.fetchrow(_INSERT, *record)
            counting[share.kind] = CountingLetter(*stored)
    return sum(share.counted for share in shares)


async def _count_on(connection: AnyConnection, letter: CountingLetter, further: int) -> bool:
    """Add to the number of a counting letter. Return False if its transaction was rolled back."""
    done = await connection.execute(
        "UPDATE dead_letters SET count = count + $3 WHERE id = $1 AND received_at = $2",
        letter.id,
        letter.received_at,
        further,
    )
    return bool(done != "UPDATE 0")


def _records(
    rows: pl.DataFrame, source: str, place: Place | None, now: datetime, count: int
) -> Iterator[tuple[object, ...]]:
    """Yield rows for the table, with their places on the topic."""
    seqs = [None] * len(rows) if place is None else rows["seq"]
    for seq, reason, raw in zip(seqs, rows["reason"], rows["raw"], strict=True):
        at = (None, None, None) if place is None else (place.topic, place.partition, seq - place.first_seq)
        yield (now, source, _storable(reason), _storable(raw), *at, count)


def _storable(raw: str | None) -> str | None:
    """Replace NUL, the one character that PostgreSQL's text cannot hold."""
    return None if raw is None else raw.replace("\0", "\ufffd")
