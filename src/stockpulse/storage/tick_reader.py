"""Reading ticks: the newest ticks from memory, older ticks from the indexed segments of the table."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.journal import tick_rows
from stockpulse.journal.forgets import standing
from stockpulse.journal.recent import Chunk
from stockpulse.journal.segments import Segments
from stockpulse.market.arrays import Ints, array_of
from stockpulse.market.schemas import COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME, LOGGED_TICKS, PRIMARY, UTC_MICROS
from stockpulse.market.symbology import Names, Symbol
from stockpulse.market.times import LATEST, from_micros, micros
from stockpulse.postgres.connect import Pool
from stockpulse.storage.tick_cursor import TickCursor

SERVED_TICKS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "price": pl.Float64(),
        "volume": pl.Float64(),
        "event_time": UTC_MICROS,
        "provider": pl.String(),
        "exchange": pl.String(),
        "conditions": pl.String(),
        "tape": pl.String(),
        "trade_id": pl.String(),
        "received_at": UTC_MICROS,
        "seq": pl.Int64(),
    }
)
"""The columns of a served tick: `volume` is the size of the trade, `event_time` is `ts`."""


_COLUMNS: Final = ", ".join(LOGGED_TICKS)
_IN_BARS: Final = PRIMARY | COUNTS_FOR_VOLUME
_STORED: Final = "(seq >= $2 AND seq < $3 OR seq < $4)"


@dataclass(frozen=True)
class TickSummary:
    """A summary of the ticks of a window; the prices are None if it has no ticks."""

    count: int
    avg_price: float | None
    min_price: float | None
    max_price: float | None
    sum_volume: float
    feeds: dict[str, int]
    """The number of ticks of each provider among them."""


@dataclass(frozen=True)
class TickSource:
    """The segments with the ticks of a shard, of the current log and of retired logs."""

    segments: Segments
    first: int = 0
    """The first offset of the current log."""
    retired: Segments | None = None
    """The segments of retired logs."""


@dataclass(frozen=True)
class TickPage:
    """A page of ticks of several symbols."""

    ticks: pl.DataFrame
    """Ticks as `SERVED_TICKS`, sorted by symbol name, then by event time and offset."""
    next: TickCursor | None
    """The cursor of the next page; None on the last page."""


@dataclass(frozen=True)
class _Part:
    """The ticks of a symbol to read: start <= ts < end, after (ts, seq) in the order of reading, of some kinds."""

    symbol_id: int
    start: int
    end: int
    after: tuple[int, int]
    kinds: list[int]
    limit: int
    descending: bool

    def first_of(self, ticks: pl.DataFrame) -> pl.DataFrame:
        """Return the first `limit` of these ticks in the order of reading."""
        return ticks.sort("ts", "seq", descending=self.descending).head(self.limit)


class TickReader:
    """Reads the ticks of a symbol."""

    def __init__(self, pool: Pool, names: Names, source_of: Callable[[int], TickSource]) -> None:
        """`source_of` returns the segments that hold the ticks of a symbol, by its id."""
        self._pool = pool
        self._names = names
        self._source_of = source_of

    async def latest(self, symbol_id: int, limit: int) -> pl.DataFrame:
        """Return the newest ticks of a symbol by event time, newest first, as `SERVED_TICKS`."""
        source = self._source_of(symbol_id)
        chunks = source.segments.recent.chunks()
        found = _latest_in(chunks, symbol_id, limit)
        older = _older(source, chunks)
        if older.may_hold_later_than(found, limit):
            async with self._pool.acquire() as connection:
                condition, arguments = await standing(connection, symbol_id, 6)
                rows = await connection.fetch(
                    f"SELECT {_COLUMNS} FROM realtime_prices t WHERE symbol_id = $1 AND {_STORED} AND {condition}"  # noqa: S608 - ours
                    " ORDER BY ts DESC, seq DESC LIMIT $5",
                    *(symbol_id, *older.bounds, limit, *arguments),
                )
            stored = pl.DataFrame([tuple(row) for row in rows], schema=LOGGED_TICKS, orient="row")
            found = _newest_first(pl.concat([found, stored]), limit)
        return self._served(found)

    async def newest_price(self, symbol: Symbol) -> pl.DataFrame:
        """Return the newest tick that counts for prices of bars, as `SERVED_TICKS`; an empty frame without one."""
        kinds = self._kinds(PRIMARY | COUNTS_FOR_PRICE)
        part = _Part(symbol.id, 0, LATEST, (LATEST, 0), kinds, limit=1, descending=True)
        return self._served(await self._read(part))

    async def page(
        self,
        symbols: Iterable[Symbol],
        start: datetime,
        end: datetime,
        limit: int,
        cursor: TickCursor | None = None,
        *,
        descending: bool = False,
    ) -> TickPage:
        """Return up to `limit` ticks of all these symbols together with start <= ts < end.

        They are the ticks from which the bars are built: those of the leading provider. They are sorted by symbol
        name, then by time (`descending`: newest first). With a `cursor` the page begins after that tick.
        """
        first, last, kinds = micros(start), micros(end), self._kinds(PRIMARY)
        found, count = [LOGGED_TICKS.to_frame()], 0
        for symbol in sorted(symbols, key=lambda one: one.name):
            if cursor is not None and symbol.name < cursor.symbol:
                continue
            after = (last, 0) if descending else (first, -1)
            if cursor is not None and symbol.name == cursor.symbol:
                after = (cursor.ts, cursor.seq)
            part = _Part(symbol.id, first, last, after, kinds, limit + 1 - count, descending)
            found.append(await self._read(part))
            count += len(found[-1])
            if count > limit:
                break
        ticks = await offload.run_for_reader(count, lambda: self._served(pl.concat(found).head(limit)))
        return TickPage(ticks, _cursor_at(ticks) if count > limit else None)

    def _kinds(self, flags: int) -> list[int]:
        """Return the kinds of ticks that have all these flags."""
        return [number for number, kind in self._names.kind_by_id.items() if kind.flags & flags == flags]

    async def _read(self, part: _Part) -> pl.DataFrame:
        """Return the first ticks of a part in its order, as `LOGGED_TICKS`."""
        source = self._source_of(part.symbol_id)
        chunks = source.segments.recent.chunks()
        rows = sum(len(chunk.frame) for chunk in chunks)
        found = await offload.run_for_reader(rows, partial(_part_in, chunks, part))
        older = _older(source, chunks)
        if older.newest is not None and older.newest < part.start:
            return found
        if part.descending and not older.may_hold_later_than(found, part.limit):
            return found
        order, beyond = ("DESC", "<") if part.descending else ("ASC", ">")
        async with self._pool.acquire() as connection:
            first, end = from_micros(part.start), from_micros(part.end)
            condition, arguments = await standing(connection, part.symbol_id, 11, first, end)
            stored = await connection.fetch(
                f"SELECT {_COLUMNS} FROM realtime_prices t WHERE symbol_id = $1 AND {_STORED}"  # noqa: S608
                f" AND ts >= $5 AND ts < $6 AND (ts, seq) {beyond} ($7, $8) AND kind_id = ANY ($9::int[])"
                f" AND {condition} ORDER BY ts {order}, seq {order} LIMIT $10",
                *(part.symbol_id, *older.bounds, first, end),
                *(from_micros(part.after[0]), part.after[1], part.kinds, part.limit, *arguments),
            )
        frame = pl.DataFrame([tuple(row) for row in stored], schema=LOGGED_TICKS, orient="row")
        return part.first_of(pl.concat([frame, found]))

    async def summary(self, symbol_id: int, start: datetime, end: datetime, *, eligible: bool = False) -> TickSummary:
        """Summarise the ticks with start <= ts < end: all of them, or only the `eligible` ones.

        A tick is eligible if it counts for the volume of a bar: its feed builds the bars of the symbol, and the rule
        for its trade conditions counts it.
        """
        source = self._source_of(symbol_id)
        chunks = source.segments.recent.chunks()
        tallies = _tallies_in(chunks, symbol_id, micros(start), micros(end))
        older = _older(source, chunks)
        if older.newest is None or older.newest >= micros(start):
            async with self._pool.acquire() as connection:
                condition, arguments = await standing(connection, symbol_id, 7, start, end)
                stored = await connection.fetch(
                    "SELECT kind_id, count(*), sum(price), sum(size), min(price), max(price)"  # noqa: S608
                    f" FROM realtime_prices t WHERE symbol_id = $1 AND ts >= $5 AND ts < $6 AND {_STORED}"
                    f" AND {condition} GROUP BY kind_id",
                    *(symbol_id, *older.bounds, start, end, *arguments),
                )
            tallies += [_Tally(*row) for row in stored]
        if eligible:
            tallies = [tally for tally in tallies if self._names.kind_by_id[tally.kind_id].flags & _IN_BARS == _IN_BARS]
        return self._summed(tallies)

    async def counted(self, symbol_id: int, start: datetime, end: datetime, most: int) -> pl.DataFrame | None:
        """Return the ticks with start <= ts < end that count for bars, as `LOGGED_TICKS` without `trade_id`.

        They are in the order of the log. Returns None if there are more than `most`.
        """
        source = self._source_of(symbol_id)
        chunks = source.segments.recent.chunks()
        kinds = [number for number, kind in self._names.kind_by_id.items() if kind.flags & PRIMARY]
        found = [_ticks_in(chunks, symbol_id, micros(start), micros(end)).filter(pl.col("kind_id").is_in(kinds))]
        older = _older(source, chunks)
        if older.newest is None or older.newest >= micros(start):
            async with self._pool.acquire() as connection:
                condition, arguments = await standing(connection, symbol_id, 9, start, end)
                stored = await tick_rows.read_where(
                    connection,
                    f"symbol_id = $1 AND {_STORED} AND ts >= $5 AND ts < $6 AND kind_id = ANY ($7::int[])"
                    f" AND {condition} LIMIT $8",
                    *(symbol_id, *older.bounds, start, end, kinds, most + 1, *arguments),
                )
            found.insert(0, stored)
        ticks = pl.concat(found)
        return ticks if len(ticks) <= most else None

    def _summed(self, tallies: list["_Tally"]) -> TickSummary:
        count = sum(tally.count for tally in tallies)
        if count == 0:
            return TickSummary(0, None, None, None, 0.0, {})
        feeds: Counter[str] = Counter()
        for tally in tallies:
            feeds[self._names.provider_by_id[self._names.kind_by_id[tally.kind_id].provider_id].name] += tally.count
        return TickSummary(
            count,
            sum(tally.prices for tally in tallies) / count,
            min(tally.low for tally in tallies),
            max(tally.high for tally in tallies),
            sum(tally.sizes for tally in tallies),
            dict(sorted(feeds.items())),
        )

    def _served(self, ticks: pl.DataFrame) -> pl.DataFrame:
        kinds = [self._names.kind_by_id[number] for number in ticks["kind_id"]]
        return ticks.select(
            pl.Series("symbol", [self._names.symbol_by_id[number].name for number in ticks["symbol_id"]], pl.String),
            "price",
            pl.col("size").alias("volume"),
            pl.col("ts").alias("event_time"),
            pl.Series("provider", [self._names.provider_by_id[kind.provider_id].name for kind in kinds], pl.String),
            pl.Series("exchange", [kind.exchange or None for kind in kinds], pl.String),
            pl.Series("conditions", [kind.conditions or None for kind in kinds], pl.String),
            pl.Series("tape", [kind.tape or None for kind in kinds], pl.String),
            "trade_id",
            "received_at",
            "seq",
        )


@dataclass(frozen=True)
class _Older:
    """The ticks that are only in the database: first <= `seq` < end of this log, and all ticks of retired logs."""

    first: int
    end: int
    retired_end: int
    newest: int | None
    """Their greatest event time in UTC microseconds; 0 without ticks; None if it is not known yet."""

    @property
    def bounds(self) -> tuple[int, int, int]:
        """The parameters of `_STORED`."""
        return self.first, self.end, self.retired_end

    def may_hold_later_than(self, found: pl.DataFrame, limit: int) -> bool:
        if self.newest == 0:
            return False
        if self.newest is None or len(found) < limit:
            return True
        return bool(from_micros(self.newest) >= found["ts"][-1])


def _older(source: TickSource, chunks: list[Chunk]) -> _Older:
    """Return the ticks that are not in these chunks: all before the segment of the oldest chunk."""
    end = min((chunk.segment for chunk in chunks), default=source.segments.open)
    segments = [segment for segment in source.segments.sealed.values() if segment.first < end]
    retired_end = 0
    if source.retired is not None:
        segments += source.retired.sealed.values()
        retired_end = source.retired.open
    known = [micros(segment.max_ts) for segment in segments if segment.max_ts is not None]
    newest = max(known, default=0) if all(segment.indexed for segment in segments) else None
    return _Older(source.first, end, retired_end, newest)


def _latest_in(chunks: list[Chunk], symbol_id: int, limit: int) -> pl.DataFrame:
    found = LOGGED_TICKS.to_frame()
    for at in range(len(chunks) - 1, -1, -1):
        chunk = chunks[at]
        if len(found) >= limit and from_micros(chunk.max_ts) < found["ts"][-1]:
            continue
        rows = np.flatnonzero(chunk.frame["symbol_id"].to_numpy() == symbol_id)
        if len(rows):
            found = _newest_first(pl.concat([found, chunk.frame[_tail(chunk, rows, limit)]]), limit)
    return found


def _tail(chunk: Chunk, rows: Ints, limit: int) -> Ints:
    """Return the rows that may be among the `limit` newest by event time."""
    if len(rows) <= limit:
        return rows
    ts = array_of(chunk.frame["ts"])[rows]
    # All rows with the time at the edge stay: the offset decides between them.
    edge = np.partition(ts, len(ts) - limit)[len(ts) - limit]
    kept: Ints = rows[ts >= edge]
    return kept


def _newest_first(ticks: pl.DataFrame, limit: int) -> pl.DataFrame:
    return ticks.sort("ts", "seq", descending=True).head(limit)


@dataclass(frozen=True)
class _Tally:
    """The ticks of one kind in a part of a window."""

    kind_id: int
    count: int
    prices: float
    sizes: float
    low: float
    high: float


def _ticks_in(chunks: list[Chunk], symbol_id: int, start: int, end: int) -> pl.DataFrame:
    """Return the ticks of a symbol in memory with start <= ts < end, in the order of the log."""
    found = [LOGGED_TICKS.to_frame()]
    for chunk in chunks:
        if chunk.max_ts >= start and chunk.min_ts < end:
            ts = pl.col("ts").to_physical()
            found.append(chunk.frame.filter(pl.col("symbol_id") == symbol_id, ts >= start, ts < end))
    return pl.concat(found)


def _part_in(chunks: list[Chunk], part: _Part) -> pl.DataFrame:
    ticks = _ticks_in(chunks, part.symbol_id, part.start, part.end).filter(pl.col("kind_id").is_in(part.kinds))
    ts, (at, seq) = pl.col("ts").to_physical(), part.after
    same = ts == at
    later = same & (pl.col("seq") > seq) | (ts > at)
    earlier = same & (pl.col("seq") < seq) | (ts < at)
    return part.first_of(ticks.filter(earlier if part.descending else later))


def _cursor_at(ticks: pl.DataFrame) -> TickCursor:
    """Return the cursor after the last of these ticks."""
    name, ts, seq = ticks.select("symbol", pl.col("event_time").to_physical(), "seq").row(-1)
    return TickCursor(name, ts, seq)


def _tallies_in(chunks: list[Chunk], symbol_id: int, start: int, end: int) -> list[_Tally]:
    tallies: list[_Tally] = []
    for chunk in chunks:
        if chunk.max_ts < start or chunk.min_ts >= end:
            continue
        rows = np.flatnonzero(chunk.frame["symbol_id"].to_numpy() == symbol_id)
        ts = array_of(chunk.frame["ts"])[rows]
        rows = rows[(ts >= start) & (ts < end)]
        kinds = chunk.frame["kind_id"].to_numpy()[rows]
        for kind_id in np.unique(kinds):
            same = rows[kinds == kind_id]
            price = chunk.frame["price"].to_numpy()[same]
            sizes = float(chunk.frame["size"].to_numpy()[same].sum())
            tally = _Tally(int(kind_id), len(same), float(price.sum()), sizes, float(price.min()), float(price.max()))
            tallies.append(tally)
    return tallies
