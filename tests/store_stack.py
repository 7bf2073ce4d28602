"""The running parts of a process, from the real composition root, on a clock that the test sets."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from prometheus_client import CollectorRegistry

from app_signals import stopping_by_signal
from bare_sink import none_to_run, spec_of
from stockpulse.api.context import Context
from stockpulse.engine.bar_engine import BarEngine
from stockpulse.engine.bar_math import BAR
from stockpulse.engine.engine import Engine
from stockpulse.engine.signals import Rule
from stockpulse.indicators.evaluation import Functions, Instance
from stockpulse.journal import backends
from stockpulse.journal.postgres import SHARD, PostgresJournal
from stockpulse.journal.segments import Segments
from stockpulse.market.schemas import BARS, TICKS, UTC_MICROS
from stockpulse.market.symbology import Names
from stockpulse.node import log as log_module
from stockpulse.node import roles
from stockpulse.node.lifecycle import running
from stockpulse.node.node import Timing
from stockpulse.pipeline.events import Listener
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.shard_processor import ShardProcessor
from stockpulse.postgres.connect import Pool
from stockpulse.settings import Settings
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.bar_rows import LAYOUT, TABLE, copy_out
from stockpulse.storage.partitions import Partitions
from stockpulse.storage.tick_reader import TickReader
from stockpulse.testing import SetClock

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)  # a Monday
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass
class Stack:
    """A process of role `all` with the log in the database, and its parts by short names."""

    context: Context
    clock: SetClock

    @property
    def pool(self) -> Pool:
        return self.context.pool

    @property
    def names(self) -> Names:
        return self.context.names

    @property
    def pipeline(self) -> Pipeline:
        return self.context.pipeline

    @property
    def ingestor(self) -> Ingestor:
        return self.context.pipeline.intake

    @property
    def journal(self) -> PostgresJournal:
        return self.context.log.journal

    @property
    def segments(self) -> Segments:
        return self.journal.segments

    @property
    def processor(self) -> ShardProcessor:
        return self.context.shards.owned[SHARD].processor

    @property
    def engine(self) -> Engine:
        return self.processor.engine.unlocked

    @property
    def shard(self) -> BarEngine:
        return self.engine.bars

    @property
    def ticks(self) -> TickReader:
        return self.context.ticks

    @property
    def bars(self) -> BarReader:
        return self.context.bars

    @property
    def partitions(self) -> Partitions:
        return self.context.shards._opener.partitions

    async def submit(self, feed, *rows, of_bars=False):
        """Submit ticks (or bars) given as dictionaries."""
        schema = BARS if of_bars else TICKS
        frame = pl.DataFrame([dict.fromkeys(schema) | row for row in rows], schema=schema, orient="row")
        return await self.ingestor.submit(frame, feed, of_bars=of_bars)

    async def settled(self) -> None:
        """Wait until everything submitted is processed, and its final bars are stored."""
        while self.shard.offset < self.journal.head:
            await asyncio.sleep(0.002)
        await self.flush()

    async def flush(self) -> None:
        """Flush now, rather than when it is due."""
        await self.processor.writer.flush_once()

    def symbol(self, name):
        return self.names.symbols[name]

    async def stored(self, interval):
        """Return the rows of the table, in order."""
        async with self.pool.acquire() as connection:
            query = f"SELECT {', '.join(LAYOUT.columns)} FROM {TABLE[interval]} ORDER BY symbol_id, ts"
            return await copy_out(connection, query)

    async def resident(self, interval, symbol=None):
        return await self.context.shards.bars_in_memory(interval, None if symbol is None else self.symbol(symbol).id)

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
    memory_rows: int = 300_000,
    instances: Iterable[Instance] = (),
    rules: Iterable[Rule] = (),
    functions: Functions | None = none_to_run,
    listeners: Sequence[Listener] = (),
) -> AsyncIterator[Stack]:
    """Run a process on this database.

    `functions` take the place of compiled indicators, None leaves them out. No maintenance runs: tests call it.
    """
    clock = clock or SetClock(NOW)
    settings = Settings(_env_file=None, database_url=dsn, provider="none", calendar="24/7", extended_day=extended_day)
    spec = spec_of(instances, rules, extended_day=extended_day)

    def use(_node, shards):
        if functions is not None:
            shards.use(functions)
        return functions

    with pytest.MonkeyPatch.context() as patch, stopping_by_signal() as stopped:
        patch.setattr(roles, "start_compiler", use)
        patch.setattr(roles, "start_maintenance", lambda *_: None)
        patch.setattr(log_module, "Segments", lambda pool, recent: Segments(pool, recent, segment_rows))
        patch.setattr(backends, "_MEMORY_ROWS", memory_rows)
        async with running(settings, CollectorRegistry(), Timing(clock, 0.02), spec, listeners) as context:
            yield Stack(context, clock)
    assert not stopped, "a background task failed; its log says why"


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
