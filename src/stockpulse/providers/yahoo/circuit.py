"""Keeps requests back after refusals: Yahoo publishes no limits, and refuses an address for minutes."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from stockpulse.providers.faults import ProviderFault, RateLimited, Unreachable

FIRST_COOL_DOWN: Final = timedelta(minutes=5)
LONGEST_COOL_DOWN: Final = timedelta(hours=1)
FAILURES: Final = 5
"""The number of failures in a row, other than refusals, after which requests are kept back too."""


class Circuit:
    """Is open after "too many requests", or after several failures in a row; then no request is sent for a while."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._failures = 0
        self._opened = 0
        self._open_until: datetime | None = None

    def check(self) -> None:
        """Raise RateLimited if no request may be sent now."""
        if self._open_until is not None and self._now() < self._open_until:
            until = self._open_until
            raise RateLimited(f"yahoo gets no requests until {until.isoformat()}: it refused or failed", until)

    def succeeded(self) -> None:
        """Note a good reply."""
        self._failures, self._opened, self._open_until = 0, 0, None

    def failed(self, fault: ProviderFault) -> None:
        """Note a fault; only refusals and failures of the server or the network count."""
        if isinstance(fault, RateLimited):
            self._open()
        elif isinstance(fault, Unreachable):
            self._failures += 1
            if self._failures >= FAILURES:
                self._open()

    def cool_down(self) -> datetime:
        """Return the end of the cool-down that a refusal begins now."""
        return self._now() + min(FIRST_COOL_DOWN * (1 << self._opened), LONGEST_COOL_DOWN)

    def _open(self) -> None:
        self._open_until = self.cool_down()
        self._opened = min(self._opened + 1, 10)
