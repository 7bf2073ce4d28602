"""Partitions by time: made when rows for them come, dropped when they are too old.

A partition is too old when both its newest event and its last write are. So a replay of 2013 is kept as long as
today's ticks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from stockpulse.market.intervals import M1, M5
from stockpulse.postgres.connect import Pool
from stockpulse.storage.retention import RETENTION, Unit

_IS_THERE: Final = (
    "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1 AND relnamespace = current_schema()::regnamespace)"
)
_EPOCH: Final = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday


@dataclass(frozen=True)
class PartitionedTable:
    """A table that is partitioned by time."""

    name: str
    width: timedelta
    """The length of a partition."""
    kept: timedelta


def _partitioned(name: str) -> PartitionedTable:
    rule = RETENTION[name]
    if rule.partition is None:
        raise ValueError(f"{name} has no partitions by time")
    return PartitionedTable(name, rule.partition, rule.kept)


BARS_1M: Final = _partitioned("bars_1m")
BARS_5M: Final = _partitioned("intraday_ohlcv")
INTRADAY_ANALYTICS: Final = _partitioned("intraday_analytics")
REALTIME_ANALYTICS: Final = _partitioned("realtime_analytics")
SIGNALS: Final = _partitioned("signals")
DEAD_LETTERS: Final = _partitioned("dead_letters")
PARTITIONED: Final = tuple(_partitioned(name) for name, rule in RETENTION.items() if rule.unit is Unit.PARTITIONS)

BARS: Final = {M1: BARS_1M, M5: BARS_5M}
"""The partitioned tables of bars by interval; daily bars are in a plain table."""


class Partitions:
    """Makes partitions, notes their last writes, and drops old ones."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._written: dict[tuple[str, datetime], datetime] = {}

    async def ensure(self, table: PartitionedTable, times: Iterable[datetime], now: datetime) -> None:
        """Make the partitions that rows of these times need, and note that they are written now."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        for start in sorted({_start(table, time) for time in times}):
            if self._written.get((table.name, start)) != hour:
                await self._make(table, start, hour)
                self._written[table.name, start] = hour

    async def _make(self, table: PartitionedTable, start: datetime, hour: datetime) -> None:
        name = _name(table, start)
        end = start + table.width
        async with self._pool.acquire() as connection, connection.transaction():
            # Locks the row: a drop of the same partition waits until this is committed.
            await connection.execute(
                "INSERT INTO time_partitions VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (table_name, starts_at) DO UPDATE SET written_at = excluded.written_at",
                table.name,
                start,
                end,
                hour,
            )
            # Not to_regclass: it may still know a table that was dropped while this waited.
            if not await connection.fetchval(_IS_THERE, name):
                await connection.execute(
                    f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL EXCLUDING IDENTITY);"
                    f"ALTER TABLE {table.name} ATTACH PARTITION {name}"
                    f" FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
                )

    async def drop_old(self, table: PartitionedTable, now: datetime) -> list[str]:
        """Drop the partitions whose newest event and last write are too old; return their names."""
        limit = now - table.kept
        rows = await self._pool.fetch(
            "SELECT starts_at FROM time_partitions WHERE table_name = $1 AND ends_at < $2 AND written_at < $2",
            table.name,
            limit,
        )
        return [_name(table, row["starts_at"]) for row in rows if await self._drop(table, row["starts_at"], limit)]

    async def _drop(self, table: PartitionedTable, start: datetime, limit: datetime) -> bool:
        """Drop a partition unless it was written to in the meantime. Return True if it was dropped."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            # Comes first: `ensure` for the same partition waits at this row until the drop is over, and the other way.
            old = await connection.fetchval(
                "DELETE FROM time_partitions WHERE table_name = $1 AND starts_at = $2 AND written_at < $3 RETURNING 1",
                table.name,
                start,
                limit,
            )
            if old:
                await connection.execute(f"DROP TABLE IF EXISTS {_name(table, start)}")
        if old:
            self._written.pop((table.name, start), None)
        return bool(old)


def _start(table: PartitionedTable, time: datetime) -> datetime:
    return _EPOCH + (time - _EPOCH) // table.width * table.width


def _name(table: PartitionedTable, start: datetime) -> str:
    return f"{table.name}_p{start:%Y%m%d}" + (f"{start:%H}" if table.width < timedelta(days=1) else "")
