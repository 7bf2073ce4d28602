"""Processes that share the shards of a log: each record is processed once, by any owner of its shard."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest

from bare_sink import none_to_run, spec_of
from stockpulse.aio.supervisor import State, Supervisor
from stockpulse.engine.bar_math import BAR
from stockpulse.engine.batches import tick_batch
from stockpulse.engine.forgetting import build_bars
from stockpulse.errors import Fenced
from stockpulse.journal.backends import LogParts
from stockpulse.journal.records import Forget, Ticks
from stockpulse.journal.routing import Routing
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import BASE_INTERVALS
from stockpulse.market.schemas import LOGGED_TICKS, PRIMARY, UTC_MICROS
from stockpulse.market.symbology import Names, TickKind
from stockpulse.market.times import micros
from stockpulse.node.database import open_database
from stockpulse.node.node import Node, Timing
from stockpulse.node.parts import open_shards
from stockpulse.pipeline import shard_processor, shards
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shards import Shards
from stockpulse.postgres.connect import TRANSIENT
from stockpulse.settings import Settings
from stockpulse.storage.bar_rows import LAYOUT, TABLE, copy_out
from stockpulse.storage.partitions import Partitions
from stockpulse.testing import ScriptedLog
from store_stack import DAY, NOW, SetClock

SHARDS = 3
SYMBOLS = [f"S{number}" for number in range(9)]
VALUES = [name for name in BAR.names if name not in ("final", "dirty")]
MINUTE = 60_000_000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(shard_processor, "_CLOCK_SECONDS", 0.01)
    monkeypatch.setattr(shards, "_RETAKE_SECONDS", 0.1)


@dataclass
class Process:
    """A process that works on the shards it is assigned, as the group of a topic assigns them."""

    node: Node
    shards: Shards
    assigned: set[int] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def assign(self, *numbers: int) -> None:
        self.assigned = set(numbers)
        self.changed.set()


class Cluster:
    """A database, a log, and processes that share its shards."""

    def __init__(self, dsn: str, stack: AsyncExitStack) -> None:
        self._dsn = dsn
        self._stack = stack
        self.names = Names()
        self.log = ScriptedLog(Routing(self.names, SHARDS))
        self.random = np.random.default_rng(1)
        self.processes: list[Process] = []

    def settings(self) -> Settings:
        return Settings(_env_file=None, database_url=self._dsn, provider="none", calendar="24/7")

    async def begin(self) -> None:
        """Give ids to the names that the ticks of the log have."""
        tasks = await self._stack.enter_async_context(Supervisor(TRANSIENT))
        database = await self._stack.enter_async_context(open_database(self.settings(), tasks))
        self.database = database
        self.names = database.names
        self.log = ScriptedLog(Routing(self.names, SHARDS))
        await database.name_store.ensure_symbols(SYMBOLS, "24/7")
        provider = await database.name_store.ensure_provider("tape", Clock.WALL, 0)
        await database.name_store.ensure_kinds([TickKind(provider, "", "", 3 | PRIMARY)])

    async def join(self, *numbers: int) -> Process:
        """Start another process, and assign it these shards."""
        tasks = await self._stack.enter_async_context(Supervisor(TRANSIENT))
        database = await self._stack.enter_async_context(open_database(self.settings(), tasks))
        routing = Routing(database.names, SHARDS)
        log = LogParts(self.log.process(database.pool, appends=False), None, routing, None)
        timing = Timing(SetClock(NOW), 0.02)
        node = Node(self.settings(), spec_of(), database, log, tasks, timing, Partitions(database.pool))
        clocks = ProviderClocks(database.names, routing, timing.now)
        opened = await self._stack.enter_async_context(open_shards(node, clocks))
        opened.use(none_to_run)
        process = Process(node, opened, set(numbers))
        self.processes.append(process)
        tasks.start("shards", lambda: opened.share(lambda: process.assigned, process.changed))
        return process

    async def put(self, count: int) -> None:
        """Append ticks of any symbols."""
        pick = self.random
        frame = pl.DataFrame(
            {
                "symbol_id": pick.choice([symbol.id for symbol in self.names.symbols.values()], count),
                "kind_id": 1,
                "ts": pl.Series(micros(NOW - DAY) + pick.integers(0, 30 * MINUTE, count)).cast(UTC_MICROS),
                "received_at": pl.repeat(NOW, count, dtype=UTC_MICROS, eager=True),
                "price": pick.integers(1, 100, count).astype(float),
                "size": pick.integers(1, 9, count).astype(float),
                "trade_id": pl.repeat(None, count, dtype=pl.String, eager=True),
            }
        )
        columns = [pl.col(name).cast(LOGGED_TICKS[name]) for name in LOGGED_TICKS if name != "seq"]
        await self.log.put(Ticks(frame.select(columns)))

    async def stored(self) -> None:
        """Wait until the checkpoints stand at the ends of the log, and all bars have closed and are stored."""
        async with asyncio.timeout(60):
            while not await self._is_stored():
                await asyncio.sleep(0.02)

    async def _is_stored(self) -> bool:
        rows = await self.database.pool.fetch("SELECT shard, journal_offset FROM checkpoints")
        known = dict(map(tuple, rows))
        working = [one for process in self.processes for one in process.shards.processors.values()]
        at_end = all(known.get(shard, 0) >= self.log.end(shard) for shard in self.log.batches)
        if not at_end or any(one.engine.unlocked.bars.forming() for one in working):
            return False
        try:
            for one in working:
                await one.writer.flush_once()
        except Fenced:  # it has just lost the shard, and leaves
            return False
        return True

    async def assert_right(self) -> None:
        """Each tick of the log is stored once, and the bars are those of the log."""
        logged = pl.concat(one.batch.frame for batches in self.log.batches.values() for one in batches)
        seqs = await self.database.pool.fetch("SELECT seq FROM realtime_prices ORDER BY seq")
        assert [row["seq"] for row in seqs] == logged["seq"].sort().to_list()
        calendar = trading_calendar("24/7")
        want = {interval: [] for interval in BASE_INTERVALS}
        for symbol in self.names.symbols.values():
            frame = logged.filter(pl.col("symbol_id") == symbol.id).sort("seq")
            bars = build_bars([tick_batch(frame, self.names)], symbol.id, calendar, extended_day=False)
            for interval in BASE_INTERVALS:
                want[interval].append(bars[interval])
        async with self.database.pool.acquire() as connection:
            for interval in BASE_INTERVALS:
                query = f"SELECT {', '.join(LAYOUT.columns)} FROM {TABLE[interval]} ORDER BY symbol_id, ts"
                have, expected = await copy_out(connection, query), np.concatenate(want[interval])
                assert len(have) == len(expected)
                for name in VALUES:
                    assert have[name].tobytes() == expected[name].tobytes(), (interval, name)


@pytest.fixture
async def cluster(postgres_dsn: str) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        cluster = Cluster(postgres_dsn, stack)
        await cluster.begin()
        yield cluster


def owned(*processes: Process) -> list[list[int]]:
    return [sorted(one.shards.owned) for one in processes]


async def until_owned(*pairs: tuple[Process, list[int]]) -> None:
    async with asyncio.timeout(60):
        while owned(*(process for process, _ in pairs)) != [wanted for _, wanted in pairs]:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def load(cluster: Cluster) -> AsyncIterator[None]:
    """Ticks come all the time."""

    async def flow() -> None:
        while True:
            await cluster.put(40)
            await asyncio.sleep(0.5)  # a recovery flushes after each batch that it replays

    task = asyncio.create_task(flow())
    yield
    task.cancel()
    await asyncio.wait([task])


async def test_one_process_works_on_what_it_is_assigned(cluster):
    process = await cluster.join(0, 2)
    await cluster.put(300)
    await until_owned((process, [0, 2]))
    process.assign(0, 1, 2)
    await cluster.stored()
    await cluster.assert_right()
    assert set(process.node.tasks.of_stage("flush", "step", "follow")) == {
        f"{stage}:{shard}" for stage in ("flush", "step", "follow") for shard in range(SHARDS)
    }
    process.assign()
    await until_owned((process, []))
    assert process.node.tasks.of_stage("flush", "step", "follow") == {}


@pytest.mark.thorough
async def test_shards_move_between_processes_under_load(cluster):
    first = await cluster.join(0, 1, 2)
    async with load(cluster):
        second = await cluster.join()
        for ours, theirs in (([0], [1, 2]), ([1, 2], [0]), ([], [0, 1, 2]), ([0, 1, 2], [])):
            await asyncio.sleep(0.1)
            first.assign(*ours)
            second.assign(*theirs)
            await until_owned((first, ours), (second, theirs))
    await cluster.stored()
    await cluster.assert_right()


@pytest.mark.thorough
async def test_a_shard_that_two_processes_are_assigned_has_one_owner(cluster):
    """Assignment alone grants no ownership: the last process that took the shard owns it, and the other one stops."""
    first = await cluster.join(0, 1, 2)
    await cluster.put(100)
    await cluster.stored()
    async with load(cluster):
        second = await cluster.join(1)
        await asyncio.sleep(0.5)  # they take it from one another again and again
        first.assign(0, 2)
        await until_owned((first, [0, 2]), (second, [1]))
    await cluster.stored()
    await cluster.assert_right()
    epochs = dict(map(tuple, await cluster.database.pool.fetch("SELECT shard, epoch FROM checkpoints")))
    assert epochs[1] > epochs[0]
    for process in (first, second):
        assert not process.node.tasks.failed
        assert process.node.tasks.health["shards"].state is State.RUNNING


@pytest.mark.thorough
async def test_the_owner_that_was_fenced_takes_the_shard_back_once_it_is_free(cluster):
    first, second = await cluster.join(0, 1, 2), await cluster.join(2)
    async with load(cluster):
        await asyncio.sleep(0.3)
        second.assign()
        await until_owned((first, [0, 1, 2]), (second, []))
    await cluster.stored()
    await cluster.assert_right()


async def test_a_log_that_is_away_for_a_moment_is_read_again(cluster):
    cluster.log.faults += [OSError("away"), TimeoutError("frozen")]
    process = await cluster.join()
    await cluster.put(100)
    process.assign(0, 1, 2)
    await cluster.stored()
    await cluster.assert_right()
    assert process.node.tasks.health["shards"].restarts > 0


@pytest.mark.thorough
async def test_a_forget_is_processed_by_whoever_owns_the_shard(cluster):
    first, second = await cluster.join(0), await cluster.join(1, 2)
    await cluster.put(300)
    await cluster.stored()
    await cluster.log.put(Forget("S1", None))
    await cluster.log.put(Forget(None, "tape", micros(NOW - DAY), micros(NOW - DAY) + 10 * MINUTE))
    await cluster.stored()
    pool = cluster.database.pool
    assert await pool.fetchval("SELECT count(*) FROM bars WHERE symbol = 'S1'") == 0
    begin = NOW - DAY
    assert (
        await pool.fetchval("SELECT count(*) FROM bars WHERE interval = '1m' AND ts < $1", begin + 10 * DAY / 1440) == 0
    )
    assert await pool.fetchval("SELECT count(*) FROM bars WHERE interval = '1m'") > 100
    assert await pool.fetchval("SELECT count(*) FROM forgets") == 1 + SHARDS
    assert owned(first, second) == [[0], [1, 2]]
