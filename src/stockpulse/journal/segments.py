"""The tick table's segments: partitions by offset, open for appends one at a time.

The open one has no index, so that appending costs nothing but the append, and is in memory as well. A full or
old one is sealed: the next append goes to the following segment, and the sealed one gets its (symbol, time) index.
From then on it is read from the database and never written again.

A segment is known by its first offset. Where the table is the log, it has room for 2^22 offsets, and those that are
left when it is sealed are skipped. Where the log is elsewhere, offsets are what they are: the open segment has room
for all that can come, and gets its end when it is sealed.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from stockpulse.journal.recent import RecentTicks
from stockpulse.postgres.connect import AnyConnection, Pool

SEGMENT_BITS: Final = 22
SEGMENT_OFFSETS: Final = 1 << SEGMENT_BITS

SLOT_BITS: Final = 42
"""Each shard of each log that there has been counts its offsets in a slot of its own, so that they are unique."""

_RECENT: Final = timedelta(hours=1)
_MOST_RECENT: Final = 16

_TABLES: Final = ("realtime_prices", "provider_bars")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Sealed:
    """A segment that is not written any more, and the event times of its ticks; None: it has none."""

    first: int
    end: int
    min_ts: datetime | None
    max_ts: datetime | None
    newest_append: datetime | None
    indexed: bool


def segment_of(offset: int) -> int:
    """The first offset of the segment of 2^22 that an offset lies in."""
    return offset >> SEGMENT_BITS << SEGMENT_BITS


def first_offset(number: int) -> int:
    """The first offset of such a segment, by its number."""
    return number << SEGMENT_BITS


def table_of(segment: int, parent: str = "realtime_prices") -> str:
    """The table that holds a segment."""
    number, rest = divmod(segment, SEGMENT_OFFSETS)
    return f"{parent}_s{number:010d}" + (f"_{rest}" if rest else "")


class Segments:
    """Opens, seals, indexes and drops the segments of one shard."""

    def __init__(
        self,
        pool: Pool,
        recent: RecentTicks,
        rows: int = 2_000_000,
        age_seconds: float = 6 * 3600,
        *,
        slot: range | None = None,
    ) -> None:
        """`slot` are the offsets that there can be, where the table is not the log itself."""
        self._pool = pool
        self._rows = rows
        self._age_seconds = age_seconds
        self._slot = slot
        self._made: set[int] = set()
        self._opened_at = time.monotonic()
        self.recent = recent
        self.sealed: dict[int, Sealed] = {}
        self.open = 0

    async def load(self, head: int) -> None:
        """Find out which segments there are; the newest, or where the table is the log that of the head, stays open."""
        rows = await self._pool.fetch(
            "SELECT id, end_seq, min_ts, max_ts, newest_append, indexed FROM log_segments"
            " WHERE id >= $1 AND id < $2 ORDER BY id",
            *((0, SEGMENT_OFFSETS << 40) if self._slot is None else (self._slot.start, self._slot.stop)),
        )
        self.open = segment_of(head) if self._slot is None else self._newest([row["id"] for row in rows], head)
        self._made = {row["id"] for row in rows}
        self.sealed = {row["id"]: Sealed(*row) for row in rows if row["id"] < self.open}

    def _newest(self, segments: list[int], head: int) -> int:
        """The open one; none of a log that was left."""
        return head if self._slot is None or head >= self._slot.stop else max(segments, default=head)

    @property
    def following(self) -> int:
        """The segment after the open one, where the table is the log."""
        return self.open + SEGMENT_OFFSETS

    def has(self, segment: int) -> bool:
        """Whether its tables are there."""
        return segment in self._made

    def newest(self, now: datetime, always: int = 2) -> list[int]:
        """Where the newest ticks are, the newest first: so many segments, and a few more that are not old."""
        made = [one for one in sorted({self.open, *self.sealed}, reverse=True) if self.has(one)]
        more = [self.sealed[one] for one in made[always:_MOST_RECENT] if one in self.sealed]
        young = [one.first for one in more if one.newest_append is not None and one.newest_append >= now - _RECENT]
        return made[:always] + young

    async def prepare_next(self) -> None:
        """Have the segment that the log goes on to ready, if it is known which that is."""
        if self._slot is None:
            await self.ensure(self.following)

    def is_due(self, head: int) -> bool:
        """Whether the open segment, which goes up to this offset, is full or old."""
        used = head - self.open
        old = time.monotonic() - self._opened_at > self._age_seconds
        return used >= self._rows or (used > 0 and old)

    def next_base(self, head: int) -> int:
        """Where the next append begins: at the head, or in a new segment when this one is full or old."""
        return self.following if self.is_due(head) else head

    def roll(self, segment: int) -> None:
        """The head has moved on to this segment: seal the one before."""
        if segment == self.open:
            return
        self.sealed[self.open] = Sealed(self.open, segment, None, None, None, indexed=False)
        self.open = segment
        self._opened_at = time.monotonic()

    async def ensure(self, segment: int) -> None:
        """Make the tables of a segment if they are not there."""
        if segment in self._made:
            return
        async with self._pool.acquire() as connection, connection.transaction():
            await self._insert(connection, segment)
        self._made.add(segment)

    async def _insert(self, connection: AnyConnection, segment: int) -> None:
        end = segment + SEGMENT_OFFSETS if self._slot is None else self._slot.stop
        # First, since whoever else is making the same segment is waited for here.
        await connection.execute(
            "INSERT INTO log_segments (id, end_seq) VALUES ($1, $2) ON CONFLICT DO NOTHING", segment, end
        )
        for parent in _TABLES if self._slot is None else _TABLES[:1]:
            await self._make(connection, parent, segment, end)

    async def _make(self, connection: AnyConnection, parent: str, segment: int, end: int) -> None:
        table = table_of(segment, parent)
        if await connection.fetchval("SELECT to_regclass($1)", table) is not None:
            return
        # Attaching takes a weaker lock than CREATE TABLE ... PARTITION OF: readers go on. Autovacuum has nothing
        # to do in a table that is only appended to and then dropped.
        await connection.execute(
            f"CREATE TABLE {table} (LIKE {parent} INCLUDING DEFAULTS) WITH (autovacuum_enabled = false);"
            f"ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ({segment}) TO ({end})"
        )

    async def seal(self, head: int, allow: Callable[[AnyConnection], Awaitable[None]] | None = None) -> None:
        """Let the open segment end here and open the next one; nothing is being written meanwhile.

        `allow`, called within the transaction, raises if somebody else may be writing by now.
        """
        table = table_of(self.open)
        async with self._pool.acquire() as connection, connection.transaction():
            # Waiting for long for the lock would make every reader wait behind us; the next round tries again.
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            if allow is not None:
                await allow(connection)
            # The constraint spares a look at every row under the lock.
            await connection.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT bounds CHECK (seq >= {self.open} AND seq < {head});"
                f"ALTER TABLE realtime_prices DETACH PARTITION {table};"
                f"ALTER TABLE realtime_prices ATTACH PARTITION {table} FOR VALUES FROM ({self.open}) TO ({head})"
            )
            await connection.execute("UPDATE log_segments SET end_seq = $2 WHERE id = $1", self.open, head)
            await self._insert(connection, head)
        self._made.add(head)
        self.recent.split(self.open, head)
        self.roll(head)

    async def index_sealed(self) -> None:
        """Give every sealed segment its index, and let go of its ticks in memory."""
        for segment in sorted(self.sealed):
            if not self.sealed[segment].indexed:
                await self._index(segment)

    async def _index(self, segment: int) -> None:
        table = table_of(segment)
        started = time.monotonic()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                f"CREATE INDEX IF NOT EXISTS {table}_symbol_ts ON {table} (symbol_id, ts)", timeout=600
            )
            row = await connection.fetchrow(
                "UPDATE log_segments SET indexed = true, min_ts = $2, max_ts = $3,"
                " newest_append = greatest($4, $5::timestamptz)"
                " WHERE id = $1 RETURNING id, end_seq, min_ts, max_ts, newest_append, indexed",
                segment,
                *await self._bounds(connection, segment),
                await self._newest_bar(connection, segment),
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

    async def _newest_bar(self, connection: AnyConnection, segment: int) -> datetime | None:
        table = table_of(segment, "provider_bars")
        if await connection.fetchval("SELECT to_regclass($1)", table) is None:  # of a log that is elsewhere
            return None
        newest: datetime | None = await connection.fetchval(
            f"SELECT max(received_at) FROM {table}",  # noqa: S608 - names of ours
            timeout=600,
        )
        return newest

    async def drop_older(self, than: datetime, checkpoint: int) -> list[int]:
        """Drop the sealed segments whose newest append is older, but none that a restart still has to read."""
        dropped = []
        for segment in sorted(self.sealed):
            known = self.sealed[segment]
            over = known.indexed and (known.newest_append is None or known.newest_append < than)
            if over and known.end <= checkpoint:
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
