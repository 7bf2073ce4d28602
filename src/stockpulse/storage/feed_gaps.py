"""The gaps of live feeds in the database.

    feed_marks   up to this event time, all data of a feed is stored or is a row of feed_gaps
    feed_gaps    an interruption of a feed; without `end_at` it lasts

The mark does not move while an interruption is not in the table yet. So a process that is killed loses no gap: at the
next start the data from the mark on is a gap.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from stockpulse.postgres.connect import Pool

_COLUMNS: Final = "id, provider, symbol, start_at, end_at, why, state, filled_until, rows, problem"


class GapState(StrEnum):
    """The state of a gap."""

    OPEN = "open"
    FILLING = "filling"
    FILLED = "filled"
    CANNOT = "cannot"
    """The provider cannot give the data: `problem` says why."""


@dataclass(frozen=True)
class FeedGap:
    """A range of event time in which data of a feed may be missing."""

    id: int
    provider: str
    symbol: str | None
    """None: all symbols of the feed."""
    start: datetime
    end: datetime | None
    """None: the interruption lasts."""
    why: str
    state: str
    filled_until: datetime | None
    rows: int
    problem: str | None


class FeedGaps:
    """Reads and writes the gaps."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def complete_until(self, provider: str) -> datetime | None:
        """Return the mark of a feed; None for a feed that has never had data."""
        found: datetime | None = await self._pool.fetchval(
            "SELECT complete_until FROM feed_marks WHERE provider = $1", provider
        )
        return found

    async def set_complete_until(self, provider: str, until: datetime) -> None:
        """Move the mark of a feed forward."""
        await self._pool.execute(
            "INSERT INTO feed_marks AS m (provider, complete_until) VALUES ($1, $2) ON CONFLICT (provider)"
            " DO UPDATE SET complete_until = greatest(m.complete_until, excluded.complete_until)",
            provider,
            until,
        )

    async def begin(self, provider: str, start: datetime, why: str) -> int:
        """Begin a gap of all symbols; return its id. A gap of the feed that lasts already is continued."""
        found: int = await self._pool.fetchval(
            "INSERT INTO feed_gaps AS g (provider, start_at, why) VALUES ($1, $2, $3)"
            " ON CONFLICT (provider) WHERE end_at IS NULL AND symbol IS NULL"
            " DO UPDATE SET start_at = least(g.start_at, excluded.start_at) RETURNING id",
            provider,
            start,
            why,
        )
        return found

    async def end(self, gap: int, end: datetime) -> None:
        """End a gap: data flows again."""
        await self._pool.execute("UPDATE feed_gaps SET end_at = greatest(start_at, $2) WHERE id = $1", gap, end)

    async def unfilled(self, provider: str, limit: int) -> list[FeedGap]:
        """Return the newest gaps that are not filled, newest first."""
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM feed_gaps WHERE provider = $1 AND state <> 'filled'"  # noqa: S608 - constants
            " ORDER BY start_at DESC, id DESC LIMIT $2",
            provider,
            limit,
        )
        return [FeedGap(*row) for row in rows]

    async def unfilled_of_symbol(self, symbol: str, providers: list[str]) -> list[FeedGap]:
        """Return the gaps that are not filled: of the symbol, and of all symbols of these providers."""
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM feed_gaps WHERE state <> 'filled'"  # noqa: S608 - constants
            " AND (symbol = $1 OR symbol IS NULL AND provider = ANY($2)) ORDER BY start_at",
            symbol,
            providers,
        )
        return [FeedGap(*row) for row in rows]

    async def to_fill(self, provider: str) -> FeedGap | None:
        """Return the newest gap that has ended and is neither filled nor impossible to fill."""
        row = await self._pool.fetchrow(
            f"SELECT {_COLUMNS} FROM feed_gaps WHERE provider = $1 AND state IN ('open', 'filling')"  # noqa: S608
            " AND end_at IS NOT NULL ORDER BY start_at DESC, id DESC LIMIT 1",
            provider,
        )
        return None if row is None else FeedGap(*row)

    async def counts(self, provider: str) -> dict[str, int]:
        """Return the number of gaps in each state."""
        rows = await self._pool.fetch(
            "SELECT state, count(*) FROM feed_gaps WHERE provider = $1 GROUP BY state", provider
        )
        return {row[0]: row[1] for row in rows}

    async def fill(self, gap: int, until: datetime, rows: int) -> None:
        """Note that a gap is filled up to a time, by this number of further rows."""
        await self._pool.execute(
            "UPDATE feed_gaps SET state = 'filling', filled_until = $2, rows = rows + $3, problem = NULL WHERE id = $1",
            gap,
            until,
            rows,
        )

    async def finish(self, gap: int, now: datetime) -> None:
        """Note that a gap is filled."""
        await self._pool.execute(
            "UPDATE feed_gaps SET state = 'filled', filled_at = $2, problem = NULL WHERE id = $1", gap, now
        )

    async def fail(self, gap: int, problem: str, state: GapState) -> None:
        """Note why a gap is not filled: OPEN if it will be tried again, CANNOT if not."""
        await self._pool.execute(
            "UPDATE feed_gaps SET state = $3, problem = $2 WHERE id = $1", gap, problem, state.value
        )

    async def refused_symbols(self, gap: FeedGap) -> set[str]:
        """Return the symbols of a gap that were split off: the provider cannot give them."""
        rows = await self._pool.fetch(
            "SELECT symbol FROM feed_gaps WHERE provider = $1 AND symbol IS NOT NULL AND start_at = $2 AND end_at = $3"
            " AND id <> $4",
            gap.provider,
            gap.start,
            gap.end,
            gap.id,
        )
        return {row[0] for row in rows}

    async def split_off(self, gap: FeedGap, symbol: str, problem: str) -> None:
        """Add a row for one symbol of a gap of all symbols, which the provider cannot give."""
        await self._pool.execute(
            "INSERT INTO feed_gaps (provider, symbol, start_at, end_at, why, state, filled_until, problem)"
            " VALUES ($1, $2, $3, $4, $5, 'cannot', $6, $7)",
            gap.provider,
            symbol,
            gap.start,
            gap.end,
            gap.why,
            gap.filled_until,
            problem,
        )

    async def forget(self, before: datetime) -> None:
        """Delete gaps that were filled long ago."""
        await self._pool.execute("DELETE FROM feed_gaps WHERE filled_at < $1", before)
