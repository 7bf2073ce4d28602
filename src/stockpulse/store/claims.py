"""Which log the database follows, and where the offsets of its shards are counted from."""

from typing import Final

from stockpulse.database.connect import Pool
from stockpulse.errors import OtherJournal
from stockpulse.journal.segments import SLOT_BITS

_LOCK: Final = (0x53504C53, 1 << 20)  # no shard has this number
_LARGEST_SLOT: Final = (1 << 53) >> SLOT_BITS
"""Offsets that a float holds exactly: JSON is read by programs that know no other numbers."""


async def claim(pool: Pool, journal: str, starts: dict[int, int]) -> dict[int, int]:
    """Have the database follow this log; returns what the offsets of each shard are counted from.

    `starts` are the offsets, as the log counts them, at which shards begin that nobody has worked on. Raises
    OtherJournal while the database follows another log.
    """
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", *_LOCK)
        rows = await connection.fetch("SELECT shard, journal, first_seq FROM checkpoints")
        others = {row["journal"] for row in rows} - {journal}
        if others:
            raise OtherJournal(others.pop(), journal)
        if not rows:
            slot = await connection.fetchval(NEXT_SLOT, SLOT_BITS)
            firsts = {shard: first_of(slot + shard) for shard in starts}
            await connection.executemany(
                "INSERT INTO checkpoints (shard, journal, epoch, journal_offset, first_seq) VALUES ($1, $2, 0, $3, $4)",
                [(shard, journal, firsts[shard] + start, firsts[shard]) for shard, start in starts.items()],
            )
            return firsts
    return {row["shard"]: row["first_seq"] for row in rows}


NEXT_SLOT: Final = (
    "SELECT 1 + greatest((SELECT max(head >> $1) FROM journal_heads),"
    " (SELECT max(journal_offset >> $1) FROM checkpoints), (SELECT max(id >> $1) FROM log_segments), 0)"
)
"""The first slot of offsets that nothing has been counted in."""


def first_of(slot: int) -> int:
    """The first offset of a slot."""
    if slot >= _LARGEST_SLOT:
        raise OverflowError("there have been too many logs in this database")
    return slot << SLOT_BITS


def slot_of(first_seq: int) -> range:
    """The offsets of a slot."""
    return range(first_seq, first_seq + (1 << SLOT_BITS))


async def other_than(pool: Pool, journal: str) -> str | None:
    """Another log that the database follows, if it does."""
    other: str | None = await pool.fetchval("SELECT journal FROM checkpoints WHERE journal <> $1 LIMIT 1", journal)
    return other
