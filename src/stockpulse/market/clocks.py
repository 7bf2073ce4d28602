"""The clocks by which the bars of quiet symbols close."""

from datetime import UTC, datetime
from enum import Enum


class Clock(Enum):
    """The clock that gives the event time that a provider has reached."""

    WALL = "wall"  # a live feed: the wall clock, less the delay that the provider declares
    EVENT = "event"  # a recording: the greatest event time that it has sent


def utc_now() -> datetime:
    """Return the time of the machine's clock, UTC."""
    return datetime.now(UTC)
