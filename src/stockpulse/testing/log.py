"""A log in memory that several processes share."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from stockpulse.journal import tick_rows
from stockpulse.journal.backends import ExternalLog, ShardOfLog
from stockpulse.journal.followed_log import first_of, slot_of
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Appended, Bars, Batch, Corrections, Ticks, Unreadable, Write, with_seqs
from stockpulse.journal.routing import Routing
from stockpulse.journal.segments import Segments
from stockpulse.postgres.connect import Pool

_FIRST_SLOT = 1


class ScriptedLog:
    """A log in memory that several processes share, as they share a topic of Kafka.

    `put` appends as another program does. `process` returns the log as one process of StockPulse sees it.
    """

    identity = "scripted"

    def __init__(self, routing: Routing) -> None:
        self.routing = routing
        self.first_seqs = {shard: first_of(_FIRST_SLOT + shard) for shard in range(routing.partitions)}
        self.batches: dict[int, list[Appended]] = {shard: [] for shard in self.first_seqs}
        self.faults: deque[Exception] = deque()
        """The next appends and replays raise these, one each."""
        self._grown = asyncio.Condition()

    def end(self, shard: int) -> int:
        """Return the offset that the next record of a shard gets."""
        batches = self.batches[shard]
        return batches[-1].after if batches else self.first_seqs[shard]

    async def put(self, batch: Batch | Unreadable, shards: Iterable[int] | None = None) -> list[Appended]:
        """Append a batch: rows go to the shards of their symbols, anything else to `shards`."""
        if isinstance(batch, Ticks | Bars | Corrections):
            parts: dict[int, Batch | Unreadable] = {
                shard: type(batch)(batch.frame[rows]) for shard, rows in self.routing.rows(batch.frame).items()
            }
        else:
            if shards is None:
                shards = self.first_seqs if isinstance(batch, Unreadable) else self.routing.of_record(batch)
            parts = dict.fromkeys(shards, batch)
        return [await self._put(shard, part) for shard, part in parts.items()]

    async def _put(self, shard: int, batch: Batch | Unreadable) -> Appended:
        base = self.end(shard)
        if isinstance(batch, Ticks | Bars | Corrections):
            batch = with_seqs(batch, base)
        appended = Appended(shard, batch, base, base + len(batch))
        self.batches[shard].append(appended)
        async with self._grown:
            self._grown.notify_all()
        return appended

    def raise_scripted_fault(self) -> None:
        """Raise the next of `faults`, if there is one."""
        if self.faults:
            raise self.faults.popleft()

    async def read(self, shard: int, offset: int, until: int | None = None) -> AsyncIterator[Appended]:
        """Yield the records of a shard with offset <= seq < until; without `until`, never end."""
        at = 0
        while until is None or offset < until:
            async with self._grown:
                while self.end(shard) <= offset:
                    await self._grown.wait()
            for appended in self.batches[shard][at:]:
                at += 1
                part = _between(appended, offset, until)
                if part is not None:
                    yield part
                    offset = part.after

    def process(self, pool: Pool, *, appends: bool = True) -> "ScriptedProcess":
        """Return the view of a process that stores in this database; it appends, or only follows."""
        return ScriptedProcess(self, pool, appends=appends)


class ScriptedProcess:
    """A scripted log for one process: a `Journal` and `Logs`."""

    def __init__(self, log: ScriptedLog, pool: Pool, *, appends: bool) -> None:
        self._log = log
        self._pool = pool
        self._appends = appends
        self._own_ends: dict[int, int] = {}

    @property
    def shards(self) -> Iterable[int]:
        """The numbers of the shards."""
        return sorted(self._log.first_seqs)

    async def append(self, batch: Batch, also: Sequence[Write] = ()) -> list[Appended]:
        """Append a batch; return the part of each shard. `also` runs after it."""
        self._log.raise_scripted_fault()
        appended = await self._log.put(batch)
        self._own_ends |= {one.shard: one.after for one in appended}
        async with self._pool.acquire() as connection, connection.transaction():
            for one in also:
                await one(connection)
        return appended

    async def open(self, shard: int) -> ShardOfLog:
        """Open a shard, whose ticks are stored in segments of the tick table."""
        first_seq = self._log.first_seqs[shard]
        segments = Segments(self._pool, RecentTicks(), slot=slot_of(first_seq))
        shard_log = ScriptedShardLog(self._log, shard, self._own_ends if self._appends else None)

        async def load(offset: int) -> None:
            await segments.load(offset)
            await segments.ensure(segments.open)
            async with self._pool.acquire() as connection:
                frame = await tick_rows.read_whole(connection, segments.open)
            if len(frame):
                segments.recent.append(segments.open, frame)

        async def remember() -> pl.DataFrame:
            async with self._pool.acquire() as connection:
                return await tick_rows.newest_identified(connection, [segments.open], 1000)

        return ShardOfLog(
            shard_log,
            segments,
            epoch=None,
            start=first_seq,
            external=ExternalLog(segments, self._log.identity, first_seq),
            load=load,
            remember=remember,
            close=_nothing,
            follow=None if self._appends else shard_log.follow,
        )


@dataclass(frozen=True)
class ScriptedShardLog:
    """One shard of a scripted log, for one process."""

    log: ScriptedLog
    shard: int
    own_ends: dict[int, int] | None
    """The offset after the newest own record of each shard; None for a process that appends nothing."""
    identity: str = field(default=ScriptedLog.identity, init=False)

    @property
    def head(self) -> int:
        """The offset that the next record gets."""
        return self.log.end(self.shard)

    async def end(self) -> int:
        """Return the offset that the next record gets."""
        return self.head

    async def foreign_end(self, processed: int) -> int:
        """Return the end of the shard once all own records are processed; 0 where nothing is appended."""
        own = None if self.own_ends is None else self.own_ends.get(self.shard, self.log.first_seqs[self.shard])
        return self.head if own is not None and own <= processed < self.head else 0

    async def replay(self, offset: int, until: int) -> AsyncIterator[Appended]:
        """Yield the records with offset <= seq < until, in order."""
        self.log.raise_scripted_fault()
        async for appended in self.log.read(self.shard, offset, until):
            yield appended

    def follow(self, offset: int) -> AsyncIterator[Appended]:
        """Yield the records from this offset on, without end."""
        return self.log.read(self.shard, offset)


def _between(appended: Appended, offset: int, until: int | None) -> Appended | None:
    """Return the part of a batch with offset <= seq < until; None if it is empty."""
    end = appended.after if until is None else min(until, appended.after)
    if appended.after <= offset or appended.before >= end:
        return None
    batch = appended.batch
    if isinstance(batch, Ticks | Bars | Corrections):
        batch = type(batch)(batch.frame.filter(pl.col("seq").is_between(offset, end, closed="left")))
    return Appended(appended.shard, batch, max(offset, appended.before), end)


async def _nothing() -> None:
    """Do nothing: there is no connection."""
