"""The last part of the pipeline, for one shard: passes the results of the engine to the listeners and the database."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import polars as pl

from stockpulse.aio import offload
from stockpulse.engine.checkpoint_state import State
from stockpulse.engine.engine import Engine, EngineChanges
from stockpulse.engine.indicators import DAILY, INTRADAY, AnalyticsChanges, RealtimeSnapshot
from stockpulse.engine.step import BarEvents
from stockpulse.journal.records import Batch, Forget, Ticks, Unreadable
from stockpulse.journal.segments import Segments
from stockpulse.market.intervals import BASE_INTERVALS
from stockpulse.pipeline.events import IndicatorEvents, Listener
from stockpulse.pipeline.flush_size import FlushSize
from stockpulse.pipeline.locked_engine import LockedEngine
from stockpulse.storage.sink import Flush, Sink
from stockpulse.telemetry.counters import Counters

FLUSH_SECONDS: Final = 0.5

_MAX_BARS: Final = 250_000
_MAX_TICKS: Final = 1_000_000
"""Above these numbers of unstored rows the shard takes no further batch."""

_REALTIME_SECONDS: Final = 1.0
_REALTIME_ROWS_PER_SECOND: Final = 250


@dataclass
class _Unstored:
    """Records of an external log that no table holds yet, and futures that wait for the next flush."""

    ticks: list[pl.DataFrame] = field(default_factory=list)
    unreadable: list[pl.DataFrame] = field(default_factory=list)
    forgets: list[tuple[int, Forget]] = field(default_factory=list)
    corrections: list[pl.DataFrame] = field(default_factory=list)
    cancelled: list[pl.DataFrame] = field(default_factory=list)
    waiting: list[tuple[asyncio.Future[Any], Any]] = field(default_factory=list)


class ShardWriter:
    """Announces and stores the results of the engine of a shard."""

    def __init__(
        self,
        engine: LockedEngine,
        sink: Sink,
        listener: Listener,
        *,
        counters: Counters,
        now: Callable[[], datetime],
        segments: Segments | None = None,
        flush_seconds: float | None = FLUSH_SECONDS,
    ) -> None:
        """Pass the `segments` of the tick table only if the log itself does not write them.

        `flush` stores every `flush_seconds`, and at once when there is no room for more; None means once, at the end.
        """
        self._engine = engine
        self._sink = sink
        self._listener = listener
        self._counters = counters
        self._now = now
        self._segments = segments
        self._flush_seconds = flush_seconds
        self._unstored = _Unstored()
        self._one_flush = asyncio.Lock()
        self._flushed = asyncio.Event()
        self._due = asyncio.Event()
        self._stopping = False
        self._size = FlushSize()
        self._next_realtime = 0.0
        self._being_stored = 0
        self._storing_since: float | None = None
        self.live = False
        """True once the recovery is over; before that no real-time snapshot is taken."""

    @property
    def offset(self) -> int:
        """The offset up to which everything is stored."""
        return self._sink.offset

    def storing_seconds(self) -> float:
        """Return the duration of the current flush so far, in seconds; 0 without one."""
        return 0.0 if self._storing_since is None else time.monotonic() - self._storing_since

    def waiting(self) -> int:
        """Return the number of bars, indicator rows and signals that wait to be stored, or are being stored."""
        engine = self._engine.unlocked
        return self._being_stored + engine.bars.unstored() + engine.analytics.unflushed()

    def for_next_flush(self) -> int:
        """Return the number of rows that the next flush writes. Forming bars are only in its checkpoint."""
        engine = self._engine.unlocked
        return engine.bars.unstored_final() + engine.analytics.unflushed()

    def room(self) -> int:
        """Return the number of further rows that fit into a short next flush. If it is 0, the flush begins at once."""
        room = self._size.rows - self.for_next_flush()
        if room <= 0 and self._flush_seconds is not None:
            self._due.set()
        return max(room, 0)

    # Taking over from the engine ----------------------------------------------------------------

    def announce(self, events: Iterable[BarEvents]) -> None:
        """Pass bars that have closed or were revised to the listener."""
        for event in events:
            self._listener.on_bars(event)
            if event.revised:
                self._counters.bars_revised += len(event.rows)
            else:
                self._counters.bars_closed += len(event.rows)

    def keep(self, batch: Batch | Unreadable) -> None:
        """Keep processed records until the next flush; call it while the engine that has them is still locked."""
        if isinstance(batch, Unreadable) and len(batch):
            self._unstored.unreadable.append(batch.frame)
            self._counters.rejected += len(batch)
        elif isinstance(batch, Ticks):
            self._listener.on_ticks(batch.frame)
            if self._segments is not None:
                self._unstored.ticks.append(batch.frame)
                self._segments.recent.append(self._segments.open, batch.frame)

    def keep_forget(self, forget: Forget, seq: int) -> None:
        """Keep a processed forget until the next flush; call it while the engine is still locked."""
        self._unstored.forgets.append((seq, forget))

    def keep_corrections(self, corrections: pl.DataFrame, cancelled: pl.DataFrame, right: pl.DataFrame) -> None:
        """Keep processed corrections until the next flush; call it while the engine is still locked.

        The frames are LOGGED_CORRECTIONS, `corrections.CANCELLED` ticks and the right trades.
        """
        if self._segments is not None:
            self._unstored.corrections.append(corrections)
        self._unstored.cancelled.append(cancelled)
        if len(right):
            self.keep(Ticks(right))

    def answer(self, stored: asyncio.Future[Any], result: object = None) -> None:
        """Complete the future with this result when everything made so far is stored."""
        self._unstored.waiting.append((stored, result))

    async def until_room(self) -> None:
        """Wait while too many rows are unstored, or while a listener has no room."""
        await self._listener.until_room()
        while self._engine.unlocked.bars.unstored() > _MAX_BARS or sum(map(len, self._unstored.ticks)) > _MAX_TICKS:
            self._flushed.clear()
            await self._flushed.wait()

    # Flush --------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Flush at regular intervals, and at once when a flush is full, until `end` is called; then flush once more."""
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._flush_seconds):
                    await self._due.wait()
            self._due.clear()
            await self.flush_once()
        await self.flush_once()  # the changes during the flush before

    async def flush_once(self) -> None:
        """Store the changes since the last flush."""
        async with self._one_flush:
            async with self._engine as engine:
                flush, unstored = await self._take_changes(engine)
            # Delivered first: after a crash in between, the same events are delivered and stored again.
            await self._listener.until_delivered()
            if flush is not None:
                await self._write(flush)
            self._being_stored = 0
            for stored, result in unstored.waiting:
                stored.set_result(result)

    async def _take_changes(self, engine: Engine) -> tuple[Flush | None, _Unstored]:
        realtime = await self._realtime(engine)
        changes = engine.take_changes()
        self._being_stored = _rows_of(changes)
        whole = engine.snapshot() if changes and self._sink.wants_whole() else None
        unstored, self._unstored = self._unstored, _Unstored()
        self._announce_analytics(changes.analytics)
        if realtime is not None:
            self._announce_forming(engine)
        if not (changes or realtime):
            return None, unstored
        return _flush_of(changes, realtime, whole, unstored), unstored

    def _announce_analytics(self, changes: AnalyticsChanges) -> None:
        for tier in (INTRADAY, DAILY):
            if tier in changes.tracks:
                self._listener.on_indicators(IndicatorEvents(tier, changes.tracks[tier].derived))
        if changes.signals is not None:
            self._listener.on_signals(changes.signals)

    def _announce_forming(self, engine: Engine) -> None:
        for interval in BASE_INTERVALS:
            forming = engine.bars.selected(interval, final=False)
            if len(forming):
                self._listener.on_bars(BarEvents(interval, forming, revised=False))

    async def _realtime(self, engine: Engine) -> RealtimeSnapshot | None:
        """Take a snapshot of prices and forming bars if one is due. More rows delay the next snapshot longer."""
        if not self.live or time.monotonic() < self._next_realtime:
            return None
        realtime = await offload.run(engine.bars.forming(), engine.realtime)
        count = len(realtime.prices.symbol_id)
        self._next_realtime = time.monotonic() + max(_REALTIME_SECONDS, count / _REALTIME_ROWS_PER_SECOND)
        return realtime if count else None

    async def _write(self, flush: Flush) -> None:
        started = self._storing_since = time.monotonic()
        await self._sink.flush(flush, self._now())
        self._storing_since = None
        self._counters.flushes += 1
        self._counters.flush_seconds += time.monotonic() - started
        self._size.learn(self._being_stored, time.monotonic() - started)
        async with self._engine as engine:
            engine.flushed()
        self._flushed.set()

    def end(self) -> None:
        """Let `flush` store once more and return."""
        self._stopping = True
        self._due.set()


def _rows_of(changes: EngineChanges) -> int:
    derived = sum(len(changed.derived) for changed in changes.analytics.tracks.values())
    return derived + sum(map(len, changes.bars.values()))


def _flush_of(
    changes: EngineChanges, realtime: RealtimeSnapshot | None, whole: State | None, unstored: _Unstored
) -> Flush:
    return Flush(
        offset=changes.offset,
        bars=changes.bars,
        analytics=changes.analytics,
        realtime=realtime,
        state=changes.state if whole is None else whole,
        whole=whole is not None,
        ticks=unstored.ticks,
        unreadable=unstored.unreadable,
        removed=changes.removed,
        forgets=unstored.forgets,
        corrections=unstored.corrections,
        cancelled=unstored.cancelled,
    )
