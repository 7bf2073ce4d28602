"""Bars of many symbols on their way through a calculation, and what comes out of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_math import Rows, keys, total
from stockpulse.indicators.algebra import INPUTS
from stockpulse.market.arrays import Floats, Ints, Mask


@dataclass(frozen=True)
class Derived:
    """Values of indicators, a row for each bar; null is NaN."""

    symbol_id: Ints
    ts: Ints
    revision: Ints
    """Of the newest record that a row follows from."""
    bars: dict[str, Floats]
    """The bars themselves, by the names of `INPUTS`."""
    values: Floats
    """A row for each bar, a column for each output."""

    def __len__(self) -> int:
        return len(self.ts)

    def where(self, mask: Mask | Ints) -> "Derived":
        """Some of the rows."""
        bars = {name: column[mask] for name, column in self.bars.items()}
        return Derived(self.symbol_id[mask], self.ts[mask], self.revision[mask], bars, self.values[mask])


@dataclass(frozen=True)
class Bars:
    """Bars by symbol and time, as arrays of one length."""

    symbol_id: Ints
    ts: Ints
    revision: Ints
    columns: dict[str, Floats]
    """By the names of `INPUTS`."""
    fresh: Mask
    """Not the one that was held already."""


@dataclass(frozen=True)
class Sequences:
    """Bars of several symbols: those of `symbol_id[i]` are [first[i], last[i])."""

    bars: Bars
    symbol_id: Ints
    first: Ints
    last: Ints


def inputs_of(rows: Rows, sessions: Callable[[Ints, Ints], Ints]) -> dict[str, Floats]:
    """The engine's bars as what indicators are calculated on; `sessions` gives the trading date of each."""
    columns = {name: np.ascontiguousarray(rows[name]) for name in ("open", "high", "low", "close")}
    columns["volume"] = np.nan_to_num(total(rows["volume_units"], rows["volume_nanos"]))
    columns["session"] = sessions(rows["symbol_id"], rows["ts"]).astype(np.float64)
    return columns


def priced(rows: Rows) -> Rows:
    """Bars without a price are for nothing but their volume."""
    known = ~np.isnan(rows["open"])
    return rows if known.all() else rows[known]


def derive(bars: Bars, revision: Ints, out: Floats, rows: Ints) -> Derived:
    """Some of the bars, with what was calculated for them; `out` has a row for each output."""
    columns = {name: column[rows] for name, column in bars.columns.items()}
    values = np.ascontiguousarray(out.T if len(rows) == len(bars.ts) else out[:, rows].T)
    return Derived(bars.symbol_id[rows], bars.ts[rows], revision[rows], columns, values)


def running_max(revision: Ints, first: Ints, last: Ints) -> Ints:
    """The highest so far, within each sequence."""
    lift = np.repeat(np.arange(len(first)), last - first) * (int(revision.max()) + 1)
    highest: Ints = np.maximum.accumulate(revision + lift) - lift
    return highest


def joined(parts: list[Derived], outputs: int) -> Derived:
    """All rows, and of several for one bar the newest."""
    if not parts:
        none: npt.NDArray[np.int64] = np.empty(0, np.int64)
        return Derived(none, none, none, {name: np.empty(0) for name in INPUTS}, np.empty((0, outputs)))
    whole = Derived(
        np.concatenate([part.symbol_id for part in parts]),
        np.concatenate([part.ts for part in parts]),
        np.concatenate([part.revision for part in parts]),
        {name: np.concatenate([part.bars[name] for part in parts]) for name in INPUTS},
        np.concatenate([part.values for part in parts]),
    )
    key = keys(whole.symbol_id, whole.ts)
    order = np.argsort(key, kind="stable")
    key = key[order]
    return whole.where(order[np.r_[key[1:] != key[:-1], True]])
