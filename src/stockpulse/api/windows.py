"""Windows that end at the market time of a symbol: `[as_of - minutes, as_of]`, with both ends.

as_of - minutes                    as_of
├───────────────────────────────────┤
t1 t2      t3                       t4    all four are in it

Market time is the wall clock for a live feed and the newest tick's own time for a recording, so a window without
its end would leave the newest tick out. A bar is in the window if its start is.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import Query

Minutes = Annotated[
    int,
    Query(
        ge=1,
        le=43_200,
        description="Length of the window in minutes. It ends at the symbol's market time and includes both ends.",
    ),
]

_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True)
class Window:
    """A window of some minutes up to `as_of`."""

    minutes: int
    as_of: datetime

    @property
    def start(self) -> datetime:
        """The first time that is in the window."""
        return self.as_of - timedelta(minutes=self.minutes)

    @property
    def end(self) -> datetime:
        """The first time after the window: times are whole microseconds."""
        return self.as_of + _MICROSECOND
