"""The first half of the pipeline, for all shards: from a submitted batch to durable records.

    submit ───► assign_ids ───► append ───► the shards
    (checked)   (encoded)       (durable)

Each stage takes all items that have arrived since its last run: small batches without load, large batches under load.
The queues between them are bounded; a full queue makes the stage before it wait.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import polars as pl

from stockpulse.aio.retry import retry
from stockpulse.aio.row_queue import RowQueue
from stockpulse.errors import DiskFull
from stockpulse.ingest.feed import Feed, Receipt
from stockpulse.ingest.intake import FindTrades, Intake, Submission
from stockpulse.ingest.pieces import BULK_ROWS, combined, in_pieces
from stockpulse.journal.records import Appended, Bars, Corrections, End, Forget, Journal, Ticks, Write
from stockpulse.market.arrays import array_of
from stockpulse.market.intervals import D1
from stockpulse.market.schemas import Kind, kind_of
from stockpulse.market.times import DAY_MICROS, from_micros
from stockpulse.pipeline.forgetting import Forgotten
from stockpulse.postgres.connect import TRANSIENT, is_transient
from stockpulse.postgres.disk import Disk
from stockpulse.storage.dead_letters import DeadLetters
from stockpulse.storage.partitions import Partitions
from stockpulse.telemetry.counters import Counters

_QUEUE_ROWS: Final = 400_000
_APPEND_ROWS: Final = 100_000
_PREPARE_SECONDS: Final = 5

_BULK_POLL_SECONDS: Final = 0.005
_DISK_POLL_SECONDS: Final = 0.25

_Answer = TypeVar("_Answer")

HandOn = Callable[[Appended], Awaitable[asyncio.Future[Forgotten | None] | None]]
"""Takes an appended batch; for the end of a recording and for a forget it returns a future.

