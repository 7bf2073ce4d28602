"""Maintenance: compiling indicators, indexing segments, retention, and the audit of the pipeline."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.indicators.compiler import Compiler
from stockpulse.indicators.evaluation import Functions
from stockpulse.journal.segments import Segments
from stockpulse.node.node import Node
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.shards import Shards
from stockpulse.storage.analytics_writer import drop_old_states
from stockpulse.storage.partitions import PARTITIONED, Partitions
from stockpulse.storage.retention import RETENTION
from stockpulse.storage.run_log import RunLog

_SEGMENTS_SECONDS: Final = 1.0
_RETENTION_SECONDS: Final = 600.0
_AUDIT_SECONDS: Final = 60.0

AllSegments = Callable[[], Iterable[tuple[Segments, int]]]
"""Returns the segments to look after, each with the offset up to which a restart does not need them."""

log = structlog.get_logger(__name__)


def start_compiler(node: Node, shards: Shards) -> Compiler:
    """Compile the indicators in the background; return the compiler, which readers use too."""
    compiler = Compiler(node.settings.cache_dir / "loops")
    node.tasks.start("compiler", lambda: compile_indicators(compiler, node.spec, shards.use))
    return compiler


def start_maintenance(node: Node, shards: Shards) -> None:
    """Start the tasks that look after segments, partitions and states."""
    pool, retired = node.database.pool, node.log.retired

    def segments() -> list[tuple[Segments, int]]:
        """Return the segments of the shards of this process and of retired logs, with their checkpoints."""
        before = [(retired, retired.open)] if retired is not None else []
        return before + [(one.source.segments, one.sink.offset) for one in shards.owned.values()]

    async def drop_states(now: datetime) -> int:
        return sum([await drop_old_states(pool, track, now) for track in node.spec.tracks.values()])

    node.tasks.start("segments", lambda: tend_segments(segments))
    retention = partial(retain, segments, node.partitions, drop_states, RunLog(pool), node.timing.now)
    node.tasks.start("retention", retention)


def start_audit(node: Node, pipeline: Pipeline) -> None:
    """Start the audit of the pipeline."""
    node.tasks.start("audit", lambda: audit(pipeline, RunLog(node.database.pool), node.timing.now))


async def compile_indicators(compiler: Compiler, spec: EngineSpec, use: Callable[[Functions], None]) -> None:
    """Compile the indicators, or load them from the cache, and begin to calculate them."""
    started = time.monotonic()
    instances = spec.instances
    cached = await asyncio.to_thread(compiler.is_prepared, instances)
    if not cached:
        log.info("compiling indicators; the next start finds them in the cache", indicators=len(instances))
        await compiler.prepare_aside(instances)
    await asyncio.to_thread(compiler.load, instances)
    use(compiler)
    log.info("indicators are compiled", cached=cached, seconds=round(time.monotonic() - started, 2))


async def tend_segments(segments: AllSegments) -> None:
    """Index sealed segments and prepare the next one, until cancelled."""
    while True:
        for one, _ in segments():
            await one.prepare_next()
            await one.index_sealed()
        await asyncio.sleep(_SEGMENTS_SECONDS)


async def retain(
    segments: AllSegments,
    partitions: Partitions,
    drop_states: Callable[[datetime], Awaitable[int]],
    runs: RunLog,
    now: Callable[[], datetime],
) -> None:
    """Drop expired data, until cancelled."""
    while True:
        started = now()
        dropped = []
        for one, checkpoint in segments():
            dropped += [
                f"segment {number}"
                for number in await one.drop_older(started - RETENTION["realtime_prices"].kept, checkpoint)
            ]
        for table in PARTITIONED:
            dropped += await partitions.drop_old(table, started)
        states = await drop_states(started)
        dropped += [f"{states} states of indicators"] if states else []
        await runs.forget(started - RETENTION["etl_runs"].kept)
        if dropped:
            log.info("dropped expired data", dropped=dropped)
            await runs.record("retention", len(dropped), started, now(), details={"dropped": dropped})
        await asyncio.sleep(_RETENTION_SECONDS)


async def audit(pipeline: Pipeline, runs: RunLog, now: Callable[[], datetime]) -> None:
    """Write the number of processed records to the audit log every minute, until cancelled."""
    started, before = now(), _records(pipeline)
    while True:
        await asyncio.sleep(_AUDIT_SECONDS)
        ended, after = now(), _records(pipeline)
        if after > before:
            await runs.record("pipeline", after - before, started, ended, watermark=pipeline.clocks.watermark())
        started, before = ended, after


def _records(pipeline: Pipeline) -> int:
    """Return the number of ticks and provider bars since the start of the process."""
    return pipeline.counters.ticks + pipeline.counters.provider_bars
