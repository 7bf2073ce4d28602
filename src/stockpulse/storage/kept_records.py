"""Reads the stored records of a symbol for a forget: its ticks, by their days."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio.retry import retry
from stockpulse.journal import corrections, tick_rows
from stockpulse.journal.forgets import stored_forgets, without_forgotten
from stockpulse.journal.recent import Chunk
from stockpulse.journal.records import Forget
from stockpulse.market.arrays import Ints
from stockpulse.market.intervals import BASE_INTERVALS
from stockpulse.market.schemas import LOGGED_TICKS
from stockpulse.market.symbology import Names
from stockpulse.market.times import DAY_MICROS, from_micros
from stockpulse.postgres.connect import Pool, is_transient
from stockpulse.storage.bar_rows import TABLE

LARGEST_SEQ: Final = 2**63 - 1
_SECONDS: Final = 600
_DAY: Final = f"(extract(epoch FROM ts) * 1000000)::bigint / {DAY_MICROS}"


@dataclass(frozen=True)
class AffectedDays:
    """Days (UTC, counted from 1970) on which a symbol has records that a forget takes back."""

    symbol_id: int
    days: Ints
    ticks: Ints
    """The number of stored ticks of each day, including forgotten ticks."""


class KeptRecords:
    """Reads for forgets. They wait while the database does not answer."""

    def __init__(self, pool: Pool, names: Names, recent: Callable[[], list[Chunk]] = list) -> None:
        """`recent` returns the standing ticks in memory, of the newest segments; none while the log is replayed."""
        self._pool = pool
        self._names = names
        self._recent = recent

    async def affected(self, forget: Forget, seq: int, symbol_ids: list[int]) -> list[AffectedDays]:
        """Return the symbols with records that the forget `seq` takes back, and the days of these records."""
        rows = await self._fetch(*self._ticks_by_day(forget, seq, symbol_ids))
        for table in (TABLE[interval] for interval in BASE_INTERVALS):
            rows += await self._fetch(*self._bars_by_day(table, forget, symbol_ids))
        if not rows:
            return []
        found = pl.DataFrame(rows, schema={"symbol_id": pl.Int64, "day": pl.Int64, "ticks": pl.Int64}, orient="row")
        days = found.group_by("symbol_id", "day").agg(pl.col("ticks").sum()).sort("symbol_id", "day")
        return [
            AffectedDays(int(str(symbol_id)), part["day"].to_numpy(), part["ticks"].to_numpy())
            for (symbol_id,), part in days.group_by("symbol_id", maintain_order=True)
        ]

    async def ticks(self, seq: int, symbol_id: int, start: int, end: int) -> pl.DataFrame:
        """Return the ticks of a symbol before the record `seq` with start <= ts < end, as `schemas.LOGGED_TICKS`.

        Ticks that an earlier forget or correction took back are left out. The forget `seq` itself may be stored
        already.
        """
        begins, ends = from_micros(start), from_micros(end)
        chunks = self._recent()
        newer = in_memory(chunks, [symbol_id]).filter(
            pl.col("seq") < seq, pl.col("ts").to_physical().is_between(start, end, closed="left")
        )

        async def read() -> pl.DataFrame:
            async with self._pool.acquire() as connection:
                ticks = await tick_rows.read_where(
                    connection,
                    "seq < $1 AND symbol_id = $2 AND ts >= $3 AND ts < $4",
                    *(min(seq, first_in_memory(chunks)), symbol_id, begins, ends),
                )
                forgets = await stored_forgets(connection, symbol_id, begins, ends)
                ticks = without_forgotten(ticks, [one for one in forgets if one.seq < seq])
                gone = await corrections.cancelled(connection, symbol_id, begins, ends, before=seq)
                return ticks.filter(~ticks["seq"].is_in(gone)) if gone else ticks

        return pl.concat([await retry(read, "reading of kept ticks", is_transient), newer])

    def _ticks_by_day(self, forget: Forget, seq: int, symbol_ids: list[int]) -> tuple[str, list[object]]:
        kinds = None
        if forget.provider is not None:
            provider = self._names.providers.get(forget.provider)
            known = self._names.kind_by_id.items()
            kinds = [number for number, kind in known if provider is not None and kind.provider_id == provider.id]
        query = (
            f"SELECT symbol_id, {_DAY} AS day, count(*) FROM realtime_prices t"  # noqa: S608 - names of ours
            f" WHERE t.seq < $1 AND t.symbol_id = ANY ($2::int[]) AND t.ts >= $3 AND t.ts < $4"
            " GROUP BY 1, 2 HAVING $5::int[] IS NULL OR bool_or(t.kind_id = ANY ($5::int[]))"
        )
        return query, [seq, symbol_ids, from_micros(forget.start), from_micros(forget.end), kinds]

    def _bars_by_day(self, table: str, forget: Forget, symbol_ids: list[int]) -> tuple[str, list[object]]:
        provider_id = None
        if forget.provider is not None:
            provider = self._names.providers.get(forget.provider)
            provider_id = -1 if provider is None else provider.id
        query = (
            f"SELECT DISTINCT symbol_id, {_DAY} AS day, 0::bigint FROM {table}"  # noqa: S608 - names of ours
            " WHERE symbol_id = ANY ($1::int[]) AND ts >= $2 AND ts < $3 AND provider_id <> 0"
            " AND ($4::int IS NULL OR provider_id = $4)"
        )
        return query, [symbol_ids, from_micros(forget.start), from_micros(forget.end), provider_id]

    async def _fetch(self, query: str, arguments: list[object]) -> list[tuple[int, int, int]]:
        async def fetch() -> list[tuple[int, int, int]]:
            rows = await self._pool.fetch(query, *arguments, timeout=_SECONDS)
            return [(row[0], row[1], row[2]) for row in rows]

        return await retry(fetch, "looking for records to forget", is_transient)


def first_in_memory(chunks: Sequence[Chunk]) -> int:
    """Return the seq from which on all ticks are in these chunks."""
    return min((chunk.segment for chunk in chunks), default=LARGEST_SEQ)


def in_memory(chunks: Iterable[Chunk], symbol_ids: Sequence[int]) -> pl.DataFrame:
    """Return the ticks of these symbols in memory, in the order of the log."""
    found = [chunk.frame.filter(pl.Series(np.isin(chunk.frame["symbol_id"], symbol_ids))) for chunk in chunks]
    return pl.concat([LOGGED_TICKS.to_frame(), *found])


def groups(affected: AffectedDays, most_ticks: int) -> list[Ints]:
    """Split the days into groups of at most this number of ticks, but at least one day."""
    parts: list[Ints] = []
    first, total = 0, 0
    for at, count in enumerate(affected.ticks.tolist()):
        if at > first and total + count > most_ticks:
            parts.append(affected.days[first:at])
            first, total = at, 0
        total += count
    return [*parts, affected.days[first:]]


def bounds(days: Ints, padding_days: int) -> tuple[int, int]:
    """Return [start, end) in UTC microseconds: all days, and `padding_days` before the first and after the last."""
    return (
        int(np.maximum(days.min() - padding_days, 0)) * DAY_MICROS,
        int(days.max() + 1 + padding_days) * DAY_MICROS,
    )
