"""Live ticks: from a provider's stream into the pipeline."""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType

import polars as pl
import structlog

from stockpulse.ingest.feed import Feed
from stockpulse.ingest.intake import kind_of
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.providers.base import Provider
from stockpulse.providers.registry import installed_providers
from stockpulse.storage.run_log import RunLog
from stockpulse.telemetry.counters import Counters

log = structlog.get_logger(__name__)


def feed_of(provider: Provider, calendars: Mapping[str, str] = MappingProxyType({})) -> Feed:
    """Return a provider as ingest sees it; the rule for its trade conditions has the provider's name.

    `calendars` are those of symbols that have one of their own.
    """
    return Feed(
        provider.name,
        provider.calendar,
        provider.clock,
        delay_micros=int(provider.delay_seconds * 1_000_000),
        rule=installed_providers().condition_rule(provider.name),
        calendars=calendars,
    )


async def follow(
    provider: Provider,
    ingestor: Ingestor,
    counters: Counters,
    runs: RunLog,
    now: Callable[[], datetime],
    feed: Feed | None = None,
) -> None:
    """Queue the ticks, bars and corrections that a provider streams, until the stream ends.

    A full pipeline slows the provider. A provider that cannot wait loses ticks: the gap is counted and recorded.
    Corrections are few, and wait in any case: a lost one would leave a wrong bar that nothing mends.
    """
    feed, gap = feed or feed_of(provider), None
    async for frame in provider.stream():
        may_drop = not provider.can_wait and kind_of(frame) != "corrections"
        if may_drop and not ingestor.has_room(len(frame)):
            gap = gap or _Gap(now())
            gap.add(frame)
            counters.dropped += len(frame)
            continue
        if gap is not None:
            await gap.close(provider.name, runs, now())
            gap = None
        durable = await ingestor.enqueue_any(frame, feed)
        if provider.can_wait:
            await durable


class _Gap:
    """Ticks of a stream that were lost because the pipeline was full."""

    def __init__(self, started: datetime) -> None:
        log.error("the pipeline is full: ticks of the feed are lost")
        self._started = started
        self._rows = 0
        self._newest: datetime | None = None

    def add(self, ticks: pl.DataFrame) -> None:
        """Count lost ticks."""
        self._rows += len(ticks)
        newest = ticks["ts"].max()
        self._newest = newest if isinstance(newest, datetime) else self._newest

    async def close(self, provider: str, runs: RunLog, now: datetime) -> None:
        """Record the gap: the pipeline has room again."""
        log.error("a feed has a gap", provider=provider, ticks=self._rows, began=self._started, ended=now)
        await runs.record(f"gap:{provider}", self._rows, self._started, now, watermark=self._newest)
