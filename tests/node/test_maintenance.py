"""Retention drops what is old and nothing else, and the audit log counts every record once."""

import asyncio
import contextlib
import itertools
from datetime import timedelta

import orjson
import pytest

from stockpulse.ingest.feed import Feed
from stockpulse.journal.segments import first_offset
from stockpulse.node import maintenance, roles
from stockpulse.node.maintenance import audit, retain
from stockpulse.storage.partitions import BARS_1M, DEAD_LETTERS, PARTITIONED
from stockpulse.storage.retention import RETENTION
from stockpulse.storage.run_log import RunLog
from store_stack import NOW, stack, tick

LIVE = Feed("live", "24/7")
DAY = timedelta(days=1)
SEGMENT_ROWS = 5


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch):
    monkeypatch.setattr(maintenance, "_RETENTION_SECONDS", 0.02)
    monkeypatch.setattr(maintenance, "_AUDIT_SECONDS", 0.02)


@pytest.fixture
def _no_audit_of_the_process(monkeypatch):
    monkeypatch.setattr(roles, "start_audit", lambda *_: None)


@contextlib.asynccontextmanager
async def while_running(task):
    """Run a task of housekeeping as long as this lasts; an error in it is raised at the end."""
    running = asyncio.create_task(task)
    try:
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class Retention:
    """`retain` on the parts of a stack, with a count of its rounds."""

    def __init__(self, parts, checkpoint=None):
        self.rounds = 0
        self.states = 0
        self.asked = []
        self._parts = parts
        self._checkpoint = parts.journal.head if checkpoint is None else checkpoint

    def run(self):
        runs = RunLog(self._parts.pool)
        return retain(self._segments, self._parts.partitions, self._drop_states, runs, self._parts.clock)

    async def rounds_done(self, count):
        """Run this number of rounds."""
        async with while_running(self.run()):
            async with asyncio.timeout(30):
                while self.rounds <= count:
                    await asyncio.sleep(0.005)

    def _segments(self):
        self.rounds += 1
        return [(self._parts.segments, self._checkpoint)]

    async def _drop_states(self, now):
        self.asked.append(now)
        return self.states


async def full_segments(parts, count):
    """Fill `count` segments with ticks, index them and begin the next."""
    for _ in range(count):
        await parts.submit(LIVE, *[tick("A", parts.clock())] * SEGMENT_ROWS)
    await parts.submit(LIVE, tick("A", parts.clock()))
    await parts.settled()
    await parts.segments.index_sealed()


async def runs_of(parts, source):
    query = "SELECT records_processed, started_at, completed_at, watermark, details FROM etl_runs WHERE source = $1"
    return [tuple(row) for row in await parts.pool.fetch(f"{query} ORDER BY id", source)]


async def partitions_of(parts):
    return {tuple(row) for row in await parts.pool.fetch("SELECT table_name, starts_at FROM time_partitions")}


class TestRetain:
    async def test_drops_old_ticks_bars_dead_letters_and_notes_and_says_what(self, postgres_dsn):
        async with stack(postgres_dsn, segment_rows=SEGMENT_ROWS) as parts:
            await full_segments(parts, 2)
            for table in PARTITIONED:
                old = NOW - table.kept - 30 * DAY
                await parts.partitions.ensure(table, [old], NOW)
                aged = "UPDATE time_partitions SET written_at = $1 WHERE table_name = $2 AND ends_at < $3"
                await parts.pool.execute(aged, old, table.name, NOW - DAY)
            await RunLog(parts.pool).record("old", 1, NOW, NOW)
            parts.clock.at = NOW + RETENTION["etl_runs"].kept + timedelta(seconds=1)
            retention = Retention(parts)
            retention.states = 7
            await retention.rounds_done(1)
            first, *_ = await runs_of(parts, "retention")
            dropped = orjson.loads(first[4])["dropped"]
            segments = [f"segment {first_offset(number)}" for number in (1, 2)]
            assert dropped[:2] == segments
            assert {name.rpartition("_p")[0] for name in dropped[2:-1]} >= {table.name for table in PARTITIONED}
            assert dropped[-1] == "7 states of indicators"
            assert first[:4] == (len(dropped), parts.clock(), parts.clock(), None)
            assert parts.segments.sealed == {}
            assert await parts.pool.fetchval("SELECT min(seq) FROM realtime_prices") == first_offset(3)
            assert await runs_of(parts, "old") == []
            assert retention.asked[0] == parts.clock()

    async def test_drops_nothing_that_is_young_and_notes_nothing(self, postgres_dsn):
        # Without indicators: those of the real-time tier are old after an hour.
        async with stack(postgres_dsn, segment_rows=SEGMENT_ROWS, functions=None) as parts:
            await full_segments(parts, 2)
            await parts.partitions.ensure(BARS_1M, [NOW - DAY], NOW)
            await parts.partitions.ensure(DEAD_LETTERS, [NOW - DAY], NOW)
            await RunLog(parts.pool).record("young", 1, NOW, NOW)
            before = await partitions_of(parts)
            parts.clock.at = NOW + RETENTION["realtime_prices"].kept
            await Retention(parts).rounds_done(3)
            assert await parts.pool.fetchval("SELECT count(*) FROM realtime_prices") == 2 * SEGMENT_ROWS + 1
            assert await partitions_of(parts) >= before
            assert len(before) >= 2
            assert len(await runs_of(parts, "young")) == 1
            assert await runs_of(parts, "retention") == []

    async def test_keeps_a_segment_that_a_restart_needs(self, postgres_dsn):
        async with stack(postgres_dsn, segment_rows=SEGMENT_ROWS) as parts:
            await full_segments(parts, 2)
            parts.clock.at = NOW + RETENTION["realtime_prices"].kept + timedelta(seconds=1)
            await Retention(parts, checkpoint=first_offset(2)).rounds_done(2)
            assert set(parts.segments.sealed) == {first_offset(2)}
            [note] = await runs_of(parts, "retention")
            assert orjson.loads(note[4]) == {"dropped": [f"segment {first_offset(1)}"]}


class TestAudit:
    async def test_counts_every_record_once_and_notes_no_idle_minute(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            sent = 0
            for size in range(1, 40):  # also while a note is being written
                await parts.submit(LIVE, *[tick("A", NOW)] * size)
                sent += size
            async with asyncio.timeout(30):
                while sum(row[0] for row in await runs_of(parts, "pipeline")) < sent:
                    await asyncio.sleep(0.005)
            notes = await runs_of(parts, "pipeline")
            await asyncio.sleep(0.2)
            assert await runs_of(parts, "pipeline") == notes
            assert sum(row[0] for row in notes) == sent
            assert all(row[0] > 0 for row in notes)

    @pytest.mark.usefixtures("_no_audit_of_the_process")
    async def test_says_when_and_up_to_which_event_time(self, postgres_dsn):
        minutes = (NOW + n * timedelta(minutes=1) for n in itertools.count())
        async with stack(postgres_dsn) as parts:
            await parts.submit(LIVE, tick("A", NOW))
            await parts.settled()
            async with while_running(audit(parts.pipeline, RunLog(parts.pool), lambda: next(minutes))):
                await asyncio.sleep(0)  # it counts from here on
                await parts.submit(LIVE, tick("A", NOW))
                async with asyncio.timeout(30):
                    while not (notes := await runs_of(parts, "pipeline")):
                        await asyncio.sleep(0.005)
            [(records, started, completed, watermark, details)] = notes
            assert (records, watermark, details) == (1, NOW, None)
            assert started >= NOW
            assert completed - started == timedelta(minutes=1)
