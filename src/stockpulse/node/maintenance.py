"""What has to be done once, or now and then: compiled indicators, indexes for segments, retention, the audit log."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

import structlog

from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.indicators.compiler import Compiler
from stockpulse.indicators.evaluation import Functions
from stockpulse.journal.segments import Segments
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.storage.partitions import PARTITIONED, Partitions
from stockpulse.storage.run_log import KEPT, RunLog

TICKS_KEPT: Final = timedelta(days=5)

_SEGMENTS_SECONDS: Final = 1.0
_RETENTION_SECONDS: Final = 600.0
_AUDIT_SECONDS: Final = 60.0

AllSegments = Callable[[], Iterable[tuple[Segments, int]]]
"""The segments that are tended here, each with the offset up to which a restart does not need them."""

log = structlog.get_logger(__name__)


async def compile_indicators(compiler: Compiler, spec: EngineSpec, use: Callable[[Functions], None]) -> None:
    """Have indicators calculated as soon as their loops are compiled; nobody waits for it."""
    started = time.monotonic()
    instances = spec.instances
    cached = await asyncio.to_thread(compiler.is_prepared, instances)
    if not cached:
        log.info("compiling indicators, which is done once", indicators=len(instances))
        await compiler.prepare_aside(instances)
    await asyncio.to_thread(compiler.load, instances)
    use(compiler)
    log.info("indicators are compiled", cached=cached, seconds=round(time.monotonic() - started, 2))


async def tend_segments(segments: AllSegments) -> None:
    """Index what was sealed, and have the next segment ready."""
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
    """Drop what is kept no longer."""
    while True:
        started = now()
        dropped = []
        for one, checkpoint in segments():
            dropped += [f"segment {number}" for number in await one.drop_older(started - TICKS_KEPT, checkpoint)]
        for table in PARTITIONED:
            dropped += await partitions.drop_old(table, started)
        states = await drop_states(started)
        dropped += [f"{states} states of indicators"] if states else []
        await runs.forget(started - KEPT)
        if dropped:
            log.info("dropped what is kept no longer", dropped=dropped)
            await runs.record("retention", len(dropped), started, now(), details={"dropped": dropped})
        await asyncio.sleep(_RETENTION_SECONDS)


async def audit(pipeline: Pipeline, runs: RunLog, now: Callable[[], datetime]) -> None:
    """Note every minute how many records went through, if any did."""
    while True:
        started, before = now(), pipeline.counters.ticks + pipeline.counters.provider_bars
        await asyncio.sleep(_AUDIT_SECONDS)
        records = pipeline.counters.ticks + pipeline.counters.provider_bars - before
        if records:
            await runs.record("pipeline", records, started, now(), watermark=pipeline.clocks.watermark())
