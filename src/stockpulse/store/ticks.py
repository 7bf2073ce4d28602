"""Reading ticks: the newest from memory, the others from the indexed segments of the table."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg
import numpy as np
import numpy.typing as npt
import polars as pl

from stockpulse.database.connect import Pool
from stockpulse.frames import LOGGED_TICKS, UTC_MICROS
from stockpulse.journal.recent import Chunk
from stockpulse.journal.segments import Segments
from stockpulse.names import Names
from stockpulse.times import from_micros, micros

SERVED_TICKS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "price": pl.Float64(),
        "volume": pl.Float64(),
        "event_time": UTC_MICROS,
        "provider": pl.String(),
        "exchange": pl.String(),
        "conditions": pl.String(),
        "trade_id": pl.String(),
        "received_at": UTC_MICROS,
        "seq": pl.Int64(),
    }
)
"""Ticks as the API shows them: `volume` is the size of the trade, `event_time` is `ts`."""

Ints = npt.NDArray[np.int64]

_COLUMNS: Final = ", ".join(LOGGED_TICKS)


@dataclass(frozen=True)
class TickSummary:
    """What the ticks of a window come to; the prices are None when there are none."""

    count: int
    avg_price: float | None
    min_price: float | None
    max_price: float | None
    sum_volume: float


class TickReader:
    """Finds the ticks of a symbol."""

    def __init__(self, pool: Pool, segments: Segments, names: Names) -> None:
        self._pool = pool
        self._segments = segments
        self._names = names

    async def latest(self, symbol_id: int, limit: int) -> pl.DataFrame:
        """The newest ticks of a symbol by event time, newest first, as `SERVED_TICKS`."""
        chunks = self._segments.recent.chunks()
        found = _latest_in(chunks, symbol_id, limit)
        older = self._older(chunks)
        if older.may_hold_later_than(found, limit):
            rows = await self._pool.fetch(
                f"SELECT {_COLUMNS} FROM realtime_prices WHERE symbol_id = $1 AND seq < $2"  # noqa: S608 - ours
                " ORDER BY ts DESC, seq DESC LIMIT $3",
                symbol_id,
                older.end,
                limit,
            )
            stored = pl.DataFrame([tuple(row) for row in rows], schema=LOGGED_TICKS, orient="row")
            found = _newest_first(pl.concat([found, stored]), limit)
        return self._served(found)

    async def summary(self, symbol_id: int, start: datetime, end: datetime) -> TickSummary:
        """What the ticks with start <= ts < end come to."""
        chunks = self._segments.recent.chunks()
        counts = _tally_in(chunks, symbol_id, micros(start), micros(end))
        older = self._older(chunks)
        if older.newest is None or older.newest >= micros(start):
            stored = await self._pool.fetchrow(
                "SELECT count(*), coalesce(sum(price), 0), coalesce(sum(size), 0), min(price), max(price)"
                " FROM realtime_prices WHERE symbol_id = $1 AND ts >= $2 AND ts < $3 AND seq < $4",
                symbol_id,
                start,
                end,
                older.end,
            )
            counts.append(_tally(stored))
        return _summed(counts)

    def _older(self, chunks: list[Chunk]) -> "_Older":
        """What is not in these chunks: everything before the segment of the oldest one."""
        first_in_memory = min((chunk.segment for chunk in chunks), default=self._segments.open)
        newest: int | None = 0
        for segment in self._segments.sealed.values():
            if segment.first < first_in_memory:
                if not segment.indexed:
                    newest = None  # not known yet
                    break
                if segment.max_ts is not None and newest is not None:
                    newest = max(newest, micros(segment.max_ts))
        return _Older(first_in_memory, newest)

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
            "trade_id",
            "received_at",
            "seq",
        )


@dataclass(frozen=True)
class _Older:
    """The ticks that are in the database alone: those before offset `end`."""

    end: int
    newest: int | None
    """Their greatest event time in UTC microseconds; 0: there are none; None: not known yet."""

    def may_hold_later_than(self, found: pl.DataFrame, limit: int) -> bool:
        if self.newest == 0:
            return False
        if self.newest is None or len(found) < limit:
            return True
        return bool(from_micros(self.newest) >= found["ts"][-1])


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
    """The rows of the greatest event times: there may be very many, and few are wanted."""
    if len(rows) <= limit:
        return rows
    ts = chunk.frame["ts"].to_physical().to_numpy()[rows]
    # Equal stamps at the edge all stay: the offset decides between them.
    edge = np.partition(ts, len(ts) - limit)[len(ts) - limit]
    kept: Ints = rows[ts >= edge]
    return kept


def _newest_first(ticks: pl.DataFrame, limit: int) -> pl.DataFrame:
    return ticks.sort("ts", "seq", descending=True).head(limit)


_Tally = tuple[int, float, float, float | None, float | None]
"""Count, sum of prices, sum of sizes, least and greatest price."""


def _tally(row: asyncpg.Record | None) -> _Tally:
    return tuple(row) if row is not None else (0, 0.0, 0.0, None, None)


def _tally_in(chunks: list[Chunk], symbol_id: int, start: int, end: int) -> list[_Tally]:
    tallies: list[_Tally] = []
    for chunk in chunks:
        if chunk.max_ts < start or chunk.min_ts >= end:
            continue
        rows = np.flatnonzero(chunk.frame["symbol_id"].to_numpy() == symbol_id)
        ts = chunk.frame["ts"].to_physical().to_numpy()[rows]
        rows = rows[(ts >= start) & (ts < end)]
        if len(rows):
            price = chunk.frame["price"].to_numpy()[rows]
            size = chunk.frame["size"].to_numpy()[rows]
            tallies.append((len(rows), float(price.sum()), float(size.sum()), float(price.min()), float(price.max())))
    return tallies


def _summed(tallies: list[_Tally]) -> TickSummary:
    count = sum(tally[0] for tally in tallies)
    if count == 0:
        return TickSummary(0, None, None, None, 0.0)
    return TickSummary(
        count,
        sum(tally[1] for tally in tallies) / count,
        min(tally[3] for tally in tallies if tally[3] is not None),
        max(tally[4] for tally in tallies if tally[4] is not None),
        sum(tally[2] for tally in tallies),
    )
