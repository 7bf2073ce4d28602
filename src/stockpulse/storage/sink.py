"""The sink: the engine's results and the checkpoint, written in one transaction.

Either all of it is stored or nothing is. The checkpoint names its log and the offset in it. The engine's state is
stored beside it in parts: a whole snapshot, then only the changes, until they outweigh the snapshot.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import numpy as np
import polars as pl
import structlog

from stockpulse.aio import offload
from stockpulse.aio.retry import retry
from stockpulse.engine.bar_math import Rows, from_keys
from stockpulse.engine.checkpoint_state import State, decode, encode
from stockpulse.engine.indicators import INTRADAY, AnalyticsChanges, RealtimeSnapshot
from stockpulse.errors import Fenced, OtherJournal
from stockpulse.journal import corrections, tick_rows
from stockpulse.journal.backends import ExternalLog
from stockpulse.journal.forgets import insert_forget
from stockpulse.journal.records import Forget
from stockpulse.journal.segments import Segments
from stockpulse.market.arrays import Ints
from stockpulse.market.intervals import Interval
from stockpulse.market.times import from_micros
from stockpulse.postgres.connect import TRANSIENT, AnyConnection, Connection, ReconnectingConnection, is_transient
from stockpulse.postgres.disk import Disk
from stockpulse.storage.analytics_writer import AnalyticsWriter
from stockpulse.storage.bar_rows import LAYOUT, TABLE, columns_of
from stockpulse.storage.dead_letters import Place, keep_unreadable
from stockpulse.storage.partitions import (
    BARS,
    DEAD_LETTERS,
    INTRADAY_ANALYTICS,
    REALTIME_ANALYTICS,
    SIGNALS,
    PartitionedTable,
    Partitions,
)
from stockpulse.storage.rejected_kinds import RejectedKinds
from stockpulse.storage.upsert import Staging

_LEAST_WHOLE_BYTES: Final = 1 << 20
_MOST_PARTS: Final = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The offset up to which the log is processed, and the state at that offset."""

    offset: int
    parts: list[State]


@dataclass(frozen=True)
class Flush:
    """The rows and the state that one transaction writes."""

    offset: int
    """The offset up to which the log is processed with this flush."""
    bars: dict[Interval, Rows]
    analytics: AnalyticsChanges
    realtime: RealtimeSnapshot | None
    state: State
    """The changes of the engine's state, or all of it."""
    whole: bool
    ticks: Sequence[pl.DataFrame] = ()
    """Ticks of an external log, in its order, as `LOGGED_TICKS`."""
    unreadable: Sequence[pl.DataFrame] = ()
    """Unreadable records of an external log: `seq`, `reason`, `raw`."""
    removed: Mapping[Interval, Ints] = field(default_factory=dict)
    """Keys of bars to delete, before `bars` are written."""
    forgets: Sequence[tuple[int, Forget]] = ()
    """Forgets that are processed with it, each with its seq."""
    corrections: Sequence[pl.DataFrame] = ()
    """Corrections of an external log, in its order, as `LOGGED_CORRECTIONS`."""
    cancelled: Sequence[pl.DataFrame] = ()
    """Ticks that corrections took back, as `corrections.CANCELLED`."""