The future is done when the effects of the record are stored; for a forget it returns the numbers of them.
"""


@dataclass(frozen=True)
class _Waiting:
    """A submission on its way into the log, and the future that answers its sender."""

    submission: Submission
    done: asyncio.Future[Receipt]
    also: Write | None = None
    """Is written together with the rows."""


@dataclass(frozen=True)
class _WithIds:
    """A submission in the form of the log."""

    waiting: _Waiting
    frame: pl.DataFrame
    receipt: Receipt

    @property
    def kind(self) -> Kind:
        return self.waiting.submission.kind


@dataclass(frozen=True)
class _Ended:
    """The end of a recording: after all records before it are processed, its bars may close."""

    provider: str
    done: asyncio.Future[Receipt]


@dataclass(frozen=True)
class _Forgetting:
    """A forget on its way into the log, and the future that answers its sender."""

    forget: Forget
    durable: asyncio.Future[None]
    done: asyncio.Future[Forgotten | None]


class Ingestor:
    """Queues batches and appends them to the log, for all shards."""

    def __init__(
        self,
        *,
        intake: Intake,
        journal: Journal,
        dead_letters: DeadLetters,
        partitions: Partitions,
        hand_on: HandOn,
        has_room: Callable[[int], bool],
        counters: Counters,
        now: Callable[[], datetime],
        disk: Disk,
        find_trades: FindTrades,
    ) -> None:
        """`has_room` returns True if this number of further rows does not delay live batches in the shards."""
        self._intake = intake
        self._journal = journal
        self._dead_letters = dead_letters
        self._partitions = partitions
        self._hand_on = hand_on
        self._shards_have_room = has_room
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._counters = counters
        self._now = now
        self._disk = disk
        self._find_trades = find_trades
        self._submitted: RowQueue[_Waiting | _Ended | _Forgetting] = RowQueue(_QUEUE_ROWS)
        self._with_ids: RowQueue[_WithIds | _Ended | _Forgetting] = RowQueue(_APPEND_ROWS)
        self._on_the_way = 0  # valid rows that are not in the log yet
        self._later_pieces: set[asyncio.Task[None]] = set()
        self.unanswered = 0
        self.held_back = 0
        """Rows of large batches that wait until there is room for them."""

    def lag(self) -> tuple[int, int]:
        """Return the number of rows that wait for ids, and of rows that wait for the append."""
        return self._submitted.rows, self._with_ids.rows

    # Submit -------------------------------------------------------------------------------------

    async def submit_history(self, bars: pl.DataFrame, feed: Feed, also: Write) -> Receipt:
        """Queue a provider's bars of the past, a piece at most; return when its valid rows are durable.

        They wait while anything else waits. `also` writes further rows in the same transaction, if a row is valid.
        """
        submission = await self._checked(bars, feed, "bars", keep_rejected=True)
        async with self._turn(f"{feed.provider} history"):  # live batches of the provider do not wait for this one
            done = await self._enqueue_piece(submission, also)
        return await done

    async def submit(
        self, frame: pl.DataFrame, feed: Feed, *, of_bars: bool = False, keep_rejected: bool = True
    ) -> Receipt:
        """Queue a batch of `schemas.TICKS` (or BARS); return when its valid rows are durable."""
        return await (await self.enqueue(frame, feed, of_bars=of_bars, keep_rejected=keep_rejected))

    async def amend(self, frame: pl.DataFrame, feed: Feed, *, keep_rejected: bool = True) -> Receipt:
        """Queue a batch of `schemas.CORRECTIONS`; return when its valid rows are durable. The bars follow after that.

        A row takes back a trade that was queued before it, and replaces it if the row has a price.
        """
        return await (await self.enqueue_corrections(frame, feed, keep_rejected=keep_rejected))

    def require_disk(self) -> None:
        """Raise DiskFull while the disk of the database has no room for more than the accepted records."""
        if (fault := self._disk.fault()) is not None:
            raise DiskFull(fault)

    def has_room(self, rows: int) -> bool:
        """Return True if `rows` more rows fit without waiting."""
        if self._disk.fault() is not None:
            return False
        return not self._submitted.rows or self._submitted.rows + rows <= _QUEUE_ROWS

    async def enqueue(
        self, frame: pl.DataFrame, feed: Feed, *, of_bars: bool = False, keep_rejected: bool = True
    ) -> asyncio.Future[Receipt]:
        """Queue a batch as soon as there is room; the future is done when its valid rows are durable.

        Rejected rows become dead letters, unless they already are (`keep_rejected` is False).
        """
        return await self._enqueue_rows(frame, feed, "bars" if of_bars else "ticks", keep_rejected=keep_rejected)

    async def enqueue_corrections(
        self, frame: pl.DataFrame, feed: Feed, *, keep_rejected: bool = True
    ) -> asyncio.Future[Receipt]:
        """Queue a batch of `schemas.CORRECTIONS`, as `enqueue` does; see `amend`."""
        return await self._enqueue_rows(frame, feed, "corrections", keep_rejected=keep_rejected)

    async def enqueue_any(
        self, frame: pl.DataFrame, feed: Feed, *, keep_rejected: bool = True
    ) -> asyncio.Future[Receipt]:
        """Queue a batch of TICKS, BARS or CORRECTIONS as `enqueue` does; its columns tell which it is."""
        return await self._enqueue_rows(frame, feed, kind_of(frame), keep_rejected=keep_rejected)

    async def _enqueue_rows(
        self, frame: pl.DataFrame, feed: Feed, kind: Kind, *, keep_rejected: bool
    ) -> asyncio.Future[Receipt]:
        submission = await self._checked(frame, feed, kind, keep_rejected=keep_rejected)
        pieces = in_pieces(submission)
        turn = self._turn(feed.provider)
        await turn.acquire()  # the batches of one provider keep their order
        try:
            first = await self._enqueue_piece(pieces[0])
        except BaseException:
            turn.release()
            raise
        if len(pieces) == 1:
            turn.release()
            return first
        whole: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        # A sender who waits no longer does not end this: the first piece is on its way.
        later = asyncio.create_task(self._enqueue_later(first, pieces[1:], turn, whole))
        self._later_pieces.add(later)
        later.add_done_callback(self._later_pieces.discard)
        return whole

    async def _checked(self, frame: pl.DataFrame, feed: Feed, kind: Kind, *, keep_rejected: bool) -> Submission:
        """Wait for room on the disk; return the batch, validated. Store its rejected rows."""
        while self._disk.fault() is not None:  # noqa: ASYNC110 - nothing tells us of free space
            await asyncio.sleep(_DISK_POLL_SECONDS)
        submission = await self._intake.check(frame, feed, self._now(), kind)
        rejected = submission.checked.rejected
        if len(rejected) and keep_rejected:
            self._counters.rejected += len(rejected)
            keep = partial(self._dead_letters.write, feed.provider, rejected, submission.received_at)
            self._counters.rejected_counted += await retry(keep, "storing of rejected rows", is_transient)
        return submission

    def _turn(self, provider: str) -> asyncio.Lock:
        """Return the lock of a provider's batches; it lasts as long as someone uses it."""
        turn = self._turns.get(provider)
        if turn is None:
            turn = self._turns[provider] = asyncio.Lock()
        return turn

    async def _enqueue_later(
        self,
        first: asyncio.Future[Receipt],
        pieces: list[Submission],
        turn: asyncio.Lock,
        whole: asyncio.Future[Receipt],
    ) -> None:
        """Queue the later pieces of a batch, and answer its sender when all pieces are durable."""
        self.unanswered += 1
        try:
            try:
                answers = [first, *[await self._enqueue_piece(piece) for piece in pieces]]
            finally:
                turn.release()
            self._answer(whole, combined(await asyncio.gather(*answers)))
        except Exception as fault:  # noqa: BLE001 - it belongs to the sender
            self.unanswered -= 1
            if not whole.done():
                whole.set_exception(fault)

    async def _enqueue_piece(self, piece: Submission, also: Write | None = None) -> asyncio.Future[Receipt]:
        good = piece.checked.good
        if len(good):
            await self._prepare_partitions(_intraday(good)["ts"] if piece.kind == "bars" else good["ts"])
            if len(good) >= BULK_ROWS or also is not None:
                await self._let_others_pass(len(good))
        waiting = _Waiting(piece, asyncio.get_running_loop().create_future(), also)
        self._on_the_way += len(good)
        await self._enqueue(waiting, len(good))
        return waiting.done

    async def _let_others_pass(self, rows: int) -> None:
        """Hold a batch back while many rows wait: records that come before a live tick in the log delay it."""
        self.held_back += rows
        try:
            await self.let_live_batches_pass()
        finally:
            self.held_back -= rows

    async def let_live_batches_pass(self) -> None:
        """Wait while many rows wait: further rows of the past would delay live ticks."""
        while self._disk.fault() is not None or not self._shards_have_room(self._on_the_way):  # noqa: ASYNC110
            await asyncio.sleep(_BULK_POLL_SECONDS)

    async def _prepare_partitions(self, ts: pl.Series) -> None:
        """Create the partitions of these times here, where only their sender waits, and not in a flush of all feeds.

        Gives up if the database does not answer in time: then the flush creates the missing partitions.
        """
        times = array_of(ts)
        if len(times) == 0:
            return
        days = np.unique(np.array([times.min(), times.max()]) // DAY_MICROS)
        if len(days) > 1:
            days = np.unique(times // DAY_MICROS)
        with suppress(*TRANSIENT):
            async with asyncio.timeout(_PREPARE_SECONDS):
                await self._partitions.prepare([from_micros(int(day) * DAY_MICROS) for day in days], self._now())

    async def end(self, feed: Feed) -> None:
        """End a recording, so that its last bars close; return when the bars of this process are stored."""
        ended = _Ended(feed.provider, asyncio.get_running_loop().create_future())
        async with self._turn(feed.provider):
            await self._enqueue(ended, 1)
        await ended.done

    async def forget(self, forget: Forget) -> Forgotten | None:
        """Take records back; return the numbers of changes when they are stored; see `enqueue_forget`."""
        _, done = await self.enqueue_forget(forget)
        return await done

    async def enqueue_forget(self, forget: Forget) -> tuple[asyncio.Future[None], asyncio.Future[Forgotten | None]]:
        """Queue a forget as soon as there is room.

        The first future is done when the forget is durable, the second when its effects are stored. The second returns
        None if other processes own the shards; then those processes apply the forget.
        """
        loop = asyncio.get_running_loop()
        forgetting = _Forgetting(forget, loop.create_future(), loop.create_future())
        if forget.provider is None:
            await self._enqueue(forgetting, 1)
        else:
            async with self._turn(forget.provider):
                await self._enqueue(forgetting, 1)
        return forgetting.durable, forgetting.done

    async def _enqueue(self, item: _Waiting | _Ended | _Forgetting, rows: int) -> None:
        await self._submitted.put(item, max(rows, 1))
        self.unanswered += 1

    # Assign ids ---------------------------------------------------------------------------------

    async def assign_ids(self) -> None:
        """Drop redeliveries and turn names into ids, while the batch before is being appended."""
        while True:
            for item in await self._submitted.take(_APPEND_ROWS):
                if isinstance(item, _Ended):
                    await self._with_ids.put(item, 1)
                elif isinstance(item, _Forgetting):
                    taken = item.forget
                    await self._intake.forget(taken.symbol, taken.provider, taken.start, taken.end)
                    await self._with_ids.put(item, 1)
                else:
                    with_ids = await self._encoded(item)
                    await self._with_ids.put(with_ids, max(len(with_ids.frame), 1))

    async def _encoded(self, waiting: _Waiting) -> _WithIds:
        fresh, receipt = await self._intake.sift(waiting.submission)
        if len(fresh):
            if waiting.submission.kind == "corrections":
                fresh = await self._intake.locate(fresh, waiting.submission.feed.provider, self._find_trades)
            fresh = await retry(
                lambda: self._intake.encode(fresh, waiting.submission), "assigning ids to new names", is_transient
            )
            receipt = replace(receipt, warnings=self._intake.warnings(fresh, waiting.submission))
        return _WithIds(waiting, fresh, receipt)

    # Append -------------------------------------------------------------------------------------

    async def append(self) -> None:
        """Make submissions durable, answer their senders, and hand them on to the shards."""
        while True:
            items = await self._with_ids.take(_APPEND_ROWS)
            for kind, group in itertools.groupby(items, _kind):
                if kind is End:
                    for ended in group:
                        await self._append_end(ended)  # type: ignore[arg-type]
                elif kind is Forget:
                    for forgetting in group:
                        await self._append_forget(forgetting)  # type: ignore[arg-type]
                else:
                    await self._append_group(list(group))  # type: ignore[arg-type]

    async def _append_end(self, ended: _Ended) -> None:
        stored = [await self._hand_on(appended) for appended in await self._journal.append(End(ended.provider))]
        closing = asyncio.gather(*[future for future in stored if future is not None], return_exceptions=True)
        closing.add_done_callback(lambda _: self._answer(ended.done, Receipt()))

    async def _append_forget(self, forgetting: _Forgetting) -> None:
        appended = await self._journal.append(forgetting.forget)
        if not forgetting.durable.done():
            forgetting.durable.set_result(None)
        parts = [await self._hand_on(one) for one in appended]
        outcomes = asyncio.gather(*[part for part in parts if part is not None], return_exceptions=True)
        outcomes.add_done_callback(lambda _: self._answer(forgetting.done, _sum_of(outcomes, len(parts))))

    async def _append_group(self, group: list[_WithIds]) -> None:
        frames = [item.frame for item in group if len(item.frame)]
        appended: list[Appended] = []
        if frames:
            whole = pl.concat(frames, rechunk=True) if len(frames) > 1 else frames[0]
            also = [item.waiting.also for item in group if len(item.frame) and item.waiting.also is not None]
            slices = list(whole.iter_slices(_APPEND_ROWS))  # a segment of the log has no room for more at once
            for at, frame in enumerate(slices, 1):
                appended += await self._journal.append(
                    _RECORDS[group[0].kind](frame), also if at == len(slices) else ()
                )
        self._on_the_way -= sum(len(item.waiting.submission.checked.good) for item in group)
        for item in group:  # before the shards begin: a sender need not wait for processing
            self._count(item.receipt, item.kind)
            self._answer(item.waiting.done, item.receipt)
        for one in appended:
            await self._hand_on(one)

    def _count(self, receipt: Receipt, kind: Kind) -> None:
        self._counters.appends += 1
        self._counters.duplicates += receipt.duplicates
        if kind == "bars":
            self._counters.provider_bars += receipt.accepted
        elif kind == "ticks":
            self._counters.ticks += receipt.accepted
        else:
            self._counters.corrections += receipt.accepted

    def _answer(self, done: asyncio.Future[_Answer], answer: _Answer) -> None:
        self.unanswered -= 1
        if not done.done():
            done.set_result(answer)


def _intraday(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the bars whose table has partitions: the table of daily bars has none."""
    return bars.filter(pl.col("interval") != D1.name)


def _sum_of(outcomes: asyncio.Future[list[Forgotten | BaseException | None]], shards: int) -> Forgotten | None:
    """Add up the results of a forget in all its shards; None if other processes own some of them."""
    parts = [] if outcomes.cancelled() else [one for one in outcomes.result() if isinstance(one, Forgotten)]
    return sum(parts, Forgotten()) if len(parts) == shards else None


_RECORDS: Final[dict[Kind, type[Ticks] | type[Bars] | type[Corrections]]] = {
    "ticks": Ticks,
    "bars": Bars,
    "corrections": Corrections,
}


def _kind(
    item: _WithIds | _Ended | _Forgetting,
) -> type[Ticks] | type[Bars] | type[Corrections] | type[End] | type[Forget]:
    if isinstance(item, _Ended):
        return End
    if isinstance(item, _Forgetting):
        return Forget
    return _RECORDS[item.kind]
