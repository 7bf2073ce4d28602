"""The screener: finds the symbols whose newest bar satisfies a condition."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import Rows
from stockpulse.engine.derived_rows import bar_inputs
from stockpulse.indicators.evaluation import Functions
from stockpulse.market.arrays import Ints
from stockpulse.market.calendar import Calendar
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import Interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names, Symbol
from stockpulse.rules import FIELDS, Expression, ExpressionBundle
from stockpulse.storage.bar_reader import BarReader

_BARS: Final = 500_000
"""The approximate number of bars that are read and calculated at a time."""

_MANY: Final = 100_000
"""The approximate maximum of bars that a symbol has."""


class Screener:
    """Evaluates conditions over all symbols."""

    def __init__(self, bars: BarReader, names: Names, functions: Functions) -> None:
        self._bars = bars
        self._names = names
        self._functions = functions

    async def matches(self, expression: Expression, interval: Interval) -> pl.DataFrame:
        """Return the symbols whose newest bar satisfies the condition, with the bar and the values of its terms.

        The newest bar may still be forming. Indicators are calculated over all bars that affect their values.
        """
        bundle = ExpressionBundle([expression])
        most = bundle.bars_needed
        at_a_time = max(_BARS // (most or _MANY), 1)
        symbols = sorted(self._names.symbols.values(), key=lambda symbol: symbol.name)
        found = []
        for at in range(0, len(symbols), at_a_time):
            some = symbols[at : at + at_a_time]
            rows = await self._bars.newest(interval, [symbol.id for symbol in some], most)
            if len(rows):
                found.append(await asyncio.to_thread(self._matching, expression, bundle, interval, rows, some))
        return pl.concat(found).sort("symbol") if found else _frame(expression, {}).head(0)

    def _matching(
        self,
        expression: Expression,
        bundle: ExpressionBundle,
        interval: Interval,
        rows: Rows,
        symbols: Sequence[Symbol],
    ) -> pl.DataFrame:
        first = np.flatnonzero(np.diff(rows["symbol_id"], prepend=-1))
        last = np.append(first[1:], len(rows))
        calendars = {symbol.id: symbol.calendar for symbol in symbols}
        bars = bar_inputs(rows, interval, lambda symbol_id: _by_calendar(symbol_id, calendars))
        fresh = bundle.fresh(len(first))
        out = bundle.calculate(self._functions, fresh, np.arange(len(first)), first, last, bars)
        newest = last - 1
        values = bundle.named({name: bars[name][newest] for name in FIELDS}, out[:, newest].T)
        holds = expression.holds(values, len(newest))
        at = newest[holds]
        shown = {
            "symbol": [self._names.symbol_by_id[int(number)].name for number in rows["symbol_id"][at]],
            "ts": rows["ts"][at],
            "final": rows["final"][at],
        }
        return _frame(expression, shown | {name: column[holds] for name, column in values.items()})


def _by_calendar(symbol_id: Ints, calendars: Mapping[int, str]) -> Iterator[tuple[Calendar, Ints]]:
    """Yield the calendars of these symbols, each with the places of its symbols."""
    different = np.unique(symbol_id)
    names = np.array([calendars[int(one)] for one in different])
    name_of = names[np.searchsorted(different, symbol_id)]
    for name in np.unique(names):
        yield trading_calendar(str(name)), np.flatnonzero(name_of == name)


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
