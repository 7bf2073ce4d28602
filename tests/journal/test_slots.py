"""Segments of an external log: they end where they are sealed."""

from datetime import timedelta

import pytest

from journal_log import NOW, ticks
from stockpulse.journal import tick_rows
from stockpulse.journal.followed_log import first_of, slot_of
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.segments import SLOT_BITS, Segments, table_of
from stockpulse.market.schemas import LOGGED_TICKS
from stockpulse.postgres.connect import connect, create_pool

FIRST = first_of(3)
DAY = timedelta(days=1)


@pytest.fixture
async def pool(postgres_dsn):
    pool = await create_pool(postgres_dsn, 3)
    yield pool
    await pool.close()


@pytest.fixture
async def connection(postgres_dsn):
    connection = await connect(postgres_dsn)
    yield connection
    await connection.close()


def placed(first, count, **options):
    """Make stored ticks with seqs from this offset on."""
    frame = ticks(count, **options).frame
    return frame.with_columns(seq=first + frame.with_row_index("at")["at"].cast(LOGGED_TICKS["seq"])).select(
        list(LOGGED_TICKS)
    )


async def opened(pool, **options):
    segments = Segments(pool, RecentTicks(), slot=slot_of(FIRST), **options)
    await segments.load(FIRST)
    await segments.ensure(segments.open)
    return segments


async def stored(segments, connection, frame):
    """Store rows as the sink does, in the table and in memory."""
    segments.recent.append(segments.open, frame)
    await tick_rows.write(connection, segments.open, tick_rows.packed(frame))


async def test_the_open_one_takes_all_that_can_come(pool, connection):
    segments = await opened(pool)
    for offset in (FIRST, FIRST + 10**9, FIRST + (1 << SLOT_BITS) - 3):
        await stored(segments, connection, placed(offset, 3))
    assert await pool.fetchval("SELECT count(*) FROM realtime_prices") == 9
    assert await pool.fetchval("SELECT end_seq FROM log_segments") == FIRST + (1 << SLOT_BITS)


async def test_one_that_is_sealed_ends_there_and_is_indexed(pool, connection):
    segments = await opened(pool, rows=5)
    assert not segments.is_due(FIRST + 4)
    await stored(segments, connection, placed(FIRST, 5))
    segments.recent.append(segments.open, placed(FIRST + 5, 2))  # processed, and not stored yet
    assert segments.is_due(FIRST + 5)
    await segments.seal(FIRST + 5)
    assert segments.open == FIRST + 5
    assert [chunk.segment for chunk in segments.recent.chunks()] == [FIRST, FIRST + 5]
    assert [len(chunk) for chunk in segments.recent.chunks()] == [5, 2]
    await segments.index_sealed()
    assert segments.recent.segments() == {FIRST + 5}
    known = segments.sealed[FIRST]
    assert (known.first, known.end, known.indexed) == (FIRST, FIRST + 5, True)
    assert await pool.fetch("SELECT indexname FROM pg_indexes WHERE tablename = $1", table_of(FIRST))


async def test_rows_that_are_not_before_its_end_keep_it_from_being_sealed(pool, connection):
    segments = await opened(pool)
    await stored(segments, connection, placed(FIRST, 7))
    with pytest.raises(Exception, match="bounds"):
        await segments.seal(FIRST + 5)
    assert segments.open == FIRST
    assert await pool.fetchval("SELECT count(*) FROM realtime_prices") == 7


async def test_another_process_finds_them(pool, connection):
    segments = await opened(pool)
    await stored(segments, connection, placed(FIRST, 5))
    await segments.seal(FIRST + 5)
    await stored(segments, connection, placed(FIRST + 5, 2))
    again = await opened(pool)
    assert (again.open, set(again.sealed)) == (FIRST + 5, {FIRST})
    read = await tick_rows.read_whole(connection, again.open, FIRST + 6)
    assert read["seq"].to_list() == [FIRST + 6]


async def test_of_a_log_that_was_left_none_is_open(pool, connection):
    segments = await opened(pool)
    await stored(segments, connection, placed(FIRST, 5))
    later = first_of(9)
    left = Segments(pool, RecentTicks(), slot=range(later))
    await left.load(later)
    await left.index_sealed()
    assert (left.open, left.sealed[FIRST].indexed) == (later, True)


async def test_old_ones_are_dropped_once_no_restart_needs_them(pool, connection):
    segments = await opened(pool)
    await stored(segments, connection, placed(FIRST, 5, received_at=NOW - 9 * DAY))
    await segments.seal(FIRST + 5)
    await segments.index_sealed()
    assert await segments.drop_older(NOW - 10 * DAY, FIRST + 5) == []
    assert await segments.drop_older(NOW, FIRST + 4) == []
    assert await segments.drop_older(NOW, FIRST + 5) == [FIRST]
    assert await pool.fetchval("SELECT count(*) FROM realtime_prices") == 0
