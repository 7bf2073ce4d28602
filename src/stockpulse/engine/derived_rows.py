"""Bars of many symbols as input of a calculation, and the rows that it returns."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_math import Rows, keys, volume_of
from stockpulse.indicators.algebra import CALENDAR_INPUTS, INPUTS
from stockpulse.indicators.calendar_inputs import calendar_inputs
from stockpulse.market.arrays import Floats, Ints, Mask
from stockpulse.market.calendar import Calendar
from stockpulse.market.intervals import Interval


@dataclass(frozen=True)
class DerivedRows:
    """Values of indicators, one row per bar; null is NaN."""

    symbol_id: Ints
    ts: Ints
    revision: Ints
    """The offset of the newest record that a row depends on."""
    bars: dict[str, Floats]
    """The bars' columns, named as in `INPUTS`."""
    values: Floats
    """One row per bar, one column per output."""

    def __len__(self) -> int:
        return len(self.ts)

    def where(self, mask: Mask | Ints) -> "DerivedRows":
        """Return some of the rows."""
        bars = {name: column[mask] for name, column in self.bars.items()}
        return DerivedRows(self.symbol_id[mask], self.ts[mask], self.revision[mask], bars, self.values[mask])


@dataclass(frozen=True)
class BarInputs:
    """Bars sorted by symbol and time, as arrays of one length."""

    symbol_id: Ints
    ts: Ints
    revision: Ints
    columns: dict[str, Floats]
    """Named as in `INPUTS`."""
    fresh: Mask
    """False for the held bar of a symbol, whose values are known."""


@dataclass(frozen=True)
class Sequences:
    """Bars of several symbols: those of `symbol_id[i]` stand at [first[i], last[i])."""

    bars: BarInputs
    symbol_id: Ints
    first: Ints
    last: Ints


Calendars: TypeAlias = Callable[[Ints], Iterable[tuple[Calendar, Ints]]]
"""Groups symbol ids by calendar: returns each calendar with the places of its symbols."""


def bar_inputs(rows: Rows, interval: Interval, calendars: Calendars) -> dict[str, Floats]:
    """Return the engine's bars as columns named as in `INPUTS`."""
    columns = {name: np.ascontiguousarray(rows[name]) for name in ("open", "high", "low", "close")}
    columns["volume"] = np.nan_to_num(volume_of(rows))
    columns |= {name: np.empty(len(rows)) for name in CALENDAR_INPUTS}
    for calendar, places in calendars(rows["symbol_id"]):
        for name, values in calendar_inputs(calendar, interval, rows["ts"][places]).items():
            columns[name][places] = values
    return columns


def with_prices(rows: Rows) -> Rows:
    """Return the bars that have a price. The others count for their volume only."""
    known = ~np.isnan(rows["open"])
    return rows if known.all() else rows[known]


def select_rows(bars: BarInputs, revision: Ints, out: Floats, rows: Ints) -> DerivedRows:
    """Return some of the bars with their values; `out` has one row per output."""
    columns = {name: column[rows] for name, column in bars.columns.items()}
    values = np.ascontiguousarray(out.T if len(rows) == len(bars.ts) else out[:, rows].T)
    return DerivedRows(bars.symbol_id[rows], bars.ts[rows], revision[rows], columns, values)


def running_max(revision: Ints, first: Ints, last: Ints) -> Ints:
    """Return the maximum so far, within each sequence."""
    lift = np.repeat(np.arange(len(first)), last - first) * (int(revision.max()) + 1)
    highest: Ints = np.maximum.accumulate(revision + lift) - lift
    return highest


def newest_rows(parts: list[DerivedRows], outputs: int) -> DerivedRows:
    """Concatenate the parts. Of several rows for one bar only the last is kept."""
    if not parts:
        none: npt.NDArray[np.int64] = np.empty(0, np.int64)
        return DerivedRows(none, none, none, {name: np.empty(0) for name in INPUTS}, np.empty((0, outputs)))
    whole = DerivedRows(
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
