"""Partitions by time: created before rows for them are written, dropped when they are too old.

A partition is too old when both its newest event and its last write are too old. So a replay of 2013 is kept as long as
today's ticks.

years                        │ as long as the table keeps events │ now
├── 2023 ──┼── 2024 ──┼─ 25 ─┤ week ┤ week ┤ week ┤ week ┤ week ┤

Events older than a table keeps are there only because they were written lately. They share a partition for a year, so
that a sparse history of decades needs dozens of partitions and not thousands. A partition fills at most the room
between existing partitions: no partition is ever moved.
"""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from stockpulse.market.intervals import M1, M5
from stockpulse.postgres.connect import Pool
from stockpulse.storage.retention import RETENTION, Unit

_EXISTS: Final = (
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

OF_EVENTS: Final = (BARS_1M, BARS_5M, INTRADAY_ANALYTICS, SIGNALS)
"""The tables whose rows have the event times of ticks."""

_AT_ONCE: Final = 20
"""At most this many partitions are made in one transaction: each takes several locks."""


@dataclass(frozen=True, order=True)
class Partition:
    """The rows with start <= time < end."""

    start: datetime
    end: datetime


class Partitions:
    """Creates partitions, notes their last writes, and drops old partitions."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: dict[str, list[Partition]] = {}
        self._written: dict[tuple[str, datetime], datetime] = {}

    async def prepare(self, times: Iterable[datetime], now: datetime) -> None:
        """Create the partitions for events of these times, so that no flush has to.

        If they exist, this is a look-up in memory.
        """
        times = list(times)
        for table in OF_EVENTS:
            if self._uncovered(table, times):
                await self.ensure(table, times, now)

    async def ensure(self, table: PartitionedTable, times: Iterable[datetime], now: datetime) -> None:
        """Create the partitions for rows of these times, and note that they are written now."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        times = sorted(times)
        if self._uncovered(table, times):
            await self._load(table)
        needed = _covering(self._known.get(table.name, []), table, times, now)
        stale = [one for one in needed if self._written.get((table.name, one.start)) != hour]
        for at in range(0, len(stale), _AT_ONCE):
            some = stale[at : at + _AT_ONCE]
            if not await self._make(table, some, hour):  # another process may have created others in the meantime
                self._known.pop(table.name, None)
                await self.ensure(table, times, now)
                return
            self._written |= dict.fromkeys(((table.name, one.start) for one in some), hour)
            self._known[table.name] = sorted({*self._known.get(table.name, []), *some})

    def _uncovered(self, table: PartitionedTable, times: Iterable[datetime]) -> bool:
        known = self._known.get(table.name, [])
        return any(_find(known, time) is None for time in times)

    async def _load(self, table: PartitionedTable) -> None:
        rows = await self._pool.fetch(
            "SELECT starts_at, ends_at FROM time_partitions WHERE table_name = $1", table.name
        )
        self._known[table.name] = sorted(Partition(*row) for row in rows)

    async def _make(self, table: PartitionedTable, partitions: list[Partition], hour: datetime) -> bool:
        """Create these partitions, or note a write if they exist. Return False if others are in their place."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('partitions of ' || $1))", table.name)
            if await connection.fetchval(_OVERLAPS, table.name, *_columns(partitions)):
                return False
            # Locks the rows: a drop of the same partitions waits until this is committed.
            await connection.execute(_NOTE, table.name, *_columns(partitions), hour)
            for one in partitions:
                # Not to_regclass: it may still know a table that was dropped while this waited.
                if not await connection.fetchval(_EXISTS, _name(table, one.start)):
                    await connection.execute(_creation(table, one))
        return True

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
            self._known.pop(table.name, None)
        return bool(old)


_OVERLAPS: Final = (
    "SELECT EXISTS (SELECT FROM time_partitions p,"
    " unnest($2::timestamptz[], $3::timestamptz[]) AS n (starts_at, ends_at)"
    " WHERE p.table_name = $1 AND p.starts_at < n.ends_at AND n.starts_at < p.ends_at"
    " AND (p.starts_at, p.ends_at) <> (n.starts_at, n.ends_at))"
)
_NOTE: Final = (
    "INSERT INTO time_partitions SELECT $1, n.starts_at, n.ends_at, $4"
    " FROM unnest($2::timestamptz[], $3::timestamptz[]) AS n (starts_at, ends_at)"
    " ON CONFLICT (table_name, starts_at) DO UPDATE SET written_at = excluded.written_at"
)


def _columns(partitions: list[Partition]) -> tuple[list[datetime], list[datetime]]:
    return [one.start for one in partitions], [one.end for one in partitions]


def _creation(table: PartitionedTable, one: Partition) -> str:
    name = _name(table, one.start)
    return (
        f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL EXCLUDING IDENTITY);"
        f"ALTER TABLE {table.name} ATTACH PARTITION {name}"
        f" FOR VALUES FROM ('{one.start.isoformat()}') TO ('{one.end.isoformat()}')"
    )


def _covering(
    known: list[Partition], table: PartitionedTable, times: Iterable[datetime], now: datetime
) -> list[Partition]:
    """Return the partitions of these ascending times: known partitions, and new ones in the room between them."""
    known = list(known)
    needed: list[Partition] = []
    for time in times:
        if needed and needed[-1].start <= time < needed[-1].end:
            continue
        one = _find(known, time)
        if one is None:
            one = _new(known, table, time, now)
            bisect.insort(known, one)
        needed.append(one)
    return needed


def _find(known: list[Partition], time: datetime) -> Partition | None:
    at = bisect.bisect_right(known, time, key=lambda one: one.start) - 1
    return known[at] if at >= 0 and time < known[at].end else None


def _new(known: list[Partition], table: PartitionedTable, time: datetime, now: datetime) -> Partition:
    """Return a partition for a time that none holds: as wide as its age allows, and as its neighbours leave room."""
    oldest_kept = _floor(table, now - table.kept)
    if time < oldest_kept:
        start, end = datetime(time.year, 1, 1, tzinfo=UTC), datetime(time.year + 1, 1, 1, tzinfo=UTC)
        end = min(end, oldest_kept)
    else:
        start = _floor(table, time)
        end = start + table.width
    after = bisect.bisect_right(known, time, key=lambda one: one.start)
    if after > 0:
        start = max(start, known[after - 1].end)
    if after < len(known):
        end = min(end, known[after].start)
    return Partition(start, end)


def _floor(table: PartitionedTable, time: datetime) -> datetime:
    return _EPOCH + (time - _EPOCH) // table.width * table.width


def _name(table: PartitionedTable, start: datetime) -> str:
    return f"{table.name}_p{start:%Y%m%d}" + (f"{start:%H}" if table.width < timedelta(days=1) else "")
