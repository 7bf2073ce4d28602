"""The log that the database follows, and the move of the database from one log to another."""

from dataclasses import dataclass
from typing import Final

from stockpulse.errors import Fenced, OtherJournal
from stockpulse.journal.segments import SLOT_BITS
from stockpulse.postgres.connect import AnyConnection, Pool

_LOCK: Final = (0x53504C53, 1 << 20)  # no shard has this number
_LARGEST_SLOT: Final = (1 << 53) >> SLOT_BITS
"""Seqs stay below 2^53, which a float holds exactly: many readers of JSON have no integers."""


async def claim(pool: Pool, journal: str, starts: dict[int, int]) -> dict[int, int]:
    """Make the database follow this log, and return the first_seq of each shard.

    `starts` holds the partition offsets at which shards without a checkpoint begin. Raises OtherJournal while the
    database follows another log.
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
"""Finds the first slot that no log has used."""


def first_of(slot: int) -> int:
    """Return the first seq of a slot."""
    if slot >= _LARGEST_SLOT:
        raise OverflowError("there have been too many logs in this database")
    return slot << SLOT_BITS


def slot_of(first_seq: int) -> range:
    """Return the seqs of the slot that begins with `first_seq`."""
    return range(first_seq, first_seq + (1 << SLOT_BITS))


async def followed_log(pool: Pool) -> str | None:
    """Return the identity of the log that the database follows; None for a new database."""
    journal: str | None = await pool.fetchval("SELECT min(journal) FROM checkpoints")
    return journal


@dataclass(frozen=True)
class Leaving:
    """A shard of the log that the database leaves: processed and stored up to `offset`."""

    shard: int
    journal: str
    epoch: int
    offset: int
    first_seq: int


@dataclass(frozen=True)
class Entering:
    """A shard of the log that the database moves to, with the state of the engine at `offset`."""

    shard: int
    journal: str
    first_seq: int
    offset: int
    state: bytes


async def retired_at(pool: Pool, journal: str) -> dict[int, int]:
    """Return the partition offsets at which a log was retired, by shard; empty if it was never followed."""
    rows = await pool.fetch("SELECT shard, journal_offset FROM left_logs WHERE journal = $1", journal)
    return {row["shard"]: row["journal_offset"] for row in rows}


async def checkpoints_of(pool: Pool, journal: str) -> list[Leaving]:
    """Return the checkpoints of the shards of a log."""
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
    """Make the database follow another log, in one transaction.

    `head` is the next offset of the log inside the database, if the database moves to that one. With `keep_states`
    the shards stay the same and keep their states. Raises Fenced if a shard has been processed in the meantime.
    """
    async with pool.acquire() as connection, connection.transaction():
        for former in leaving:
            await _leave(connection, former, keep_state=keep_states)
        epoch = max(former.epoch for former in leaving) + 1
        for new in entering:
            await _enter(connection, new, epoch, keep_state=keep_states)
        if head is not None:
            await connection.execute(
                "INSERT INTO journal_heads AS h (shard, epoch, head) VALUES (0, 1, $1)"
                " ON CONFLICT (shard) DO UPDATE SET epoch = h.epoch + 1, head = excluded.head",
                head,
            )


async def _leave(connection: AnyConnection, former: Leaving, *, keep_state: bool) -> None:
    """Delete the checkpoint of a shard and note where its log was retired."""
    gone = await connection.execute(
        "DELETE FROM checkpoints WHERE shard = $1 AND journal = $2 AND epoch = $3 AND journal_offset = $4",
        former.shard,
        former.journal,
        former.epoch,
        former.offset,
    )
    if gone != "DELETE 1":
        raise Fenced
    if not keep_state:
        await connection.execute("DELETE FROM checkpoint_parts WHERE shard = $1", former.shard)
    await connection.execute(
        "INSERT INTO left_logs (journal, shard, journal_offset) VALUES ($1, $2, $3)"
        " ON CONFLICT (journal, shard) DO UPDATE SET journal_offset = excluded.journal_offset, left_at = now()",
        former.journal,
        former.shard,
        former.offset - former.first_seq,
    )


async def _enter(connection: AnyConnection, new: Entering, epoch: int, *, keep_state: bool) -> None:
    """Write the checkpoint of a shard in its new log."""
    await connection.execute(
        "INSERT INTO checkpoints (shard, journal, epoch, journal_offset, first_seq) VALUES ($1, $2, $3, $4, $5)",
        new.shard,
        new.journal,
        epoch,
        new.offset,
        new.first_seq,
    )
    if not keep_state:
        await connection.execute("INSERT INTO checkpoint_parts VALUES ($1, 0, $2)", new.shard, new.state)


async def next_slot(pool: Pool) -> int:
    """Return the first slot that no log has used."""
    slot: int = await pool.fetchval(NEXT_SLOT, SLOT_BITS)
    return slot
