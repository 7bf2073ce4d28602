"""The sink: what the engine made, and the checkpoint, in one transaction.

Either all of it is there or nothing is. The checkpoint names its log and its offset in it; the engine's state
goes beside it in parts: a whole snapshot, then only what changed, until the changes outweigh the whole.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import structlog

from stockpulse.database.connect import Connection, Held, copy_in, until_done
from stockpulse.database.copy import in_slices
from stockpulse.engine.bars import Rows
from stockpulse.engine.state import Changes, State, decode, encode
from stockpulse.errors import CannotStart, Fenced
from stockpulse.intervals import M1, M5, Interval
from stockpulse.store.partitions import BARS_1M, BARS_5M, Partitions
from stockpulse.store.stored_bars import LAYOUT, TABLE, pack

_PARTITIONED: Final = {M1: BARS_1M, M5: BARS_5M}
_LEAST_WHOLE_BYTES: Final = 1 << 20
_MOST_PARTS: Final = 500
_COPY_SECONDS: Final = 60

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Up to where the log is worked in, and the state at that offset."""

    offset: int
    parts: list[State]


class Sink:
    """Writes for one shard, as long as this process holds it."""

    def __init__(self, dsn: str, partitions: Partitions, shard: int, journal: str) -> None:
        self._held = Held(dsn)
        self._partitions = partitions
        self._shard = shard
        self._journal = journal
        self._epoch = 0
        self._part = 0
        self._whole_bytes = 0
        self._changed_bytes = 0
        self.offset = 0

    async def take(self, epoch: int, start: int) -> Checkpoint:
        """Take the shard over under this epoch and read its checkpoint; a new one begins at `start`."""
        connection = await self._connection()
        row = await connection.fetchrow(
            "INSERT INTO checkpoints AS c (shard, journal, epoch, journal_offset) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (shard) DO UPDATE SET epoch = greatest(c.epoch, excluded.epoch)"
            " RETURNING journal, epoch, journal_offset",
            self._shard,
            self._journal,
            epoch,
            start,
        )
        if row is None:
            raise Fenced
        journal, self._epoch, self.offset = row
        if journal != self._journal:
            raise CannotStart(f"the checkpoint belongs to another log: {journal}, and this one is {self._journal}")
        rows = await connection.fetch(
            "SELECT part, state FROM checkpoint_parts WHERE shard = $1 ORDER BY part", self._shard
        )
        self._part = max((row["part"] for row in rows), default=-1) + 1
        self._changed_bytes = sum(len(row["state"]) for row in rows)
        return Checkpoint(self.offset, [decode(row["state"]) for row in rows])

    def wants_whole(self) -> bool:
        """Whether the next flush should write the whole state, because the changes have outgrown it."""
        outgrown = self._changed_bytes > max(2 * self._whole_bytes, _LEAST_WHOLE_BYTES)
        return self._part == 0 or outgrown or self._part > _MOST_PARTS

    async def flush(self, changes: Changes, whole: State | None, now: datetime) -> None:
        """Write bars, state and checkpoint; returns once committed. An unreachable server is waited for."""
        part, blob = (self._part, encode(changes.state)) if whole is None else (0, encode(whole))

        async def attempt() -> None:
            await self._make_partitions(changes, now)
            await self._write(changes, part, blob)

        await until_done(attempt, "flush", self._held.drop)
        self._part = part + 1
        self.offset = changes.offset
        self._whole_bytes = len(blob) if part == 0 else self._whole_bytes
        self._changed_bytes = 0 if part == 0 else self._changed_bytes + len(blob)

    async def _make_partitions(self, changes: Changes, now: datetime) -> None:
        for interval, table in _PARTITIONED.items():
            rows = changes.bars.get(interval)
            if rows is not None and len(rows):
                # Days are enough: a partition holds whole ones.
                days = np.unique(rows["ts"] // 86_400_000_000)
                times = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(day)) for day in days]
                await self._partitions.ensure(table, times, now)

    async def _write(self, changes: Changes, part: int, blob: bytes) -> None:
        connection = await self._connection()
        async with connection.transaction():
            if not await self._advance(connection, changes.offset):
                return
            if part == 0:
                await connection.execute("DELETE FROM checkpoint_parts WHERE shard = $1", self._shard)
            await connection.execute(
                "INSERT INTO checkpoint_parts VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                self._shard,
                part,
                blob,
            )
            for interval, rows in changes.bars.items():
                if len(rows):
                    await _upsert(connection, interval, rows)

    async def _connection(self) -> Connection:
        connection, fresh = await self._held.get()
        if fresh:
            await _make_staging(connection)
        return connection

    async def _advance(self, connection: Connection, offset: int) -> bool:
        """Move the checkpoint; False if it had been moved by a try of ours that seemed to fail."""
        done = await connection.execute(
            "UPDATE checkpoints SET journal_offset = $4, updated_at = now()"
            " WHERE shard = $1 AND epoch = $2 AND journal_offset = $3",
            self._shard,
            self._epoch,
            self.offset,
            offset,
        )
        if done == "UPDATE 1":
            return True
        row = await connection.fetchrow("SELECT epoch, journal_offset FROM checkpoints WHERE shard = $1", self._shard)
        if row is not None and tuple(row) == (self._epoch, offset):
            log.info("flush had been committed before the connection died", offset=offset)
            return False
        raise Fenced

    async def close(self) -> None:
        """Let the connection go."""
        await self._held.close()


def _staging(interval: Interval) -> str:
    return f"staged_{interval.name}"


async def _make_staging(connection: Connection) -> None:
    for interval, table in TABLE.items():
        await connection.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS {_staging(interval)} (LIKE {table}) ON COMMIT DELETE ROWS"
        )


async def _upsert(connection: Connection, interval: Interval, rows: Rows) -> None:
    """Store bars; one of a lower revision never takes the place of a higher."""
    staging, table = _staging(interval), TABLE[interval]
    await copy_in(connection, staging, LAYOUT.columns, in_slices(pack(rows)), _COPY_SECONDS)
    columns = ", ".join(LAYOUT.columns)
    values = [name for name in LAYOUT.columns if name not in ("symbol_id", "ts")]
    assignments = ", ".join(f"{name} = excluded.{name}" for name in values)
    await connection.execute(
        f"INSERT INTO {table} AS t ({columns}) SELECT {columns} FROM {staging}"  # noqa: S608 - names of ours
        f" ON CONFLICT (symbol_id, ts) DO UPDATE SET {assignments} WHERE t.revision < excluded.revision",
        timeout=60,
    )
