"""What a provider of market data is: the interface that every feed implements."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol

import polars as pl

from stockpulse.market.clocks import Clock


class Provider(Protocol):
    """A source of ticks and bars.

    A provider yields frames and keeps its own pace; whoever reads them slows it down by not asking for
    the next one. Frames have the schemas `frames.TICKS` and `frames.BARS`.
    """

    name: str
    """As it is stored with every tick: lower-case letters, digits and underscores."""
    calendar: str
    """The trading calendar of symbols that are first seen here: "XNYS", "24/7", …"""
    clock: Clock
    can_wait: bool
    """False where what is not taken at once is lost, as on a socket that pushes."""
    delay_seconds: float
    """How far behind the market the feed is by contract (0 for real time, 900 for a delayed one)."""

    def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Ticks as they come, in batches, for as long as there are any."""
        ...

    def history(self, symbol: str, interval: str, start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        """The provider's own bars of `symbol` with start <= ts < end, ascending; nothing where it has none."""
        ...


__all__ = ["Clock", "Provider"]
