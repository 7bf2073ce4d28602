"""The engine of one shard: bars, and the indicators and signals that follow from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from stockpulse.engine.bar_engine import BarEngine
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.checkpoint_state import State
from stockpulse.engine.indicators import Analytics, AnalyticsChanges, RealtimeSnapshot
from stockpulse.engine.step import BarEvents, Batch, Step, TickBatch
from stockpulse.market.arrays import Ints
from stockpulse.market.intervals import M5, Interval


@dataclass(frozen=True)
class EngineChanges:
    """The changes since the last flush, up to the log's `offset`."""

    offset: int
    moved: bool
    """True if the offset has changed."""
    bars: dict[Interval, Rows]
    """Final bars, to be stored."""
    analytics: AnalyticsChanges
    state: State
    """The changed state, for the checkpoint."""
    removed: dict[Interval, Ints]
    """Keys of bars that are to be deleted, before `bars` are stored."""

    def __bool__(self) -> bool:
        return self.moved or bool(self.state or self.analytics.tracks)


class Engine:
    """Turns records of the log into bars, indicators and signals."""

    def __init__(self, bars: BarEngine, analytics: Analytics) -> None:
        self.bars = bars
        self.analytics = analytics

    def step(self, batch: Batch, clocks: Mapping[int, int]) -> Step:
        """Process the next records of the log; `BarEngine.step` describes the yielded and returned values."""
        events = yield from self.bars.step(batch, clocks)
        if isinstance(batch, TickBatch):
            self.analytics.apply_ticks(batch)
        self.analytics.apply_bars(events)
        return events

    def close(self, clocks: Mapping[int, int]) -> list[BarEvents]:
        """Announce as final the bars that are due by these clocks, and update their indicators and signals."""
        events = self.bars.close(clocks)
        self.analytics.apply_bars(events)
        return events

    def amend(self, interval: Interval, changed: Rows, removed: Rows, seq: int) -> list[BarEvents]:
        """Replace and remove bars of a symbol; see `BarEngine.amend`."""
        events = self.bars.amend(interval, changed, removed, seq)
        lost = np.concatenate([removed, changed[np.isnan(changed["open"])]])
        if len(lost):
            self.analytics.drop_bars(interval, int(lost["symbol_id"][0]), lost["ts"])
        self.analytics.apply_bars([event for event in events if not event.removed])
        return events

    def realtime(self) -> RealtimeSnapshot:
        """Return new prices, and the indicators of the 5-minute bars that are forming."""
        return self.analytics.realtime(self.bars.selected(M5, final=False))

    def take_changes(self) -> EngineChanges:
        """Return the changes for a flush; call `flushed` once they are committed."""
        bars, analytics = self.bars.take_changes(), self.analytics.take_changes()
        return EngineChanges(bars.offset, bars.moved, bars.bars, analytics, bars.state | analytics.state, bars.removed)

    def flushed(self) -> None:
        """Note that the last changes are stored."""
        self.bars.flushed()
        self.analytics.flushed()

    def snapshot(self, among: Ints | None = None) -> State:
        """Return the whole state, or that of these symbols."""
        return self.bars.snapshot(among) | self.analytics.snapshot(among)

    def restore(self, offset: int, parts: Iterable[State]) -> bool:
        """Restore a checkpoint; return True if parts of it belong to indicators that are no longer defined."""
        parts = list(parts)
        self.bars.restore(offset, parts)
        return self.analytics.restore(parts)
