"""The spine: one short coroutine per arrow.

    submit ───► number ───► append ───► step ───► flush
    (checked)   (encoded)   (durable)   (bars)    (stored)

Each takes whatever has piled up since it last ran: small batches when it is quiet, large ones under load.
Queues between them are bounded; a full one makes the one before wait.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import polars as pl
import structlog

from stockpulse import offload
from stockpulse.calendar import trading_calendar
from stockpulse.catch_up import CatchUp
from stockpulse.database.connect import until_done
from stockpulse.engine.analytics import Glance
from stockpulse.engine.bars import Rows
from stockpulse.engine.batches import bar_batches, tick_batch
from stockpulse.engine.engine import Engine, EngineChanges
from stockpulse.engine.shard import BarEvents, Work
from stockpulse.engine.state import State
from stockpulse.ingest.encode import Encoder
from stockpulse.ingest.feed import Feed, Receipt
from stockpulse.ingest.intake import Intake, Submission
from stockpulse.intervals import Interval
from stockpulse.journal.records import Appended, Bars, Batch, Journal, Ticks
from stockpulse.names import Names
from stockpulse.presents import Presents
from stockpulse.queues import RowQueue
from stockpulse.store.dead_letters import DeadLetters
from stockpulse.store.engine_reads import EngineReads
from stockpulse.store.sink import Flush, Sink

_QUEUE_ROWS: Final = 400_000
_APPEND_ROWS: Final = 100_000
_STEP_ROWS: Final = 200_000
_CLOCK_SECONDS: Final = 0.25
_GLIMPSE_SECONDS: Final = 0.001  # what is there already is taken
_GLANCE_SECONDS: Final = 1.0
_GLANCE_ROWS_PER_SECOND: Final = 250

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Waiting:
    """A submission on its way into the log, and who waits for the answer."""

    submission: Submission
    done: asyncio.Future[Receipt]


@dataclass(frozen=True)
class _Numbered:
    """A submission as it will stand in the log."""

    waiting: _Waiting
    frame: pl.DataFrame
    receipt: Receipt

    @property
    def of_bars(self) -> bool:
        return self.waiting.submission.of_bars


@dataclass(frozen=True)
class _Ended:
    """A recording is over: after what came before, its bars may close."""

    provider: str
    done: asyncio.Future[Receipt]


@dataclass
class Counters:
    """What has gone through since the start; rows unless said otherwise."""

    ticks: int = 0
    provider_bars: int = 0
    duplicates: int = 0
    rejected: int = 0
    appends: int = 0
    bars_closed: int = 0
    bars_revised: int = 0
    flushes: int = 0
    flush_seconds: float = 0.0


@dataclass
class Lag:
    """How far the stages are apart, in rows."""

    submitted: int
    numbered: int
    unprocessed: int
    unflushed: int
    behind: int
    """Symbols whose indicators have to catch up, each counted for every interval."""


class Pipeline:
    """The flow of one shard, from a submitted batch to stored bars."""

    def __init__(
        self,
        *,
        intake: Intake,
        encoder: Encoder,
        names: Names,
        journal: Journal,
        engine: Engine,
        sink: Sink,
        dead_letters: DeadLetters,
        reads: EngineReads,
        now: Callable[[], datetime],
        extended_day: bool = False,
        flush_seconds: float = 0.5,
    ) -> None:
        self._intake = intake
        self._encoder = encoder
        self._names = names
        self._journal = journal
        self._engine = engine
        self._sink = sink
        self._dead_letters = dead_letters
        self._reads = reads
        self._now = now
        self._extended_day = extended_day
        self._flush_seconds = flush_seconds
        self._submitted: RowQueue[_Waiting | _Ended] = RowQueue(_QUEUE_ROWS)
        self._numbered: RowQueue[_Numbered | _Ended] = RowQueue(_APPEND_ROWS)
        self._appended: RowQueue[Appended | _Ended] = RowQueue(_QUEUE_ROWS)
        self._unanswered = 0
        self._turn = asyncio.Lock()  # held by whoever works on the engine
        self._catch_up = CatchUp(engine, self._turn, reads)
        self._live = False  # not before the log is worked in
        self._next_glance = 0.0
        self._received_at = 0
        self._stopping = asyncio.Event()
        self._closed: list[_Ended] = []  # to be answered when their bars are stored
        self.counters = Counters()
        self.presents = Presents(names, engine.shard, now)

    # Submit -------------------------------------------------------------------------------------

    async def submit(self, frame: pl.DataFrame, feed: Feed, *, of_bars: bool = False) -> Receipt:
        """Take in a batch of `frames.TICKS` (or BARS); returns once what is good in it is durable."""
        submission = await self._intake.check(frame, feed, self._now(), of_bars=of_bars)
        rejected = submission.checked.rejected
        if len(rejected):
            self.counters.rejected += len(rejected)
            keep = partial(self._dead_letters.write, feed.provider, rejected, submission.received_at)
            await until_done(keep, "keeping of rejected rows", lambda: None)
        waiting = _Waiting(submission, asyncio.get_running_loop().create_future())
        return await self._enqueue(waiting, len(submission.checked.good))

    async def end(self, feed: Feed) -> None:
        """Say that a recording is over, so that its last bars close; returns once they are stored."""
        await self._enqueue(_Ended(feed.provider, asyncio.get_running_loop().create_future()), 1)

    async def _enqueue(self, item: _Waiting | _Ended, rows: int) -> Receipt:
        await self._submitted.put(item, max(rows, 1))
        self._unanswered += 1
        return await item.done

    # Number -------------------------------------------------------------------------------------

    async def number(self) -> None:
        """Leave out redeliveries and turn names into numbers, while the batch before is being appended."""
        while True:
            for item in await self._submitted.take(_APPEND_ROWS):
                if isinstance(item, _Ended):
                    await self._numbered.put(item, 1)
                else:
                    numbered = await self._encoded(item)
                    await self._numbered.put(numbered, max(len(numbered.frame), 1))

    async def _encoded(self, waiting: _Waiting) -> _Numbered:
        fresh, receipt = await self._intake.sift(waiting.submission)
        if len(fresh):
            fresh = await until_done(
                lambda: self._intake.encode(fresh, waiting.submission), "numbering of new names", lambda: None
            )
        return _Numbered(waiting, fresh, receipt)

    # Append -------------------------------------------------------------------------------------

    async def append(self) -> None:
        """Make what was submitted durable, and answer."""
        while True:
            items = await self._numbered.take(_APPEND_ROWS)
            for kind, group in itertools.groupby(items, _kind):
                if kind is _Ended:
                    await self._pass_on(list(group))  # type: ignore[arg-type]
                else:
                    await self._append_group(list(group))  # type: ignore[arg-type]

    async def _pass_on(self, group: list[_Ended]) -> None:
        for ended in group:
            await self._appended.put(ended, 1)

    async def _append_group(self, group: list[_Numbered]) -> None:
        frames = [item.frame for item in group if len(item.frame)]
        if frames:
            whole = pl.concat(frames, rechunk=True) if len(frames) > 1 else frames[0]
            for frame in whole.iter_slices(_APPEND_ROWS):  # a segment of the log takes no more than so many at once
                appended = await self._journal.append(Bars(frame) if group[0].of_bars else Ticks(frame))
                await self._appended.put(appended, len(frame))
        for item in group:
            self._count(item.receipt, of_bars=item.of_bars)
            self._answer(item.waiting.done, item.receipt)

    def _count(self, receipt: Receipt, *, of_bars: bool) -> None:
        self.counters.appends += 1
        self.counters.duplicates += receipt.duplicates
        if of_bars:
            self.counters.provider_bars += receipt.accepted
        else:
            self.counters.ticks += receipt.accepted

    def _answer(self, done: asyncio.Future[Receipt], receipt: Receipt) -> None:
        self._unanswered -= 1
        if not done.done():
            done.set_result(receipt)

    # Step ---------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Take up the checkpoint and work in what the log holds after it."""
        started = time.monotonic()
        self._teach()  # even if nothing is to be replayed: indicators of stored bars need their sessions
        async for appended in self._journal.replay(self._engine.shard.offset):
            await self._work_in(appended, {})
            await self._flush_once()  # so that a recovery that is cut short goes on where it was
        # Offsets that were left out at the end of a sealed segment are worked in as well.
        self._engine.shard.offset = max(self._engine.shard.offset, self._journal.head)
        log.info(
            "recovered",
            offset=self._engine.shard.offset,
            head=self._journal.head,
            seconds=round(time.monotonic() - started, 2),
        )

    async def step(self) -> None:
        """Work in what was appended, close what is due, and catch up in between."""
        catching_up, self._live = False, True
        while True:
            wait = _GLIMPSE_SECONDS if catching_up else _CLOCK_SECONDS
            try:
                items = await asyncio.wait_for(self._appended.take(_STEP_ROWS), wait)
            except TimeoutError:
                await self._close()
                items = []
            for item in _joined(items):
                if isinstance(item, _Ended):
                    await self._close_ended(item)
                else:
                    await self._work_in(item, None)
            catching_up = await self._catch_up.some()

    async def _close(self) -> None:
        async with self._turn:
            self._note(await offload.run(self._engine.shard.forming(), partial(self._engine.close, self._clocks())))

    async def _close_ended(self, ended: _Ended) -> None:
        self.presents.end(ended.provider)
        await self._close()
        self._closed.append(ended)

    async def _work_in(self, appended: Appended, clocks: dict[int, int] | None) -> None:
        """One batch through the engine, bringing in the stored bars that it touches."""
        self._teach()
        rows = len(appended.batch.frame)
        async with self._turn:
            for work in await self._digest(appended.batch):
                for ranges in self._engine.needs(work):
                    for wanted in ranges:
                        self._engine.admit(wanted.interval, await self._reads.bars(wanted))
                now = self._clocks() if clocks is None else clocks
                self._note(await offload.run(rows, partial(self._engine.apply, work, now)))
            self._engine.shard.offset = max(self._engine.shard.offset, appended.after)
            self._received_at = int(appended.batch.frame["received_at"].to_physical()[-1])

    async def _digest(self, batch: Batch) -> list[Work]:
        frame = batch.frame
        if isinstance(batch, Ticks):
            self.presents.resume(self._names.providers_of(frame["kind_id"].unique().to_numpy()))
            return [await offload.run(len(frame), partial(self._engine.digest_ticks, tick_batch(frame, self._names)))]
        given = bar_batches(frame, self._encoder.calendar_of, extended_day=self._extended_day)
        return [self._engine.digest_bars(bars) for bars in given]

    def _teach(self) -> None:
        """Tell the engine of new symbols."""
        new, self._encoder.new_symbols = self._encoder.new_symbols, []
        for symbol in new:
            self._engine.learn(symbol.id, trading_calendar(symbol.calendar))

    def _note(self, events: Iterable[BarEvents]) -> None:
        for event in events:
            if event.revised:
                self.counters.bars_revised += len(event.rows)
            else:
                self.counters.bars_closed += len(event.rows)

    def _clocks(self) -> dict[int, int]:
        return self.presents.closing(self._received_at if len(self._appended) else None)

    # Flush --------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Store what changed, again and again, and once more at the end."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._flush_seconds)
            await self._flush_once()
        await self._flush_once()  # what came while the one before was under way

    async def _flush_once(self) -> None:
        async with self._turn:
            glance = await self._glance()
            changes = self._engine.take_changes()
            whole = self._engine.snapshot() if changes and self._sink.wants_whole() else None
            closed, self._closed = self._closed, []
        if changes or glance:
            await self._write(changes, glance, whole)
        for ended in closed:
            self._answer(ended.done, Receipt())

    async def _glance(self) -> Glance | None:
        """A look at the market, now and then: the more symbols there are in one, the longer until the next."""
        if not self._live or time.monotonic() < self._next_glance:
            return None
        glance = await offload.run(self._engine.shard.forming(), self._engine.glance)
        count = len(glance.prices.symbol_id)
        self._next_glance = time.monotonic() + max(_GLANCE_SECONDS, count / _GLANCE_ROWS_PER_SECOND)
        return glance if count else None

    async def _write(self, changes: EngineChanges, glance: Glance | None, whole: State | None) -> None:
        started = time.monotonic()
        flush = Flush(
            offset=changes.offset,
            bars=changes.bars,
            analytics=changes.analytics,
            glance=glance,
            state=changes.state if whole is None else whole,
            whole=whole is not None,
        )
        await self._sink.flush(flush, self._now())
        self.counters.flushes += 1
        self.counters.flush_seconds += time.monotonic() - started
        async with self._turn:
            self._engine.flushed()

    async def drain(self, seconds: float) -> bool:
        """Wait until all that was submitted is durable and worked in, then have the flush end; whether in time."""
        deadline = time.monotonic() + seconds
        while (self._unanswered or self._engine.shard.offset < self._journal.head) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._stopping.set()
        return not self._unanswered and self._engine.shard.offset >= self._journal.head

    # Reading ------------------------------------------------------------------------------------

    def lag(self) -> Lag:
        """How much is under way."""
        return Lag(
            self._submitted.rows,
            self._numbered.rows,
            self._journal.head - self._engine.shard.offset,
            self._engine.shard.offset - self._sink.offset,
            self._engine.analytics.behind(),
        )

    async def bars_in_memory(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """The bars that the engine holds, forming ones included: of one symbol or of all."""
        async with self._turn:
            return self._engine.resident(interval, symbol_id)


def _kind(item: _Numbered | _Ended) -> type[Ticks] | type[Bars] | type[_Ended]:
    if isinstance(item, _Ended):
        return _Ended
    return Bars if item.of_bars else Ticks


def _joined(items: Iterable[Appended | _Ended]) -> Iterator[Appended | _Ended]:
    """Consecutive batches of ticks as one."""
    for ticks, group in itertools.groupby(items, _is_ticks):
        batches = list(group)
        if ticks and len(batches) > 1:
            frames = [batch.batch.frame for batch in batches]  # type: ignore[union-attr]
            first, last = batches[0], batches[-1]
            yield Appended(Ticks(pl.concat(frames, rechunk=True)), first.before, last.after)  # type: ignore[union-attr]
        else:
            yield from batches


def _is_ticks(item: Appended | _Ended) -> bool:
    return isinstance(item, Appended) and isinstance(item.batch, Ticks)
