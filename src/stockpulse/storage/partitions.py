"""Partitions by time, made when data for them comes and dropped when it is too old.

Old means both: the newest event in the partition and the last write to it. So a replay of 2013 is kept as long
as what came today.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from stockpulse.postgres.connect import Pool

_IS_THERE: Final = (
    "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1 AND relnamespace = current_schema()::regnamespace)"
)
_EPOCH: Final = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday


@dataclass(frozen=True)
class PartitionedTable:
    """A table partitioned by time: how long each partition is, and how long its rows are kept."""

    name: str
    width: timedelta
    kept: timedelta


BARS_1M: Final = PartitionedTable("bars_1m", timedelta(days=7), timedelta(days=90))
BARS_5M: Final = PartitionedTable("intraday_ohlcv", timedelta(days=28), timedelta(days=730))
INTRADAY_ANALYTICS: Final = PartitionedTable("intraday_analytics", timedelta(days=7), timedelta(days=90))
REALTIME_ANALYTICS: Final = PartitionedTable("realtime_analytics", timedelta(hours=1), timedelta(hours=1))
SIGNALS: Final = PartitionedTable("signals", timedelta(days=7), timedelta(days=90))
DEAD_LETTERS: Final = PartitionedTable("dead_letters", timedelta(days=7), timedelta(days=30))
PARTITIONED: Final = (BARS_1M, BARS_5M, INTRADAY_ANALYTICS, REALTIME_ANALYTICS, SIGNALS, DEAD_LETTERS)


class Partitions:
    """Makes partitions, notes when they were written, and drops old ones."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._written: dict[tuple[str, datetime], datetime] = {}

    async def ensure(self, table: PartitionedTable, times: Iterable[datetime], now: datetime) -> None:
        """Make sure that rows of these times can be written now."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        for start in sorted({_start(table, time) for time in times}):
            if self._written.get((table.name, start)) != hour:
                await self._make(table, start, hour)
                self._written[table.name, start] = hour

    async def _make(self, table: PartitionedTable, start: datetime, hour: datetime) -> None:
        name = _name(table, start)
        end = start + table.width
        async with self._pool.acquire() as connection, connection.transaction():
            # Also keeps a drop of the same partition away until this is committed.
            await connection.execute(
                "INSERT INTO time_partitions VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (table_name, starts_at) DO UPDATE SET written_at = excluded.written_at",
                table.name,
                start,
                end,
                hour,
            )
            # Not to_regclass, which may remember a table that was dropped while we waited.
            if not await connection.fetchval(_IS_THERE, name):
                await connection.execute(
                    f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL EXCLUDING IDENTITY);"
                    f"ALTER TABLE {table.name} ATTACH PARTITION {name}"
                    f" FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
                )

    async def drop_old(self, table: PartitionedTable, now: datetime) -> list[str]:
        """Drop the partitions whose newest event and last write are older than is kept; return their names."""
        limit = now - table.kept
        rows = await self._pool.fetch(
            "SELECT starts_at FROM time_partitions WHERE table_name = $1 AND ends_at < $2 AND written_at < $2",
            table.name,
            limit,
        )
        return [_name(table, row["starts_at"]) for row in rows if await self._drop(table, row["starts_at"], limit)]

    async def _drop(self, table: PartitionedTable, start: datetime, limit: datetime) -> bool:
        """Drop a partition, unless it has been written to since it was looked at; whether it was dropped."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            # First, since whoever makes sure of the same partition waits here until it is gone, or we for them.
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
