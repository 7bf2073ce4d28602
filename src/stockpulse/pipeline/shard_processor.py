"""The second half of the pipeline, for one shard: from the log's records to bars, indicators and signals.

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

import numpy as np
import polars as pl
import structlog

from stockpulse.aio import offload
from stockpulse.aio.row_queue import RowQueue
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.batches import bar_batches, tick_batch
from stockpulse.engine.step import BarEvents, Batch, Range, Step
from stockpulse.ingest.pieces import BULK_ROWS
from stockpulse.ingest.shard_redeliveries import ShardRedeliveries
from stockpulse.journal.records import Appended, Bars, Corrections, End, Forget, ShardLog, Ticks, Unreadable
from stockpulse.market.arrays import array_of
from stockpulse.market.calendar import Calendar
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import Interval
from stockpulse.market.schemas import UNREADABLE
from stockpulse.market.symbology import Names
from stockpulse.pipeline.calendar_loading import CalendarLoading
from stockpulse.pipeline.correcting import Correcting
from stockpulse.pipeline.forgetting import Forgetting, Forgotten
from stockpulse.pipeline.indicator_catch_up import IndicatorCatchUp
from stockpulse.pipeline.locked_engine import LockedEngine
from stockpulse.pipeline.provider_clocks import ShardClocks
from stockpulse.pipeline.shard_writer import ShardWriter
from stockpulse.storage.engine_reads import EngineReads
from stockpulse.telemetry.counters import Counters

_QUEUE_ROWS: Final = 400_000
_STEP_ROWS: Final = 200_000
_CLOCK_SECONDS: Final = 0.25
_MOST_UNPROCESSED: Final = 300_000
"""Large batches wait while more than this number of records wait, even if they lead to few bars."""
_GLIMPSE_SECONDS: Final = 0.001  # then only items that are already queued are taken

log = structlog.get_logger(__name__)

_Stored = asyncio.Future[Forgotten | None]
_Item = tuple[Appended, _Stored | None]


class ShardProcessor:
    """Takes the records of one shard through the engine, in the order of the log."""

    def __init__(
        self,
        *,
        shard_log: ShardLog,
        engine: LockedEngine,
        writer: ShardWriter,
        reads: EngineReads,
        names: Names,
        counters: Counters,
        now: Callable[[], datetime],
        forgetting: Forgetting,
        correcting: Correcting,
        redeliveries: ShardRedeliveries | None = None,
        delivered: Callable[[pl.DataFrame], Awaitable[None]] | None = None,
        forgotten: Callable[[Forget], Awaitable[None]] | None = None,
        corrected: Callable[[pl.DataFrame], None] | None = None,
        extended_day: bool = False,
    ) -> None:
        """Pass `redeliveries` if other processes append to the log too: it drops duplicates.

        `delivered` is called with ticks that were read from the log and did not pass this process's intake; `forgotten`
        and `corrected` likewise with forgets and corrections.
        """
        self._log = shard_log
        self.engine = engine
        self.writer = writer
        self._names = names
        self._reads = reads
        self._counters = counters
        self._redeliveries = redeliveries
        self._delivered = delivered
        self._forgetting = forgetting
        self._forgotten = forgotten
        self._correcting = correcting
        self._corrected = corrected
        self._extended_day = extended_day
        self._calendars = CalendarLoading(names)
        self._catch_up = IndicatorCatchUp(engine, reads, self._calendars, writer.room)
        self._handed_on: RowQueue[_Item] = RowQueue(_QUEUE_ROWS)
        self._taken: deque[_Item] = deque()
        self._expected = 0  # the end of the batches that were handed on
        self._handed_at: deque[tuple[int, float]] = deque()  # the end of each batch, and when it came
        self._made_of_each = 1.0  # bars that a record of the last large batch has made, or changed
        self._sifted_to = 0
        self._taught = 0
        self._received_at = 0
        self._reading = False  # True while it reads what others have put into the log
        self.clocks = ShardClocks(names, engine.unlocked.bars, now)

    @property
    def expected(self) -> int:
        """The end of the batches that were handed on."""
        return self._expected

    @property
    def offset(self) -> int:
        """The offset up to which the log is processed."""
        return self.engine.unlocked.bars.offset

    async def hand_on(self, appended: Appended) -> _Stored | None:
        """Take a batch that this process has just appended; waits while too many rows are queued.

        For the end of a recording and for a forget it returns a future, which is done when the effects are stored.
        """
        waits = isinstance(appended.batch, End | Forget)
        stored = asyncio.get_running_loop().create_future() if waits else None
        self._drop_stored()
        if appended.after > appended.before:
            self._handed_at.append((appended.after, time.monotonic()))
        await self._handed_on.put((appended, stored), len(appended.batch))
        self._expected = appended.after
        return stored

    # Step ---------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Process the records of the log after the checkpoint."""
        started = time.monotonic()
        self._learn_symbols()  # even if nothing is to be replayed: indicators of stored bars need their sessions
        end = await self._log.end()
        async for appended in self._log.replay(self.offset, end):
            await self._process_read(appended, {}, self.writer.flush_once)
            await self.writer.flush_once()  # a recovery that is interrupted then continues where it was
        # Offsets that were left out at the end of a sealed segment count as processed.
        self.engine.unlocked.bars.offset = self._expected = max(self.offset, end)
        log.info("recovered", offset=self.offset, head=end, seconds=round(time.monotonic() - started, 2))

    async def step(self) -> None:
        """Run until cancelled: process appended records, close due bars, let indicators catch up in between."""
        catching_up, self.writer.live = False, True
        while True:
            if not self._taken:
                await self._take(_GLIMPSE_SECONDS if catching_up else _CLOCK_SECONDS)
            if not self._taken:
                await self._read_up_to(await self._log.foreign_end(self.offset))
                await self._close()
            while self._taken:  # an item stays there until it is done: a restart of this task finds it again
                appended, stored = self._taken[0]
                await self.writer.until_room()
                await self._read_up_to(appended.before)
                done = None
                if (rest := _beyond(appended, self.offset)) is not None:
                    done = await self._process(rest, None, self.writer.until_room)
                if stored is not None:
                    self.writer.answer(stored, done)
                self._taken.popleft()
            catching_up = await self._catch_up.advance()

    async def _take(self, seconds: float) -> None:
        """Take the batches that were handed on; wait for them at most this long."""
        # Not wait_for, which may swallow a cancellation (until Python 3.12): then nothing ends the loop.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._taken.extend(_joined(await self._handed_on.take(_STEP_ROWS)))

    async def _read_up_to(self, offset: int) -> None:
        """Process the records that other processes appended to the log."""
        if offset <= self.offset:
            return
        self._reading = True
        try:
            async for appended in self._log.replay(self.offset, offset):
                await self.writer.until_room()
                await self._process_read(appended, None, self.writer.until_room)
        finally:
            self._reading = False

    async def _close(self) -> None:
        await self._close_with(self._clocks())

    async def _close_with(self, clocks: dict[int, int]) -> None:
        async with self.engine as engine:
            self.writer.announce(await offload.run(engine.bars.forming(), partial(engine.close, clocks)))

    async def _process_read(
        self, appended: Appended, clocks: dict[int, int] | None, until_room: Callable[[], Awaitable[None]]
    ) -> None:
        """Process a batch that was read from the log and did not pass this process's intake."""
        if isinstance(appended.batch, Ticks) and self._delivered is not None:
            await self._delivered(appended.batch.frame)
        if isinstance(appended.batch, Corrections) and self._corrected is not None:
            self._corrected(appended.batch.frame)
            if self._delivered is not None:
                await self._delivered(appended.batch.right_trades)
        await self._process(appended, clocks, until_room)

    async def _process(
        self, appended: Appended, clocks: dict[int, int] | None, until_room: Callable[[], Awaitable[None]]
    ) -> Forgotten | None:
        """Process one batch in the engine; return the results of a forget."""
        self._learn_symbols()
        batch, done = appended.batch, None
        if isinstance(batch, End):
            self.clocks.end(batch.provider)
            await self._close_with(self.clocks.over(batch.provider))
        elif isinstance(batch, Ticks):
            fresh = await self._without_redeliveries(batch)
            if len(fresh):
                await self._process_records(fresh, clocks)
        elif isinstance(batch, Bars):
            await self._process_records(batch, clocks)
        elif isinstance(batch, Corrections):
            await self._correct(batch.frame, until_room)
        elif isinstance(batch, Forget):
            done = await self._forgetting.process(batch, appended.after - 1, until_room)
            await self._forget_deliveries(batch)
        async with self.engine as engine:
            if isinstance(batch, Unreadable):
                self.writer.keep(batch)
            elif isinstance(batch, Forget):
                self.writer.keep_forget(batch, appended.after - 1)
            engine.bars.offset = max(self.offset, appended.after)
        return done

    async def _correct(self, corrections: pl.DataFrame, until_room: Callable[[], Awaitable[None]]) -> None:
        """Process corrections that were not delivered before."""
        await self._calendars.need(corrections["symbol_id"].to_numpy())
        if self._redeliveries is not None:
            fresh = self._redeliveries.sift_corrections(corrections)
            self._counters.duplicates += len(corrections) - len(fresh)
            corrections = fresh
        await self._correcting.process(corrections, until_room)

    async def _forget_deliveries(self, forget: Forget) -> None:
        """Forget the keys of forgotten ticks, so that they are new again.

        Without other writers the intake has done so.
        """
        if self._redeliveries is not None:
            self._redeliveries.forget(forget.symbol, forget.provider, forget.start, forget.end)
            if self._forgotten is not None:
                await self._forgotten(forget)

    async def _without_redeliveries(self, batch: Ticks) -> Ticks:
        """Drop duplicates. A batch that is processed again after a fault is not checked twice."""
        first = int(batch.frame["seq"][0])
        if self._redeliveries is None or first < self._sifted_to:
            return batch
        fresh = await offload.run(len(batch), partial(self._redeliveries.sift, batch.frame))
        self._sifted_to = int(batch.frame["seq"][-1]) + 1
        self._counters.duplicates += len(batch) - len(fresh)
        return Ticks(fresh)

    async def _process_records(self, batch: Ticks | Bars, clocks: dict[int, int] | None) -> None:
        await self._calendars.need(batch.frame["symbol_id"].to_numpy())
        async with self.engine as engine:
            step = engine.step(await self._records(batch), self._clocks() if clocks is None else clocks)
            stored: Rows | None = None
            before = self.writer.for_next_flush()
            while True:
                wanted, events = await offload.run(len(batch), partial(_advance, step, stored))
                if wanted is None:
                    break
                stored = await self._reads.bars(wanted)
            self.writer.announce(events)
            self.writer.keep(batch)  # under the same lock: from here on a flush counts these records as processed
            if len(batch) >= BULK_ROWS:
                self._made_of_each = (self.writer.for_next_flush() - before) / len(batch)
            self._received_at = int(array_of(batch.frame["received_at"])[-1])

    async def _records(self, batch: Ticks | Bars) -> Batch:
        """Return a batch of the log as the engine's records."""
        frame = batch.frame
        if isinstance(batch, Bars):
            return bar_batches(frame, self._calendar_of, extended_day=self._extended_day)
        self.clocks.resume(self._names.providers_of(np.unique(frame["kind_id"].to_numpy())))
        records = await offload.run(len(frame), partial(tick_batch, frame, self._names))
        self._counters.unreadable_conditions += int(np.count_nonzero(records.flags & UNREADABLE))
        return records

    def _calendar_of(self, symbol_id: int) -> Calendar:
        return trading_calendar(self._names.symbol_by_id[symbol_id].calendar)

    def _learn_symbols(self) -> None:
        """Add new symbols to the engine."""
        for symbol in self._names.in_order[self._taught :]:
            self.engine.unlocked.bars.learn_later(symbol.id, symbol.calendar, trading_calendar)
        self._taught = len(self._names.in_order)

    def _clocks(self) -> dict[int, int]:
        waiting = self._reading or len(self._handed_on) or len(self._taken) > 1
        return self.clocks.closing(self._received_at if waiting else None)

    def is_drained(self) -> bool:
        """Return True if everything that was handed on is processed."""
        return not (self._handed_on or self._taken) and self.offset >= self._expected

    # Reading ------------------------------------------------------------------------------------

    def lag(self) -> tuple[int, int, int]:
        """Return the rows to process, the rows to store, and the number of symbols whose indicators have to catch up.

        The rows to store are processed records, or the bars and indicators made of them if these are more: bars that
        close and indicators that catch up move no offset.
        """
        unprocessed = max(self._log.head, self._expected) - self.offset
        unstored = max(self.offset - self.writer.offset, self.writer.waiting())
        return max(unprocessed, 0), unstored, self.engine.unlocked.analytics.behind()

    def has_room(self, rows: int) -> bool:
        """Return True if `rows` further records, and all waiting ones, lead to one short flush."""
        unprocessed = max(max(self._log.head, self._expected) - self.offset, 0) + rows
        return unprocessed < _MOST_UNPROCESSED and unprocessed * self._made_of_each < self.writer.room()

    def behind_seconds(self) -> float:
        """Return the time that the oldest unstored record has been in the log, in seconds; 0 if all are stored."""
        self._drop_stored()
        return time.monotonic() - self._handed_at[0][1] if self._handed_at else 0.0

    def _drop_stored(self) -> None:
        while self._handed_at and self._handed_at[0][0] <= self.writer.offset:
            self._handed_at.popleft()

    async def bars_in_memory(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """Return the bars that the engine holds, including forming bars: of one symbol or of all symbols."""
        async with self.engine as engine:
            return engine.bars.resident(interval, symbol_id)


def _advance(step: Step, stored: Rows | None) -> tuple[Range | None, list[BarEvents]]:
    """Resume a step with the rows that it asked for; return the next range that it needs, or None and its events."""
    try:
        # A generator takes None the first time.
        return step.send(stored), []  # type: ignore[arg-type]
    except StopIteration as done:
        return None, done.value


def _joined(items: Iterable[_Item]) -> Iterator[_Item]:
    """Join consecutive batches of ticks into one, and consecutive corrections."""
    run: list[Appended] = []
    for appended, stored in items:
        joins = isinstance(appended.batch, Ticks | Corrections)
        if joins and run and type(run[-1].batch) is type(appended.batch) and run[-1].after == appended.before:
            run.append(appended)
            continue
        yield from _as_one(run)
        run = [appended] if joins else []
        if not run:
            yield appended, stored
    yield from _as_one(run)


def _as_one(run: list[Appended]) -> Iterator[_Item]:
    if len(run) > 1:
        frame = pl.concat([one.batch.frame for one in run], rechunk=True)  # type: ignore[union-attr]
        yield Appended(run[0].shard, type(run[0].batch)(frame), run[0].before, run[-1].after), None  # type: ignore[arg-type,call-arg]
    elif run:
        yield run[0], None


def _beyond(appended: Appended, offset: int) -> Appended | None:
    """Return the part of a batch after this offset; the records before it were read from the log."""
    if appended.before >= offset or isinstance(appended.batch, End):
        return appended
    if appended.after <= offset or not isinstance(appended.batch, Ticks | Bars | Corrections):
        return None
    rest = appended.batch.frame.filter(pl.col("seq") >= offset)
    return Appended(appended.shard, type(appended.batch)(rest), offset, appended.after) if len(rest) else None
