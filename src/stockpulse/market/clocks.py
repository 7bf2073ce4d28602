"""What tells how far a provider's event time has come, so that bars of quiet symbols can close."""

from enum import Enum


class Clock(Enum):
    """The kinds of clocks."""

    WALL = "wall"  # a live feed: the wall clock, less the delay that the provider declares
    EVENT = "event"  # a recording: the greatest event time that it has sent
