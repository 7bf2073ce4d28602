"""A connection that dies at any message of an append or a flush: the work is done once, and its result is right."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import numpy as np
import polars as pl
import pytest
from crash_harness import SECOND, data_folder
from crash_proxy import Cut, Proxy

from bare_sink import flush_of, run_step, written
from stockpulse.engine.bar_engine import END_OF_TIME, BarEngine
from stockpulse.engine.bar_math import BAR
from stockpulse.engine.checkpoint_state import Changes
from stockpulse.engine.step import TickBatch
from stockpulse.errors import Fenced, JournalInUse
from stockpulse.journal.postgres import SHARD, PostgresJournal
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Ticks
from stockpulse.journal.segments import Segments, first_offset
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import BASE_INTERVALS
from stockpulse.market.schemas import LOGGED_TICKS
from stockpulse.postgres import migrate
from stockpulse.postgres.connect import Pool, create_pool
from stockpulse.postgres.embedded.server import EmbeddedPostgres
from stockpulse.storage.bar_rows import LAYOUT, TABLE, copy_out
from stockpulse.storage.partitions import Partitions

pytestmark = pytest.mark.timeout(120)

BEGIN = datetime(2024, 11, 29, 17, 45, tzinfo=UTC)
CUTS = [Cut.BEFORE, Cut.WITHIN, Cut.AFTER]


# A database, and a way to it that breaks ------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with data_folder() as folder:
        postgres = EmbeddedPostgres(folder)

        async def start() -> None:
            await postgres.start()
            await migrate.upgrade(postgres.dsn)

        asyncio.run(start())
        try:
            yield postgres
        finally:
            asyncio.run(postgres.stop())


@dataclass
class Way:
    """The database directly, for checks, and through the proxy, for the tested code."""

    direct: Pool
    proxy: Proxy

    async def value(self, query: str, *arguments: object) -> object:
        return await self.direct.fetchval(query, *arguments)


@pytest.fixture
async def way(server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Way]:
    """A fresh copy of the migrated database."""
    sockets = Path(server.dsn.partition("host=")[2])
    admin = await asyncpg.connect(server.dsn.replace("/stockpulse?", "/postgres?"))
    await admin.execute("CREATE DATABASE attacked TEMPLATE stockpulse")
    pool = await create_pool(server.dsn.replace("/stockpulse?", "/attacked?"), 5)
    try:
        async with Proxy(server._data_dir / "cut", sockets) as proxy:
            yield Way(pool, proxy)
    finally:
        await pool.close()
        await admin.execute("DROP DATABASE attacked WITH (FORCE)")
        await admin.close()


def through(proxy: Proxy) -> str:
    return proxy.dsn.replace("/stockpulse?", "/attacked?")


@contextlib.asynccontextmanager
async def a_journal(way: Way, dsn: str | None = None, wait_seconds: float = 5) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(dsn or through(way.proxy), Segments(way.direct, RecentTicks()), wait_seconds)
    try:
        await journal.take()
        yield journal
    finally:
        await journal.close()


# Ticks and bars -------------------------------------------------------------------------------------


def some_ticks(first: int, count: int) -> pl.DataFrame:
    """Ticks numbered from `first`: the number is in each of them."""
    numbers = pl.int_range(first, first + count, eager=True)
    return pl.DataFrame(
        {
            "seq": numbers,
            "symbol_id": (numbers % 7 + 1).cast(pl.Int32),
            "kind_id": pl.repeat(1, count, dtype=pl.Int32, eager=True),
            "ts": pl.Series([BEGIN + timedelta(seconds=number) for number in range(first, first + count)]),
            "received_at": pl.repeat(BEGIN, count, eager=True),
            "price": numbers.cast(pl.Float64) + 0.25,
            "size": numbers.cast(pl.Float64),
            "trade_id": numbers.cast(pl.String),
        },
        schema_overrides=dict(LOGGED_TICKS),
    ).drop("seq")


async def assert_log_holds(way: Way, count: int, base: int) -> None:
    """Assert that the log has the numbers 0 to `count`, each once and in order, from this offset."""
    rows = await way.direct.fetch("SELECT seq, trade_id::bigint, size FROM realtime_prices ORDER BY seq")
    assert [tuple(row) for row in rows] == [(base + number, number, float(number)) for number in range(count)]
    assert await way.value("SELECT head FROM journal_heads") == base + count


# The journal ----------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("cut", CUTS)
async def test_append_cut_at_any_message_is_there_once(way: Way, cut: Cut) -> None:
    size = 15_000  # several slices of COPY data
    async with a_journal(way) as journal:
        base = journal.head
        way.proxy.messages.clear()
        await journal.append(Ticks(some_ticks(0, size)))
        in_one = len(way.proxy.messages)
        assert b"d" in way.proxy.messages
        done = size
        for number in range(in_one):
            way.proxy.arm(number, cut)
            count = size if number % 3 == 0 else 50
            [appended] = await journal.append(Ticks(some_ticks(done, count)))
            assert (appended.before, appended.after) == (base + done, base + done + count), number
            assert appended.batch.frame["seq"].to_list() == list(range(base + done, base + done + count))
            done += count
            assert journal.head == base + done
        print(f"cut at each of {in_one} messages: {b''.join(way.proxy.messages)!r}")
        await assert_log_holds(way, done, base)
        assert sum(len(chunk) for chunk in journal.segments.recent.chunks()) == done


async def test_append_cut_again_and_again_is_there_once(way: Way) -> None:
    """Every try is cut at another message; some are cut while they look up the outcome of the try before."""
    dice = np.random.default_rng(5)
    async with a_journal(way) as journal:
        base, done = journal.head, 0
        for _ in range(20):
            way.proxy.decide = lambda _number, _message: CUTS[dice.integers(3)] if dice.random() < 0.04 else None
            [appended] = await journal.append(Ticks(some_ticks(done, 20)))
            assert (appended.before, appended.after) == (base + done, base + done + 20)
            done += 20
        way.proxy.disarm()
        await assert_log_holds(way, done, base)


async def test_append_whose_server_side_stays_is_there_once(way: Way) -> None:
    """The server does not notice that the client is gone, as after a fault of the network: it still holds the lock."""
    async with a_journal(way, wait_seconds=3) as journal:
        base, done = journal.head, 0
        await journal.append(Ticks(some_ticks(0, 10)))
        done = 10
        for number in range(2, 9, 2):
            way.proxy.arm(number, Cut.HALF_OPEN)
            await journal.append(Ticks(some_ticks(done, 10)))
            done += 10
        await assert_log_holds(way, done, base)


async def test_append_across_the_edge_of_a_segment_is_there_once(way: Way) -> None:
    async with a_journal(way) as journal:
        journal.segments._rows = 30
        first = journal.segments.open
        done, numbers = 0, []
        for number in range(24):
            way.proxy.arm(number % 12, CUTS[number % 3])
            [appended] = await journal.append(Ticks(some_ticks(done, 20)))
            numbers += appended.batch.frame["seq"].to_list()
            done += 20
        way.proxy.disarm()
        assert journal.segments.open == first + first_offset(11)
        rows = await way.direct.fetch("SELECT seq, trade_id::bigint FROM realtime_prices ORDER BY seq")
        assert [tuple(row) for row in rows] == list(zip(numbers, range(done), strict=True))
        again = [batch async for batch in journal.replay(first, journal.head)]
        assert sum(len(batch.batch.frame) for batch in again) == done


# The sink -------------------------------------------------------------------------------------------


class Bars:
    """A bar engine that processes ticks, and whose memory has the expected stored data."""

    def __init__(self) -> None:
        self.shard = BarEngine()
        for symbol in range(1, 8):
            self.shard.learn(symbol, trading_calendar("24/7"))
        self.shard.offset = first_offset(1)

    def changes(self) -> Changes:
        """Process ticks in many minutes, close all of them, and return the changes."""
        base = self.shard.offset
        seq = np.arange(base, base + 100)
        batch = TickBatch(
            seq=seq,
            symbol_id=seq % 7 + 1,
            provider_id=np.ones(100, np.int64),
            ts=1_732_902_300 * SECOND + (seq * 7919 % 3600) * SECOND,
            price=seq % 100 + 0.5,
            size=seq % 10 + 0.125,
            flags=np.full(100, 7, np.uint8),
        )
        # No bar needs to be read: all of them stay in memory here.
        run_step(self.shard.step(batch, {1: END_OF_TIME}), lambda _wanted: np.empty(0, BAR))
        return self.shard.take_changes()


async def assert_stored(way: Way, bars: Bars) -> None:
    for interval in BASE_INTERVALS:
        rows = await copy_out_all(way, TABLE[interval])
        have = {(int(row["symbol_id"]), int(row["ts"])): [row[name] for name in rows.dtype.names[2:-2]] for row in rows}
        memory = bars.shard.resident(interval)
        want = {
            (int(row["symbol_id"]), int(row["ts"])): [row[name] for name in rows.dtype.names[2:-2]] for row in memory
        }
        assert have == want


async def copy_out_all(way: Way, table: str) -> np.ndarray:
    async with way.direct.acquire() as connection:
        return await copy_out(connection, f"SELECT {', '.join(LAYOUT.columns)} FROM {table}")


@pytest.mark.thorough
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("whole", [False, True])
async def test_flush_cut_at_any_message_is_there_once(way: Way, cut: Cut, whole: bool) -> None:
    bars = Bars()
    sink = written(through(way.proxy), Partitions(way.direct), SHARD, "postgres")
    now = datetime.now(UTC)
    try:
        await sink.take(1, bars.shard.offset)
        await sink.flush(flush_of(bars.changes(), bars.shard.snapshot()), now)
        way.proxy.messages.clear()
        await sink.flush(flush_of(bars.changes(), bars.shard.snapshot() if whole else None), now)
        in_one = len(way.proxy.messages)
        parts = 1 if whole else 2
        for number in range(in_one):
            way.proxy.arm(number, cut)
            await sink.flush(flush_of(bars.changes(), bars.shard.snapshot() if whole else None), now)
            parts = 1 if whole else parts + 1
            assert sink.offset == bars.shard.offset
            assert await way.value("SELECT journal_offset FROM checkpoints") == bars.shard.offset
            stored = [row["part"] for row in await way.direct.fetch("SELECT part FROM checkpoint_parts ORDER BY part")]
            assert stored == list(range(parts)), number
        print(f"cut at each of {in_one} messages")
        await assert_stored(way, bars)
        await assert_state_comes_back(way, bars)
    finally:
        await sink.close()


async def assert_state_comes_back(way: Way, bars: Bars) -> None:
    """Assert that the next process restores the same state from the parts of the checkpoint."""
    bars.shard.flushed()
    sink = written(through(way.proxy), Partitions(way.direct), SHARD, "postgres")
    checkpoint = await sink.take(2, 0)
    await sink.close()
    other = BarEngine()
    other.restore(checkpoint.offset, checkpoint.parts)
    for interval in BASE_INTERVALS:
        mine, theirs = bars.shard.resident(interval), other.resident(interval)
        assert mine.tobytes() == theirs.tobytes()
    assert other.offset == bars.shard.offset


# Permission to write --------------------------------------------------------------------------------


async def test_second_journal_is_refused_while_the_first_lives(way: Way) -> None:
    async with a_journal(way) as first:
        with pytest.raises(JournalInUse):
            async with a_journal(way, wait_seconds=0.3):
                pass
        await first.append(Ticks(some_ticks(0, 10)))
    async with a_journal(way, wait_seconds=0.3) as second:
        assert second.epoch == first.epoch + 1
        assert second.head == first.head


async def test_journal_that_was_taken_over_writes_nothing_more(way: Way) -> None:
    async with a_journal(way, wait_seconds=0.3) as first:
        base = first.head
        await first.append(Ticks(some_ticks(0, 10)))
        # Simulate a restart of the server: the session of the first process, and with it the lock, is gone.
        await way.direct.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1", SHARD
        )
        async with a_journal(way, wait_seconds=5) as second:
            with pytest.raises(JournalInUse):
                await first.append(Ticks(some_ticks(666, 10)))
            await second.append(Ticks(some_ticks(10, 10)))
        with pytest.raises(Fenced):
            await first.append(Ticks(some_ticks(666, 10)))
        with pytest.raises(Fenced):
            await first.append(Ticks(some_ticks(666, 10)))
        await assert_log_holds(way, 20, base)


async def test_journal_under_another_epoch_writes_nothing_more(way: Way) -> None:
    async with a_journal(way) as journal:
        base = journal.head
        await journal.append(Ticks(some_ticks(0, 10)))
        await way.direct.execute("UPDATE journal_heads SET epoch = epoch + 1")
        for _ in range(2):
            with pytest.raises(Fenced):
                await journal.append(Ticks(some_ticks(10, 10)))
        await assert_log_holds(way, 10, base)


async def test_sink_under_another_epoch_writes_nothing_more(way: Way) -> None:
    bars = Bars()
    now = datetime.now(UTC)
    first = written(through(way.proxy), Partitions(way.direct), SHARD, "postgres")
    second = written(through(way.proxy), Partitions(way.direct), SHARD, "postgres")
    try:
        await first.take(1, bars.shard.offset)
        await first.flush(flush_of(bars.changes(), bars.shard.snapshot()), now)
        before = (await copy_out_all(way, "bars_1m")).tobytes()
        await second.take(2, 0)
        with pytest.raises(Fenced):
            await first.flush(flush_of(bars.changes(), None), now)
        assert (await copy_out_all(way, "bars_1m")).tobytes() == before
        assert await way.value("SELECT count(*) FROM checkpoint_parts") == 1
    finally:
        await first.close()
        await second.close()
