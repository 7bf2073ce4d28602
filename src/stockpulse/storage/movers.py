"""The movement of prices over a window."""

from dataclasses import dataclass

import numpy as np

from stockpulse.engine.bar_math import Rows
from stockpulse.market.symbology import Names


@dataclass(frozen=True)
class Move:
    """The movement of a symbol's price over a window."""

    symbol: str
    price_open: float
    price_close: float

    @property
    def change_pct(self) -> float:
        """The change in percent of the opening price."""
        return (self.price_close - self.price_open) / self.price_open * 100


def moves_of(bars: Rows, names: Names) -> list[Move]:
    """Return the move of each symbol over its bars; they are sorted by symbol and time."""
    first = np.flatnonzero(np.diff(bars["symbol_id"], prepend=-1))
    last = np.append(first[1:], len(bars)) - 1
    return [
        Move(names.symbol_by_id[int(bars["symbol_id"][a])].name, float(bars["open"][a]), float(bars["close"][b]))
        for a, b in zip(first, last[: len(first)], strict=True)
    ]


def moves_since_last_day(days: Rows, names: Names) -> list[Move]:
    """Return the move of each symbol from the close of one day to the close of the next.

    `days` are the two newest daily bars of each symbol, sorted by symbol and time. A symbol with one day has no move.
    """
    second = np.flatnonzero(days["symbol_id"][1:] == days["symbol_id"][:-1]) + 1
    return [
        Move(names.symbol_by_id[int(days["symbol_id"][at])].name, *(float(days["close"][one]) for one in (at - 1, at)))
        for at in second
    ]
