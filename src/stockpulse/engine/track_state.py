"""The state of a track: for each symbol the newest bar, and the indicators' state before that bar."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from stockpulse.engine.checkpoint_state import State, with_room
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.evaluation import Bundle
from stockpulse.market.arrays import Ints

NEVER: Final = np.iinfo(np.int64).max
"""The symbol is not behind."""

TRACK_STATE: Final = np.dtype(
    [
        ("symbol_id", "i8"),
        ("held_ts", "i8"),  # start of the newest bar, UTC microseconds; 0: no bar
        *((name, "f8") for name in INPUTS),  # of that bar
        ("held_revision", "i8"),
        ("revision", "i8"),  # the highest of the bars before it
        ("bars", "i8"),  # the number of bars before it
        ("behind", "i8"),  # bars from this time on must be calculated, or calculated again
        ("wanted", "i8"),  # values from this time on must be stored
        ("known", "?"),  # a checkpoint has had this symbol before
        ("dirty", "?"),
    ]
)


@dataclass(frozen=True)
class Anchor:
    """The state of a symbol at an earlier time, to go back to."""

    symbol_id: int
    ts: int
    """The start of the held bar: all bars before it are in the state."""
    blob: bytes


class TrackState:
    """The state of all symbols: `symbols` has a row of TRACK_STATE for each, `loops` an array for each indicator.

    The symbol's id is its row in all of them.
    """

    def __init__(self, bundle: Bundle, kind: str) -> None:
        """`kind` names the parts of a checkpoint, and changes with the definition of the indicators."""
        self.kind = kind
        self._bundle = bundle
        self.symbols = np.zeros(0, TRACK_STATE)
        self.loops = bundle.fresh(0)

    def reserve(self, symbol_id: int) -> None:
        """Make room for a symbol."""
        have = len(self.symbols)
        if symbol_id < have:
            return
        self.symbols = with_room(self.symbols, symbol_id)
        for name in ("behind", "wanted"):
            self.symbols[name][have:] = NEVER
        fresh = self._bundle.fresh(len(self.symbols))  # zeros take no memory before they are written
        for new, old in zip(fresh, self.loops, strict=True):
            new[:have] = old
        self.loops = fresh

    def clear(self, symbol_id: int) -> None:
        """Forget all bars of a symbol."""
        self.symbols[symbol_id] = np.zeros((), TRACK_STATE)
        self.symbols["symbol_id"][symbol_id] = symbol_id
        for state in self.loops:
            state[symbol_id] = 0.0

    # Anchors ------------------------------------------------------------------------------------

    def anchor(self, symbol_id: int) -> Anchor:
        """Return the present state of a symbol."""
        row = np.concatenate([np.empty(0), *(state[symbol_id] for state in self.loops)])
        blob = self.symbols[symbol_id : symbol_id + 1].tobytes() + row.tobytes()
        return Anchor(symbol_id, int(self.symbols["held_ts"][symbol_id]), blob)

    def go_back(self, anchor: Anchor) -> None:
        """Replace the state of a symbol by an anchor."""
        symbol_id, size = anchor.symbol_id, TRACK_STATE.itemsize
        self.symbols[symbol_id] = np.frombuffer(anchor.blob[:size], TRACK_STATE)[0]
        row = np.frombuffer(anchor.blob[size:], np.float64)
        at = 0
        for state in self.loops:
            state[symbol_id] = row[at : at + state.shape[1]]
            at += state.shape[1]

    # Checkpoints --------------------------------------------------------------------------------

    def take_changes(self) -> State:
        """Return the part of a checkpoint that changed since the last call."""
        changed = np.flatnonzero(self.symbols["dirty"])
        self.symbols["dirty"] = False
        return self._part(changed)

    def snapshot(self, among: Ints | None = None) -> State:
        """Return the whole state, or that of these symbols."""
        known = np.flatnonzero(self.symbols["known"])
        return self._part(known if among is None else known[np.isin(known, among)])

    def _part(self, symbol_id: Ints) -> State:
        """Return the rows of symbols, and the states of the loops of symbols with more than one bar."""
        if len(symbol_id) == 0:
            return {}
        self.symbols["known"][symbol_id] = True
        symbols = self.symbols[symbol_id]
        begun = symbol_id[symbols["bars"] > 0]
        none = np.empty((len(begun), 0))  # a bundle may be empty: rules need not use any indicator
        states = np.concatenate([none, *(state[begun] for state in self.loops)], axis=1)
        return {f"{self.kind}/symbols": symbols, f"{self.kind}/states": states}

    def restore(self, part: State) -> None:
        """Load a part of a checkpoint. Parts of another kind are ignored."""
        if f"{self.kind}/symbols" not in part:
            return
        symbols, states = part[f"{self.kind}/symbols"], part[f"{self.kind}/states"]
        self.reserve(int(symbols["symbol_id"].max()))
        self.symbols[symbols["symbol_id"]] = symbols
        self.symbols["dirty"] = False
        begun = symbols["bars"] > 0
        at = 0
        for state in self.loops:
            state[symbols["symbol_id"][begun]] = states[:, at : at + state.shape[1]]
            state[symbols["symbol_id"][~begun]] = 0.0
            at += state.shape[1]


class PendingAnchors:
    """Anchors that the next flush stores, and anchors that it must delete because bars before them have changed."""

    def __init__(self) -> None:
        self._new: list[Anchor] = []
        self._outdated: dict[int, int] = {}
        self._being_deleted: set[int] = set()

    def add(self, anchors: Iterable[Anchor]) -> None:
        """Store these."""
        self._new += anchors

    def outdate(self, symbol_id: int, ts: int) -> None:
        """Delete the anchors of a symbol that are later than this."""
        self._outdated[symbol_id] = ts
        self._new = [one for one in self._new if one.symbol_id != symbol_id or one.ts <= ts]

    def may_be_read(self, symbol_id: int) -> bool:
        """Return False while the store still has anchors of the symbol that are to be deleted."""
        return symbol_id not in self._outdated and symbol_id not in self._being_deleted

    def take(self) -> tuple[list[Anchor], dict[int, int]]:
        """Return the new anchors and, by symbol, the times after which stored ones must be deleted first."""
        new, outdated = self._new, self._outdated
        self._new, self._outdated = [], {}
        self._being_deleted = set(outdated)
        return new, outdated

    def flushed(self) -> None:
        """Note that the anchors of the last flush are stored."""
        self._being_deleted = set()
