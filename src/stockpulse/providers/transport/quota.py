"""Requests per day: a count that survives restarts."""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from stockpulse.providers.faults import QuotaUsedUp


class QuotaStore(Protocol):
    """Counts the requests of each key and day."""

    async def take(self, key: str, day: date, cost: int, limit: int) -> bool:
        """Add `cost` to the count, unless the sum would exceed `limit`; return True if it was added."""
        ...

    async def used(self, key: str, day: date) -> int:
        """Return the count."""
        ...


class CountsInMemory:
    """Counts of a process without a database."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, date], int] = defaultdict(int)

    async def take(self, key: str, day: date, cost: int, limit: int) -> bool:
        """Add `cost` to the count, unless the sum would exceed `limit`; return True if it was added."""
        if self._used[key, day] + cost > limit:
            return False
        self._used[key, day] += cost
        return True

    async def used(self, key: str, day: date) -> int:
        """Return the count."""
        return self._used[key, day]


def quota_key(provider: str, key: str) -> str:
    """Return the name of a provider's key in the store: a hash, so that the store holds no key."""
    return f"{provider}:{hashlib.sha256(key.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class DayQuota:
    """The requests that a key may make on a day of the provider's time zone."""

    provider: str
    key: str
    """As `quota_key` makes it."""
    limit: int
    zone: ZoneInfo
    store: QuotaStore
    now: Callable[[], datetime]

    async def take(self, cost: int) -> None:
        """Count a request before it is sent. Raises QuotaUsedUp if the day has none left."""
        if not await self.store.take(self.key, self._today(), cost, self.limit):
            raise self.used_up()

    async def exhaust(self) -> QuotaUsedUp:
        """Count all requests of today as made, since the provider says so; return the fault."""
        used = await self.store.used(self.key, self._today())
        await self.store.take(self.key, self._today(), max(0, self.limit - used), self.limit)
        return self.used_up()

    async def used(self) -> int:
        """Return the requests of today."""
        return await self.store.used(self.key, self._today())

    def used_up(self) -> QuotaUsedUp:
        """Return the fault that says when the next day begins."""
        until = datetime.combine(self._today() + timedelta(days=1), time(), self.zone)
        return QuotaUsedUp(
            f"{self.provider}: the {self.limit} requests of the day are used up; more from {until.isoformat()} on",
            until,
        )

    def _today(self) -> date:
        return self.now().astimezone(self.zone).date()
