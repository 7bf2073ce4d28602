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

    async def begin(self, source: str, started_at: datetime, details: dict[str, Any]) -> int:
        """Record that a run has begun; return its id."""
        number: int = await self._pool.fetchval(
            "INSERT INTO etl_runs (source, status, started_at, details) VALUES ($1, 'running', $2, $3::jsonb)"
            " RETURNING id",
            source,
            started_at,
            orjson.dumps(details).decode(),
        )
        return number

    async def update(self, number: int, records: int, details: dict[str, Any]) -> None:
        """Record the progress of a run."""
        await self._pool.execute(
            "UPDATE etl_runs SET records_processed = $2, details = $3::jsonb WHERE id = $1",
            number,
            records,
            orjson.dumps(details).decode(),
        )

    async def end(
        self, number: int, status: str, records: int, completed_at: datetime, details: dict[str, Any]
    ) -> None:
        """Record that a run is `completed` or has `failed`."""
        await self._pool.execute(
            "UPDATE etl_runs SET status = $2, records_processed = $3, completed_at = $4, details = $5::jsonb"
            " WHERE id = $1",
            number,
            status,
            records,
            completed_at,
            orjson.dumps(details).decode(),
        )

    async def fail_interrupted(self, kind: str, now: datetime) -> None:
        """Record that runs of a kind (`kind:…`) have failed, because the process ended while they were running."""
        await self._pool.execute(
            "UPDATE etl_runs SET status = 'failed', completed_at = $2,"
            """ details = coalesce(details, '{}') || '{"last_fault": "the process ended"}'"""
            " WHERE starts_with(source, $1) AND status = 'running'",
            f"{kind}:",
            now,
        )

    async def forget(self, before: datetime) -> None:
        """Delete old entries."""
        await self._pool.execute("DELETE FROM etl_runs WHERE completed_at < $1", before)
