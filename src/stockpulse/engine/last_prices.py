"""The mean of the last five prices of each symbol, in the order of the log."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_math import by_symbol
from stockpulse.engine.checkpoint_state import State, of_symbols, with_room
from stockpulse.market.arrays import Floats, Ints
from stockpulse.market.schemas import COUNTS_FOR_PRICE, PRIMARY

POINTS: Final = 5

PRICE_STATE: Final = np.dtype(
    [
        ("symbol_id", "i8"),
        ("ts", "i8"),  # event time of the newest, UTC microseconds
        ("seq", "i8"),  # and its log offset
        ("known", "i8"),  # the number of prices, up to five
        ("prices", "f8", (POINTS,)),  # the newest is last
        ("dirty", "?"),
    ]
)


@dataclass(frozen=True)
class PriceAverages:
    """The newest price of some symbols and the mean of their last five; NaN where there are fewer."""

    symbol_id: Ints
    ts: Ints
    price: Floats
    average: Floats


class LastPrices:
    """The last prices of the symbols of a shard."""

    def __init__(self) -> None:
        self._symbols = np.zeros(0, PRICE_STATE)
        self._seen = np.zeros(0, np.int64)  # offset of the newest price that `changed` has returned

    def _reserve(self, symbol_id: int) -> None:
        if symbol_id < len(self._symbols):
            return
        self._symbols = with_room(self._symbols, symbol_id)
        self._seen = np.concatenate([self._seen, np.full(len(self._symbols) - len(self._seen), -1)])

    def apply(self, symbol_id: Ints, ts: Ints, seq: Ints, price: Floats, flags: npt.NDArray[np.uint16]) -> None:
        """Apply trades in the order of the log. Those that do not count for prices are ignored."""
        counting = (flags & PRIMARY != 0) & (flags & COUNTS_FOR_PRICE != 0)
        if not counting.all():
            symbol_id, ts, seq, price = symbol_id[counting], ts[counting], seq[counting], price[counting]
        if len(symbol_id) == 0:
            return
        self._reserve(int(symbol_id.max()))
        order = by_symbol(symbol_id)
        ordered = symbol_id[order]
        last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
        counts = np.diff(last, prepend=-1)
        symbols = self._symbols[ordered[last]]
        for place in range(POINTS):  # from the oldest place to the newest
            back = POINTS - 1 - place
            newer = counts > back
            shifted = symbols["prices"][np.arange(len(last)), np.minimum(place + counts, POINTS - 1)]
            symbols["prices"][:, place] = np.where(newer, price[order[np.maximum(last - back, 0)]], shifted)
        symbols["known"] = np.minimum(symbols["known"] + counts, POINTS)
        symbols["ts"], symbols["seq"], symbols["dirty"] = ts[order[last]], seq[order[last]], True
        self._symbols[ordered[last]] = symbols

    def newest(self, symbol_id: int) -> int:
        """Return the event time of the newest price of a symbol, in UTC microseconds; -1 if there is none."""
        known = symbol_id < len(self._symbols) and self._symbols["known"][symbol_id] > 0
        return int(self._symbols["ts"][symbol_id]) if known else -1

    def clear(self, symbol_id: int) -> None:
        """Drop the prices of a symbol."""
        self._symbols[symbol_id] = np.zeros((), PRICE_STATE)
        self._symbols["symbol_id"][symbol_id], self._symbols["dirty"][symbol_id] = symbol_id, True
        self._seen[symbol_id] = -1

    def changed(self, also: Ints | None = None) -> PriceAverages:
        """Return the symbols with a new price since the last call, and those of `also` that have a price."""
        wanted = self._symbols["seq"] != self._seen
        if also is not None:
            wanted[also[also < len(wanted)]] = True
        symbol_id = np.flatnonzero((self._symbols["known"] > 0) & wanted)
        symbols = self._symbols[symbol_id]
        self._seen[symbol_id] = symbols["seq"]
        average = np.where(symbols["known"] == POINTS, symbols["prices"].sum(axis=1) / POINTS, np.nan)
        return PriceAverages(symbol_id, symbols["ts"], symbols["prices"][:, -1], average)

    def take_changes(self) -> State:
        """Return the state that changed since the last flush."""
        changed = self._symbols[self._symbols["dirty"]]
        self._symbols["dirty"] = False
        return {"prices": changed} if len(changed) else {}

    def snapshot(self, among: Ints | None = None) -> State:
        """Return the whole state, or that of these symbols."""
        return {"prices": of_symbols(self._symbols[self._symbols["known"] > 0], among)}

    def restore(self, part: State) -> None:
        """Load a part of a checkpoint."""
        if "prices" in part and len(part["prices"]):
            symbols = part["prices"]
            self._reserve(int(symbols["symbol_id"].max()))
            self._symbols[symbols["symbol_id"]] = symbols
            self._symbols["dirty"] = False
            self._seen[symbols["symbol_id"]] = symbols["seq"]
