"""Events: new ticks, bars, indicators and signals, passed to listeners as soon as the engine has them.

An event follows from durable records. After a crash the same records are processed again, so a listener may receive an
event twice: (symbol, interval, ts, revision, final) identifies a bar, and the highest revision is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import structlog

from stockpulse.engine.derived_rows import DerivedRows
from stockpulse.engine.signals import Signals
from stockpulse.engine.step import BarEvents

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class IndicatorEvents:
    """Indicators of closed or revised bars of one tier: "intraday" (5 minutes) or "daily"."""

    tier: str
    rows: DerivedRows


class Listener:
    """Receives the events of the shards of this process; override the methods of the events that you need.

    The `on_` methods run on the event loop between two batches of a shard. They return at once and raise nothing: a
    listener stores the events and does its own work later. It never changes stored data.
    """

    def on_ticks(self, ticks: pl.DataFrame) -> None:
        """Receive the ticks that a shard has processed, as `schemas.LOGGED_TICKS`, without duplicates."""

    def on_bars(self, bars: BarEvents) -> None:
        """Receive bars that form, that have closed, or that were revised after they had closed."""

    def on_indicators(self, indicators: IndicatorEvents) -> None:
        """Receive the indicators of bars that have closed or were revised."""

    def on_signals(self, signals: Signals) -> None:
        """Receive the signals of bars that have closed or were revised."""

    async def until_room(self) -> None:
        """Wait until the listener has room for more events.

        Only a listener that must not lose an event overrides this.
        """

    async def until_delivered(self) -> None:
        """Wait until all events so far are delivered; the flush that stores their data waits for this."""


class Listeners(Listener):
    """Several listeners as one.

    If a listener raises, the fault is logged, and the listener still receives the next event.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = tuple(listeners)

    def on_ticks(self, ticks: pl.DataFrame) -> None:
        """Tell every listener."""
        self._tell("on_ticks", ticks)

    def on_bars(self, bars: BarEvents) -> None:
        """Tell every listener."""
        self._tell("on_bars", bars)

    def on_indicators(self, indicators: IndicatorEvents) -> None:
        """Tell every listener."""
        self._tell("on_indicators", indicators)

    def on_signals(self, signals: Signals) -> None:
        """Tell every listener."""
        self._tell("on_signals", signals)

    def _tell(self, method: str, event: object) -> None:
        for listener in self._listeners:
            try:
                getattr(listener, method)(event)
            except Exception:  # a fault of a listener must not stop the pipeline
                log.exception("a listener failed", listener=type(listener).__name__, event_kind=method)

    async def until_room(self) -> None:
        """Wait for every listener."""
        for listener in self._listeners:
            await listener.until_room()

    async def until_delivered(self) -> None:
        """Wait for every listener."""
        for listener in self._listeners:
            await listener.until_delivered()
