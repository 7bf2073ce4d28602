"""Notes the interruptions of one live feed, without delaying it.

The feed tells its data and its interruptions to this log, in memory; a task writes them to the database. Between, the
mark of the feed stands still (see `storage.feed_gaps`).

    data of the feed   ├──────────────┤                      ├──────────►
    the gap                     ├─────────────────────────────────┤
                         some seconds before              the first data
                         the newest data                  again
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from stockpulse.ingest.feed import Receipt
from stockpulse.market.clocks import Clock
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.providers.base import Provider
from stockpulse.storage.feed_gaps import FeedGaps

OVERLAP: Final = timedelta(seconds=10)
"""A gap begins this long before the newest data: trades arrive late and out of order. Filling stores nothing twice."""
MARK_SECONDS: Final = 5.0
_DURABLE_SECONDS: Final = 1.0
_SHOWN: Final = 10

log = structlog.get_logger(__name__)


@dataclass
class _Interruption:
    """An interruption that is not completely in the table yet."""

    start: datetime | None
    """None: the mark of the feed, which the table has."""
    why: str
    id: int | None = None
    end: datetime | None = None


class FeedGapLog:
    """The interruptions of one feed. Feeds whose clock is not the wall clock have none: they can be read again."""

    def __init__(
        self,
        provider: Provider,
        gaps: FeedGaps,
        state: FeedState,
        now: Callable[[], datetime],
        mark_seconds: float = MARK_SECONDS,
    ) -> None:
        self._provider = provider
        self._gaps = gaps
        self._state = state
        self._now = now
        self._mark_seconds = mark_seconds
        self._delay = timedelta(seconds=provider.delay_seconds)
        self._newest: tuple[datetime, asyncio.Future[Receipt]] | None = None
        self._newest_at: datetime | None = None
        self._waiting: deque[_Interruption] = deque()
        self._changed = asyncio.Event()
        self.ended = asyncio.Event()
        """Set when a gap has ended and can be filled."""
        if self._counts:
            self.interrupt("StockPulse was stopped")

    @property
    def _counts(self) -> bool:
        return self._provider.clock is Clock.WALL

    @property
    def _lasting(self) -> _Interruption | None:
        last = self._waiting[-1] if self._waiting else None
        return last if last is not None and last.end is None else None

    def interrupt(self, why: str) -> None:
        """Begin a gap, unless one lasts."""
        if self._counts and self._lasting is None:
            start = None if self._newest_at is None else self._newest_at - OVERLAP
            self._waiting.append(_Interruption(start, why))
            self._changed.set()

    def receive(self, durable: asyncio.Future[Receipt]) -> None:
        """Data flows: it is stored when the future is done. End the gap that lasts."""
        self.settle()
        at = self._now() - self._delay
        self._newest, self._newest_at = (at, durable), at

    def settle(self) -> None:
        """End the gap that lasts: from now on, data that the provider has arrives."""
        if (lasting := self._lasting) is not None:
            lasting.end = self._now() - self._delay
            self._changed.set()

    async def run(self) -> None:
        """Write interruptions and the mark of the feed, until cancelled."""
        if self._counts:
            await self._count()
        while self._counts:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._mark_seconds):
                    await self._changed.wait()
            await self.write()

    async def write(self) -> None:
        """Write all that is not in the database yet."""
        self._changed.clear()
        newest = self._newest
        while self._waiting:
            one = self._waiting[0]
            await self._begin(one)
            if one.end is None:
                return
            if one.id is not None:
                await self._gaps.end(one.id, one.end)
                self.ended.set()
            self._waiting.popleft()
            await self._count()
        if newest is not None:
            until, durable = newest
            await asyncio.wait([durable], timeout=_DURABLE_SECONDS)
            if not durable.done() or durable.cancelled() or durable.exception() is not None:
                return
            await self._gaps.set_complete_until(self._provider.name, until)
            self._newest = None if self._newest is newest else self._newest

    async def _begin(self, one: _Interruption) -> None:
        if one.id is not None:
            return
        start = one.start
        if start is None:
            mark = await self._gaps.complete_until(self._provider.name)
            if mark is None:  # the feed never had data: its history is a matter of the backfill
                return
            start = mark - OVERLAP
        one.id = await self._gaps.begin(self._provider.name, start, one.why)
        log.warning("a feed has a gap", provider=self._provider.name, since=start.isoformat(), why=one.why)
        await self._count()

    async def _count(self) -> None:
        """Show the gaps of the feed on /health."""
        await show_gaps(self._gaps, self._provider.name, self._state)


async def show_gaps(gaps: FeedGaps, provider: str, state: FeedState) -> None:
    """Bring the gaps in the state of a feed up to date."""
    state.gaps = await gaps.counts(provider)
    state.unfilled = await gaps.unfilled(provider, _SHOWN)
