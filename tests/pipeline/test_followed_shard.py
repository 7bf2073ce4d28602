"""A process that only answers requests reads the ticks that another process stores."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import polars as pl
import pytest

from journal_log import T, ticks
from stockpulse.journal import corrections, tick_rows
from stockpulse.journal.followed_log import first_of, slot_of
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Ticks, with_seqs
from stockpulse.journal.segments import Segments
from stockpulse.market.clocks import Clock
from stockpulse.market.schemas import PRIMARY, UTC_MICROS
from stockpulse.market.symbology import Names, ProviderName, TickKind
from stockpulse.pipeline.followed_shard import FollowedShard
from stockpulse.postgres.connect import Connection, Pool, connect, create_pool

FIRST = first_of(3)


@dataclass
class Storing:
    """The process that stores the ticks of the shard."""

    segments: Segments
    connection: Connection
    offset: int = FIRST

    async def store(self, count: int, **changes: object) -> pl.DataFrame:
        frame = ticks(count, seed=self.offset - FIRST).frame.with_columns(**changes)
        placed = with_seqs(Ticks(frame.cast({"symbol_id": pl.Int32, "kind_id": pl.Int32})), self.offset).frame
        await tick_rows.write(self.connection, self.segments.open, tick_rows.packed(placed))
        self.offset += count
        return placed


@pytest.fixture
async def pool(postgres_dsn: str) -> AsyncIterator[Pool]:
    pool = await create_pool(postgres_dsn, 3)
    yield pool
    await pool.close()


@pytest.fixture
async def storing(pool: Pool, postgres_dsn: str) -> AsyncIterator[Storing]:
    segments = Segments(pool, RecentTicks(), slot=slot_of(FIRST))
    await segments.load(FIRST)
    await segments.ensure(segments.open)
    connection = await connect(postgres_dsn)
    yield Storing(segments, connection)
    await connection.close()


@pytest.fixture
def names() -> Names:
    """Kinds 1 and 2 are of provider 1; 3 is of provider 2, and not of the feed that bars are built from."""
    names = Names()
    for number, name in ((1, "alpaca"), (2, "finnhub")):
        names.add_provider(ProviderName(number, name, Clock.EVENT, 0))
    names.add_kinds([(1, TickKind(1, "", "", 3 | PRIMARY)), (2, TickKind(1, "N", "", 3 | PRIMARY))])
    names.add_kinds([(3, TickKind(2, "", "", 3))])
    return names


def at(*micros: int) -> pl.Series:
    return pl.Series(micros).cast(UTC_MICROS)


def read(shard: FollowedShard) -> list[int]:
    return [seq for chunk in shard.segments.recent.chunks() for seq in chunk.frame["seq"].to_list()]


async def test_reads_each_stored_tick_once(pool, storing, names):
    shard = FollowedShard(pool, names, FIRST)
    await shard.read()
    assert read(shard) == []
    for count in (1, 500, 2000):
        await storing.store(count)
        await shard.read()
        await shard.read()
        assert read(shard) == list(range(FIRST, storing.offset))


async def test_ticks_come_whole(pool, storing, names):
    stored = await storing.store(50)
    shard = FollowedShard(pool, names, FIRST)
    await shard.read()
    assert pl.concat([chunk.frame for chunk in shard.segments.recent.chunks()]).equals(stored)


async def test_one_that_begins_later_reads_the_open_segment_from_its_start(pool, storing, names):
    await storing.store(10)
    await storing.segments.seal(storing.offset)
    await storing.store(5)
    shard = FollowedShard(pool, names, FIRST)
    await shard.read()
    assert read(shard) == list(range(FIRST + 10, FIRST + 15))
    assert list(shard.segments.sealed) == [FIRST]


async def test_follows_into_the_next_segment(pool, storing, names):
    shard = FollowedShard(pool, names, FIRST)
    await storing.store(10)
    await shard.read()
    await storing.segments.seal(storing.offset)
    await storing.store(5)
    await shard.read()
    assert read(shard) == list(range(FIRST + 10, FIRST + 15))
    assert shard.segments.open == FIRST + 10


async def test_knows_the_clocks_of_the_primary_feeds(pool, storing, names):
    shard = FollowedShard(pool, names, FIRST)
    await storing.store(4, symbol_id=5, kind_id=2, ts=at(T, T + 9, T + 3, T + 1))
    await storing.store(1, symbol_id=6, kind_id=3)
    await shard.read()
    assert (shard.provider_of(5), shard.newest(1)) == (1, T + 9)
    assert (shard.provider_of(6), shard.newest(2)) == (0, 0)  # another feed leads the symbol
    assert not shard.is_over(names.provider_by_id[1])
    await storing.store(1, symbol_id=5, kind_id=1, ts=at(T - 1))
    await shard.read()
    assert shard.newest(1) == T + 9  # a late tick does not turn the clock back


async def test_leaves_out_ticks_that_corrections_took_back(pool, storing, names):
    shard = FollowedShard(pool, names, FIRST)
    stored = await storing.store(10)
    await shard.read()
    gone = stored[[3, 7]].select("seq", "symbol_id", "ts", by_seq=pl.lit(storing.offset))
    await corrections.write_cancelled(storing.connection, gone)
    await shard.read()
    assert read(shard) == [FIRST + n for n in range(10) if n not in (3, 7)]
    later = FollowedShard(pool, names, FIRST)
    await later.read()
    assert read(later) == read(shard)
