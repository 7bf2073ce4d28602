"""The engine of a shard: bars, and all that follows from them, as one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stockpulse.engine.bar_engine import BarEvents, ProviderBars, Range, Shard, TickBatch, Work
from stockpulse.engine.bar_math import Ints, Rows
from stockpulse.engine.checkpoint_state import State
from stockpulse.engine.indicators import Analytics, AnalyticsChanges, Glance
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
    """From records of the log to bars, indicators and signals; `step` by step as `Shard` says."""

    def __init__(self, shard: Shard, analytics: Analytics) -> None:
        self.shard = shard
        self.analytics = analytics

    def learn(self, symbol_id: int, calendar: Calendar) -> None:
        """Tell which calendar the days of a symbol follow."""
        self.shard.learn(symbol_id, calendar)

    def digest_ticks(self, batch: TickBatch) -> Work:
        """Trades as their own 1-minute bars."""
        self.analytics.work_in_ticks(batch)
        return self.shard.digest_ticks(batch)

    def digest_bars(self, batch: ProviderBars) -> Work:
        """A provider's bars."""
        return self.shard.digest_bars(batch)

    def needs(self, work: Work) -> Iterator[list[Range]]:
        """What must be brought in before `apply`."""
        return self.shard.needs(work)

    def admit(self, interval: Interval, stored: Rows) -> None:
        """Bring in stored bars."""
        self.shard.admit(interval, stored)

    def apply(self, work: Work, clocks: Mapping[int, int]) -> list[BarEvents]:
        """Work the batch in; return what was revised, and what closes now."""
        return self._follow(self.shard.apply(work, clocks))

    def close(self, clocks: Mapping[int, int]) -> list[BarEvents]:
        """Announce as final what is due."""
        return self._follow(self.shard.close(clocks))

    def _follow(self, events: list[BarEvents]) -> list[BarEvents]:
        self.analytics.work_in_bars(events)
        return events

    def glance(self) -> Glance:
        """New prices, and the indicators of the 5-minute bars as they form."""
        return self.analytics.glance(self.shard.selected(M5, final=False))

    def closed(self, interval: Interval) -> Rows:
        """The bars in memory that have been announced as final."""
        return self.shard.selected(interval, final=True)

    def resident(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """The bars in memory, forming ones included: a copy, of one symbol or of all."""
        return self.shard.resident(interval, symbol_id)

    def take_changes(self) -> EngineChanges:
        """What a flush has to write, if anything; call `flushed` once it is committed."""
        bars, analytics = self.shard.take_changes(), self.analytics.take_changes()
        return EngineChanges(bars.offset, bars.moved, bars.bars, analytics, bars.state | analytics.state)

    def flushed(self) -> None:
        """The last changes are stored."""
        self.shard.flushed()
        self.analytics.flushed()

    def snapshot(self, among: Ints | None = None) -> State:
        """The whole state, or that of these symbols."""
        return self.shard.snapshot(among) | self.analytics.snapshot(among)

    def restore(self, offset: int, parts: Iterable[State]) -> bool:
        """Take up the state of a checkpoint; whether something in it is of no use any more."""
        parts = list(parts)
        self.shard.restore(offset, parts)
        return self.analytics.restore(parts)

    def begin(self, symbol_ids: Iterable[int]) -> None:
        """Have the stored bars of symbols calculated of which no indicator is known."""
        self.analytics.begin(np.array(sorted(symbol_ids), np.int64))