class Sink:
    """Writes for one shard, as long as this process owns it."""

    def __init__(
        self,
        dsn: str,
        partitions: Partitions,
        derived: AnalyticsWriter,
        shard: int,
        journal: str,
        external: ExternalLog | None = None,
        disk: Disk | None = None,
        rejected_kinds: RejectedKinds | None = None,
    ) -> None:
        self._reconnecting = ReconnectingConnection(dsn)
        self._disk = disk or Disk()
        self._external = external
        self._rejected_kinds = rejected_kinds or RejectedKinds()
        self._derived = derived
        # A bar never replaces one of a higher revision.
        self._bars = {
            interval: Staging(table, LAYOUT, ("symbol_id", "ts"), guard="t.revision < excluded.revision")
            for interval, table in TABLE.items()
        }
        self._partitions = partitions
        self._shard = shard
        self._journal = journal
        self.epoch = 0
        self._part = 0
        self._whole_bytes = 0
        self._changed_bytes = 0
        self.offset = 0

    async def take(self, epoch: int | None = None, start: int = 0) -> Checkpoint:
        """Take the shard over and return its checkpoint; the checkpoint of a new shard begins at `start`.

        `epoch` is the epoch of the log; without it, the epoch of the checkpoint grows by one.
        """
        connection = await self._connection()
        row = await connection.fetchrow(
            "INSERT INTO checkpoints AS c (shard, journal, epoch, journal_offset)"
            " SELECT $1::int, $2::text, coalesce($3, 1), $4::bigint"
            " WHERE NOT EXISTS (SELECT FROM checkpoints WHERE journal <> $2)"
            " ON CONFLICT (shard) DO UPDATE"
            " SET epoch = CASE WHEN $3::bigint IS NULL THEN c.epoch + 1 ELSE greatest(c.epoch, $3) END"
            " RETURNING epoch, journal_offset",
            self._shard,
            self._journal,
            epoch,
            start,
        )
        if row is None:  # a process that still follows a retired log must not create a checkpoint for it
            query = "SELECT journal FROM checkpoints WHERE journal <> $1 LIMIT 1"
            raise OtherJournal(await connection.fetchval(query, self._journal), self._journal)
        self.epoch, self.offset = row
        rows = await connection.fetch(
            "SELECT part, state FROM checkpoint_parts WHERE shard = $1 ORDER BY part", self._shard
        )
        self._part = max((row["part"] for row in rows), default=-1) + 1
        self._changed_bytes = sum(len(row["state"]) for row in rows)
        return Checkpoint(self.offset, [decode(row["state"]) for row in rows])

    def begin_anew(self) -> None:
        """Make the next flush write the whole state, which replaces all stored parts."""
        self._part = 0

    def wants_whole(self) -> bool:
        """Return True if the next flush should write the whole state because the changes have outgrown it."""
        outgrown = self._changed_bytes > max(2 * self._whole_bytes, _LEAST_WHOLE_BYTES)
        return self._part == 0 or outgrown or self._part > _MOST_PARTS

    async def flush(self, flush: Flush, now: datetime) -> None:
        """Write rows, state and checkpoint, and return once they are committed.

        Wait while the database does not answer.
        """
        part, blob = 0 if flush.whole else self._part, encode(flush.state)

        if self._external is not None:
            await self._seal_if_due(self._external.segments)

        async def attempt() -> None:
            await self._make_partitions(flush, now)
            await self._write(flush, part, blob, now)

        await retry(attempt, "flush", is_transient, self._on_fault)
        self._disk.wrote()
        self._part = part + 1
        self.offset = flush.offset
        self._whole_bytes = len(blob) if part == 0 else self._whole_bytes
        self._changed_bytes = 0 if part == 0 else self._changed_bytes + len(blob)

    def _on_fault(self, fault: Exception) -> None:
        self._disk.failed(fault)
        self._reconnecting.drop()

    async def _seal_if_due(self, segments: Segments) -> None:
        """Seal the open segment if it is due; between two flushes nothing is written to it."""
        if segments.is_due(self.offset):
            with contextlib.suppress(*TRANSIENT):  # a reader holds a lock, for example: the next flush tries again
                await segments.seal(self.offset, self._require_ours)

    async def _require_ours(self, connection: AnyConnection) -> None:
        """Raise Fenced if another process owns the shard; until the end of the transaction none can take it."""
        query = "SELECT 1 FROM checkpoints WHERE shard = $1 AND epoch = $2 AND journal_offset = $3 FOR UPDATE"
        if await connection.fetchval(query, self._shard, self.epoch, self.offset) is None:
            raise Fenced

    async def _make_partitions(self, flush: Flush, now: datetime) -> None:
        if self._external is not None:
            await self._external.segments.ensure(self._external.segments.open)
        if flush.unreadable:
            await self._partitions.ensure(DEAD_LETTERS, [now], now)
        for interval, rows in flush.bars.items():
            if interval in BARS:
                await self._ensure(BARS[interval], rows["ts"], now)
        tracks = flush.analytics.tracks
        if INTRADAY in tracks:
            await self._ensure(INTRADAY_ANALYTICS, tracks[INTRADAY].derived.ts, now)
        if flush.analytics.signals is not None:
            await self._ensure(SIGNALS, flush.analytics.signals.ts, now)
        if flush.realtime is not None:
            await self._partitions.ensure(REALTIME_ANALYTICS, [now], now)

    async def _ensure(self, table: PartitionedTable, ts: Ints, now: datetime) -> None:
        days = np.unique(ts // 86_400_000_000)  # days are enough: a partition holds whole days
        times = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(day)) for day in days]
        await self._partitions.ensure(table, times, now)

    async def _write(self, flush: Flush, part: int, blob: bytes, now: datetime) -> None:
        connection = await self._connection()
        async with connection.transaction():
            if not await self._advance(connection, flush.offset):
                return
            if part == 0:
                await connection.execute("DELETE FROM checkpoint_parts WHERE shard = $1", self._shard)
            await connection.execute(
                "INSERT INTO checkpoint_parts VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                self._shard,
                part,
                blob,
            )
            await _forget(connection, flush)
            await _correct(connection, flush)
            for interval, rows in flush.bars.items():
                await self._bars[interval].write(connection, columns_of(rows))
            await self._derived.write(connection, flush.analytics)
            if flush.realtime is not None:
                await self._derived.write_realtime(connection, flush.realtime, now)
            if self._external is not None:
                await self._write_log(connection, self._external, flush, now)

    async def _write_log(self, connection: Connection, log_of: ExternalLog, flush: Flush, now: datetime) -> None:
        if flush.ticks:
            frame = pl.concat(flush.ticks)
            pieces = await offload.run(len(frame), partial(tick_rows.packed, frame))
            await tick_rows.write(connection, log_of.segments.open, pieces)
        if flush.unreadable:
            rows = pl.concat(flush.unreadable)
            place = Place(log_of.topic, self._shard, log_of.first_seq)
            await keep_unreadable(connection, rows, self._rejected_kinds, place, now)

    async def _connection(self) -> Connection:
        connection, fresh = await self._reconnecting.get()
        if fresh:
            for staging in self._bars.values():
                await staging.make(connection)
            await self._derived.make_staging(connection)
        return connection

    async def _advance(self, connection: Connection, offset: int) -> bool:
        """Move the checkpoint. Return False if an attempt that seemed to fail had moved it. Raise Fenced otherwise."""
        done = await connection.execute(
            "UPDATE checkpoints SET journal_offset = $4, updated_at = now()"
            " WHERE shard = $1 AND epoch = $2 AND journal_offset = $3",
            self._shard,
            self.epoch,
            self.offset,
            offset,
        )
        if done == "UPDATE 1":
            return True
        row = await connection.fetchrow("SELECT epoch, journal_offset FROM checkpoints WHERE shard = $1", self._shard)
        if row is not None and tuple(row) == (self.epoch, offset):
            log.info("flush had been committed before the connection died", offset=offset)
            return False
        raise Fenced

    async def close(self) -> None:
        """Close the connection."""
        await self._reconnecting.close()


