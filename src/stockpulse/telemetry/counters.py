"""What the process counts."""

from dataclasses import dataclass


@dataclass
class Counters:
    """What has gone through since the start; rows unless said otherwise."""

    ticks: int = 0
    provider_bars: int = 0
    duplicates: int = 0
    rejected: int = 0
    dropped: int = 0
    """Ticks of a feed that cannot be slowed, for which there was no room."""
    appends: int = 0
    bars_closed: int = 0
    bars_revised: int = 0
    flushes: int = 0
    flush_seconds: float = 0.0


@dataclass
class Lag:
    """How far the stages are apart, in rows."""

    submitted: int
    with_ids: int
    unprocessed: int
    unflushed: int
    behind: int
    """Symbols whose indicators have to catch up, each counted for every interval."""
