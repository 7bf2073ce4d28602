"""All that is calculated from bars and prices of a shard: its tracks, signals and last prices."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from stockpulse.engine.bar_engine import BarEvents, TickBatch
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.checkpoint_state import State
from stockpulse.engine.derived_rows import Derived
from stockpulse.engine.indicator_track import Track, TrackChanges, TrackSpec
from stockpulse.engine.last_prices import LastPrices, PriceAverages
from stockpulse.engine.signals import Rules, Signals
from stockpulse.indicators.evaluation import Functions
from stockpulse.market.arrays import Ints

INTRADAY: Final = "intraday"
DAILY: Final = "daily"
SIGNALS: Final = "signals"


@dataclass(frozen=True)
class AnalyticsChanges:
    """What a flush has to write."""

    tracks: dict[str, TrackChanges]
    signals: Signals | None
    state: State


@dataclass(frozen=True)
class RealtimeSnapshot:
    """What the market looks like between two closes: prices, and the 5-minute bars as they form."""

    prices: PriceAverages
    forming: Derived | None


class Analytics:
    """The indicators of 5-minute and daily bars, the signals of another interval, the mean of the last prices."""

    def __init__(self, tracks: Mapping[str, TrackSpec], rules: Rules, sessions: Callable[[Ints, Ints], Ints]) -> None:
        """`tracks` are those of `EngineSpec`; `sessions` gives the trading date of each time of a symbol."""
        self.rules = rules
        self.prices = LastPrices()
        self._overdue: Ints = np.zeros(0, np.int64)  # symbols that could not be looked at when their prices came
        self.tracks = {name: Track(spec, sessions) for name, spec in tracks.items()}

    def use(self, functions: Functions) -> None:
        """Begin to calculate: the loops are compiled."""
        for track in self.tracks.values():
            track.functions = functions

    def begin(self, symbol_ids: Iterable[int]) -> None:
        """Calculate, from their first stored bar on, those of these symbols that have no state yet."""
        ids = np.array(sorted(symbol_ids), np.int64)
        for track in self.tracks.values():
            track.begin(ids)

    def apply_ticks(self, batch: TickBatch) -> None:
        """Note the prices of trades."""
        self.prices.apply(batch.symbol_id, batch.ts, batch.seq, batch.price, batch.flags)

    def apply_bars(self, events: Iterable[BarEvents]) -> None:
        """Calculate what follows from bars that closed, or were revised after that."""
        events = list(events)
        for track in self.tracks.values():
            rows = [event.rows for event in events if event.interval is track.interval]
            if len(rows) == 1:
                track.apply(rows[0])
            elif rows:
                together = np.concatenate(rows)
                track.apply(together[np.lexsort((together["ts"], together["symbol_id"]))])

    def realtime(self, forming: Rows) -> RealtimeSnapshot:
        """The prices that are new since the last time, and the indicators of these 5-minute bars as they form.

        Symbols that were behind at the last time come as well, once they have caught up.
        """
        track = self.tracks[INTRADAY]
        ready = track.caught_up(self._overdue)
        prices = self.prices.changed(also=ready)
        rows = forming[np.isin(forming["symbol_id"], prices.symbol_id)]
        realtime = RealtimeSnapshot(prices, track.preview(rows))
        shown = np.union1d(np.setdiff1d(self._overdue, ready), rows["symbol_id"])
        self._overdue = np.setdiff1d(shown, track.caught_up(shown))
        return realtime

    def unflushed(self) -> int:
        """How many rows wait to be stored."""
        return sum(track.unflushed() for track in self.tracks.values())

    def behind(self) -> int:
        """How many symbols are behind, each counted for every track."""
        return sum(track.lag() for track in self.tracks.values())

    def take_changes(self) -> AnalyticsChanges:
        """What a flush has to write; call `flushed` once it is committed."""
        changes, state = {}, self.prices.take_changes()
        for name, track in self.tracks.items():
            changed, part = track.take_changes()
            state |= part
            if changed is not None:
                changes[name] = changed
        signals = self.rules.signals(changes[SIGNALS].derived) if SIGNALS in changes else None
        return AnalyticsChanges(changes, signals, state)

    def flushed(self) -> None:
        """The last changes are stored."""
        for track in self.tracks.values():
            track.flushed()

    def snapshot(self, among: Ints | None = None) -> State:
        """The whole state, or that of these symbols."""
        state = self.prices.snapshot(among)
        for track in self.tracks.values():
            state |= track.snapshot(among)
        return state

    def restore(self, parts: Iterable[State]) -> bool:
        """Take up the parts of a checkpoint, in order; whether there was a state of another definition in them.

        That must not stay there: if its definition came back, it would have missed what came meanwhile.
        """
        ours = {track.kind for track in self.tracks.values()}
        foreign = False
        for part in parts:
            self.prices.restore(part)
            for track in self.tracks.values():
                track.restore(part)
            foreign |= any("/" in name and name.rpartition("/")[0] not in ours for name in part)
        return foreign
