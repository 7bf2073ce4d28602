"""The engine of a shard: bars, and all that follows from them, as one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stockpulse.engine.bar_engine import BarEngine, BarEvents, ProviderBars, Range, TickBatch, Work
from stockpulse.engine.bar_math import Ints, Rows
from stockpulse.engine.checkpoint_state import State
from stockpulse.engine.indicators import Analytics, AnalyticsChanges, RealtimeSnapshot
from stockpulse.market.calendar import Calendar
from stockpulse.market.intervals import M5, Interval


@dataclass(frozen=True)
class EngineChanges:
    """What changed since the last flush, up to the log's `offset`."""

    offset: int
    moved: bool
    """Whether the offset is another one."""
    bars: dict[Interval, Rows]
    """Final bars, to be stored."""
    analytics: AnalyticsChanges
    state: State
    """All that changed, for the checkpoint."""

    def __bool__(self) -> bool:
        return self.moved or bool(self.state or self.analytics.tracks)


class Engine:
    """From records of the log to bars, indicators and signals; `step` by step as `BarEngine` says."""

    def __init__(self, bars: BarEngine, analytics: Analytics) -> None:
        self.bars = bars
        self.analytics = analytics

    def learn(self, symbol_id: int, calendar: Calendar) -> None:
        """Tell which calendar the days of a symbol follow."""
        self.bars.learn(symbol_id, calendar)

    def digest_ticks(self, batch: TickBatch) -> Work:
        """Trades as their own 1-minute bars."""
        self.analytics.apply_ticks(batch)
        return self.bars.digest_ticks(batch)

    def digest_bars(self, batch: ProviderBars) -> Work:
        """A provider's bars."""
        return self.bars.digest_bars(batch)

    def needs(self, work: Work) -> Iterator[list[Range]]:
        """What must be brought in before `apply`."""
        return self.bars.needs(work)

    def admit(self, interval: Interval, stored: Rows) -> None:
        """Bring in stored bars."""
        self.bars.admit(interval, stored)

    def apply(self, work: Work, clocks: Mapping[int, int]) -> list[BarEvents]:
        """Work the batch in; return what was revised, and what closes now."""
        return self._follow(self.bars.apply(work, clocks))

    def close(self, clocks: Mapping[int, int]) -> list[BarEvents]:
        """Announce as final what is due."""
        return self._follow(self.bars.close(clocks))

    def _follow(self, events: list[BarEvents]) -> list[BarEvents]:
        self.analytics.apply_bars(events)
        return events

    def realtime(self) -> RealtimeSnapshot:
        """New prices, and the indicators of the 5-minute bars as they form."""
        return self.analytics.realtime(self.bars.selected(M5, final=False))

    def closed(self, interval: Interval) -> Rows:
        """The bars in memory that have been announced as final."""
        return self.bars.selected(interval, final=True)

    def resident(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """The bars in memory, forming ones included: a copy, of one symbol or of all."""
        return self.bars.resident(interval, symbol_id)

    def take_changes(self) -> EngineChanges:
        """What a flush has to write, if anything; call `flushed` once it is committed."""
        bars, analytics = self.bars.take_changes(), self.analytics.take_changes()
        return EngineChanges(bars.offset, bars.moved, bars.bars, analytics, bars.state | analytics.state)

    def flushed(self) -> None:
        """The last changes are stored."""
        self.bars.flushed()
        self.analytics.flushed()

    def snapshot(self, among: Ints | None = None) -> State:
        """The whole state, or that of these symbols."""
        return self.bars.snapshot(among) | self.analytics.snapshot(among)

    def restore(self, offset: int, parts: Iterable[State]) -> bool:
        """Take up the state of a checkpoint; whether something in it is of no use any more."""
        parts = list(parts)
        self.bars.restore(offset, parts)
        return self.analytics.restore(parts)

    def begin(self, symbol_ids: Iterable[int]) -> None:
        """Have the stored bars of symbols calculated of which no indicator is known."""
        self.analytics.begin(np.array(sorted(symbol_ids), np.int64))
