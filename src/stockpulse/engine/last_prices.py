"""The newest five prices of each symbol by event time, and their mean.

Prices are sorted by event time, and prices of equal times by the order of the log. So the stored prices do not depend
on the order in which trades arrive, and a backfill of an earlier time changes nothing.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_math import by_symbol
from stockpulse.engine.checkpoint_state import State, of_symbols, with_room
from stockpulse.market.arrays import Floats, Ints
from stockpulse.market.schemas import COUNTS_FOR_PRICE, PRIMARY

POINTS: Final = 5

_PART: Final = "newest_prices"

PRICE_STATE: Final = np.dtype(
    [
        ("symbol_id", "i8"),
        ("known", "i8"),  # the number of prices, up to five
        ("ts", "i8", (POINTS,)),  # event times, UTC microseconds; the newest is last
        ("seq", "i8", (POINTS,)),  # log offsets
        ("prices", "f8", (POINTS,)),
        ("dirty", "?"),
    ]
)


@dataclass(frozen=True)
class PriceAverages:
    """The newest price of some symbols and the mean of their newest five; NaN where there are fewer."""

    symbol_id: Ints
    ts: Ints
    price: Floats
    average: Floats


class LastPrices:
    """The newest prices of the symbols of a shard."""

    def __init__(self) -> None:
        self._symbols = np.zeros(0, PRICE_STATE)
        self._new = np.zeros(0, np.bool_)  # the prices changed since the last call of `changed`

    def _reserve(self, symbol_id: int) -> None:
        if symbol_id < len(self._symbols):
            return
        self._symbols = with_room(self._symbols, symbol_id)
        self._new = np.concatenate([self._new, np.zeros(len(self._symbols) - len(self._new), np.bool_)])

    def apply(self, symbol_id: Ints, ts: Ints, seq: Ints, price: Floats, flags: npt.NDArray[np.uint16]) -> None:
        """Apply trades in the order of the log. Trades that do not count for prices are ignored."""
        counting = (flags & PRIMARY != 0) & (flags & COUNTS_FOR_PRICE != 0)
        if not counting.all():
            symbol_id, ts, seq, price = symbol_id[counting], ts[counting], seq[counting], price[counting]
        if len(symbol_id) == 0:
            return
        self._reserve(int(symbol_id.max()))
        newest = _newest(symbol_id, ts)
        symbol_id, ts, seq, price = symbol_id[newest], ts[newest], seq[newest], price[newest]
        last = np.flatnonzero(np.append(symbol_id[1:] != symbol_id[:-1], True))
        of, counts = symbol_id[last], np.diff(last, prepend=-1)
        held = self._symbols[of]
        # A late batch changes nothing where five prices are held and all of them are newer than its newest.
        fresh = (held["known"] < POINTS) | (ts[last] >= held["ts"][:, 0])
        of, counts, last, held = of[fresh], counts[fresh], last[fresh], held[fresh]
        if len(of) == 0:
            return
        merged = _merged(held, counts, last, ts, seq, price)
        changed = (merged["seq"] != held["seq"]).any(axis=1) | (merged["known"] != held["known"])
        merged["dirty"] |= changed
        self._symbols[of] = merged
        self._new[of[changed]] = True

    def newest(self, symbol_id: int) -> int:
        """Return the event time of the newest price of a symbol, in UTC microseconds; -1 without a price."""
        known = symbol_id < len(self._symbols) and self._symbols["known"][symbol_id] > 0
        return int(self._symbols["ts"][symbol_id, -1]) if known else -1

    def holds(self, symbol_id: int, seq: Ints) -> bool:
        """Return True if one of these trades is among the newest prices of a symbol."""
        if symbol_id >= len(self._symbols):
            return False
        held = self._symbols[symbol_id]
        return bool(np.isin(held["seq"][POINTS - int(held["known"]) :], seq).any())

    def clear(self, symbol_id: int) -> None:
        """Drop the prices of a symbol."""
        self._symbols[symbol_id] = np.zeros((), PRICE_STATE)
        self._symbols["symbol_id"][symbol_id], self._symbols["dirty"][symbol_id] = symbol_id, True
        self._new[symbol_id] = False

    def changed(self, also: Ints | None = None) -> PriceAverages:
        """Return the symbols whose prices changed since the last call, and the symbols of `also` that have a price."""
        wanted = self._new.copy()
        if also is not None:
            wanted[also[also < len(wanted)]] = True
        symbol_id = np.flatnonzero((self._symbols["known"] > 0) & wanted)
        symbols = self._symbols[symbol_id]
        self._new[symbol_id] = False
        newest = symbols["prices"][:, -1]
        equal = (symbols["prices"] == newest[:, np.newaxis]).all(axis=1)  # their mean is exactly that price
        mean = np.where(equal, newest, symbols["prices"].sum(axis=1) / POINTS)
        return PriceAverages(
            symbol_id, symbols["ts"][:, -1], newest, np.where(symbols["known"] == POINTS, mean, np.nan)
        )

    def take_changes(self) -> State:
        """Return the state that changed since the last flush."""
        changed = self._symbols[self._symbols["dirty"]]
        self._symbols["dirty"] = False
        return {_PART: changed} if len(changed) else {}

    def snapshot(self, among: Ints | None = None) -> State:
        """Return the whole state, or that of these symbols."""
        return {_PART: of_symbols(self._symbols[self._symbols["known"] > 0], among)}

    def restore(self, part: State) -> None:
        """Load a part of a checkpoint."""
        if _PART in part and len(part[_PART]):
            symbols = part[_PART]
            self._reserve(int(symbols["symbol_id"].max()))
            self._symbols[symbols["symbol_id"]] = symbols
            self._symbols["dirty"] = False
            self._new[symbols["symbol_id"]] = False


def _newest(symbol_id: Ints, ts: Ints) -> Ints:
    """Return the places of the newest trades of each symbol, up to five, by symbol, event time and order."""
    order = by_symbol(symbol_id)
    ordered = symbol_id[order]
    same = ordered[1:] == ordered[:-1]
    if (same & (ts[order[1:]] < ts[order[:-1]])).any():
        order = np.lexsort((ts, symbol_id))
    behind = np.ones(len(order), np.bool_)  # whether fewer than five of the symbol follow
    behind[:-POINTS] = ordered[POINTS:] != ordered[:-POINTS]
    return order[behind]


def _merged(
    held: npt.NDArray[np.void], counts: Ints, last: Ints, ts: Ints, seq: Ints, price: Floats
) -> npt.NDArray[np.void]:
    """Return the held prices together with the new ones: the prices of symbol i are before and at `last[i]`."""
    both = {
        name: np.concatenate([held[name], np.zeros((len(held), POINTS), held[name].dtype)], axis=1)
        for name in ("ts", "seq", "prices")
    }
    known = np.zeros((len(held), 2 * POINTS), np.bool_)
    known[:, :POINTS] = np.arange(POINTS) >= POINTS - held["known"][:, np.newaxis]
    for back in range(POINTS):
        rows = np.flatnonzero(counts > back)
        at = last[rows] - back
        known[rows, 2 * POINTS - 1 - back] = True
        for name, column in (("ts", ts), ("seq", seq), ("prices", price)):
            both[name][rows, 2 * POINTS - 1 - back] = column[at]
    # A batch that is applied again, after a fault, brings the same offsets.
    repeated = (both["seq"][:, :POINTS, np.newaxis] == both["seq"][:, np.newaxis, POINTS:]) & known[
        :, np.newaxis, POINTS:
    ]
    known[:, :POINTS] &= ~repeated.any(axis=2)
    # Unknown prices first, then by event time, then by offset.
    order = np.lexsort((both["seq"], both["ts"], known), axis=1)[:, -POINTS:]
    merged = held.copy()
    for name, values in both.items():
        merged[name] = np.where(np.take_along_axis(known, order, axis=1), np.take_along_axis(values, order, axis=1), 0)
    merged["known"] = np.minimum(known.sum(axis=1), POINTS)
    return merged
