"""The connections of all providers of a process: they share limits, quotas and listeners."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from stockpulse.providers.transport.live_socket import LiveSocket, StreamDialect, live_socket
from stockpulse.providers.transport.quota import CountsInMemory, DayQuota, QuotaStore, quota_key
from stockpulse.providers.transport.rate_limit import RateLimit, Window
from stockpulse.providers.transport.redaction import Redactor
from stockpulse.providers.transport.rest_client import Dialect, Reply, RestClient


@dataclass
class Transport:
    """Makes clients. All clients of the same provider and key share one rate limit."""

    quotas: QuotaStore = field(default_factory=CountsInMemory)
    on_reply: Callable[[Reply, str], None] = lambda _reply, _outcome: None
    """Gets each reply with its outcome: "ok" or the code of its fault."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    """The clock by which limits on the pace count."""
    _limits: dict[str, RateLimit] = field(default_factory=dict)

    def rest(self, provider: str, dialect: Dialect, limit: RateLimit, secrets: Iterable[str] = ()) -> RestClient:
        """Return a client of a provider's REST API."""
        return RestClient(
            provider, dialect, limit, Redactor(secrets), on_reply=self.on_reply, sleep=self.sleep, now=self.now
        )

    def stream(
        self, provider: str, dialect: StreamDialect, secrets: Iterable[str] = ()
    ) -> AbstractAsyncContextManager[LiveSocket]:
        """Return a WebSocket connection to a provider, open inside `async with`."""
        return live_socket(provider, dialect, Redactor(secrets))

    def limit(
        self,
        provider: str,
        key: str,
        windows: Sequence[Window],
        *,
        per_day: int | None = None,
        zone: ZoneInfo | None = None,
    ) -> RateLimit:
        """Return the rate limit of a provider's key; the day of `per_day` is that of `zone`, by default UTC."""
        name = quota_key(provider, key)
        if name not in self._limits:
            quota = None
            if per_day is not None:
                quota = DayQuota(provider, name, per_day, zone or ZoneInfo("UTC"), self.quotas, self.now)
            self._limits[name] = RateLimit(windows, quota, clock=self.clock, sleep=self.sleep)
        return self._limits[name]
