"""Partitions by time: made when needed, dropped when both their events and their last write are old."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from stockpulse.postgres.connect import create_pool
from stockpulse.storage.partitions import BARS_1M, BARS_5M, DEAD_LETTERS, OF_EVENTS, Partitions

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
async def pool(postgres_dsn):
    pool = await create_pool(postgres_dsn, 4)
    yield pool
    await pool.close()


@pytest.fixture
def partitions(pool):
    return Partitions(pool)


async def write(pool, ts, symbol_id=1):
    """A bar of this time."""
    await pool.execute(
        "INSERT INTO bars_1m SELECT $1, $2::timestamptz, $2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0", symbol_id, ts
    )


async def tables(pool, table=BARS_1M):
    rows = await pool.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass", table.name
    )
    return {row["name"] for row in rows}


@pytest.mark.parametrize("table", [BARS_1M, BARS_5M, DEAD_LETTERS])
async def test_any_time_from_1990_on_has_a_place(pool, partitions, table):
    times = [datetime(1990, 1, 1, tzinfo=UTC) + DAY * 1000 * n for n in range(13)] + [NOW]
    await partitions.ensure(table, times, NOW)
    rows = await pool.fetch("SELECT starts_at, ends_at FROM time_partitions WHERE table_name = $1", table.name)
    for time in times:
        assert sum(row["starts_at"] <= time < row["ends_at"] for row in rows) == 1
    for row in rows:
        age = NOW - row["starts_at"]
        assert row["ends_at"] - row["starts_at"] == table.width if age < table.kept else age > 30 * DAY
    assert len(await tables(pool, table)) == len(rows) == 14


@pytest.mark.parametrize("table", [BARS_1M, BARS_5M])
async def test_decades_take_a_partition_a_year(pool, partitions, table):
    weeks = [datetime(1990, 1, 3, tzinfo=UTC) + n * 7 * DAY for n in range(36 * 52)]
    await partitions.ensure(table, weeks, NOW)
    rows = await pool.fetch(
        "SELECT starts_at, ends_at FROM time_partitions WHERE table_name = $1 ORDER BY starts_at", table.name
    )
    assert len(rows) <= 36 + table.kept // table.width + 2
    for time in weeks:
        assert sum(row["starts_at"] <= time < row["ends_at"] for row in rows) == 1
    assert all(a["ends_at"] <= b["starts_at"] for a, b in itertools.pairwise(rows))
    assert len(await tables(pool, table)) == len(rows)


async def test_old_partitions_fill_the_room_between_those_that_are_there(pool, partitions):
    """Weekly partitions that were created when their time was recent do not change."""
    then = datetime(2025, 6, 4, tzinfo=UTC)
    await partitions.ensure(BARS_1M, [then, then + 14 * DAY], then)
    for late in (then + 7 * DAY, then - 20 * DAY, then + 21 * DAY, then + 100 * DAY, datetime(2026, 1, 2, tzinfo=UTC)):
        await Partitions(pool).ensure(BARS_1M, [late], NOW + 90 * DAY)
        await write(pool, late)
    rows = await pool.fetch("SELECT starts_at::date, ends_at::date FROM time_partitions ORDER BY starts_at")
    assert [(f"{row[0]:%m-%d}", f"{row[1]:%m-%d}") for row in rows] == [
        ("01-01", "06-02"),
        ("06-02", "06-09"),
        ("06-09", "06-16"),
        ("06-16", "06-23"),
        ("06-23", "01-01"),
        ("01-01", "03-02"),  # the week that is still kept begins here
    ]


async def test_two_processes_that_see_different_times_make_no_overlap(pool):
    fresh, stale = Partitions(pool), Partitions(pool)
    time = datetime(2025, 12, 3, tzinfo=UTC)
    await stale.ensure(BARS_1M, [NOW], NOW)  # it knows of no partition of December
    await fresh.ensure(BARS_1M, [time], NOW)  # a week
    await stale.ensure(BARS_1M, [time - 3 * DAY, time], NOW + 90 * DAY)  # for it the time is old
    await write(pool, time)
    await write(pool, time - 3 * DAY)
    assert len(await tables(pool)) == 3


async def test_preparing_makes_what_a_flush_needs_and_then_asks_nobody(pool, partitions):
    times = [NOW, NOW - 4000 * DAY]
    await partitions.prepare(times, NOW)
    names = {table.name: len(await tables(pool, table)) for table in OF_EVENTS}
    assert names == dict.fromkeys(names, 2)
    await pool.close()
    await partitions.prepare(times, NOW + timedelta(hours=5))


async def test_without_one_a_row_has_no_place(pool, partitions):
    await partitions.ensure(BARS_1M, [NOW], NOW)
    await write(pool, NOW)
    with pytest.raises(asyncpg.CheckViolationError):
        await write(pool, NOW + 8 * DAY)


async def test_both_edges_of_a_partition(pool, partitions):
    monday = datetime(2026, 3, 2, tzinfo=UTC)
    await partitions.ensure(BARS_1M, [monday], NOW)
    await write(pool, monday)
    await write(pool, monday + 7 * DAY - timedelta(microseconds=1))
    assert await tables(pool) == {"bars_1m_p20260302"}


async def test_made_by_several_at_once(pool):
    times = [NOW - DAY * 7 * week for week in range(4)]
    await asyncio.gather(*(Partitions(pool).ensure(BARS_1M, times, NOW) for _ in range(4)))
    assert len(await tables(pool)) == 4


async def test_the_hour_of_the_last_write_is_kept(pool, partitions):
    for minutes in (0, 10, 40, 100):
        await partitions.ensure(BARS_1M, [NOW], NOW + timedelta(minutes=minutes))
    assert await pool.fetchval("SELECT written_at FROM time_partitions") == NOW.replace(hour=17, minute=0)


class TestDropping:
    async def test_takes_what_is_old_in_both_ways(self, pool, partitions):
        await partitions.ensure(BARS_1M, [NOW - 400 * DAY, NOW], NOW)
        await write(pool, NOW - 400 * DAY)
        await write(pool, NOW)
        assert await partitions.drop_old(BARS_1M, NOW + 89 * DAY) == []
        (name,) = await partitions.drop_old(BARS_1M, NOW + 91 * DAY)
        assert name not in await tables(pool)
        assert await pool.fetchval("SELECT count(*) FROM bars_1m") == 1
        assert await partitions.drop_old(BARS_1M, NOW + 91 * DAY) == []

    async def test_leaves_old_events_that_were_written_lately(self, pool, partitions):
        await partitions.ensure(BARS_1M, [NOW - 400 * DAY], NOW)
        await partitions.ensure(BARS_1M, [NOW - 400 * DAY], NOW + 80 * DAY)
        assert await partitions.drop_old(BARS_1M, NOW + 100 * DAY) == []

    async def test_leaves_other_tables_alone(self, pool, partitions):
        for table in (BARS_1M, BARS_5M):
            await partitions.ensure(table, [NOW - 400 * DAY], NOW)
        assert len(await partitions.drop_old(BARS_1M, NOW + 200 * DAY)) == 1
        assert await partitions.drop_old(BARS_5M, NOW + 200 * DAY) == []
        assert len(await tables(pool, BARS_5M)) == 1

    async def test_is_made_good_by_a_late_write(self, pool, partitions):
        old = NOW - 400 * DAY
        await partitions.ensure(BARS_1M, [old], NOW)
        await partitions.drop_old(BARS_1M, NOW + 91 * DAY)
        # Also within the hour of the last write: a dropped partition is not remembered.
        for now in (NOW + 91 * DAY, NOW):
            await partitions.ensure(BARS_1M, [old], now)
            await write(pool, old, symbol_id=now.day)
            assert len(await tables(pool)) == 1

    async def test_leaves_what_is_written_to_in_the_last_moment(self, pool):
        """A process looks for old partitions; before it drops them, a late bar arrives for one of them."""
        old, later = NOW - 400 * DAY, NOW + 91 * DAY
        writing, dropping = Partitions(pool), Partitions(pool)
        await writing.ensure(BARS_1M, [old], NOW)
        async with pool.acquire() as connection:
            async with connection.transaction():
                # Create a partition as `ensure` does, not committed yet when the process looks for old partitions.
                await connection.execute("UPDATE time_partitions SET written_at = $1", later)
                drop = asyncio.create_task(dropping.drop_old(BARS_1M, later))
                while not await self.waiting(pool):
                    await asyncio.sleep(0.01)
            await write(pool, old)
        assert await drop == []
        assert await pool.fetchval("SELECT count(*) FROM bars_1m") == 1

    async def waiting(self, pool):
        return await pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )

    async def test_and_making_at_the_same_time_lose_nothing(self, pool):
        old = [NOW - DAY * 7 * week for week in range(60, 66)]
        later = NOW + 91 * DAY
        for _ in range(4):
            await pool.execute("UPDATE time_partitions SET written_at = '2020-01-01'")
            writing = Partitions(pool)

            async def write_all(writing=writing):
                for at, ts in enumerate(old):
                    await writing.ensure(BARS_1M, [ts], later)
                    await pool.execute("DELETE FROM bars_1m WHERE ts = $1", ts)
                    await write(pool, ts, symbol_id=at)

            await asyncio.gather(write_all(), Partitions(pool).drop_old(BARS_1M, later))
            assert await pool.fetchval("SELECT count(*) FROM bars_1m") == len(old)
