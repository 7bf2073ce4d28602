"""Scripted parts with the real interfaces, for tests of StockPulse and of packages that extend it.

clock = SetClock(datetime(2026, 3, 2, 15, 30, tzinfo=UTC))
trades = ticks_frame({"symbol": "AAPL", "ts": clock(), "price": 189.5, "size": 100})
provider = ScriptedProvider([trades, ConnectionError("hung up"), trades])
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from stockpulse.journal import tick_rows
from stockpulse.journal.backends import ExternalLog, ShardOfLog
from stockpulse.journal.followed_log import first_of, slot_of
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Appended, Bars, Batch, Ticks, Unreadable, with_seqs
from stockpulse.journal.routing import Routing
from stockpulse.journal.segments import Segments
from stockpulse.market.clocks import Clock
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.market.symbology import check_provider_name
from stockpulse.postgres.connect import Pool

_FIRST_SLOT = 1


@dataclass
class SetClock:
    """A clock that does not move until it is set. Call it for the time; pass it for any argument `now`."""

    at: datetime
    """The time that it shows, with a time zone."""

    def __call__(self) -> datetime:
        """Return the time."""
        return self.at

    def advance(self, by: timedelta) -> None:
        """Set it forward."""
        self.at += by


def ticks_frame(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """Return a frame of `TICKS` with these rows; columns that a row does not name are null."""
    return _frame(TICKS, rows)


def bars_frame(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """Return a frame of `BARS` with these rows; columns that a row does not name are null."""
    return _frame(BARS, rows)


def _frame(schema: pl.Schema, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Return a frame with this schema. Raises ValueError for a column that the schema does not have."""
    found = [dict(row) for row in rows]
    if unknown := sorted({name for row in found for name in row} - schema.keys()):
        raise ValueError(f"no such column: {', '.join(unknown)}; there are {', '.join(schema)}")
    return pl.DataFrame([dict.fromkeys(schema) | row for row in found], schema=schema, orient="row", strict=False)


class ScriptedProvider:
    """A provider that streams the steps of a script, and whose history is a frame of bars.

    A step of the script is a frame of ticks, which the stream yields, or an exception, which it raises. A stream that
    is opened again after an exception continues with the next step. After the last step the stream ends; a `live`
    stream waits for the steps of `add`, until `end`.
    """

    def __init__(
        self,
        script: Iterable[pl.DataFrame | Exception] = (),
        bars: pl.DataFrame | None = None,
        *,
        name: str = "scripted",
        calendar: str = "24/7",
        clock: Clock = Clock.WALL,
        can_wait: bool = True,
        delay_seconds: float = 0.0,
        live: bool = False,
    ) -> None:
        check_provider_name(name)
        self.name = name
        self.calendar = calendar
        self.clock = clock
        self.can_wait = can_wait
        self.delay_seconds = delay_seconds
        self.bars = bars_frame() if bars is None else bars
        self.requests: list[tuple[str, str, datetime, datetime]] = []
        """Symbol, interval, start and end of each call of `history`."""
        self.history_faults: deque[Exception] = deque()
        """The next calls of `history` raise these, one each."""
        self._script = deque(script)
        self._live = live
        self._changed = asyncio.Event()

    def add(self, *steps: pl.DataFrame | Exception) -> None:
        """Append steps to the script."""
        self._script += steps
        self._changed.set()

    def end(self) -> None:
        """End the stream after the last step."""
        self._live = False
        self._changed.set()

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield frames and raise exceptions in the order of the script."""
        while self._script or self._live:
            if not self._script:
                self._changed.clear()
                await self._changed.wait()
                continue
            step = self._script.popleft()
            if isinstance(step, Exception):
                raise step
            yield step

    async def history(self, symbol: str, interval: str, start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        """Yield the bars of `symbol` with start <= ts < end, ascending."""
        self.requests.append((symbol, interval, start, end))
        if self.history_faults:
            raise self.history_faults.popleft()
        of_interval = (pl.col("symbol") == symbol) & (pl.col("interval") == interval)
        found = self.bars.filter(of_interval & pl.col("ts").is_between(start, end, closed="left")).sort("ts")
        if len(found):
            yield found


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
        if isinstance(batch, Ticks | Bars):
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
        if isinstance(batch, Ticks | Bars):
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
        """Return the log as a process sees it that stores in this database; it appends, or only follows."""
        return ScriptedProcess(self, pool, appends=appends)


class ScriptedProcess:
    """A scripted log as one process sees it: a `Journal` and `Logs`."""

    def __init__(self, log: ScriptedLog, pool: Pool, *, appends: bool) -> None:
        self._log = log
        self._pool = pool
        self._appends = appends
        self._own_ends: dict[int, int] = {}

    @property
    def shards(self) -> Iterable[int]:
        """The numbers of the shards."""
        return sorted(self._log.first_seqs)

    async def append(self, batch: Batch) -> list[Appended]:
        """Append a batch; return the part of each shard."""
        self._log.raise_scripted_fault()
        appended = await self._log.put(batch)
        self._own_ends |= {one.shard: one.after for one in appended}
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
    """One shard of a scripted log, as one process reads it."""

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
    if isinstance(batch, Ticks | Bars):
        batch = type(batch)(batch.frame.filter(pl.col("seq").is_between(offset, end, closed="left")))
    return Appended(appended.shard, batch, max(offset, appended.before), end)


async def _nothing() -> None:
    """Do nothing: there is no connection."""
