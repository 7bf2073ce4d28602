"""Which log the database follows, and where the offsets of its shards are counted from."""

from dataclasses import dataclass
from typing import Final

from stockpulse.errors import Fenced, OtherJournal
from stockpulse.journal.segments import SLOT_BITS
from stockpulse.postgres.connect import Pool

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


async def followed_log(pool: Pool) -> str | None:
    """The log that the database follows, if it follows one."""
    journal: str | None = await pool.fetchval("SELECT min(journal) FROM checkpoints")
    return journal


@dataclass(frozen=True)
class Leaving:
    """A shard as it is left: all of its log up to `offset` is worked in."""

    shard: int
    journal: str
    epoch: int
    offset: int
    first_seq: int


@dataclass(frozen=True)
class Entering:
    """A shard as it is entered, with its state."""

    shard: int
    journal: str
    first_seq: int
    offset: int
    state: bytes


async def left_at(pool: Pool, journal: str) -> dict[int, int]:
    """Where the shards of a log were left, as the log itself counts; nothing of one that was never followed."""
    rows = await pool.fetch("SELECT shard, journal_offset FROM left_logs WHERE journal = $1", journal)
    return {row["shard"]: row["journal_offset"] for row in rows}


async def checkpoints_of(pool: Pool, journal: str) -> list[Leaving]:
    """The shards of a log as the database follows it."""
    rows = await pool.fetch(
        "SELECT shard, journal, epoch, journal_offset, first_seq FROM checkpoints WHERE journal = $1 ORDER BY shard",
        journal,
    )
    return [Leaving(*row) for row in rows]


async def change_logs(
    pool: Pool,
    leaving: list[Leaving],
    entering: list[Entering],
    *,
    head: int | None = None,
    keep_states: bool = False,
) -> None:
    """Have the database follow another log, all at once.

    `head` is where the log inside the database goes on, if it is that which is entered. Shards whose states are kept
    are the same as before. Raises Fenced when a shard has been worked on meanwhile.
    """
    async with pool.acquire() as connection, connection.transaction():
        for one in leaving:
            gone = await connection.execute(
                "DELETE FROM checkpoints WHERE shard = $1 AND journal = $2 AND epoch = $3 AND journal_offset = $4",
                one.shard,
                one.journal,
                one.epoch,
                one.offset,
            )
            if gone != "DELETE 1":
                raise Fenced
            if not keep_states:
                await connection.execute("DELETE FROM checkpoint_parts WHERE shard = $1", one.shard)
            await connection.execute(
                "INSERT INTO left_logs (journal, shard, journal_offset) VALUES ($1, $2, $3)"
                " ON CONFLICT (journal, shard) DO UPDATE SET journal_offset = excluded.journal_offset, left_at = now()",
                one.journal,
                one.shard,
                one.offset - one.first_seq,
            )
        epoch = max(one.epoch for one in leaving) + 1
        for new in entering:
            await connection.execute(
                "INSERT INTO checkpoints (shard, journal, epoch, journal_offset, first_seq)"
                " VALUES ($1, $2, $3, $4, $5)",
                new.shard,
                new.journal,
                epoch,
                new.offset,
                new.first_seq,
            )
            if not keep_states:
                await connection.execute("INSERT INTO checkpoint_parts VALUES ($1, 0, $2)", new.shard, new.state)
        if head is not None:
            await connection.execute(
                "INSERT INTO journal_heads AS h (shard, epoch, head) VALUES (0, 1, $1)"
                " ON CONFLICT (shard) DO UPDATE SET epoch = h.epoch + 1, head = excluded.head",
                head,
            )


async def next_slot(pool: Pool) -> int:
    """The first slot of offsets that nothing has been counted in."""
    slot: int = await pool.fetchval(NEXT_SLOT, SLOT_BITS)
    return slot
