"""The segments of the tick table: its partitions by seq, of which one is open for appends.

The open segment has no index, which makes appends cheap, and its ticks are in memory as well. A full or old segment
is sealed: the next append goes to the following segment, and the sealed one gets an index on (symbol, time). From
then on it is read from the database and never written again.

The id of a segment is its first seq. If the table is the log, a segment has room for 2^22 seqs, and sealing skips the
unused seqs. If the log is outside the database, the log decides about seqs: the open segment has room for the rest of
the slot, and sealing sets its end.
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
"""Each shard of each log has its own slot of 2^42 seqs, so seqs are unique."""

_RECENT: Final = timedelta(hours=1)
_MOST_RECENT: Final = 16

_TABLES: Final = ("realtime_prices", "provider_bars")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Sealed:
    """A sealed segment with the bounds of its event times; None if it has no ticks."""

    first: int
    end: int
    min_ts: datetime | None
    max_ts: datetime | None
    newest_append: datetime | None
    indexed: bool


def segment_of(offset: int) -> int:
    """Return the segment of 2^22 seqs that holds an offset."""
    return offset >> SEGMENT_BITS << SEGMENT_BITS


def first_offset(number: int) -> int:
    """Return the first seq of the segment with this number."""
    return number << SEGMENT_BITS


def table_of(segment: int, parent: str = "realtime_prices") -> str:
    """Return the name of the table that holds a segment."""
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
        """`slot` holds the seqs of the shard, if the table is not the log itself."""
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
        """Read the list of segments. The segment of the head is open; without own head, the newest one."""
        rows = await self._pool.fetch(
            "SELECT id, end_seq, min_ts, max_ts, newest_append, indexed FROM log_segments"
            " WHERE id >= $1 AND id < $2 ORDER BY id",
            *((0, SEGMENT_OFFSETS << 40) if self._slot is None else (self._slot.start, self._slot.stop)),
        )
        self.open = segment_of(head) if self._slot is None else self._newest([row["id"] for row in rows], head)
        self._made = {row["id"] for row in rows}
        self.sealed = {row["id"]: Sealed(*row) for row in rows if row["id"] < self.open}

    def _newest(self, segments: list[int], head: int) -> int:
        """Return the open segment. A retired log has no open segment."""
        return head if self._slot is None or head >= self._slot.stop else max(segments, default=head)

    @property
    def following(self) -> int:
        """The segment after the open one, if the table is the log."""
        return self.open + SEGMENT_OFFSETS

    def has(self, segment: int) -> bool:
        """Return True if the tables of a segment exist."""
        return segment in self._made

    def newest(self, now: datetime, always: int = 2) -> list[int]:
        """Return the newest segments, newest first: `always` of them, and a few more that are less than an hour old."""
        made = [one for one in sorted({self.open, *self.sealed}, reverse=True) if self.has(one)]
        more = [self.sealed[one] for one in made[always:_MOST_RECENT] if one in self.sealed]
        young = [one.first for one in more if one.newest_append is not None and one.newest_append >= now - _RECENT]
        return made[:always] + young

    async def prepare_next(self) -> None:
        """Create the tables of the following segment, if the table is the log."""
        if self._slot is None:
            await self.ensure(self.following)

    def is_due(self, head: int) -> bool:
        """Return True if the open segment, which ends at this offset, is full or old."""
        used = head - self.open
        old = time.monotonic() - self._opened_at > self._age_seconds
        return used >= self._rows or (used > 0 and old)

    def next_base(self, head: int) -> int:
        """Return the first seq of the next append: the head, or a new segment if the open one is full or old."""
        return self.following if self.is_due(head) else head

    def roll(self, segment: int) -> None:
        """Seal the open segment because the head has moved to this one."""
        if segment == self.open:
            return
        self.sealed[self.open] = Sealed(self.open, segment, None, None, None, indexed=False)
        self.open = segment
        self._opened_at = time.monotonic()

    async def ensure(self, segment: int) -> None:
        """Create the tables of a segment unless they exist."""
        if segment in self._made:
            return
        async with self._pool.acquire() as connection, connection.transaction():
            await self._insert(connection, segment)
        self._made.add(segment)

    async def _insert(self, connection: AnyConnection, segment: int) -> None:
        end = segment + SEGMENT_OFFSETS if self._slot is None else self._slot.stop
        # This comes first, because it waits for another process that creates the same segment.
        await connection.execute(
            "INSERT INTO log_segments (id, end_seq) VALUES ($1, $2) ON CONFLICT DO NOTHING", segment, end
        )
        for parent in _TABLES if self._slot is None else _TABLES[:1]:
            await self._make(connection, parent, segment, end)

    async def _make(self, connection: AnyConnection, parent: str, segment: int, end: int) -> None:
        table = table_of(segment, parent)
        if await connection.fetchval("SELECT to_regclass($1)", table) is not None:
            return
        # ATTACH takes a weaker lock than CREATE TABLE ... PARTITION OF, so readers are not blocked. A table that is
        # only appended to and then dropped needs no autovacuum.
        await connection.execute(
            f"CREATE TABLE {table} (LIKE {parent} INCLUDING DEFAULTS) WITH (autovacuum_enabled = false);"
            f"ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ({segment}) TO ({end})"
        )

    async def seal(self, head: int, allow: Callable[[AnyConnection], Awaitable[None]] | None = None) -> None:
        """End the open segment at this offset and open the next one. The caller makes sure that no process writes.

        `allow` runs in the transaction and raises if another process may be writing.
        """
        table = table_of(self.open)
        async with self._pool.acquire() as connection, connection.transaction():
            # A long wait for the lock would make all readers queue behind it. The next round tries again.
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            if allow is not None:
                await allow(connection)
            # With the constraint, ATTACH need not scan the rows under the lock.
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
        """Index every sealed segment and drop its ticks from memory."""
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
        """Return the least and greatest event time and the newest `received_at` of a segment."""
        if segment in self.recent.segments():
            return self.recent.bounds(segment)
        row = await connection.fetchrow(
            f"SELECT min(ts), max(ts), max(received_at) FROM {table_of(segment)}",  # noqa: S608 - names of ours
            timeout=600,
        )
        return tuple(row) if row is not None else (None, None, None)

    async def _newest_bar(self, connection: AnyConnection, segment: int) -> datetime | None:
        table = table_of(segment, "provider_bars")
        if await connection.fetchval("SELECT to_regclass($1)", table) is None:  # the log is outside the database
            return None
        newest: datetime | None = await connection.fetchval(
            f"SELECT max(received_at) FROM {table}",  # noqa: S608 - names of ours
            timeout=600,
        )
        return newest

    async def drop_older(self, than: datetime, checkpoint: int) -> list[int]:
        """Drop sealed segments whose newest append is older, unless they reach beyond the checkpoint."""
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
            # A long wait for the lock would make all readers queue behind it. The next round tries again.
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            for parent in _TABLES:
                await connection.execute(f"DROP TABLE IF EXISTS {table_of(segment, parent)}")
            await connection.execute("DELETE FROM log_segments WHERE id = $1", segment)
            await connection.execute(
                "DELETE FROM cancelled_ticks WHERE seq >= $1 AND seq < $2", segment, self.sealed[segment].end
            )
            # A forget or a correction is needed as long as there are ticks before it in its log.
            for table in ("forgets", "corrections"):
                await connection.execute(
                    f"DELETE FROM {table} r WHERE r.seq >> $1 = $2::bigint >> $1 AND r.seq < $2"  # noqa: S608 - ours
                    " AND NOT EXISTS (SELECT FROM log_segments s WHERE s.id <= r.seq AND s.id >> $1 = r.seq >> $1)",
                    SLOT_BITS,
                    self.sealed[segment].end,
                )
        del self.sealed[segment]
        self._made.discard(segment)
