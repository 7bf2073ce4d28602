"""The tick table's segments: partitions by offset, open for appends one at a time.

A segment has room for 2^22 offsets. The open one has no index, so that appending costs nothing but the
append, and is in memory as well. A full or old one is sealed: the next append goes to the following segment,
whatever offsets were left are skipped, and the sealed one gets its (symbol, time) index. From then on it is
read from the database and never written again.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from stockpulse.database.connect import AnyConnection, Pool
from stockpulse.journal.recent import RecentTicks

SEGMENT_BITS: Final = 22
SEGMENT_OFFSETS: Final = 1 << SEGMENT_BITS

_TABLES: Final = ("realtime_prices", "provider_bars")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Sealed:
    """A segment that is not written any more, and the event times of its ticks; None: it has none."""

    id: int
    min_ts: datetime | None
    max_ts: datetime | None
    newest_append: datetime | None
    indexed: bool


def segment_of(offset: int) -> int:
    """The segment that an offset lies in."""
    return offset >> SEGMENT_BITS


def first_offset(segment: int) -> int:
    """The first offset of a segment."""
    return segment << SEGMENT_BITS


def table_of(segment: int, parent: str = "realtime_prices") -> str:
    """The table that holds a segment."""
    return f"{parent}_s{segment:010d}"


class Segments:
    """Opens, seals, indexes and drops segments."""

    def __init__(self, pool: Pool, recent: RecentTicks, rows: int = 2_000_000, age_seconds: float = 6 * 3600) -> None:
        self._pool = pool
        self._rows = rows
        self._age_seconds = age_seconds
        self._made: set[int] = set()
        self._opened_at = time.monotonic()
        self.recent = recent
        self.sealed: dict[int, Sealed] = {}
        self.open = 0

    async def load(self, head: int) -> None:
        """Find out which segments there are; the one of the head stays open."""
        self.open = segment_of(head)
        rows = await self._pool.fetch("SELECT id, min_ts, max_ts, newest_append, indexed FROM log_segments")
        self._made = {row["id"] for row in rows}
        self.sealed = {row["id"]: Sealed(*row) for row in rows if row["id"] < self.open}

    def next_base(self, head: int) -> int:
        """Where the next append begins: at the head, or in a new segment when this one is full or old."""
        used = head - first_offset(self.open)
        old = time.monotonic() - self._opened_at > self._age_seconds
        return first_offset(self.open + 1) if used >= self._rows or (used and old) else head

    def roll(self, segment: int) -> None:
        """The head has moved on to this segment: seal the one before."""
        if segment == self.open:
            return
        self.sealed[self.open] = Sealed(self.open, None, None, None, indexed=False)
        self.open = segment
        self._opened_at = time.monotonic()

    async def ensure(self, segment: int) -> None:
        """Make the tables of a segment if they are not there."""
        if segment in self._made:
            return
        async with self._pool.acquire() as connection, connection.transaction():
            # First, since whoever else is making the same segment is waited for here.
            await connection.execute("INSERT INTO log_segments (id) VALUES ($1) ON CONFLICT DO NOTHING", segment)
            for parent in _TABLES:
                await self._make(connection, parent, segment)
        self._made.add(segment)

    async def _make(self, connection: AnyConnection, parent: str, segment: int) -> None:
        table = table_of(segment, parent)
        if await connection.fetchval("SELECT to_regclass($1)", table) is not None:
            return
        # Attaching takes a weaker lock than CREATE TABLE ... PARTITION OF: readers go on. Autovacuum has nothing
        # to do in a table that is only appended to and then dropped.
        await connection.execute(
            f"CREATE TABLE {table} (LIKE {parent} INCLUDING DEFAULTS) WITH (autovacuum_enabled = false);"
            f"ALTER TABLE {parent} ATTACH PARTITION {table}"
            f" FOR VALUES FROM ({first_offset(segment)}) TO ({first_offset(segment + 1)})"
        )

    async def index_sealed(self) -> None:
        """Give every sealed segment its index, and let go of its ticks in memory."""
        for segment in sorted(self.sealed):
            if not self.sealed[segment].indexed:
                await self._index(segment)

    async def _index(self, segment: int) -> None:
        table, bars = table_of(segment), table_of(segment, "provider_bars")
        started = time.monotonic()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                f"CREATE INDEX IF NOT EXISTS {table}_symbol_ts ON {table} (symbol_id, ts)", timeout=600
            )
            row = await connection.fetchrow(
                "UPDATE log_segments SET indexed = true, min_ts = $2, max_ts = $3,"  # noqa: S608 - names of ours
                f" newest_append = greatest($4, (SELECT max(received_at) FROM {bars}))"
                " WHERE id = $1 RETURNING id, min_ts, max_ts, newest_append, indexed",
                segment,
                *await self._bounds(connection, segment),
                timeout=600,
            )
            await connection.execute(f"ANALYZE {table}", timeout=600)
        if row is not None:
            self.sealed[segment] = Sealed(*row)
        self.recent.drop_segment(segment)
        log.info("segment indexed", segment=segment, seconds=round(time.monotonic() - started, 2))

    async def _bounds(self, connection: AnyConnection, segment: int) -> tuple[datetime | None, ...]:
        """Least and greatest event time, and newest append, of the ticks of a segment."""
        if segment in self.recent.segments():
            return self.recent.bounds(segment)
        row = await connection.fetchrow(
            f"SELECT min(ts), max(ts), max(received_at) FROM {table_of(segment)}",  # noqa: S608 - names of ours
            timeout=600,
        )
        return tuple(row) if row is not None else (None, None, None)

    async def drop_older(self, than: datetime, checkpoint: int) -> list[int]:
        """Drop the sealed segments whose newest append is older, but none that a restart still has to read."""
        dropped = []
        for segment in sorted(self.sealed):
            known = self.sealed[segment]
            over = known.indexed and (known.newest_append is None or known.newest_append < than)
            if over and first_offset(segment + 1) <= checkpoint:
                await self._drop(segment)
                dropped.append(segment)
        return dropped

    async def _drop(self, segment: int) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            # Waiting for long for the lock would make every reader wait behind us; the next round tries again.
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            for parent in _TABLES:
                await connection.execute(f"DROP TABLE IF EXISTS {table_of(segment, parent)}")
            await connection.execute("DELETE FROM log_segments WHERE id = $1", segment)
        del self.sealed[segment]
        self._made.discard(segment)
