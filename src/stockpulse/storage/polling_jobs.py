"""Jobs that poll the prices of a provider: `polling_jobs`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from stockpulse.postgres.connect import AnyConnection, Pool

MOST_RUNNING: Final = 100
KEPT: Final = timedelta(days=30)
"""The time for which stopped jobs are kept."""

_COLUMNS: Final = "id, status, provider, symbols, interval_seconds, created_at, stopped_at, prices"
_CREATE: Final = """
INSERT INTO polling_jobs (status, provider, symbols, interval_seconds, created_at)
SELECT 'running', $1, $2, $3, $4
WHERE (SELECT count(*) FROM polling_jobs WHERE status = 'running') < $5
RETURNING *
"""


@dataclass(frozen=True)
class PollingJob:
    """A job that asks a provider for the prices of some symbols, again and again."""

    id: int
    status: str
    """running or stopped"""
    provider: str
    symbols: tuple[str, ...]
    interval_seconds: float
    created_at: datetime
    stopped_at: datetime | None
    prices: Mapping[str, Mapping[str, Any]]
    """Last price, its time and the last fault of each symbol."""


class PollingJobs:
    """Reads and writes jobs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, provider: str, symbols: Sequence[str], interval: float, now: datetime) -> PollingJob | None:
        """Store a new job; return None if too many are running."""
        row = await self._pool.fetchrow(_CREATE, provider, list(symbols), interval, now, MOST_RUNNING)
        return None if row is None else _job(row)

    async def newest(self, limit: int) -> list[PollingJob]:
        """Return the newest jobs, the newest first."""
        query = f"SELECT {_COLUMNS} FROM polling_jobs ORDER BY id DESC LIMIT $1"  # noqa: S608 - our columns
        return [_job(row) for row in await self._pool.fetch(query, limit)]

    async def find(self, number: int) -> PollingJob | None:
        """Return a job; None if there is none with this number."""
        row = await self._pool.fetchrow(f"SELECT {_COLUMNS} FROM polling_jobs WHERE id = $1", number)  # noqa: S608
        return None if row is None else _job(row)

    async def stop(self, number: int, now: datetime) -> PollingJob | None:
        """Stop a job; return it, or None if there is none with this number. A stopped job stays as it is."""
        row = await self._pool.fetchrow(
            "UPDATE polling_jobs SET status = 'stopped', stopped_at = coalesce(stopped_at, $2) WHERE id = $1"  # noqa: S608
            f" RETURNING {_COLUMNS}",
            number,
            now,
        )
        return None if row is None else _job(row)

    async def save_prices(self, number: int, prices: Mapping[str, Mapping[str, Any]]) -> None:
        """Store the last answers for the symbols of a job."""
        await self._pool.execute(
            "UPDATE polling_jobs SET prices = $2::jsonb WHERE id = $1", number, orjson.dumps(prices).decode()
        )

    async def forget(self, before: datetime) -> None:
        """Delete jobs that were stopped before this time."""
        await self._pool.execute("DELETE FROM polling_jobs WHERE stopped_at < $1", before)


async def running_jobs(connection: AnyConnection) -> list[PollingJob]:
    """Return the running jobs."""
    query = f"SELECT {_COLUMNS} FROM polling_jobs WHERE status = 'running' ORDER BY id"  # noqa: S608 - our columns
    return [_job(row) for row in await connection.fetch(query)]


def _job(row: Any) -> PollingJob:
    return PollingJob(**{**dict(row), "symbols": tuple(row["symbols"]), "prices": orjson.loads(row["prices"])})
