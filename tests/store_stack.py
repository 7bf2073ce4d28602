"""The parts between a submission and the readers, wired as the app does it, on a clock that the test sets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from bare_sink import none_to_run, spec_of
from stockpulse.engine.bar_engine import BarEngine
from stockpulse.engine.bar_math import BAR
from stockpulse.engine.engine import Engine
from stockpulse.engine.signals import Rule
from stockpulse.indicators.evaluation import Functions, Instance
from stockpulse.ingest.encode import Encoder
from stockpulse.ingest.feed_arbiter import FeedArbiter
from stockpulse.ingest.intake import Intake
from stockpulse.ingest.redelivery import Redeliveries
from stockpulse.journal.postgres import SHARD, PostgresJournal
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.routing import Routing
from stockpulse.journal.segments import Segments
from stockpulse.journal.symbol_names import SymbolNames
from stockpulse.market.schemas import BARS, TICKS, UTC_MICROS
from stockpulse.market.symbology import Names
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shard_processor import ShardProcessor
from stockpulse.pipeline.shard_writer import ShardWriter
from stockpulse.postgres.connect import Pool, create_pool
from stockpulse.postgres.symbology_store import NameStore
from stockpulse.storage.analytics_writer import AnalyticsWriter, drop_other_states
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.bar_rows import LAYOUT, TABLE, copy_out
from stockpulse.storage.dead_letters import DeadLetters
from stockpulse.storage.engine_reads import EngineReads
from stockpulse.storage.partitions import Partitions
from stockpulse.storage.signals import SignalStore
from stockpulse.storage.sink import Sink
from stockpulse.storage.tick_reader import TickReader, TickSource
from stockpulse.telemetry.counters import Counters

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)  # a Monday
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class SetClock:
    """A clock that stands still until it is set."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


@dataclass
class Stack:
    pool: Pool
    names: Names
    segments: Segments
    journal: PostgresJournal
    partitions: Partitions
    sink: Sink
    shard: BarEngine
    engine: Engine
    processor: ShardProcessor
    pipeline: Pipeline
    ticks: TickReader
    bars: BarReader
    clock: SetClock
    intake: Intake
    flushing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def submit(self, feed, *rows, of_bars=False):
        """Ticks (or bars) as dictionaries."""
        schema = BARS if of_bars else TICKS
        frame = pl.DataFrame([dict.fromkeys(schema) | row for row in rows], schema=schema, orient="row")
        return await self.pipeline.submit(frame, feed, of_bars=of_bars)

    async def settled(self) -> None:
        """Until all that was submitted is worked in and stored, as far as its bars are final."""
        while self.shard.offset < self.journal.head:
            await asyncio.sleep(0.002)
        await self.flush()

    async def flush(self) -> None:
        """One flush at a time, as from the one task that flushes in the app."""
        async with self.flushing:
            await self.processor.writer.flush_once()

    async def flush_now_and_then(self) -> None:
        while True:
            await self.flush()
            await asyncio.sleep(0.02)

    def symbol(self, name):
        return self.names.symbols[name]

    async def stored(self, interval):
        """The table's rows, in order."""
        async with self.pool.acquire() as connection:
            query = f"SELECT {', '.join(LAYOUT.columns)} FROM {TABLE[interval]} ORDER BY symbol_id, ts"
            return await copy_out(connection, query)

    async def resident(self, interval, symbol=None):
        return await self.pipeline.bars_in_memory(interval, None if symbol is None else self.symbol(symbol).id)

    async def between(self, name, interval, start=None, end=None, as_of=None):
        pages = self.bars.between(self.symbol(name), interval, start, end, as_of or self.clock())
        return [row for page in [page async for page in pages] for row in page.iter_rows(named=True)]

    async def latest(self, name, interval, limit, as_of=None):
        found = await self.bars.latest(self.symbol(name), interval, limit, as_of or self.clock())
        return list(found.iter_rows(named=True))


