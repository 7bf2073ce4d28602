"""The state of a live feed, for /health and /metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from stockpulse.storage.feed_gaps import FeedGap


class Phase(StrEnum):
    """The phase of a feed."""

    CONNECTING = "connecting"
    """The stream is being opened, or is open and has sent no data yet."""
    LIVE = "live"
    WAITING = "waiting"
    """The stream broke; it is opened again at `until`."""
    REFUSED = "refused"
    """The provider refuses the feed for a reason that does not pass; it is opened again at the next start."""
    ENDED = "ended"
    """The stream has ended for good, or the provider has none."""


@dataclass
class FeedState:
    """The state of one feed. The feed writes it, and others read it."""

    symbols: int = 0
    refused_symbols: Callable[[], Mapping[str, str]] = dict
    """Returns the symbols that the provider's stream cannot follow, each with the reason."""
    phase: Phase = Phase.CONNECTING
    why: str | None = None
    """The fault of a feed that waits or is refused."""
    until: datetime | None = None
    """The time at which a waiting feed is opened again."""
    last_message_at: datetime | None = None
    messages: int = 0
    """Ticks, bars and corrections that the provider has sent since the start."""
    reconnects: int = 0
    gaps: dict[str, int] = field(default_factory=dict)
    """The number of gaps in each `GapState`, in all that the database knows."""
    unfilled: list[FeedGap] = field(default_factory=list)
    """The newest gaps that are not filled, newest first."""

    @property
    def works(self) -> bool:
        """True unless the feed waits or is refused."""
        return self.phase not in {Phase.WAITING, Phase.REFUSED}

    def connect(self) -> None:
        """The stream is being opened."""
        self.phase, self.why, self.until = Phase.CONNECTING, None, None

    def receive(self, rows: int, now: datetime) -> None:
        """The provider has sent data."""
        self.phase, self.last_message_at = Phase.LIVE, now
        self.messages += rows

    def wait(self, why: str, until: datetime | None) -> None:
        """The stream broke."""
        self.phase, self.why, self.until = Phase.WAITING, why, until
        self.reconnects += 1

    def refuse(self, why: str) -> None:
        """The provider refuses the feed."""
        self.phase, self.why, self.until = Phase.REFUSED, why, None

    def end(self) -> None:
        """The stream has ended."""
        self.phase, self.why, self.until = Phase.ENDED, None, None
