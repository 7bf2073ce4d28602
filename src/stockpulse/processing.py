"""The second half of the spine, for one shard: from the log's records to stored bars and indicators.

the log ───► step ───► flush
(bars)    (stored)
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Final

import polars as pl
import structlog

from stockpulse import offload
from stockpulse.calendar import Calendar, trading_calendar
from stockpulse.catch_up import CatchUp
from stockpulse.counters import Counters
from stockpulse.engine.analytics import Glance
from stockpulse.engine.bars import Rows
from stockpulse.engine.batches import bar_batches, tick_batch
from stockpulse.engine.engine import Engine, EngineChanges
from stockpulse.engine.shard import BarEvents, Work
from stockpulse.engine.state import State
from stockpulse.ingest.redelivery import ShardRedeliveries
from stockpulse.intervals import BASE_INTERVALS, Interval
from stockpulse.journal.records import Appended, Bars, Batch, End, ShardLog, Ticks, Unreadable
from stockpulse.journal.segments import Segments
from stockpulse.names import Names
from stockpulse.presents import ShardPresents
from stockpulse.publishing import Publishing
from stockpulse.queues import RowQueue
from stockpulse.store.engine_reads import EngineReads
from stockpulse.store.sink import Flush, Sink

_QUEUE_ROWS: Final = 400_000
_STEP_ROWS: Final = 200_000
_MOST_BARS: Final = 250_000
_MOST_TICKS: Final = 1_000_000
"""No more wait to be stored, but for those of a batch."""

_CLOCK_SECONDS: Final = 0.25
_GLIMPSE_SECONDS: Final = 0.001  # what is there already is taken
_GLANCE_SECONDS: Final = 1.0
_GLANCE_ROWS_PER_SECOND: Final = 250

log = structlog.get_logger(__name__)

_Stored = asyncio.Future[None]


class Processing:
    """Works one shard of the log in."""

    def __init__(
        self,
        *,
        shard_log: ShardLog,
        engine: Engine,
        sink: Sink,
        reads: EngineReads,
        names: Names,
        counters: Counters,
        now: Callable[[], datetime],
        segments: Segments | None = None,
        redeliveries: ShardRedeliveries | None = None,
        delivered: Callable[[pl.DataFrame], Awaitable[None]] | None = None,
        publishing: Publishing | None = None,
        extended_day: bool = False,
        flush_seconds: float = 0.5,
    ) -> None:
        """`segments` are those of the tick table, where that is written here and not by the log itself.

        `redeliveries` tells ticks that came before, where others than this process append to the log; `delivered` is
        told of ticks that were read from there.
        """
        self._redeliveries = redeliveries
        self._delivered = delivered
        self._sifted_to = 0
        self._publishing = publishing
        self._closed: deque[BarEvents] = deque()  # to be published
        self._publishing_turn = asyncio.Lock()
        self._segments = segments
        self._ticks: list[pl.DataFrame] = []  # to be stored
        self._unreadable: list[pl.DataFrame] = []
        self._log = shard_log
        self.engine = engine
        self._sink = sink
        self._reads = reads
        self._names = names
        self._counters = counters
        self._now = now
        self._extended_day = extended_day
        self._flush_seconds = flush_seconds
        self._handed_on: RowQueue[tuple[Appended, _Stored | None]] = RowQueue(_QUEUE_ROWS)
        self._taken: deque[tuple[Appended, _Stored | None]] = deque()
        self._expected = 0  # the end of what was handed on
        self._taught = 0
        self._turn = asyncio.Lock()  # held by whoever works on the engine
        self._catch_up = CatchUp(engine, self._turn, reads)
        self._live = False  # not before the log is worked in
        self._next_glance = 0.0
        self._received_at = 0
        self._reading = False  # what others have put into the log
        self._flushed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended: list[_Stored] = []  # to be answered when their bars are stored
        self.presents = ShardPresents(names, engine.shard, now)

    @property
    def expected(self) -> int:
        """The end of what was handed on."""
        return self._expected

    @property
    def offset(self) -> int:
        """Up to where the log is worked in."""
        return self.engine.shard.offset

    async def hand_on(self, appended: Appended) -> _Stored | None:
        """Take what was appended here, without a detour over the log; waits while there is too much of it."""
        stored = asyncio.get_running_loop().create_future() if isinstance(appended.batch, End) else None
        await self._handed_on.put((appended, stored), len(appended.batch))
        self._expected = appended.after
        return stored

    # Step ---------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Take up the checkpoint and work in what the log holds after it."""
        started = time.monotonic()
        self._teach()  # even if nothing is to be replayed: indicators of stored bars need their sessions
        end = await self._log.end()
        async for appended in self._log.replay(self.offset, end):
            await self._work_in_read(appended, {})
            await self.flush_once()  # so that a recovery that is cut short goes on where it was
        # Offsets that were left out at the end of a sealed segment are worked in as well.
        self.engine.shard.offset = self._expected = max(self.offset, end)
        log.info("recovered", offset=self.offset, head=end, seconds=round(time.monotonic() - started, 2))

    async def step(self) -> None:
        """Work in what was appended, close what is due, and catch up in between."""
        catching_up, self._live = False, True
        while True:
            if not self._taken:
                await self._take(_GLIMPSE_SECONDS if catching_up else _CLOCK_SECONDS)
            if not self._taken:
                await self._read_up_to(await self._log.foreign_end(self.offset))
                await self._close()
            while self._taken:  # each stays there until it is done, should this be started again in the middle
                appended, stored = self._taken[0]
                await self._until_stored()
                await self._read_up_to(appended.before)
                if (rest := _beyond(appended, self.offset)) is not None:
                    await self._work_in(rest, None)
                if stored is not None:
                    self._ended.append(stored)
                self._taken.popleft()
            await self._publish_closed()
            catching_up = await self._catch_up.some()

    async def _take(self, seconds: float) -> None:
        """Take what was handed on; wait for it no longer than this."""
        # Not wait_for, which may swallow a cancellation (until Python 3.12): then nothing ends the loop.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._taken.extend(_joined(await self._handed_on.take(_STEP_ROWS)))

    async def _publish_closed(self) -> None:
        if self._publishing is None:
            return
        async with self._publishing_turn:
            while self._closed:
                await self._publishing.bars(self._closed[0].interval, self._closed[0].rows)
                self._closed.popleft()

    async def _read_up_to(self, offset: int) -> None:
        """Work in what others have put into the log."""
        if offset <= self.offset:
            return
        self._reading = True
        try:
            async for appended in self._log.replay(self.offset, offset):
                await self._until_stored()
                await self._work_in_read(appended, None)
        finally:
            self._reading = False

    async def _until_stored(self) -> None:
        """What cannot be stored as fast as it comes, or not at all just now, must not pile up here."""
        while self.engine.shard.unstored() > _MOST_BARS or sum(map(len, self._ticks)) > _MOST_TICKS:
            self._flushed.clear()
            await self._flushed.wait()

    async def _close(self) -> None:
        await self._close_with(self._clocks())

    async def _close_with(self, clocks: dict[int, int]) -> None:
        async with self._turn:
            self._note(await offload.run(self.engine.shard.forming(), partial(self.engine.close, clocks)))

    async def _work_in_read(self, appended: Appended, clocks: dict[int, int] | None) -> None:
        """One batch that was read from the log: intake has not seen it, not in this life at least."""
        if isinstance(appended.batch, Ticks) and self._delivered is not None:
            await self._delivered(appended.batch.frame)
        await self._work_in(appended, clocks)

    async def _work_in(self, appended: Appended, clocks: dict[int, int] | None) -> None:
        """One batch through the engine, bringing in the stored bars that it touches."""
        self._teach()
        batch = appended.batch
        if isinstance(batch, End):
            self.presents.end(batch.provider)
            await self._close_with(self.presents.over(batch.provider))
        elif isinstance(batch, Ticks):
            fresh = await self._sifted(batch)
            if len(fresh):
                await self._work_in_records(fresh, clocks)
        elif isinstance(batch, Bars):
            await self._work_in_records(batch, clocks)
        async with self._turn:
            if isinstance(batch, Unreadable):
                self._keep(batch)
            self.engine.shard.offset = max(self.offset, appended.after)

    async def _sifted(self, batch: Ticks) -> Ticks:
        """Those that are no redeliveries. What is worked in once more, after a fault, is not asked twice."""
        first = int(batch.frame["seq"][0])
        if self._redeliveries is None or first < self._sifted_to:
            return batch
        fresh = await offload.run(len(batch), partial(self._redeliveries.sift, batch.frame))
        self._sifted_to = int(batch.frame["seq"][-1]) + 1
        self._counters.duplicates += len(batch) - len(fresh)
        return Ticks(fresh)

    def _keep(self, batch: Batch | Unreadable) -> None:
        """Have records stored that are in no database yet."""
        if isinstance(batch, Unreadable) and len(batch):
            self._unreadable.append(batch.frame)
            self._counters.rejected += len(batch)
        elif isinstance(batch, Ticks) and self._segments is not None:
            self._ticks.append(batch.frame)
            self._segments.recent.append(self._segments.open, batch.frame)

    async def _work_in_records(self, batch: Ticks | Bars, clocks: dict[int, int] | None) -> None:
        async with self._turn:
            for work in await self._digest(batch):
                for ranges in self.engine.needs(work):
                    for wanted in ranges:
                        self.engine.admit(wanted.interval, await self._reads.bars(wanted))
                now = self._clocks() if clocks is None else clocks
                self._note(await offload.run(len(batch), partial(self.engine.apply, work, now)))
            self._keep(batch)  # in the same turn: from here on a flush says that they are worked in
            self._received_at = int(batch.frame["received_at"].to_physical()[-1])

    async def _digest(self, batch: Ticks | Bars) -> list[Work]:
        frame = batch.frame
        if isinstance(batch, Ticks):
            self.presents.resume(self._names.providers_of(frame["kind_id"].unique().to_numpy()))
            return [await offload.run(len(frame), partial(self.engine.digest_ticks, tick_batch(frame, self._names)))]
        given = bar_batches(frame, self._calendar_of, extended_day=self._extended_day)
        return [self.engine.digest_bars(bars) for bars in given]

    def _calendar_of(self, symbol_id: int) -> Calendar:
        return trading_calendar(self._names.symbol_by_id[symbol_id].calendar)

    def _teach(self) -> None:
        """Tell the engine of new symbols."""
        for symbol in self._names.in_order[self._taught :]:
            self.engine.learn(symbol.id, trading_calendar(symbol.calendar))
        self._taught = len(self._names.in_order)

    def _note(self, events: Iterable[BarEvents]) -> None:
        for event in events:
            if self._publishing is not None:
                self._closed.append(event)
            if event.revised:
                self._counters.bars_revised += len(event.rows)
            else:
                self._counters.bars_closed += len(event.rows)

    def _clocks(self) -> dict[int, int]:
        waiting = self._reading or len(self._handed_on) or len(self._taken) > 1
        return self.presents.closing(self._received_at if waiting else None)

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
            glance = await self._glance()
            changes = self.engine.take_changes()
            whole = self.engine.snapshot() if changes and self._sink.wants_whole() else None
            ended, self._ended = self._ended, []
            ticks, self._ticks = self._ticks, []
            unreadable, self._unreadable = self._unreadable, []
            forming = self._forming() if glance else {}
        if self._publishing is not None:
            await self._publish(self._publishing, changes, forming)
        if changes or glance:
            await self._write(changes, glance, whole, ticks, unreadable)
        for stored in ended:
            stored.set_result(None)

    def _forming(self) -> dict[Interval, Rows]:
        return {interval: self.engine.shard.selected(interval, final=False) for interval in BASE_INTERVALS}

    async def _publish(self, publishing: Publishing, changes: EngineChanges, forming: dict[Interval, Rows]) -> None:
        """What is stored next is published first, or a restart in between would never publish it."""
        await self._publish_closed()
        await publishing.analytics(changes.analytics)
        for interval, rows in forming.items():
            await publishing.bars(interval, rows)
        await publishing.published()

    async def _glance(self) -> Glance | None:
        """A look at the market, now and then: the more symbols there are in one, the longer until the next."""
        if not self._live or time.monotonic() < self._next_glance:
            return None
        glance = await offload.run(self.engine.shard.forming(), self.engine.glance)
        count = len(glance.prices.symbol_id)
        self._next_glance = time.monotonic() + max(_GLANCE_SECONDS, count / _GLANCE_ROWS_PER_SECOND)
        return glance if count else None

    async def _write(
        self,
        changes: EngineChanges,
        glance: Glance | None,
        whole: State | None,
        ticks: list[pl.DataFrame],
        unreadable: list[pl.DataFrame],
    ) -> None:
        started = time.monotonic()
        flush = Flush(
            offset=changes.offset,
            bars=changes.bars,
            analytics=changes.analytics,
            glance=glance,
            state=changes.state if whole is None else whole,
            whole=whole is not None,
            ticks=ticks,
            unreadable=unreadable,
        )
        await self._sink.flush(flush, self._now())
        self._counters.flushes += 1
        self._counters.flush_seconds += time.monotonic() - started
        async with self._turn:
            self.engine.flushed()
        self._flushed.set()

    def is_drained(self) -> bool:
        """Whether all that was handed on is worked in."""
        return not (self._handed_on or self._taken) and self.offset >= self._expected

    def end_flushing(self) -> None:
        """Have the flush end, once more and for the last time."""
        self._stopping.set()

    # Reading ------------------------------------------------------------------------------------

    def lag(self) -> tuple[int, int, int]:
        """Rows to be worked in, rows to be stored, and symbols whose indicators have to catch up."""
        unprocessed = max(self._log.head, self._expected) - self.offset
        return max(unprocessed, 0), self.offset - self._sink.offset, self.engine.analytics.behind()

    async def bars_in_memory(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """The bars that the engine holds, forming ones included: of one symbol or of all."""
        async with self._turn:
            return self.engine.resident(interval, symbol_id)


_Item = tuple[Appended, _Stored | None]


def _joined(items: Iterable[_Item]) -> Iterator[_Item]:
    """Consecutive batches of ticks as one."""
    run: list[Appended] = []
    for appended, stored in items:
        if isinstance(appended.batch, Ticks) and (not run or run[-1].after == appended.before):
            run.append(appended)
            continue
        yield from _as_one(run)
        run = [appended] if isinstance(appended.batch, Ticks) else []
        if not run:
            yield appended, stored
    yield from _as_one(run)


def _as_one(run: list[Appended]) -> Iterator[_Item]:
    if len(run) > 1:
        frame = pl.concat([one.batch.frame for one in run], rechunk=True)  # type: ignore[union-attr]
        yield Appended(run[0].shard, Ticks(frame), run[0].before, run[-1].after), None
    elif run:
        yield run[0], None


def _beyond(appended: Appended, offset: int) -> Appended | None:
    """What of it comes after this offset, up to which all was read from the log meanwhile."""
    if appended.before >= offset or isinstance(appended.batch, End):
        return appended
    if appended.after <= offset or not isinstance(appended.batch, Ticks | Bars):
        return None
    rest = appended.batch.frame.filter(pl.col("seq") >= offset)
    return Appended(appended.shard, type(appended.batch)(rest), offset, appended.after) if len(rest) else None
