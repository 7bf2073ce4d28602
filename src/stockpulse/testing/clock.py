"""A clock that a test sets."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass
class SetClock:
    """A clock that does not move until it is set. Call it for the time; pass it for any argument `now`."""

    at: datetime
    """The time that it shows, with a time zone."""

    def __call__(self) -> datetime:
        """Return the time."""
        return self.at

    def advance(self, by: timedelta) -> None:
        """Move the clock forward."""
        self.at += by
