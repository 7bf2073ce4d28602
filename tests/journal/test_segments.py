"""Segments of the log: opened, sealed, indexed, dropped."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from journal_log import NOW, bars, offsets, opened, replayed, ticks
from stockpulse.journal.segments import first_offset
from stockpulse.journal.segments import table_of as table_that_holds

DAY = timedelta(days=1)


def table_of(number, parent="realtime_prices"):
    """Return the table of a segment."""
    return table_that_holds(first_offset(number), parent)


async def tables(journal):
    rows = await journal.segments._pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '_s[0-9]{10}(_[0-9]+)?$' ORDER BY 1"
    )
    return {row["relname"] for row in rows}


async def indexes(journal, number):
    rows = await journal.segments._pool.fetch("SELECT indexname FROM pg_indexes WHERE tablename = $1", table_of(number))
    return [row["indexname"] for row in rows]


async def filled(journal, segments, rows=5, **options):
    """Append until there are this many full segments, then an open one."""
    return [(await journal.append(ticks(rows, seed=number, **options)))[0] for number in range(segments + 1)]


class TestRolling:
    async def test_when_full(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            bases = [offsets([(await journal.append(ticks(count)))[0]])[0] for count in (3, 1, 1, 1, 9, 1)]
        first, second, third = map(first_offset, (1, 2, 3))
        assert bases == [first, first + 3, first + 4, second, second + 1, third]

    async def test_when_old(self, postgres_dsn):
        async with opened(postgres_dsn, age_seconds=0.0) as journal:
            assert offsets([(await journal.append(ticks(1)))[0]]) == [first_offset(1)]
            assert offsets([(await journal.append(ticks(1)))[0]]) == [first_offset(2)]

    async def test_an_empty_one_is_never_too_old(self, postgres_dsn):
        async with opened(postgres_dsn, age_seconds=0.0) as journal:
            await asyncio.sleep(0.01)
            assert journal.segments.next_base(journal.head) == first_offset(1)

    async def test_bars_fill_a_segment_too(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            (await journal.append(bars(5)))[0]
            assert offsets([(await journal.append(ticks(1)))[0]]) == [first_offset(2)]

    async def test_the_next_one_may_be_made_before(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            await journal.segments.ensure(first_offset(2))
            await asyncio.gather(*(journal.segments.ensure(first_offset(number)) for number in (2, 3, 3, 4)))
            await filled(journal, 3)
            assert journal.segments.open == first_offset(4)


class TestSealed:
    async def test_is_indexed_and_leaves_memory(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            done = await filled(journal, 2)
            segments = journal.segments
            assert segments.recent.segments() == {first_offset(1), first_offset(2), first_offset(3)}
            assert [segments.sealed[first_offset(number)].indexed for number in (1, 2)] == [False, False]
            await segments.index_sealed()
            assert segments.recent.segments() == {first_offset(3)}
            for number, one in ((1, done[0]), (2, done[1])):
                known = segments.sealed[first_offset(number)]
                ts = one.batch.frame["ts"]
                assert (known.min_ts, known.max_ts, known.newest_append) == (ts.min(), ts.max(), NOW)
                assert known.indexed
                assert await indexes(journal, number) == [f"{table_of(number)}_symbol_ts"]
            assert await indexes(journal, 3) == []

    async def test_is_known_after_a_restart(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            await filled(journal, 2)
            await journal.segments.index_sealed()
            known = dict(journal.segments.sealed)
        async with opened(postgres_dsn, rows=5) as journal:
            assert journal.segments.sealed == known
            assert journal.segments.open == first_offset(3)

    async def test_but_not_yet_indexed_is_so_after_a_restart(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            await filled(journal, 1)
        async with opened(postgres_dsn, rows=5) as journal:
            assert not journal.segments.sealed[first_offset(1)].indexed
            await journal.segments.index_sealed()
            assert journal.segments.sealed[first_offset(1)].indexed

    async def test_with_bars_alone_has_no_event_times(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            (await journal.append(bars(5)))[0]
            (await journal.append(ticks(1)))[0]
            await journal.segments.index_sealed()
            known = journal.segments.sealed[first_offset(1)]
            assert (known.min_ts, known.max_ts, known.newest_append) == (None, None, NOW)

    async def test_again_changes_nothing(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            await filled(journal, 1)
            await journal.segments.index_sealed()
            known = dict(journal.segments.sealed)
            await journal.segments.index_sealed()
            assert journal.segments.sealed == known

    async def test_while_others_append(self, postgres_dsn):
        """Ticks that are appended while a segment is sealed are read once and in order."""
        async with opened(postgres_dsn, rows=30) as journal:

            async def append():
                return [(await journal.append(ticks(11, seed=seed)))[0] for seed in range(40)]

            appending = asyncio.create_task(append())
            while not appending.done():
                await journal.segments.index_sealed()
                await asyncio.sleep(0)
            assert offsets(await replayed(journal, 0)) == offsets(await appending)


class TestDropping:
    @pytest.fixture
    async def journal(self, postgres_dsn):
        """Make two sealed and indexed segments, one sealed segment and an open one."""
        async with opened(postgres_dsn, rows=5) as journal:
            (await journal.append(ticks(5, received_at=NOW - 9 * DAY)))[0]
            (await journal.append(ticks(5, received_at=NOW - 6 * DAY)))[0]
            (await journal.append(ticks(1, received_at=NOW - 6 * DAY)))[0]
            await journal.segments.index_sealed()
            (await journal.append(ticks(5, received_at=NOW - 6 * DAY)))[0]
            (await journal.append(ticks(1)))[0]
            assert journal.segments.open == first_offset(4)
            yield journal

    async def test_takes_the_old_ones_with_index(self, journal):
        assert await journal.segments.drop_older(NOW - 5 * DAY, journal.head) == [first_offset(1), first_offset(2)]
        assert set(journal.segments.sealed) == {first_offset(3)}
        assert not {
            table_of(1),
            table_of(1, "provider_bars"),
            table_of(2),
        } & await tables(journal)
        assert {
            table_of(3),
            table_of(4),
            table_of(4, "provider_bars"),
        } <= await tables(journal)
        assert min(offsets(await replayed(journal, 0))) == first_offset(3)

    async def test_takes_none_that_is_younger(self, journal):
        assert await journal.segments.drop_older(NOW - 7 * DAY, journal.head) == [first_offset(1)]
        assert await journal.segments.drop_older(NOW - 7 * DAY, journal.head) == []

    async def test_takes_none_of_just_that_age(self, journal):
        assert await journal.segments.drop_older(NOW - 9 * DAY, journal.head) == []

    async def test_takes_none_that_a_restart_has_to_read(self, journal):
        assert await journal.segments.drop_older(NOW + DAY, first_offset(1) + 5) == []
        assert await journal.segments.drop_older(NOW + DAY, first_offset(2) - 1) == []
        assert await journal.segments.drop_older(NOW + DAY, first_offset(2)) == [first_offset(1)]

    async def test_never_takes_the_open_one(self, journal):
        await journal.segments.index_sealed()
        assert await journal.segments.drop_older(NOW + 99 * DAY, 1 << 60) == [
            first_offset(1),
            first_offset(2),
            first_offset(3),
        ]
        assert table_of(4) in await tables(journal)

    async def test_counts_the_age_of_bars(self, postgres_dsn):
        async with opened(postgres_dsn, rows=5) as journal:
            (await journal.append(ticks(4, received_at=NOW - 9 * DAY)))[0]
            (await journal.append(bars(1, received_at=NOW)))[0]
            (await journal.append(ticks(1)))[0]
            await journal.segments.index_sealed()
            assert await journal.segments.drop_older(NOW - DAY, journal.head) == []

    async def test_is_remembered(self, journal, postgres_dsn):
        await journal.segments.drop_older(NOW - 5 * DAY, journal.head)
        await journal.close()
        async with opened(postgres_dsn, rows=5) as again:
            assert set(again.segments.sealed) == {first_offset(3)}
            assert min(offsets(await replayed(again, 0))) == first_offset(3)
            assert (await again.recent_keys())["seq"].min() >= first_offset(3)

    async def test_waits_for_no_reader_for_long(self, journal, postgres_dsn):
        """A reader of the segment may finish first; the next round tries again."""
        pool = journal.segments._pool
        async with pool.acquire() as reader, reader.transaction():
            await reader.fetch(f"SELECT * FROM {table_of(1)}")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await journal.segments.drop_older(NOW - 7 * DAY, journal.head)
            assert first_offset(1) in journal.segments.sealed
        assert await journal.segments.drop_older(NOW - 7 * DAY, journal.head) == [first_offset(1)]