@asynccontextmanager
async def stack(
    dsn: str,
    *,
    clock: SetClock | None = None,
    segment_rows: int = 2_000_000,
    extended_day: bool = False,
    running: bool = True,
    memory_rows: int = 300_000,
    instances: Iterable[Instance] = (),
    rules: Iterable[Rule] = (),
    functions: Functions | None = none_to_run,
) -> AsyncIterator[Stack]:
    clock = clock or SetClock()
    pool = await create_pool(dsn, 5)
    names = Names()
    name_store = NameStore(pool, names)
    await name_store.load()
    segments = Segments(pool, RecentTicks(), segment_rows)
    journal = PostgresJournal(dsn, segments, wait_seconds=5)
    partitions = Partitions(pool)
    spec = spec_of(instances, rules, extended_day=extended_day)
    engine = spec.new_engine()
    if functions is not None:
        engine.analytics.set_functions(functions)
    numbers = await SignalStore(pool).assign_ids(spec.rules.rules)
    sink = Sink(dsn, partitions, AnalyticsWriter(spec.tracks, numbers), SHARD, journal.identity)
    tasks: list[asyncio.Task] = []
    try:
        await journal.take()
        await journal.load_open_segment(memory_rows)
        checkpoint = await sink.take(journal.epoch, journal.head)
        redeliveries = Redeliveries()
        await redeliveries.remember(SymbolNames(names).keys(await journal.recent_keys()))
        intake = Intake(Encoder(name_store, FeedArbiter(standby=["simulated"])), redeliveries, timedelta(seconds=5))
        if engine.restore(checkpoint.offset, checkpoint.parts):
            sink.begin_anew()
        engine.analytics.schedule_history(names.symbol_by_id)
        await drop_other_states(pool, spec.tracks.values())
        routing, counters = Routing(names), Counters()
        pipeline = Pipeline(routing, ProviderClocks(names, routing, clock), counters)
        turn = asyncio.Lock()
        processor = ShardProcessor(
            shard_log=journal,
            engine=engine,
            turn=turn,
            writer=ShardWriter(engine, turn, sink, counters=counters, now=clock),
            reads=EngineReads(pool),
            names=names,
            counters=counters,
            now=clock,
            extended_day=extended_day,
        )
        pipeline.add(SHARD, processor)
        pipeline.ingestor = Ingestor(
            intake=intake,
            journal=journal,
            dead_letters=DeadLetters(pool, partitions),
            hand_on=pipeline.hand_on,
            counters=counters,
            now=clock,
        )
        await processor.recover()
        parts = Stack(
            pool=pool,
            names=names,
            segments=segments,
            journal=journal,
            partitions=partitions,
            sink=sink,
            shard=engine.bars,
            engine=engine,
            processor=processor,
            pipeline=pipeline,
            ticks=TickReader(pool, names, lambda _symbol_id: TickSource(segments)),
            bars=BarReader(pool, names, pipeline.bars_in_memory, extended_day=extended_day),
            clock=clock,
            intake=intake,
        )
        if running:
            ingestor = pipeline.ingestor
            stages = (ingestor.assign_ids, ingestor.append, processor.step, parts.flush_now_and_then)
            tasks = [asyncio.create_task(stage()) for stage in stages]
        yield parts
        if running:
            assert await pipeline.drain(20)
            await parts.flush()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await sink.close()
        await journal.close()
        await pool.close()


def tick(symbol, ts, price=100.0, size=1.0, **fields):
    return {"symbol": symbol, "ts": ts, "price": float(price), "size": float(size)} | fields


def bar(symbol, interval, ts, price=100.0, volume=1000.0, **fields):
    prices = dict.fromkeys(("open", "high", "low", "close"), float(price))
    return {"symbol": symbol, "interval": interval, "ts": ts, "volume": float(volume)} | prices | fields


def frame_of_ticks(symbols, ts, price, size, **columns):
    """A frame of `TICKS` from arrays; times in microseconds."""
    count = len(ts)
    frame = pl.DataFrame(
        {"symbol": symbols, "ts": pl.Series(ts).cast(UTC_MICROS), "price": price, "size": size}
        | {name: columns.get(name, pl.Series([None] * count, dtype=pl.String)) for name in list(TICKS)[4:]}
    )
    return frame.select(pl.col(name).cast(TICKS[name]) for name in TICKS)


def engine_rows(count, **columns):
    """The engine's rows, final, with these columns."""
    rows = np.zeros(count, BAR)
    rows["final"] = True
    for name, values in columns.items():
        rows[name] = values
    return rows
