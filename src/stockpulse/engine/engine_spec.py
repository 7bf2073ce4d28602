"""The definitions of an engine, apart from any state."""

from dataclasses import dataclass, field
from functools import cached_property

from stockpulse.engine.bar_engine import BarEngine
from stockpulse.engine.engine import Engine
from stockpulse.engine.indicator_track import TrackSpec
from stockpulse.engine.indicators import DAILY, INTRADAY, SIGNAL_TRACK, Analytics
from stockpulse.engine.signals import Rules
from stockpulse.indicators.evaluation import Bundle, Instance
from stockpulse.indicators.history import HISTORY
from stockpulse.market.intervals import D1, M1, M5, Interval


@dataclass(frozen=True)
class EngineSpec:
    """The definitions that all engines of a process share. Code that needs a definition needs no engine."""

    lateness_micros: int = 2_000_000
    """The time after its end that a bar waits for late ticks, in microseconds."""
    extended_day: bool = False
    """True if daily bars include trades before and after the regular session."""
    stored: tuple[Instance, ...] = ()
    """Indicators that are stored with every 5-minute and daily bar."""
    rules: Rules = field(default_factory=lambda: Rules(()))
    signal_interval: Interval = M1
    """The interval of the bars that the rules are evaluated on."""

    @cached_property
    def tracks(self) -> dict[str, TrackSpec]:
        """The tracks of indicators, by their names."""
        bundle = Bundle(self.stored)
        tracks = {
            INTRADAY: TrackSpec(INTRADAY, M5, bundle, bundle.definition),
            DAILY: TrackSpec(DAILY, D1, bundle, bundle.definition),
        }
        if self.rules.rules:
            name, interval = f"{SIGNAL_TRACK}-{self.signal_interval.name}", self.signal_interval
            tracks[SIGNAL_TRACK] = TrackSpec(name, interval, self.rules.bundle, self.rules.definition)
        return tracks

    @property
    def instances(self) -> list[Instance]:
        """The indicators of all tracks, which have to be compiled."""
        tracks = [one for track in self.tracks.values() for one in track.bundle.instances]
        return [*tracks, *(Instance(one) for one in HISTORY.values())]  # so that no screen waits for these

    def new_engine(self) -> Engine:
        """Return an engine without any state."""
        bars = BarEngine(lateness_micros=self.lateness_micros, extended_day=self.extended_day)
        return Engine(bars, Analytics(self.tracks, self.rules, bars.buckets.by_calendar))
