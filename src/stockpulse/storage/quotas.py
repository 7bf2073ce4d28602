"""Requests to providers, counted by key and day, so that a restart does not forget them."""

from datetime import date

from stockpulse.postgres.connect import Pool

_TAKE = """
INSERT INTO provider_quotas AS known (key, day, used)
SELECT $1, $2, $3::bigint WHERE $3 <= $4::bigint
ON CONFLICT (key, day) DO UPDATE SET used = known.used + excluded.used WHERE known.used + excluded.used <= $4
RETURNING used
"""


class StoredQuotas:
    """Counts in `provider_quotas`; several processes share them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, key: str, day: date, cost: int, limit: int) -> bool:
        """Add `cost` to the count, unless the sum would exceed `limit`; return True if it was added."""
        return await self._pool.fetchval(_TAKE, key, day, cost, limit) is not None

    async def used(self, key: str, day: date) -> int:
        """Return the count."""
        used = await self._pool.fetchval("SELECT used FROM provider_quotas WHERE key = $1 AND day = $2", key, day)
        return int(used or 0)

    async def forget(self, before: date) -> None:
        """Delete the counts of days before this one."""
        await self._pool.execute("DELETE FROM provider_quotas WHERE day < $1", before)
