"""Shards that this process works on: taken over, recovered, worked on, and let go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import polars as pl
import structlog

from stockpulse.aio.supervisor import Supervisor
from stockpulse.engine.engine import Engine
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.errors import Fenced
from stockpulse.indicators.evaluation import Functions
from stockpulse.ingest.redelivery import Redeliveries, ShardRedeliveries
from stockpulse.journal.backends import Logs, ShardOfLog
from stockpulse.journal.records import Appended
from stockpulse.journal.routing import Routing
from stockpulse.journal.symbol_names import SymbolNames
from stockpulse.market.symbology import Names
from stockpulse.pipeline.kafka_publisher import KafkaPublisher
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.shard_processor import ShardProcessor
from stockpulse.pipeline.shard_writer import ShardWriter
from stockpulse.postgres.connect import Pool
from stockpulse.storage.analytics_writer import AnalyticsWriter
from stockpulse.storage.engine_reads import EngineReads
from stockpulse.storage.partitions import Partitions
from stockpulse.storage.sink import Sink
from stockpulse.telemetry.counters import Counters

_RETAKE_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tools:
    """What every shard is worked on with."""

    dsn: str
    pool: Pool
    names: Names
    load_names: Callable[[], Awaitable[None]]
    """Learns those that other processes have numbered."""
    routing: Routing
    partitions: Partitions
    rule_ids: list[int]
    spec: EngineSpec
    counters: Counters
    now: Callable[[], datetime]
    publisher: KafkaPublisher | None
    redeliveries: Redeliveries


@dataclass(frozen=True)
class OwnedShard:
    """A shard that is worked on here."""

    source: ShardOfLog
    sink: Sink
    processor: ShardProcessor


class Shards:
    """The shards of this process."""

    def __init__(self, tools: Tools, logs: Logs, pipeline: Pipeline, supervisor: Supervisor) -> None:
        self._tools = tools
        self._logs = logs
        self._pipeline = pipeline
        self._supervisor = supervisor
        self._symbol_names = SymbolNames(tools.names)
        self._functions: Functions | None = None
        self.owned: dict[int, OwnedShard] = {}

    async def _remember(self, ticks: pl.DataFrame) -> None:
        """Have intake know ticks that did not come by it."""
        await self._tools.redeliveries.remember(self._symbol_names.keys(ticks.filter(pl.col("trade_id").is_not_null())))

    def use(self, functions: Functions) -> None:
        """Calculate indicators with these from now on."""
        self._functions = functions
        for one in self.owned.values():
            one.processor.engine.analytics.set_functions(functions)

    async def take(self, shard: int) -> None:
        """Take a shard over, with the state of the checkpoint, and work in what the log has after it."""
        tools, source = self._tools, await self._logs.open(shard)
        engine = tools.spec.new_engine()
        if self._functions is not None:
            engine.analytics.set_functions(self._functions)
        analytics_writer = AnalyticsWriter(tools.spec.tracks, tools.rule_ids)
        redeliveries: ShardRedeliveries | None = None  # where nobody else appends, intake has told them already
        sink = Sink(tools.dsn, tools.partitions, analytics_writer, shard, source.log.identity, source.external)
        try:
            checkpoint = await sink.take(source.epoch, source.start)
            await tools.load_names()  # all that the state speaks of
            await source.load(checkpoint.offset)
            keys = await source.remember()
            await self._remember(keys)
            if source.external is not None:
                redeliveries = ShardRedeliveries(tools.names, tools.routing.partitions)
                redeliveries.sift(keys)
            if engine.restore(checkpoint.offset, checkpoint.parts):
                sink.begin_anew()
            ours = [number for number in tools.names.symbol_by_id if tools.routing.of_symbol(number) == shard]
            engine.analytics.schedule_history(ours)
            processor = self._build_processor(source, sink, engine, redeliveries)
            await processor.recover()
        except BaseException:
            await sink.close()
            await source.close()
            raise
        self.owned[shard] = OwnedShard(source, sink, processor)
        if self._functions is not None:  # they may have come meanwhile
            engine.analytics.set_functions(self._functions)
        self._pipeline.add(shard, processor)

    def _build_processor(
        self, source: ShardOfLog, sink: Sink, engine: Engine, redeliveries: ShardRedeliveries | None
    ) -> ShardProcessor:
        tools, turn = self._tools, asyncio.Lock()
        writer = ShardWriter(
            engine,
            turn,
            sink,
            counters=tools.counters,
            now=tools.now,
            segments=None if source.external is None else source.segments,
            publisher=tools.publisher,
        )
        return ShardProcessor(
            shard_log=source.log,
            engine=engine,
            turn=turn,
            writer=writer,
            reads=EngineReads(tools.pool),
            names=tools.names,
            counters=tools.counters,
            now=tools.now,
            redeliveries=redeliveries,
            delivered=self._remember,
            extended_day=tools.spec.extended_day,
        )

    async def take_all(self, shards: Iterable[int]) -> None:
        """Take several at once. If one cannot be taken, that is raised when the others are done as well."""
        await _all_done(self.take(shard) for shard in shards)

    async def share(self, assigned: Callable[[], set[int]], changed: asyncio.Event) -> None:
        """Work on what is assigned, and on nothing else; for ever."""
        fenced: set[int] = set()

        def lose(shard: int) -> None:
            fenced.add(shard)
            changed.set()

        while True:
            changed.clear()
            for shard in fenced | (self.owned.keys() - assigned()):
                if shard in self.owned:
                    await self.release(shard)
            await self._take_all(assigned() - self.owned.keys() - fenced, lose)
            # What somebody else took, although it is ours, is taken back in a while: he may not know it yet.
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETAKE_SECONDS if fenced & assigned() else None):
                    await changed.wait()
                    continue
            fenced.clear()

    async def _take_all(self, shards: set[int], lose: Callable[[int], None]) -> None:
        async def take(shard: int) -> None:
            try:
                await self.take(shard)
            except Fenced:
                lose(shard)
            else:
                self.start(shard, lost=lose)

        await _all_done(take(shard) for shard in sorted(shards))

    def start(self, shard: int, *, lost: Callable[[int], None] | None = None) -> None:
        """Work on a shard from now on. `lost` is told when another process has taken it; without, that is fatal."""
        one = self.owned[shard]
        processor = one.processor
        stages: list[tuple[str, Callable[[], Awaitable[None]], Callable[[], int] | None]] = [
            ("flush", processor.writer.flush, lambda: processor.lag()[1]),
            ("step", processor.step, lambda: processor.lag()[0]),
        ]
        if one.source.follow is not None:
            stages.append(("follow", partial(_follow, one.source.follow, processor), None))
        for stage, run, lag in stages:
            guarded = run if lost is None else partial(self._until_lost, shard, run, lost)
            self._supervisor.start(task_of(stage, shard, self._logs.shards), guarded, stage=stage, lag=lag)

    async def _until_lost(self, shard: int, run: Callable[[], Awaitable[None]], lost: Callable[[int], None]) -> None:
        try:
            await run()
        except Fenced:
            log.info("another process has taken the shard", shard=shard)
            lost(shard)

    async def release(self, shard: int) -> None:
        """Let a shard go as it is: whoever takes it goes on from what is stored."""
        names = [task_of(stage, shard, self._logs.shards) for stage in ("follow", "step", "flush")]
        await self._supervisor.stop(names)
        self._supervisor.forget(names)
        one = self.owned.pop(shard)
        self._pipeline.remove(shard)
        await close(one)

    async def close(self) -> None:
        """Let all connections go, after all tasks have ended."""
        for one in self.owned.values():
            await close(one)


async def _all_done(works: Iterable[Awaitable[None]]) -> None:
    """Unlike `gather` alone, nothing is left under way when one of them fails."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _follow(records: Callable[[int], AsyncIterator[Appended]], processor: ShardProcessor) -> None:
    """Hand on what comes into the log."""
    async for appended in records(processor.expected):
        await processor.hand_on(appended)


async def close(one: OwnedShard) -> None:
    """Let the connections of a shard go."""
    with suppress(OSError):
        await one.sink.close()
    await one.source.close()


def task_of(stage: str, shard: int, shards: Iterable[int]) -> str:
    """What a task of a shard is called; where there is but one, by its stage."""
    return stage if len(list(shards)) == 1 else f"{stage}:{shard}"
