"""The audit log: each run, its number of records and its watermark."""

from datetime import datetime
from typing import Any

import orjson

from stockpulse.postgres.connect import Pool


class RunLog:
    """Writes `etl_runs`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(
        self,
        source: str,
        records: int,
        started_at: datetime,
        completed_at: datetime,
        watermark: datetime | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Record a completed run."""
        await self._pool.execute(
            "INSERT INTO etl_runs (source, status, records_processed, watermark, started_at, completed_at, details)"
            " VALUES ($1, 'completed', $2, $3, $4, $5, $6::jsonb)",
            source,
            records,
            watermark,
            started_at,
            completed_at,
            None if details is None else orjson.dumps(details).decode(),
        )

    async def forget(self, before: datetime) -> None:
        """Delete old entries."""
        await self._pool.execute("DELETE FROM etl_runs WHERE completed_at < $1", before)
