"""The indicators of one interval, moved on as its bars close.

For each symbol a track keeps the state after all closed bars but the newest, and that bar beside it, `held`:
a late tick may still change it, and then it is calculated anew without reading anything. What changes further
back puts the symbol `behind`: it goes back to an anchor, a state that was kept on the way, and catches up from
the bars that are stored. A symbol catches up in the same way where it was never calculated before, or while
the loops were not compiled yet. However a value came about, it is that of one calculation over all bars.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_math import Rows
from stockpulse.engine.checkpoint_state import State, with_room
from stockpulse.engine.derived_rows import Bars, Derived, Sequences, derive, inputs_of, joined, priced, running_max
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.evaluation import Bundle, Functions
from stockpulse.market.arrays import Ints, Mask
from stockpulse.market.intervals import Interval

NEVER: Final = np.iinfo(np.int64).max
"""Nothing is behind."""

MOST_AT_ONCE: Final = 20
"""A symbol of which more bars come at once, as history does, catches up with them from the store, part by part."""

ANCHOR_BARS: Final = 4096
"""About how many bars lie between two anchors of a symbol."""

_SPREAD: Final = 61  # so that symbols that began together do not all make their anchors together

TRACK_STATE: Final = np.dtype(
    [
        ("symbol_id", "i8"),
        ("held_ts", "i8"),  # start of the newest bar, UTC microseconds; 0: there is none
        *((name, "f8") for name in INPUTS),  # of that bar
        ("held_revision", "i8"),
        ("revision", "i8"),  # the highest of the bars before it
        ("bars", "i8"),  # how many these are
        ("behind", "i8"),  # bars from here on are to be calculated, or calculated anew
        ("wanted", "i8"),  # and values from here on are to be stored
        ("known", "?"),  # it has been here before, in this process or another
        ("dirty", "?"),
    ]
)


@dataclass(frozen=True)
class Anchor:
    """The state of a symbol at some time, to go back to."""

    symbol_id: int
    ts: int
    """The start of the bar that is held: all before it is in the state."""
    blob: bytes


@dataclass(frozen=True)
class TrackChanges:
    """What a flush has to write."""

    derived: Derived
    anchors: list[Anchor]
    outdated: dict[int, int]
    """Anchors of these symbols later than this are of bars that have changed since: to be deleted first."""


@dataclass(frozen=True)
class TrackSpec:
    """What a track calculates, without any state."""

    name: str
    interval: Interval
    bundle: Bundle
    definition: str
    """A stored state is valid only for the definition that it was calculated with."""


class Track:
    """Indicators over the bars of one interval, for all symbols of a shard."""

    def __init__(self, spec: TrackSpec, sessions: Callable[[Ints, Ints], Ints]) -> None:
        """`sessions` gives the trading date of each time of a symbol."""
        bundle = spec.bundle
        self.name = spec.name
        self.interval = spec.interval
        self.bundle = bundle
        self.definition = spec.definition
        self.functions: Functions | None = None  # none before they are compiled
        self._sessions = sessions
        self._symbols = np.zeros(0, TRACK_STATE)
        self._states = bundle.fresh(0)
        self._derived: list[Derived] = []
        self._anchors: list[Anchor] = []
        self._outdated: dict[int, int] = {}
        self._being_written: set[int] = set()

    def _reserve(self, symbol_id: int) -> None:
        have = len(self._symbols)
        if symbol_id < have:
            return
        self._symbols = with_room(self._symbols, symbol_id)
        for name in ("behind", "wanted"):
            self._symbols[name][have:] = NEVER
        fresh = self.bundle.fresh(len(self._symbols))  # zeros, which take no memory before they are written
        for new, state in zip(fresh, self._states, strict=True):
            new[:have] = state
        self._states = fresh

    # Bars as they close -------------------------------------------------------------------------

    def apply(self, rows: Rows) -> None:
        """Calculate closed bars, new or revised, one row for each (symbol, ts), sorted."""
        rows = priced(rows)
        if len(rows) == 0:
            return
        self._reserve(int(rows["symbol_id"].max()))
        symbol_id = rows["symbol_id"]
        late = (self._symbols["behind"][symbol_id] != NEVER) | (rows["ts"] < self._symbols["held_ts"][symbol_id])
        late |= np.bincount(symbol_id)[symbol_id] > MOST_AT_ONCE
        if self.functions is None:
            late[:] = True
        if late.any():
            late = np.isin(symbol_id, symbol_id[late])
            self._fall_behind(symbol_id[late], rows["ts"][late])
        if not late.all():
            self._advance(self._fresh(rows[~late] if late.any() else rows))

    def _fall_behind(self, symbol_id: Ints, ts: Ints) -> None:
        for name in ("behind", "wanted"):
            np.minimum.at(self._symbols[name], symbol_id, ts)
        self._symbols["dirty"][symbol_id] = True

    def _fresh(self, rows: Rows) -> Bars:
        """The engine's bars as what is calculated on."""
        return Bars(
            np.ascontiguousarray(rows["symbol_id"]),
            np.ascontiguousarray(rows["ts"]),
            np.ascontiguousarray(rows["revision"]),
            inputs_of(rows, self._sessions),
            np.ones(len(rows), bool),
        )

    def _with_held(self, fresh: Bars) -> Sequences:
        """These bars, each symbol's behind the one that is held, unless its first one takes the place of that."""
        first = np.flatnonzero(np.diff(fresh.symbol_id, prepend=-1))
        symbol_id = fresh.symbol_id[first]
        held_ts = self._symbols["held_ts"][symbol_id]
        held = (held_ts > 0) & (held_ts != fresh.ts[first])
        pushed = np.cumsum(held)
        group = np.repeat(np.arange(len(first)), np.diff(first, append=len(fresh.ts)))
        to_fresh, to_held = np.arange(len(fresh.ts)) + pushed[group], (first + pushed - 1)[held]
        count, of = len(fresh.ts) + int(held.sum()), symbol_id[held]

        def together(new: npt.NDArray[Any], old: npt.NDArray[Any] | bool) -> npt.NDArray[Any]:
            both = np.empty(count, new.dtype)
            both[to_fresh], both[to_held] = new, old
            return both

        bars = Bars(
            together(fresh.symbol_id, of),
            together(fresh.ts, held_ts[held]),
            together(fresh.revision, self._symbols["held_revision"][of]),
            {name: together(column, self._symbols[name][of]) for name, column in fresh.columns.items()},
            together(fresh.fresh, False),
        )
        begin = first + pushed - held
        return Sequences(bars, symbol_id, begin, np.append(begin[1:], count))

    def _advance(self, fresh: Bars) -> None:
        """Move the symbols on over these bars, none of which is before the one that its symbol holds."""
        several = self._with_held(fresh)
        bars, first, last = several.bars, several.first, several.last
        out = self.bundle.calculate(self._loops(), self._states, several.symbol_id, first, last, bars.columns, hold=1)
        before = self._symbols["revision"][bars.symbol_id]
        revision = running_max(np.maximum(bars.revision, before), first, last)
        wanted = self._symbols["wanted"][bars.symbol_id]
        shown = np.flatnonzero(bars.fresh & ((bars.ts >= wanted) | (wanted == NEVER)))
        if len(shown):
            self._derived.append(derive(bars, revision, out, shown))
        self._hold(several, revision)

    def _loops(self) -> Functions:
        if self.functions is None:
            raise RuntimeError("the loops are not compiled yet")
        return self.functions

    def _hold(self, several: Sequences, revision: Ints) -> None:
        """Keep the newest bar of each symbol, and count those before it as worked in."""
        symbols, symbol_id, newest = self._symbols, several.symbol_id, several.last - 1
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
        self._anchors += [self._anchor(int(number)) for number in symbol_id[anchored]]

    # Catching up --------------------------------------------------------------------------------

    def is_behind(self) -> bool:
        """Whether there is anything to catch up with."""
        return self.functions is not None and bool((self._symbols["behind"] != NEVER).any())

    def caught_up(self, symbol_id: Ints) -> Ints:
        """Those of these symbols that are not behind."""
        if self.functions is None or len(symbol_id) == 0:
            return symbol_id[:0]
        self._reserve(int(symbol_id.max()))
        known: Ints = symbol_id[self._symbols["behind"][symbol_id] == NEVER]
        return known

    def lag(self) -> int:
        """How many symbols are behind."""
        return int((self._symbols["behind"] != NEVER).sum())

    def begin(self, symbol_id: Ints) -> None:
        """Have those of these symbols that nothing is known of calculated from their first stored bar on."""
        if len(symbol_id):
            self._reserve(int(symbol_id.max()))
            unknown = symbol_id[~self._symbols["known"][symbol_id]]
            self._fall_behind(unknown, np.zeros(len(unknown), np.int64))

    def to_rewind(self, most: int) -> tuple[Ints, Ints]:
        """Symbols that have to go back to an anchor, and before which time it must be."""
        deep = np.flatnonzero(self._symbols["behind"] < self._symbols["held_ts"])
        # What became outdated has to be deleted before anchors of the same symbol are looked for again.
        ready = np.array([number not in self._outdated and number not in self._being_written for number in deep], bool)
        deep = deep[ready][:most]
        return deep, self._symbols["behind"][deep]

    def rewind(self, symbol_id: Ints, anchors: Sequence[Anchor]) -> None:
        """Go back to these anchors, and to the beginning where there is none."""
        found = {anchor.symbol_id: anchor for anchor in anchors}
        for number in symbol_id.tolist():
            behind, wanted = (int(self._symbols[name][number]) for name in ("behind", "wanted"))
            self._outdated[number] = behind
            self._anchors = [one for one in self._anchors if one.symbol_id != number or one.ts <= behind]
            if number in found:
                self._restore_anchor(found[number])
            else:
                self._clear(number)
            symbol = self._symbols[number : number + 1]
            symbol["behind"], symbol["wanted"], symbol["dirty"] = symbol["held_ts"], wanted, True

    def _clear(self, number: int) -> None:
        self._symbols[number] = np.zeros((), TRACK_STATE)
        self._symbols["symbol_id"][number] = number
        for state in self._states:
            state[number] = 0.0

    def positions(self, most: int) -> tuple[Ints, Ints]:
        """Symbols that can catch up, and from which time on they need their bars."""
        shallow = (self._symbols["behind"] != NEVER) & (self._symbols["behind"] >= self._symbols["held_ts"])
        symbol_id = np.flatnonzero(shallow)[:most]
        return symbol_id, self._symbols["held_ts"][symbol_id]

    def catch_up(self, symbol_id: Ints, rows: Rows, *, complete: Mask) -> None:
        """Work in the closed bars of these symbols from their positions on, sorted.

        `complete` says of which symbols these are all there are; the others go on from where these end.
        """
        rows = priced(rows)
        if len(rows):
            self._advance(self._fresh(rows))
        done, rest = symbol_id[complete], symbol_id[~complete]
        self._symbols["behind"][done] = self._symbols["wanted"][done] = NEVER
        self._symbols["behind"][rest] = self._symbols["held_ts"][rest]
        self._symbols["dirty"][symbol_id] = True

    # Bars that are forming ----------------------------------------------------------------------

    def preview(self, rows: Rows) -> Derived | None:
        """The values that bars would have if they closed as they are; the newest bar of each symbol.

        Leaves no trace. Symbols that are behind are left out.
        """
        rows = priced(rows)
        if self.functions is None or len(rows) == 0:
            return None
        self._reserve(int(rows["symbol_id"].max()))
        symbols = self._symbols[rows["symbol_id"]]
        rows = rows[(symbols["behind"] == NEVER) & (rows["ts"] > symbols["held_ts"])]
        if len(rows) == 0:
            return None
        several = self._with_held(self._fresh(rows))
        copies = [state[several.symbol_id] for state in self._states]
        rows_of_copies = np.arange(len(several.symbol_id))
        out = self.bundle.calculate(
            self._loops(), copies, rows_of_copies, several.first, several.last, several.bars.columns
        )
        return derive(several.bars, several.bars.revision, out, several.last - 1)

    # State --------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """What its parts of a checkpoint are called."""
        return f"{self.name}/{self.definition}"

    def _part(self, symbol_id: Ints) -> State:
        """The records of symbols, and the states of those that have any: before the second bar there is none."""
        if len(symbol_id) == 0:
            return {}
        self._symbols["known"][symbol_id] = True
        symbols = self._symbols[symbol_id]
        begun = symbol_id[symbols["bars"] > 0]
        none = np.empty((len(begun), 0))  # rules need not speak of any indicator
        states = np.concatenate([none, *(state[begun] for state in self._states)], axis=1)
        return {f"{self.kind}/symbols": symbols, f"{self.kind}/states": states}

    def take_changes(self) -> tuple[TrackChanges | None, State]:
        """What a flush has to write, and the state that changed; call `flushed` once it is committed."""
        changed = np.flatnonzero(self._symbols["dirty"])
        self._symbols["dirty"] = False
        part = self._part(changed)
        derived, anchors, outdated = self._derived, self._anchors, self._outdated
        self._derived, self._anchors, self._outdated = [], [], {}
        self._being_written = set(outdated)
        if not (derived or anchors or outdated):
            return None, part
        return TrackChanges(joined(derived, self.bundle.outputs), anchors, outdated), part

    def flushed(self) -> None:
        """The last changes are stored."""
        self._being_written = set()

    def unflushed(self) -> int:
        """How many rows wait to be stored."""
        return sum(len(one) for one in self._derived)

    def snapshot(self, among: Ints | None = None) -> State:
        """The whole state, or that of these symbols."""
        known = np.flatnonzero(self._symbols["known"])
        return self._part(known if among is None else known[np.isin(known, among)])

    def restore(self, part: State) -> None:
        """Take up a part of a checkpoint. What was calculated by another definition is left out."""
        if f"{self.kind}/symbols" not in part:
            return
        symbols, states = part[f"{self.kind}/symbols"], part[f"{self.kind}/states"]
        self._reserve(int(symbols["symbol_id"].max()))
        self._symbols[symbols["symbol_id"]] = symbols
        self._symbols["dirty"] = False
        begun = symbols["bars"] > 0
        at = 0
        for state in self._states:
            state[symbols["symbol_id"][begun]] = states[:, at : at + state.shape[1]]
            state[symbols["symbol_id"][~begun]] = 0.0
            at += state.shape[1]

    def _anchor(self, number: int) -> Anchor:
        row = np.concatenate([np.empty(0), *(state[number] for state in self._states)])
        blob = self._symbols[number : number + 1].tobytes() + row.tobytes()
        return Anchor(number, int(self._symbols["held_ts"][number]), blob)

    def _restore_anchor(self, anchor: Anchor) -> None:
        number, size = anchor.symbol_id, TRACK_STATE.itemsize
        self._symbols[number] = np.frombuffer(anchor.blob[:size], TRACK_STATE)[0]
        row = np.frombuffer(anchor.blob[size:], np.float64)
        at = 0
        for state in self._states:
            state[number] = row[at : at + state.shape[1]]
            at += state.shape[1]
