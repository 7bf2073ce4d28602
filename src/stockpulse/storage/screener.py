"""The screener: finds the symbols whose newest bar satisfies a condition."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.derived_rows import bar_inputs
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.evaluation import Functions
from stockpulse.market.arrays import Floats, Ints
from stockpulse.market.calendar import Calendar
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import Interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names, Symbol
from stockpulse.rules import FIELDS, Expression, ExpressionBundle
from stockpulse.storage.bar_reader import BarReader

_BARS: Final = 100_000
"""The approximate number of bars that are read and calculated at a time."""
_ROW_BYTES: Final = 600
"""The memory for a bar: as read, and as the engine's row."""
_VALUE_BYTES: Final = 16
"""The memory for an input or an output of a calculation, while it is copied."""


class Screener:
    """Evaluates conditions over all symbols."""

    def __init__(self, bars: BarReader, names: Names, functions: Functions) -> None:
        self._bars = bars
        self._names = names
        self._functions = functions

    def bytes_for(self, expression: Expression) -> int:
        """Return the memory that `matches` needs at a time."""
        bundle = ExpressionBundle([expression])
        bars = min(_BARS, (bundle.bars_needed or _BARS) * len(self._names.symbols))
        return bars * (_ROW_BYTES + _VALUE_BYTES * (len(INPUTS) + bundle.outputs))

    async def matches(self, expression: Expression, interval: Interval) -> pl.DataFrame:
        """Return the symbols whose newest bar satisfies the condition, with the bar and the values of its terms.

        The newest bar may still be forming. Indicators are calculated over all bars that affect their values.
        """
        bundle = ExpressionBundle([expression])
        symbols = sorted(self._names.symbols.values(), key=lambda symbol: symbol.name)
        newest = self._by_groups if bundle.bars_needed else self._over_all_bars
        found = [
            self._matching(expression, bundle, one) async for one in newest(_Calculation(bundle, interval), symbols)
        ]
        return pl.concat(found).sort("symbol") if found else _frame(expression, {}).head(0)

    async def _by_groups(self, how: "_Calculation", symbols: Sequence[Symbol]) -> AsyncIterator["_Newest"]:
        """Yield the newest bars of groups of symbols, from the bars that have influence on their values."""
        most = how.bundle.bars_needed or 1
        at_a_time = max(_BARS // most, 1)
        for at in range(0, len(symbols), at_a_time):
            some = symbols[at : at + at_a_time]
            rows = await self._bars.newest(how.interval, [symbol.id for symbol in some], most)
            if len(rows):
                first = np.flatnonzero(np.diff(rows["symbol_id"], prepend=-1))
                states = how.bundle.fresh(len(first))
                yield await offload.in_reader_thread(partial(self._calculated, how, states, rows, first))

    async def _over_all_bars(self, how: "_Calculation", symbols: Sequence[Symbol]) -> AsyncIterator["_Newest"]:
        """Yield the newest bar of each symbol, from all its bars: the state goes from piece to piece."""
        newest: _Newest | None = None
        first, states = np.zeros(1, np.int64), how.bundle.fresh(1)
        async for rows in self._bars.all_of(how.interval, symbols):
            if newest is not None and newest.rows["symbol_id"][0] != rows["symbol_id"][0]:
                yield newest
                states = how.bundle.fresh(1)
            newest = await offload.run_for_reader(
                len(rows) * how.bundle.outputs, partial(self._calculated, how, states, rows, first)
            )
        if newest is not None:
            yield newest

    def _calculated(self, how: "_Calculation", states: list[Floats], rows: Rows, first: Ints) -> "_Newest":
        last = np.append(first[1:], len(rows))
        bars = bar_inputs(rows, how.interval, self._by_calendar)
        out = how.bundle.calculate(self._functions, states, np.arange(len(first)), first, last, bars)
        at = last - 1
        return _Newest(rows[at], {name: bars[name][at] for name in FIELDS}, out[:, at].T.copy())

    def _matching(self, expression: Expression, bundle: ExpressionBundle, newest: "_Newest") -> pl.DataFrame:
        rows, values = newest.rows, bundle.named(newest.fields, newest.values)
        holds = expression.holds(values, len(rows))
        shown = {
            "symbol": [self._names.symbol_by_id[int(number)].name for number in rows["symbol_id"][holds]],
            "ts": rows["ts"][holds],
            "final": rows["final"][holds],
        }
        return _frame(expression, shown | {name: column[holds] for name, column in values.items()})

    def _by_calendar(self, symbol_id: Ints) -> Iterator[tuple[Calendar, Ints]]:
        """Yield the calendars of these symbols, each with the places of its symbols."""
        different = np.unique(symbol_id)
        names = np.array([self._names.symbol_by_id[int(one)].calendar for one in different])
        name_of = names[np.searchsorted(different, symbol_id)]
        for name in np.unique(names):
            yield trading_calendar(str(name)), np.flatnonzero(name_of == name)


@dataclass(frozen=True)
class _Calculation:
    """The values that a condition needs, of bars of an interval."""

    bundle: ExpressionBundle
    interval: Interval


@dataclass(frozen=True)
class _Newest:
    """The newest bars of symbols: their rows, their fields, and the outputs of the bundle, one row each."""

    rows: Rows
    fields: dict[str, Floats]
    values: Floats


def _frame(expression: Expression, columns: dict[str, Any]) -> pl.DataFrame:
    """Return the matches as a frame with typed columns. It always has the close."""
    names = dict.fromkeys(["close", *expression.fields, *expression.labels])
    series = [
        pl.Series("symbol", columns.get("symbol", []), dtype=pl.String),
        pl.Series("ts", columns.get("ts", []), dtype=pl.Int64).cast(UTC_MICROS),
        pl.Series("final", columns.get("final", []), dtype=pl.Boolean),
        *(pl.Series(name, columns.get(name, []), dtype=pl.Float64, nan_to_null=True) for name in names),
    ]
    return pl.DataFrame(series)
