"""Live ticks: from a provider's stream into the pipeline, over as many connections as it takes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

import polars as pl
import structlog

from stockpulse.aio.backoff import Backoff
from stockpulse.ingest.feed import Feed
from stockpulse.market.schemas import kind_of
from stockpulse.pipeline.feed_gap_log import FeedGapLog
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.providers.base import Provider
from stockpulse.providers.faults import (
    BadRequest,
    NotEntitled,
    ProviderFault,
    RateLimited,
    TooManyConnections,
    WrongKey,
)
from stockpulse.providers.registry import installed_providers
from stockpulse.storage.run_log import RunLog
from stockpulse.telemetry.counters import Counters

_TAKEN_SECONDS: Final = 15.0
"""The shortest wait if the provider counts another connection: it may count a broken one for 90 seconds."""
_QUIET_SECONDS: Final = 60.0
"""A stream that stays open for this long follows its symbols, even if none of them trades."""
_FATAL: Final = (WrongKey, NotEntitled, BadRequest)

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


@dataclass
class LiveFeed:
    """Follows the stream of a provider: opens it again when it breaks, and records the gaps.

    A full pipeline slows the provider. A provider that cannot wait loses ticks: the gap is counted and recorded.
    Corrections are few, and wait in any case: a lost one would leave a wrong bar that nothing mends.
    """

    provider: Provider
    feed: Feed
    ingestor: Ingestor
    counters: Counters
    runs: RunLog
    gaps: FeedGapLog | None
    """None: the data are samples, between which nothing is missed."""
    now: Callable[[], datetime]
    state: FeedState = field(default_factory=FeedState)
    backoff: Backoff = field(default_factory=Backoff)
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    _gap: "_Gap | None" = None

    async def follow(self) -> None:
        """Queue the data that the provider streams, until the stream ends for good or is refused.

        Raises the faults that are no ProviderFault.
        """
        while True:
            self.state.connect()
            try:
                await self._follow_connection()
            except _FATAL as fault:
                self._give_up(fault)
                return
            except ProviderFault as fault:
                await self._wait(fault)
            except Exception as fault:
                self._interrupt(repr(fault))
                self.state.wait(repr(fault), None)
                raise
            else:
                self._settle()
                self.state.end()
                return

    async def _follow_connection(self) -> None:
        quiet = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._settle)
        try:
            async with _stream_of(self.provider) as stream:
                async for frame in stream:
                    if len(frame):
                        self.backoff.reset()
                        self.state.receive(len(frame), self.now())
                    await self._take(frame)
        finally:
            quiet.cancel()

    async def _take(self, frame: pl.DataFrame) -> None:
        of_corrections = kind_of(frame) == "corrections"
        if not of_corrections and not self.provider.can_wait and not self.ingestor.has_room(len(frame)):
            self._gap = self._gap or _Gap(self.now())
            self._gap.add(frame)
            self.counters.dropped += len(frame)
            self._interrupt("the pipeline was full")
            return
        if self._gap is not None and not of_corrections:
            await self._gap.close(self.provider.name, self.runs, self.now())
            self._gap = None
        durable = await self.ingestor.enqueue_any(frame, self.feed)
        if self.gaps is not None and len(frame) and not of_corrections:
            self.gaps.receive(durable)
        if self.provider.can_wait:
            await durable

    def _interrupt(self, why: str) -> None:
        if self.gaps is not None:
            self.gaps.interrupt(why)

    def _settle(self) -> None:
        if self.gaps is not None:
            self.gaps.settle()

    def _give_up(self, fault: ProviderFault) -> None:
        self._interrupt(str(fault))
        log.error("a feed is refused; it is not opened again before the next start", **self._said(fault))
        self.state.refuse(str(fault))

    async def _wait(self, fault: ProviderFault) -> None:
        """Wait until the stream may be opened again."""
        seconds = self.backoff.next()
        if isinstance(fault, TooManyConnections):
            seconds = max(seconds, _TAKEN_SECONDS)
        if isinstance(fault, RateLimited) and fault.until is not None:
            seconds += max(0.0, (fault.until - self.now()).total_seconds())
        self._interrupt(str(fault))
        self.state.wait(str(fault), self.now() + timedelta(seconds=seconds))
        log.warning("a feed is broken; it is opened again", **self._said(fault), in_seconds=round(seconds, 1))
        await self.sleep(seconds)

    def _said(self, fault: ProviderFault) -> dict[str, str]:
        return {"provider": self.provider.name, "fault": fault.code, "why": str(fault)}


@asynccontextmanager
async def _stream_of(provider: Provider) -> AsyncIterator[AsyncIterator[pl.DataFrame]]:
    """Open a provider's stream; close its connection at the end."""
    stream = provider.stream()
    try:
        yield stream
    finally:
        if hasattr(stream, "aclose"):  # a generator; another iterator has nothing to close
            await stream.aclose()


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
