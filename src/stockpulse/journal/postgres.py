"""The log inside PostgreSQL: the tick table is the log, its `seq` the offset."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

import asyncpg
import polars as pl
import structlog

from stockpulse.aio import offload
from stockpulse.aio.retry import retry
from stockpulse.errors import Fenced, JournalInUse
from stockpulse.ingest.redelivery import LEAST_KEYS
from stockpulse.journal import corrections, tick_rows
from stockpulse.journal.forgets import insert_forget, read_forgets
from stockpulse.journal.offset_order import runs_in_order
from stockpulse.journal.records import (
    Appended,
    Bars,
    Batch,
    Corrections,
    End,
    Forget,
    RowBatch,
    Ticks,
    Write,
    ticks_of,
    with_seqs,
)
from stockpulse.journal.segments import SEGMENT_OFFSETS, Segments, first_offset, segment_of, table_of
from stockpulse.market.arrays import array_of
from stockpulse.market.schemas import LOGGED_BARS
from stockpulse.postgres.binary_copy import Layout, in_slices
from stockpulse.postgres.connect import Connection, ReconnectingConnection, copy_in, copy_out, is_transient
from stockpulse.postgres.disk import Disk

SHARD: Final = 0
"""The only shard of this log."""

_LOCK_CLASS: Final = 0x53504C53  # "SPLS": separates our advisory locks from locks of other programs
_TAKE_SECONDS: Final = 15
_NOTICE_OUR_DEATH: Final = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
"""Without keepalives, a remote server would hold the lock of a dead host for two hours."""
_END_FORMER: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks"
    " WHERE pid = $1 AND locktype = 'advisory' AND classid = $2 AND objid = $3"
)
_COPY_SECONDS: Final = 60
_REPLAY_ROWS: Final = 100_000

_BARS: Final = Layout(
    {
        "seq": "int8",
        "symbol_id": "int4",
        "provider_id": "int4",
        "minutes": "int4",
        "ts": "timestamptz",
        "received_at": "timestamptz",
        "open": "float8",
        "high": "float8",
        "low": "float8",
        "close": "float8",
        "volume": "float8",
        "trade_count": "int8",
        "vwap": "float8",
    }
)

log = structlog.get_logger(__name__)


class PostgresJournal:
    """The log of one shard with one appender: the process that holds the advisory lock."""

    def __init__(
        self, dsn: str, segments: Segments, wait_seconds: float = _TAKE_SECONDS, disk: Disk | None = None
    ) -> None:
        self._reconnecting = ReconnectingConnection(dsn)
        self._disk = disk or Disk()
        self._wait_seconds = wait_seconds
        self._backend = 0  # the server process that holds our lock
        self.segments = segments
        self.epoch = 0
        self.head = 0

    @property
    def identity(self) -> str:
        """The identity of this log."""
        return "postgres"

    async def take(self) -> None:
        """Become the appender. Raises JournalInUse while another process holds the lock."""
        connection, _ = await self._locked(self._wait_seconds)
        row = await connection.fetchrow(
            "INSERT INTO journal_heads AS h (shard, epoch, head) VALUES ($1, 1, $2)"
            " ON CONFLICT (shard) DO UPDATE SET epoch = h.epoch + 1 RETURNING epoch, head",
            SHARD,
            first_offset(1),
        )
        if row is None:
            raise Fenced
        self.epoch, self.head = row
        await self.segments.load(self.head)
        await self.segments.ensure(self.segments.open)

    async def _locked(self, wait_seconds: float) -> tuple[Connection, bool]:
        """Return the connection, which holds the lock of the only appender, and True if it is new."""
        connection, fresh = await self._reconnecting.get()
        if fresh:
            await connection.execute(_NOTICE_OUR_DEATH)
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while fresh and not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _LOCK_CLASS, SHARD):
            # The server may not have noticed yet that our former connection is dead.
            await connection.execute(_END_FORMER, self._backend, _LOCK_CLASS, SHARD)
            if asyncio.get_running_loop().time() > deadline:
                self._reconnecting.drop()
                raise JournalInUse
            await asyncio.sleep(0.1)
        self._backend = connection.get_server_pid()
        return connection, fresh

    # Appending ----------------------------------------------------------------------------------

    async def append(self, batch: Batch, also: Sequence[Write] = ()) -> list[Appended]:
        """Append a batch, and `also`; both are on disk when this returns. Wait for a server that does not answer."""
        if isinstance(batch, End):  # not stored: a restart ends every recording
            return [Appended(SHARD, batch, self.head, self.head)]
        base = self.segments.next_base(self.head)
        if isinstance(batch, Forget):
            write = partial(insert_forget, seq=base, forget=batch)
            return [await self._append(batch, base, write)]
        stamped = with_seqs(batch, base)
        rows = Ticks(stamped.right_trades) if isinstance(stamped, Corrections) else stamped
        pieces, table, columns = await offload.run(len(rows), lambda: _packed(rows, base))

        async def write_rows(connection: Connection) -> None:
            if len(rows):
                await copy_in(connection, table, columns, in_slices(pieces), _COPY_SECONDS)
            if isinstance(stamped, Corrections):
                await corrections.write(connection, stamped.frame)
            for one in also:
                await one(connection)

        return [await self._append(stamped, base, write_rows)]

    async def _append(
        self, batch: RowBatch | Forget, base: int, write: Callable[[Connection], Awaitable[None]]
    ) -> Appended:
        after = base + len(batch)
        await retry(lambda: self._write(base, after, write), "append", is_transient, self._on_fault)
        self._disk.wrote()
        before, self.head = self.head, after
        self.segments.roll(segment_of(base))
        if len(ticks := ticks_of(batch)):
            self.segments.recent.append(segment_of(base), ticks)
        return Appended(SHARD, batch, before, after)

    def _on_fault(self, fault: Exception) -> None:
        self._disk.failed(fault)
        self._reconnecting.drop()

    async def _write(self, base: int, after: int, write: Callable[[Connection], Awaitable[None]]) -> None:
        """Try an append once. The head tells if an earlier try was committed although it seemed to fail."""
        await self.segments.ensure(segment_of(base))
        connection, _ = await self._locked(self._wait_seconds)
        try:
            async with connection.transaction():
                await connection.execute("SELECT advance_head($1, $2, $3, $4)", SHARD, self.epoch, self.head, after)
                await write(connection)
        except asyncpg.ObjectNotInPrerequisiteStateError as refused:
            row = await connection.fetchrow("SELECT epoch, head FROM journal_heads WHERE shard = $1", SHARD)
            if row is None or tuple(row) != (self.epoch, after):
                raise Fenced(f"another process has taken the log: {refused}") from refused
            log.info("append had been committed before the connection died", head=after)

    # Replay -------------------------------------------------------------------------------------

    async def end(self) -> int:
        """Return the offset that the next record gets."""
        return self.head

    async def foreign_end(self, processed: int) -> int:  # noqa: ARG002
        """Return 0: no other process appends."""
        return 0

    async def replay(self, offset: int, until: int) -> AsyncIterator[Appended]:
        """Yield the records from this offset to the head, in order; `until` is the head."""
        before = offset
        for segment in sorted({*self.segments.sealed, self.segments.open}):
            if not segment_of(offset) <= segment < until:
                continue
            for batch, after in _in_order(*await self._read_segment(segment, offset)):
                yield Appended(SHARD, batch, before, after)
                before = after

    async def _read_segment(self, segment: int, offset: int) -> tuple[list[pl.DataFrame], list[tuple[int, Forget]]]:
        connection, _ = await self._locked(self._wait_seconds)
        ticks = await tick_rows.read(connection, segment, offset)  # without the trade_id, which the engine does not use
        table = table_of(segment, "provider_bars")
        query = f"SELECT {', '.join(_BARS.columns)} FROM {table} WHERE seq >= $1"  # noqa: S608 - names of ours
        bars = pl.DataFrame(_BARS.unpack(await copy_out(connection, query, offset, seconds=600)))
        first, end = max(offset, segment), segment + SEGMENT_OFFSETS
        corrected = await corrections.read(connection, first, end)
        ticks = ticks.filter(~ticks["seq"].is_in(corrected["seq"].to_list()))  # right trades are parts of their records
        forgets = await read_forgets(connection, first, end)
        return [ticks, tick_rows.typed(bars, LOGGED_BARS).sort("seq"), corrected], forgets

    async def load_open_segment(self, most_rows: int) -> None:
        """Load the ticks of the open segment into memory; seal the segment if there are more than `most_rows`."""
        rows = self.head - self.segments.open
        if rows > most_rows:
            await self._seal_open()
            return
        connection, _ = await self._locked(self._wait_seconds)
        frame = await tick_rows.read_whole(connection, self.segments.open)
        if len(frame):
            self.segments.recent.append(self.segments.open, frame)

    async def seal(self) -> None:
        """Seal and index the open segment, because the database moves to another log."""
        await self._seal_open()
        await self.segments.index_sealed()

    async def _seal_open(self) -> None:
        await retry(lambda: self._skip_to(self.segments.following), "sealing", is_transient, self._on_fault)

    async def recent_keys(self) -> pl.DataFrame:
        """Return the keys of the newest ticks with a trade_id, as `tick_rows.KEYS`, in the order of the log."""
        connection, _ = await self._locked(self._wait_seconds)
        newest = self.segments.newest(datetime.now(UTC))
        return await tick_rows.newest_identified(connection, newest, LEAST_KEYS)

    async def _skip_to(self, head: int) -> None:
        await self.segments.ensure(segment_of(head))
        connection, _ = await self._locked(self._wait_seconds)
        await connection.execute("SELECT advance_head($1, $2, $3, $4)", SHARD, self.epoch, self.head, head)
        self.head = head
        self.segments.roll(segment_of(head))

    async def close(self) -> None:
        """Close the connection, which releases the lock."""
        await self._reconnecting.close()


def _packed(batch: RowBatch, base: int) -> tuple[list[memoryview | bytes], str, tuple[str, ...]]:
    if isinstance(batch, Ticks):
        return tick_rows.packed(batch.frame), table_of(segment_of(base)), tick_rows.COLUMNS
    columns = {name: array_of(batch.frame[name]) for name in _BARS.columns}
    return _BARS.pack(columns), table_of(segment_of(base), "provider_bars"), _BARS.columns


def _in_order(frames: list[pl.DataFrame], forgets: list[tuple[int, Forget]]) -> Iterator[tuple[RowBatch | Forget, int]]:
    """Yield the records of a segment as batches in the order of the log, each with the offset after it.

    `frames` has ticks, bars and corrections.
    """
    by_seq = dict(forgets)
    seqs = pl.DataFrame({"seq": list(by_seq)}, schema={"seq": pl.Int64})
    for kind, run in runs_in_order([*frames, seqs]):
        if kind == len(frames):
            for seq in run["seq"]:
                yield by_seq[seq], seq + 1
        else:
            for frame in run.iter_slices(_REPLAY_ROWS):
                yield (Ticks, Bars, Corrections)[kind](frame), int(frame["seq"][-1]) + 1
