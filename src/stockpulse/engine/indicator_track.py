"""The indicators of one interval, advanced as its bars close.

For each symbol a track keeps the state after all closed bars but the newest, and beside it the newest bar, which is
`held`. A late tick may still change the held bar; the track then calculates it again without reading anything. A change
further back puts the symbol `behind`: it goes back to an anchor, an earlier state that was stored, and catches up from
the stored bars. A symbol that was never calculated, or that closed bars before the loops were compiled, catches up in
the same way. Every value equals that of one calculation over all bars.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_math import Rows
from stockpulse.engine.checkpoint_state import State
from stockpulse.engine.derived_rows import (
    BarInputs,
    Calendars,
    DerivedRows,
    Sequences,
    bar_inputs,
    newest_rows,
    running_max,
    select_rows,
    with_prices,
)
from stockpulse.engine.track_state import NEVER, Anchor, PendingAnchors, TrackState
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.evaluation import Bundle, Functions
from stockpulse.market.arrays import Ints, Mask
from stockpulse.market.intervals import Interval

MAX_BARS_AT_ONCE: Final = 20
"""A symbol with more bars in one batch, as history brings them, catches up from the store, part by part."""

ANCHOR_BARS: Final = 4096
"""The approximate number of bars between two anchors of a symbol."""

_SPREAD: Final = 61  # symbols that began together do not all make their anchors together


@dataclass(frozen=True)
class TrackChanges:
    """The changes of a track for a flush to write."""

    derived: DerivedRows
    anchors: list[Anchor]
    outdated: dict[int, int]
    """By symbol: delete anchors later than this first, since bars before them have changed."""
    dropped: list[tuple[int, int]]
    """(symbol, start) of bars that are gone: delete their values first."""


@dataclass(frozen=True)
class TrackSpec:
    """The definition of a track, without any state."""

    name: str
    interval: Interval
    bundle: Bundle
    definition: str
    """A stored state is valid only for the definition that it was calculated with."""

    @property
    def kind(self) -> str:
        """The prefix of its parts of a checkpoint."""
        return f"{self.name}/{self.definition}"


class Track:
    """Indicators over the bars of one interval, for all symbols of a shard."""

    def __init__(self, spec: TrackSpec, calendars: Calendars) -> None:
        """`calendars` returns the calendars of symbols."""
        self.name = spec.name
        self.interval = spec.interval
        self.bundle = spec.bundle
        self.definition = spec.definition
        self.kind = spec.kind
        self.functions: Functions | None = None  # None until they are compiled
        self._calendars = calendars
        self._state = TrackState(spec.bundle, spec.kind)
        self._anchors = PendingAnchors()
        self._derived: list[DerivedRows] = []
        self._dropped: list[tuple[int, int]] = []

    # Closed bars --------------------------------------------------------------------------------

    def apply(self, rows: Rows) -> None:
        """Calculate closed bars, new or revised: one row for each (symbol, ts), sorted."""
        rows = with_prices(rows)
        if len(rows) == 0:
            return
        self._state.reserve(int(rows["symbol_id"].max()))
        symbol_id, symbols = rows["symbol_id"], self._state.symbols
        late = (symbols["behind"][symbol_id] != NEVER) | (rows["ts"] < symbols["held_ts"][symbol_id])
        late |= np.bincount(symbol_id)[symbol_id] > MAX_BARS_AT_ONCE
        if self.functions is None:
            late[:] = True
        if late.any():
            late = np.isin(symbol_id, symbol_id[late])
            self._fall_behind(symbol_id[late], rows["ts"][late])
        if not late.all():
            self._advance(self._inputs(rows[~late] if late.any() else rows))

    def drop_bars(self, symbol_id: int, ts: Ints) -> None:
        """Go back to the time before deleted bars of a symbol, and drop their values that wait for a flush."""
        self._state.reserve(symbol_id)
        self._fall_behind(np.array([symbol_id]), np.array([ts.min() - 1]))
        self._dropped += [(symbol_id, int(one)) for one in ts]
        self._derived = [part.where((part.symbol_id != symbol_id) | ~np.isin(part.ts, ts)) for part in self._derived]

    def _fall_behind(self, symbol_id: Ints, ts: Ints) -> None:
        for name in ("behind", "wanted"):
            np.minimum.at(self._state.symbols[name], symbol_id, ts)
        self._state.symbols["dirty"][symbol_id] = True

    def _inputs(self, rows: Rows) -> BarInputs:
        return BarInputs(
            np.ascontiguousarray(rows["symbol_id"]),
            np.ascontiguousarray(rows["ts"]),
            np.ascontiguousarray(rows["revision"]),
            bar_inputs(rows, self.interval, self._calendars),
            np.ones(len(rows), bool),
        )

    def _with_held(self, fresh: BarInputs) -> Sequences:
        """Put the held bar of each symbol before its bars, unless the first of them replaces it."""
        symbols = self._state.symbols
        first = np.flatnonzero(np.diff(fresh.symbol_id, prepend=-1))
        symbol_id = fresh.symbol_id[first]
        held_ts = symbols["held_ts"][symbol_id]
        held = (held_ts > 0) & (held_ts != fresh.ts[first])
        pushed = np.cumsum(held)
        group = np.repeat(np.arange(len(first)), np.diff(first, append=len(fresh.ts)))
        to_fresh, to_held = np.arange(len(fresh.ts)) + pushed[group], (first + pushed - 1)[held]
        count, of = len(fresh.ts) + int(held.sum()), symbol_id[held]

        def merge(new: npt.NDArray[Any], old: npt.NDArray[Any] | bool) -> npt.NDArray[Any]:
            both = np.empty(count, new.dtype)
            both[to_fresh], both[to_held] = new, old
            return both

        bars = BarInputs(
            merge(fresh.symbol_id, of),
            merge(fresh.ts, held_ts[held]),
            merge(fresh.revision, symbols["held_revision"][of]),
            {name: merge(column, symbols[name][of]) for name, column in fresh.columns.items()},
            merge(fresh.fresh, False),
        )
        begin = first + pushed - held
        return Sequences(bars, symbol_id, begin, np.append(begin[1:], count))

    def _advance(self, fresh: BarInputs) -> None:
        """Calculate bars, none of which is before the held bar of its symbol."""
        several, state = self._with_held(fresh), self._state
        bars, first, last = several.bars, several.first, several.last
        out = self.bundle.calculate(self._compiled(), state.loops, several.symbol_id, first, last, bars.columns, hold=1)
        before = state.symbols["revision"][bars.symbol_id]
        revision = running_max(np.maximum(bars.revision, before), first, last)
        wanted = state.symbols["wanted"][bars.symbol_id]
        shown = np.flatnonzero(bars.fresh & ((bars.ts >= wanted) | (wanted == NEVER)))
        if len(shown):
            self._derived.append(select_rows(bars, revision, out, shown))
        self._hold(several, revision)

    def _compiled(self) -> Functions:
        if self.functions is None:
            raise RuntimeError("the loops are not compiled yet")
        return self.functions

    def _hold(self, several: Sequences, revision: Ints) -> None:
        """Hold the newest bar of each symbol; the bars before it are in the state."""
        symbols, symbol_id, newest = self._state.symbols, several.symbol_id, several.last - 1
        known = symbols["bars"][symbol_id] + symbol_id * _SPREAD
        passed = newest - several.first
        symbols["bars"][symbol_id] += passed
        symbols["revision"][symbol_id[passed > 0]] = revision[(newest - 1)[passed > 0]]
        symbols["held_ts"][symbol_id] = several.bars.ts[newest]
        symbols["held_revision"][symbol_id] = several.bars.revision[newest]
        for name, column in several.bars.columns.items():
            symbols[name][symbol_id] = column[newest]
        symbols["dirty"][symbol_id] = True
        anchored = (known + passed) // ANCHOR_BARS != known // ANCHOR_BARS
        self._anchors.add(self._state.anchor(int(number)) for number in symbol_id[anchored])

    # Catching up --------------------------------------------------------------------------------

    def is_behind(self) -> bool:
        """Return True if some symbol can catch up."""
        return self.functions is not None and bool((self._state.symbols["behind"] != NEVER).any())

    def caught_up(self, symbol_id: Ints) -> Ints:
        """Return the symbols that are not behind."""
        if self.functions is None or len(symbol_id) == 0:
            return symbol_id[:0]
        self._state.reserve(int(symbol_id.max()))
        known: Ints = symbol_id[self._state.symbols["behind"][symbol_id] == NEVER]
        return known

    def lag(self) -> int:
        """Return the number of symbols that are behind."""
        return int((self._state.symbols["behind"] != NEVER).sum())

    def schedule_history(self, symbol_id: Ints) -> None:
        """Let symbols that the track has never seen catch up from their first stored bar."""
        if len(symbol_id):
            self._state.reserve(int(symbol_id.max()))
            unknown = symbol_id[~self._state.symbols["known"][symbol_id]]
            self._fall_behind(unknown, np.zeros(len(unknown), np.int64))

    def to_rewind(self, most: int) -> tuple[Ints, Ints]:
        """Return symbols that must go back to an anchor, and the latest time that the anchor may have."""
        symbols = self._state.symbols
        deep = np.flatnonzero(symbols["behind"] < symbols["held_ts"])
        deep = deep[np.array([self._anchors.may_be_read(int(number)) for number in deep], np.bool_)][:most]
        return deep, symbols["behind"][deep]

    def rewind(self, symbol_id: Ints, anchors: Sequence[Anchor]) -> None:
        """Reset symbols to these anchors, or to the beginning if they have no anchor."""
        found, symbols = {anchor.symbol_id: anchor for anchor in anchors}, self._state.symbols
        for number in symbol_id.tolist():
            behind, wanted = (int(symbols[name][number]) for name in ("behind", "wanted"))
            self._anchors.outdate(number, behind)
            if number in found:
                self._state.go_back(found[number])
            else:
                self._state.clear(number)
            symbol = symbols[number : number + 1]
            symbol["behind"], symbol["wanted"], symbol["dirty"] = symbol["held_ts"], wanted, True

    def positions(self, most: int) -> tuple[Ints, Ints]:
        """Return symbols that can catch up, and the time from which on they need their bars."""
        symbols = self._state.symbols
        shallow = (symbols["behind"] != NEVER) & (symbols["behind"] >= symbols["held_ts"])
        symbol_id = np.flatnonzero(shallow)[:most]
        return symbol_id, symbols["held_ts"][symbol_id]

    def catch_up(self, symbol_id: Ints, rows: Rows, *, complete: Mask) -> None:
        """Calculate the closed bars of these symbols from their positions on, sorted.

        Where `complete` is true these are all bars of the symbol; the others continue from their last one.
        """
        rows = with_prices(rows)
        if len(rows):
            self._advance(self._inputs(rows))
        symbols, done, rest = self._state.symbols, symbol_id[complete], symbol_id[~complete]
        symbols["behind"][done] = symbols["wanted"][done] = NEVER
        symbols["behind"][rest] = symbols["held_ts"][rest]
        symbols["dirty"][symbol_id] = True

    # Forming bars -------------------------------------------------------------------------------

    def preview(self, symbol_id: Ints, rows: Rows) -> DerivedRows:
        """Return the values that the newest bars of symbols would have if they closed now.

        `rows` has forming bars; without a forming bar, the newest bar of a symbol is the last closed bar. The state
        does not change. Symbols that are behind or have no bar are left out.
        """
        symbol_id = self.caught_up(symbol_id)
        rows = with_prices(rows[np.isin(rows["symbol_id"], symbol_id)])
        rows = rows[rows["ts"] > self._state.symbols["held_ts"][rows["symbol_id"]]]
        closed = np.setdiff1d(symbol_id, rows["symbol_id"])
        closed = closed[self._state.symbols["held_ts"][closed] > 0]
        parts = [self._with_held(self._inputs(rows)) if len(rows) else None, self._held(closed)]
        return newest_rows([self._values(one) for one in parts if one is not None], self.bundle.outputs)

    def _held(self, symbol_id: Ints) -> Sequences | None:
        """Return the held bars of symbols."""
        if len(symbol_id) == 0:
            return None
        symbols, places = self._state.symbols[symbol_id], np.arange(len(symbol_id))
        columns = {name: np.ascontiguousarray(symbols[name]) for name in INPUTS}
        fresh = np.ones(len(symbol_id), np.bool_)
        bars = BarInputs(symbol_id, symbols["held_ts"].copy(), symbols["held_revision"].copy(), columns, fresh)
        return Sequences(bars, symbol_id, places, places + 1)

    def _values(self, several: Sequences) -> DerivedRows:
        """Return the values of the newest bars, calculated on copies of the states."""
        copies = [state[several.symbol_id] for state in self._state.loops]
        rows_of_copies = np.arange(len(several.symbol_id))
        out = self.bundle.calculate(
            self._compiled(), copies, rows_of_copies, several.first, several.last, several.bars.columns
        )
        return select_rows(several.bars, several.bars.revision, out, several.last - 1)

    # Flushes and checkpoints --------------------------------------------------------------------

    def take_changes(self) -> tuple[TrackChanges | None, State]:
        """Return the changed rows and the changed state; call `flushed` once they are committed."""
        part = self._state.take_changes()
        derived, (anchors, outdated) = self._derived, self._anchors.take()
        dropped, self._dropped, self._derived = self._dropped, [], []
        if not (derived or anchors or outdated or dropped):
            return None, part
        return TrackChanges(newest_rows(derived, self.bundle.outputs), anchors, outdated, dropped), part

    def flushed(self) -> None:
        """Note that the last changes are stored."""
        self._anchors.flushed()

    def unflushed(self) -> int:
        """Return the number of rows that wait for a flush."""
        return sum(len(one) for one in self._derived)

    def snapshot(self, among: Ints | None = None) -> State:
        """Return the whole state, or that of these symbols."""
        return self._state.snapshot(among)

    def restore(self, part: State) -> None:
        """Load a part of a checkpoint. States of another definition are ignored."""
        self._state.restore(part)
