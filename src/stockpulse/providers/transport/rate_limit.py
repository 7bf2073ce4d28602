"""A provider's rate limit: all requests of one key wait here for their turn."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stockpulse.providers.transport.quota import DayQuota

_RESERVED_SHARE: Final = 10
"""A tenth of each window is kept for urgent requests, so that they never wait for a backfill."""


@dataclass(frozen=True)
class Window:
    """At most `count` requests in any `seconds`."""

    count: int
    seconds: float


class _Spent:
    """The requests that still count for one window."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._sent: deque[tuple[float, int]] = deque()
        self._cost = 0

    def wait(self, now: float, cost: int, *, urgent: bool) -> float:
        """Return the seconds until a request of this cost fits; a cost above the whole window fits an empty one."""
        while self._sent and self._sent[0][0] <= now - self._window.seconds:
            self._cost -= self._sent.popleft()[1]
        room = self._window.count if urgent else self._window.count - self._window.count // _RESERVED_SHARE
        excess, at = self._cost + min(cost, room) - room, 0
        while excess > 0:
            excess -= self._sent[at][1]
            at += 1
        return self._sent[at - 1][0] + self._window.seconds - now if at else 0.0

    def add(self, now: float, cost: int) -> None:
        """Count a request."""
        self._sent.append((now, cost))
        self._cost += cost


class RateLimit:
    """Lets requests pass at the pace that a provider allows; urgent ones go first."""

    def __init__(
        self,
        windows: Sequence[Window] = (),
        quota: DayQuota | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spent = [_Spent(window) for window in windows]
        self.quota = quota
        self._clock = clock
        self._sleep = sleep
        self._paused_until = 0.0
        self._lanes = {True: asyncio.Lock(), False: asyncio.Lock()}

    async def acquire(self, cost: int = 1, *, urgent: bool = False) -> None:
        """Wait for the turn of a request. Raises QuotaUsedUp if the day has no request left."""
        async with self._lanes[urgent]:  # first come, first served
            while (wait := self._wait(cost, urgent=urgent)) > 0:
                await self._sleep(wait)
            now = self._clock()
            for spent in self._spent:
                spent.add(now, cost)
        if self.quota is not None:
            await self.quota.take(cost)

    def pause(self, seconds: float) -> None:
        """Hold all requests back for some seconds: the provider says that the limit is reached."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    @property
    def paused_seconds(self) -> float:
        """The seconds for which requests are held back, by the provider's word."""
        return max(0.0, self._paused_until - self._clock())

    def _wait(self, cost: int, *, urgent: bool) -> float:
        now = self._clock()
        waits = [spent.wait(now, cost, urgent=urgent) for spent in self._spent]
        return max(self._paused_until - now, 0.0, *waits)
