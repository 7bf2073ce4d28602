"""The audit log: what ran, how much it did, and up to which event time it has come."""

from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from stockpulse.postgres.connect import Pool

KEPT: Final = timedelta(days=90)


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
        """Note a run that is done."""
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
        """Let go of old notes; they are few."""
        await self._pool.execute("DELETE FROM etl_runs WHERE completed_at < $1", before)
