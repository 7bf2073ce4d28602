"""Reads for the engine: bars that it no longer holds, and earlier states of indicators."""

import numpy as np

from stockpulse.aio.retry import retry
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.indicator_track import Track
from stockpulse.engine.step import Range
from stockpulse.engine.track_state import Anchor
from stockpulse.market.arrays import Ints
from stockpulse.market.intervals import Interval
from stockpulse.market.times import from_micros, micros
from stockpulse.postgres.connect import Pool, is_transient
from stockpulse.storage.bar_rows import LAYOUT, TABLE, copy_out

_AT = "timestamptz 'epoch' + interval '1 microsecond' *"


class EngineReads:
    """Reads for the engine; they wait while the database does not answer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def bars(self, wanted: Range) -> Rows:
        """Return the stored bars of these ranges."""
        query = (
            f"SELECT DISTINCT {_columns('b')} FROM"  # noqa: S608 - names of ours
            " unnest($1::int[], $2::bigint[], $3::bigint[]) AS r (symbol_id, first_us, end_us)"
            f" JOIN {TABLE[wanted.interval]} b ON b.symbol_id = r.symbol_id"
            f" AND b.ts >= {_AT} r.first_us AND b.ts < {_AT} r.end_us"
        )
        return await self._copied(query, wanted.symbol_id.tolist(), wanted.start.tolist(), wanted.end.tolist())

    async def bars_from(self, interval: Interval, symbol_id: Ints, start: Ints, most: int) -> Rows:
        """Return up to `most` bars with a price of each symbol from its start on, sorted by symbol and time."""
        query = (
            f"SELECT {_columns('b')} FROM unnest($1::int[], $2::bigint[]) AS w (symbol_id, start_us),"  # noqa: S608
            f" LATERAL (SELECT * FROM {TABLE[interval]} t WHERE t.symbol_id = w.symbol_id"
            f" AND t.ts >= {_AT} w.start_us AND t.open <> 'NaN' ORDER BY t.ts LIMIT $3) b"
        )
        rows = await self._copied(query, symbol_id.tolist(), start.tolist(), most)
        return rows[np.lexsort((rows["ts"], rows["symbol_id"]))]

    async def provided(self, interval: Interval, symbol_id: int, start: int, end: int) -> Rows:
        """Return the stored bars of a symbol that a provider gave, with start <= ts < end (UTC microseconds)."""
        query = (
            f"SELECT {_columns('b')} FROM {TABLE[interval]} b WHERE b.symbol_id = $1 AND b.provider_id <> 0"  # noqa: S608
            f" AND b.ts >= {_AT} $2::bigint AND b.ts < {_AT} $3::bigint"
        )
        return await self._copied(query, symbol_id, start, end)

    async def neighbours(self, interval: Interval, symbol_id: int, removed: Ints, after: int) -> Rows:
        """Return the first stored bar with a price after a time, and the newest stored bar of all.

        Removed bars are left out.
        """
        others = f"FROM {TABLE[interval]} b WHERE b.symbol_id = $1 AND b.ts <> ALL ($2::timestamptz[])"
        query = (
            f"(SELECT {_columns('b')} {others} AND b.open <> 'NaN' AND b.ts > {_AT} $3::bigint ORDER BY b.ts LIMIT 1)"
            f" UNION (SELECT {_columns('b')} {others} ORDER BY b.ts DESC LIMIT 1)"
        )
        times = [from_micros(one) for one in removed.tolist()]
        return await self._copied(query, symbol_id, times, after)

    async def anchors(self, track: Track, symbol_id: Ints, until: Ints) -> list[Anchor]:
        """Return the newest stored state of each symbol up to `until`; symbols without one are left out."""

        async def fetch() -> list[Anchor]:
            rows = await self._pool.fetch(
                "SELECT DISTINCT ON (s.symbol_id) s.symbol_id, s.ts, s.state FROM indicator_states s"
                " JOIN unnest($2::int[], $3::timestamptz[]) AS w (symbol_id, ts) ON w.symbol_id = s.symbol_id"
                " WHERE s.track = $1 AND s.definition = $4 AND s.ts <= w.ts ORDER BY s.symbol_id, s.ts DESC",
                track.name,
                symbol_id.tolist(),
                [from_micros(int(ts)) for ts in until],
                track.definition,
            )
            return [Anchor(row["symbol_id"], micros(row["ts"]), row["state"]) for row in rows]

        return await retry(fetch, "loading of indicator states", is_transient)

    async def _copied(self, query: str, *arguments: object) -> Rows:
        async def copied() -> Rows:
            async with self._pool.acquire() as connection:
                return await copy_out(connection, query, *arguments)

        return await retry(copied, "loading of bars", is_transient)


def _columns(table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in LAYOUT.columns)
