"""Taking a shard over: its checkpoint, the state of its engine, and the records of the log after it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from stockpulse.engine.engine import Engine
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.indicators.evaluation import Functions
from stockpulse.ingest.corrected_trades import MOST
from stockpulse.ingest.shard_redeliveries import ShardRedeliveries
from stockpulse.journal import corrections
from stockpulse.journal.backends import Logs, ShardOfLog
from stockpulse.journal.recent import Chunk
from stockpulse.journal.records import Forget
from stockpulse.journal.routing import Routing
from stockpulse.pipeline.amending import Amending
from stockpulse.pipeline.correcting import Correcting
from stockpulse.pipeline.events import Listener
from stockpulse.pipeline.forgetting import Forgetting
from stockpulse.pipeline.locked_engine import LockedEngine
from stockpulse.pipeline.shard_processor import ShardProcessor
from stockpulse.pipeline.shard_writer import ShardWriter
from stockpulse.postgres.database import Database
from stockpulse.storage.analytics_writer import AnalyticsWriter
from stockpulse.storage.corrected_ticks import CorrectedTicks
from stockpulse.storage.engine_reads import EngineReads
from stockpulse.storage.kept_records import KeptRecords
from stockpulse.storage.partitions import Partitions
from stockpulse.storage.rejected_kinds import RejectedKinds
from stockpulse.storage.sink import Sink
from stockpulse.telemetry.counters import Counters


@dataclass(frozen=True)
class OwnedShard:
    """A shard that this process works on."""

    source: ShardOfLog
    sink: Sink
    processor: ShardProcessor

    async def close(self) -> None:
        """Close the connections of the shard."""
        with suppress(OSError):
            await self.sink.close()
        await self.source.close()


@dataclass(frozen=True, kw_only=True)
class ShardOpener:
    """Opens shards of one log."""

    database: Database
    logs: Logs
    routing: Routing
    partitions: Partitions
    spec: EngineSpec
    rule_ids: list[int]
    delivered: Callable[[pl.DataFrame], Awaitable[None]]
    """Called with ticks that did not pass this process's intake: `tick_rows.KEYS` or more columns."""
    forgotten: Callable[[Forget], Awaitable[None]]
    """Called with forgets that may not have passed this process's intake."""
    corrected: Callable[[pl.DataFrame], None]
    """Called with LOGGED_CORRECTIONS that did not pass this process's intake."""
    listener: Listener
    counters: Counters
    now: Callable[[], datetime]
    flush_seconds: float | None
    rejected_kinds: RejectedKinds

    async def open(self, shard: int, functions: Functions | None) -> OwnedShard:
        """Take the shard over and process the records of the log after its checkpoint.

        Without compiled `functions` the indicators catch up later. Raises Fenced if another process takes the shard at
        the same time, OtherJournal if the database follows another log.
        """
        source = await self.logs.open(shard)
        engine = self.spec.new_engine()
        if functions is not None:
            engine.analytics.set_functions(functions)
        sink = self._sink(shard, source)
        try:
            redeliveries = await self._restore(shard, source, engine, sink)
            processor = self._processor(shard, source, sink, LockedEngine(engine), redeliveries)
            await processor.recover()
            return OwnedShard(source, sink, processor)
        except BaseException:
            await sink.close()
            await source.close()
            raise

    def _sink(self, shard: int, source: ShardOfLog) -> Sink:
        analytics = AnalyticsWriter(self.spec.tracks, self.rule_ids)
        database = self.database
        return Sink(
            database.dsn,
            self.partitions,
            analytics,
            shard,
            source.log.identity,
            source.external,
            database.disk,
            self.rejected_kinds,
        )

    async def _restore(self, shard: int, source: ShardOfLog, engine: Engine, sink: Sink) -> ShardRedeliveries | None:
        """Bring back the state at the checkpoint; returns the redelivery window if others append to the log too."""
        names = self.database.names
        checkpoint = await sink.take(source.epoch, source.start)
        await self.database.name_store.load()  # every name that the state refers to
        await source.load(checkpoint.offset)
        keys = await source.remember()
        await self.delivered(keys)
        known = await self._newest_corrections(shard)
        self.corrected(known)
        redeliveries = None
        if source.external is not None:
            redeliveries = ShardRedeliveries(names, self.routing.partitions)
            redeliveries.sift(keys)
            redeliveries.sift_corrections(known)
        if engine.restore(checkpoint.offset, checkpoint.parts):
            sink.begin_anew()
        engine.analytics.schedule_history(
            [number for number in names.symbol_by_id if self.routing.of_symbol(number) == shard]
        )
        return redeliveries

    async def _newest_corrections(self, shard: int) -> pl.DataFrame:
        async with self.database.pool.acquire() as connection:
            found = await corrections.newest(connection, MOST)
        return found.filter(pl.Series(self.routing.of_symbols(found["symbol_id"].to_numpy()) == shard))

    def _processor(
        self, shard: int, source: ShardOfLog, sink: Sink, engine: LockedEngine, redeliveries: ShardRedeliveries | None
    ) -> ShardProcessor:
        names, reads = self.database.names, EngineReads(self.database.pool)
        writer = ShardWriter(
            engine,
            sink,
            self.listener,
            counters=self.counters,
            now=self.now,
            segments=None if source.external is None else source.segments,
            flush_seconds=self.flush_seconds,
        )
        recent = source.segments.recent

        def standing() -> list[Chunk]:  # a replay needs ticks that later forgets of the log have taken from memory
            return recent.chunks() if writer.live else []

        kept = KeptRecords(self.database.pool, names, standing)
        amending = Amending(engine, reads, kept, names, extended_day=self.spec.extended_day)
        return ShardProcessor(
            shard_log=source.log,
            engine=engine,
            writer=writer,
            reads=reads,
            names=names,
            counters=self.counters,
            now=self.now,
            forgetting=Forgetting(
                engine,
                writer,
                amending,
                kept,
                names,
                recent,
                lambda: [number for number in names.symbol_by_id if self.routing.of_symbol(number) == shard],
            ),
            correcting=Correcting(
                engine,
                writer,
                amending,
                CorrectedTicks(self.database.pool, names, standing),
                names,
                recent,
                self.counters,
            ),
            redeliveries=redeliveries,
            delivered=self.delivered,
            forgotten=self.forgotten,
            corrected=self.corrected,
            extended_day=self.spec.extended_day,
        )