async def _forget(connection: Connection, flush: Flush) -> None:
    """Delete what forgets have removed, and store the forgets of a log that does not do so itself."""
    for interval, key in flush.removed.items():
        symbol_id, ts = from_keys(key)
        await connection.execute(
            f"DELETE FROM {TABLE[interval]} b USING unnest($1::int[], $2::timestamptz[]) AS d (symbol_id, ts)"  # noqa: S608 - ours
            " WHERE b.symbol_id = d.symbol_id AND b.ts = d.ts",
            symbol_id.tolist(),
            [from_micros(one) for one in ts.tolist()],
        )
    for seq, forget in flush.forgets:
        await insert_forget(connection, seq, forget)
    if flush.forgets:  # the prices in these snapshots may be forgotten; the next snapshot has the other prices
        await connection.execute(
            "DELETE FROM realtime_analytics r USING forgets f WHERE f.seq = ANY ($1::bigint[])"
            " AND (f.symbol_id IS NULL OR f.symbol_id = r.symbol_id)"
            " AND r.price_at >= f.start_at AND r.price_at < f.end_at",
            [seq for seq, _ in flush.forgets],
        )


async def _correct(connection: Connection, flush: Flush) -> None:
    """Store corrections of a log that does not do so itself, and the ticks that were taken back."""
    for frame in flush.corrections:
        await corrections.write(connection, frame)
    for ticks in flush.cancelled:
        if len(ticks):
            await corrections.write_cancelled(connection, ticks)
            await connection.execute(  # the prices in these snapshots are wrong; the next snapshot has the right ones
                "DELETE FROM realtime_analytics r USING unnest($1::int[], $2::timestamptz[]) AS c (symbol_id, ts)"
                " WHERE r.symbol_id = c.symbol_id AND r.price_at = c.ts",
                ticks["symbol_id"].to_list(),
                ticks["ts"].to_list(),
            )
