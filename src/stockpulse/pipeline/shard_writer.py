"""What a shard has made, on its way to the database, and to the topics first."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.aio import offload
from stockpulse.engine.bar_engine import BarEvents
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.checkpoint_state import State
from stockpulse.engine.engine import Engine, EngineChanges
from stockpulse.engine.indicators import RealtimeSnapshot
from stockpulse.journal.records import Batch, Ticks, Unreadable
from stockpulse.journal.segments import Segments
from stockpulse.market.intervals import BASE_INTERVALS, Interval
from stockpulse.pipeline.kafka_publisher import KafkaPublisher
from stockpulse.storage.sink import Flush, Sink
from stockpulse.telemetry.counters import Counters

_MOST_BARS: Final = 250_000
_MOST_TICKS: Final = 1_000_000
"""No more wait to be stored, but for those of a batch."""

_REALTIME_SECONDS: Final = 1.0
_REALTIME_ROWS_PER_SECOND: Final = 250


class ShardWriter:
    """Stores, and publishes, what the engine of a shard makes; `turn` is held by whoever works on the engine."""

    def __init__(
        self,
        engine: Engine,
        turn: asyncio.Lock,
        sink: Sink,
        *,
        counters: Counters,
        now: Callable[[], datetime],
        segments: Segments | None = None,
        publisher: KafkaPublisher | None = None,
        flush_seconds: float = 0.5,
    ) -> None:
        """`segments` are those of the tick table, where that is written here and not by the log itself."""
        self._engine = engine
        self._turn = turn
        self._sink = sink
        self._counters = counters
        self._now = now
        self._segments = segments
        self._publisher = publisher
        self._flush_seconds = flush_seconds
        self._closed: deque[BarEvents] = deque()  # to be published
        self._publish_lock = asyncio.Lock()
        self._ticks: list[pl.DataFrame] = []  # to be stored
        self._unreadable: list[pl.DataFrame] = []
        self._ended: list[asyncio.Future[None]] = []  # to be answered when their bars are stored
        self._flushed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._next_realtime = 0.0
        self.live = False
        """Whether the log is worked in: only then the market is looked at."""

    @property
    def offset(self) -> int:
        """Up to where the log is worked in and stored."""
        return self._sink.offset

    # What is taken ------------------------------------------------------------------------------

    def note(self, events: Iterable[BarEvents]) -> None:
        """Bars that have closed, or were revised after that."""
        for event in events:
            if self._publisher is not None:
                self._closed.append(event)
            if event.revised:
                self._counters.bars_revised += len(event.rows)
            else:
                self._counters.bars_closed += len(event.rows)

    def keep(self, batch: Batch | Unreadable) -> None:
        """Have records stored that are in no database yet; in the turn in which the engine has them worked in."""
        if isinstance(batch, Unreadable) and len(batch):
            self._unreadable.append(batch.frame)
            self._counters.rejected += len(batch)
        elif isinstance(batch, Ticks) and self._segments is not None:
            self._ticks.append(batch.frame)
            self._segments.recent.append(self._segments.open, batch.frame)

    def answer(self, stored: asyncio.Future[None]) -> None:
        """Say so when all that was made up to now is stored."""
        self._ended.append(stored)

    async def until_room(self) -> None:
        """What cannot be stored as fast as it comes, or not at all just now, must not pile up here."""
        while self._engine.bars.unstored() > _MOST_BARS or sum(map(len, self._ticks)) > _MOST_TICKS:
            self._flushed.clear()
            await self._flushed.wait()

    # Publish ------------------------------------------------------------------------------------

    async def publish_closed(self) -> None:
        """Publish bars as soon as they have closed, ahead of the flush that stores them."""
        if self._publisher is None:
            return
        async with self._publish_lock:
            while self._closed:
                await self._publisher.bars(self._closed[0].interval, self._closed[0].rows)
                self._closed.popleft()

    async def _publish(self, publisher: KafkaPublisher, changes: EngineChanges, forming: dict[Interval, Rows]) -> None:
        """What is stored next is published first, or a restart in between would never publish it."""
        await self.publish_closed()
        await publisher.analytics(changes.analytics)
        for interval, rows in forming.items():
            await publisher.bars(interval, rows)
        await publisher.published()

    # Flush --------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Store what changed, again and again, and once more at the end."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._flush_seconds):
                    await self._stopping.wait()
            await self.flush_once()
        await self.flush_once()  # what came while the one before was under way

    async def flush_once(self) -> None:
        """Store what changed."""
        async with self._turn:
            realtime = await self._take_realtime()
            changes = self._engine.take_changes()
            whole = self._engine.snapshot() if changes and self._sink.wants_whole() else None
            ended, self._ended = self._ended, []
            ticks, self._ticks = self._ticks, []
            unreadable, self._unreadable = self._unreadable, []
            forming = self._forming() if realtime and self._publisher is not None else {}
        if self._publisher is not None:
            await self._publish(self._publisher, changes, forming)
        if changes or realtime:
            await self._write(changes, realtime, whole, ticks, unreadable)
        for stored in ended:
            stored.set_result(None)

    def _forming(self) -> dict[Interval, Rows]:
        return {interval: self._engine.bars.selected(interval, final=False) for interval in BASE_INTERVALS}

    async def _take_realtime(self) -> RealtimeSnapshot | None:
        """A look at the market, now and then: the more symbols there are in one, the longer until the next."""
        if not self.live or time.monotonic() < self._next_realtime:
            return None
        realtime = await offload.run(self._engine.bars.forming(), self._engine.realtime)
        count = len(realtime.prices.symbol_id)
        self._next_realtime = time.monotonic() + max(_REALTIME_SECONDS, count / _REALTIME_ROWS_PER_SECOND)
        return realtime if count else None

    async def _write(
        self,
        changes: EngineChanges,
        realtime: RealtimeSnapshot | None,
        whole: State | None,
        ticks: list[pl.DataFrame],
        unreadable: list[pl.DataFrame],
    ) -> None:
        started = time.monotonic()
        flush = Flush(
            offset=changes.offset,
            bars=changes.bars,
            analytics=changes.analytics,
            realtime=realtime,
            state=changes.state if whole is None else whole,
            whole=whole is not None,
            ticks=ticks,
            unreadable=unreadable,
        )
        await self._sink.flush(flush, self._now())
        self._counters.flushes += 1
        self._counters.flush_seconds += time.monotonic() - started
        async with self._turn:
            self._engine.flushed()
        self._flushed.set()

    def end(self) -> None:
        """Have the flush end, once more and for the last time."""
        self._stopping.set()
