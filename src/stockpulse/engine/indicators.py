"""Everything calculated from the bars and prices of a shard: its tracks, signals and last prices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from stockpulse.engine.bar_math import Rows
from stockpulse.engine.checkpoint_state import State
from stockpulse.engine.derived_rows import Calendars, DerivedRows
from stockpulse.engine.indicator_track import Track, TrackChanges, TrackSpec
from stockpulse.engine.last_prices import LastPrices, PriceAverages
from stockpulse.engine.signals import Rules, Signals
from stockpulse.engine.step import BarEvents, TickBatch
from stockpulse.indicators.evaluation import Functions
from stockpulse.market.arrays import Ints
from stockpulse.market.intervals import Interval

INTRADAY: Final = "intraday"
DAILY: Final = "daily"
SIGNAL_TRACK: Final = "signals"


@dataclass(frozen=True)
class AnalyticsChanges:
    """The changes for a flush to write."""

    tracks: dict[str, TrackChanges]
    signals: Signals | None
    state: State


@dataclass(frozen=True)
class RealtimeSnapshot:
    """The market between two closes: the newest prices, and the indicators of the newest 5-minute bars."""

    prices: PriceAverages
    newest: DerivedRows
    """The indicators of the newest bar, forming or closed, of symbols that are not behind."""


class Analytics:
    """The indicators of 5-minute and daily bars, the signals of one interval, and the last prices."""

    def __init__(self, tracks: Mapping[str, TrackSpec], rules: Rules, calendars: Calendars) -> None:
        """`tracks` are those of `EngineSpec`; `calendars` returns the calendars of symbols."""
        self.rules = rules
        self.prices = LastPrices()
        self._overdue: Ints = np.zeros(0, np.int64)  # symbols that were behind when their prices came
        self.tracks = {name: Track(spec, calendars) for name, spec in tracks.items()}

    def set_functions(self, functions: Functions) -> None:
        """Start calculating: the loops are compiled."""
        for track in self.tracks.values():
            track.functions = functions

    def schedule_history(self, symbol_ids: Iterable[int]) -> None:
        """Let symbols that are new to a track catch up from their first stored bar."""
        ids = np.array(sorted(symbol_ids), np.int64)
        for track in self.tracks.values():
            track.schedule_history(ids)

    def apply_ticks(self, batch: TickBatch) -> None:
        """Keep the newest prices."""
        self.prices.apply(batch.symbol_id, batch.ts, batch.seq, batch.price, batch.flags)

    def apply_bars(self, events: Iterable[BarEvents]) -> None:
        """Calculate the indicators of bars that closed, or were revised after they had closed."""
        events = list(events)
        for track in self.tracks.values():
            rows = [event.rows for event in events if event.interval is track.interval]
            if len(rows) == 1:
                track.apply(rows[0])
            elif rows:
                together = np.concatenate(rows)
                track.apply(together[np.lexsort((together["ts"], together["symbol_id"]))])

    def drop_bars(self, interval: Interval, symbol_id: int, ts: Ints) -> None:
        """Calculate the indicators again from the bars of a symbol that were deleted, or that lost their prices."""
        for track in self.tracks.values():
            if track.interval is interval:
                track.drop_bars(symbol_id, ts)

    def realtime(self, forming: Rows) -> RealtimeSnapshot:
        """Return the prices that are new since the last call, and the indicators of these symbols' newest bars.

        Symbols that were behind at the last call are included once they have caught up.
        """
        track = self.tracks[INTRADAY]
        ready = track.caught_up(self._overdue)
        prices = self.prices.changed(also=ready)
        rows = forming[np.isin(forming["symbol_id"], prices.symbol_id)]
        shown = np.union1d(np.setdiff1d(self._overdue, ready), prices.symbol_id)
        self._overdue = np.setdiff1d(shown, track.caught_up(shown))
        return RealtimeSnapshot(prices, track.preview(prices.symbol_id, rows))

    def unflushed(self) -> int:
        """Return the number of rows that wait for a flush."""
        return sum(track.unflushed() for track in self.tracks.values())

    def behind(self) -> int:
        """Return the number of symbols that are behind, summed over the tracks."""
        return sum(track.lag() for track in self.tracks.values())

    def take_changes(self) -> AnalyticsChanges:
        """Return the changes for a flush; call `flushed` once they are committed."""
        changes, state = {}, self.prices.take_changes()
        for name, track in self.tracks.items():
            changed, part = track.take_changes()
            state |= part
            if changed is not None:
                changes[name] = changed
        signals = self.rules.signals(changes[SIGNAL_TRACK].derived) if SIGNAL_TRACK in changes else None
        return AnalyticsChanges(changes, signals, state)

    def flushed(self) -> None:
        """Note that the last changes are stored."""
        for track in self.tracks.values():
            track.flushed()

    def snapshot(self, among: Ints | None = None) -> State:
        """Return the whole state, or that of these symbols."""
        state = self.prices.snapshot(among)
        for track in self.tracks.values():
            state |= track.snapshot(among)
        return state

    def restore(self, parts: Iterable[State]) -> bool:
        """Load the parts of a checkpoint, in order. Return True if they hold a state of another definition.

        Such a state must be deleted: if its definition came back, the state would lack the bars since then.
        """
        ours = {track.kind for track in self.tracks.values()}
        foreign = False
        for part in parts:
            self.prices.restore(part)
            for track in self.tracks.values():
                track.restore(part)
            foreign |= any("/" in name and name.rpartition("/")[0] not in ours for name in part)
        return foreign
