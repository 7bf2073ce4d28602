"""Publishes any indicators of the bars of subscribed symbols, calculated bar by bar.

The state of a calculation is before the newest closed bar, so that a late tick in that bar costs nothing. A change
further back starts the calculation again at the first bar.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.hub.hub import Hub
from stockpulse.hub.marks import Key
from stockpulse.hub.messages import Batch, Change, Channel, Family
from stockpulse.indicators.evaluation import Bundle, Functions
from stockpulse.indicators.selection import column_names, select
from stockpulse.market.arrays import Floats, array_of
from stockpulse.market.intervals import Interval
from stockpulse.market.symbology import Symbol
from stockpulse.market.times import from_micros
from stockpulse.storage.analytics_reader import frame_inputs
from stockpulse.storage.bar_reader import BarReader

_MOST_ROWS: Final = 1_000
"""After a change further back, at most this many of the newest rows are published."""


class LiveIndicators:
    """The calculations that someone reads."""

    def __init__(
        self, hub: Hub, bars: BarReader, functions: Functions, closed_until: Callable[[int], datetime]
    ) -> None:
        self._hub = hub
        self._bars = bars
        self._functions = functions
        self._closed_until = closed_until
        self._running: dict[tuple[Interval, Symbol, str], _Calculation] = {}

    async def update(self, interval: Interval, symbol: Symbol, changes: dict[int, Change]) -> None:
        """Publish the indicators of changed bars, by their starts, and of the newest bar."""
        for detail in sorted(self._details(interval, symbol)):
            key = (interval, symbol, detail)
            if key not in self._running:
                self._running[key] = _Calculation(self._bars, self._functions, symbol, interval, detail)
            revised = [ts for ts, change in changes.items() if change is not Change.CLOSED]
            rows = await self._running[key].update(min(revised, default=None), self._closed_until(symbol.id))
            self._publish(interval, detail, rows, changes, min(revised, default=None))

    def _details(self, interval: Interval, symbol: Symbol) -> set[str]:
        families = self._hub.families(Channel.INDICATORS, Channel.PREVIEWS)
        return {
            family[2]
            for family in families
            if family[1] == interval.name and symbol.name in (self._hub.symbols(family) or ())
        }

    def _publish(
        self, interval: Interval, detail: str, rows: pl.DataFrame, changes: dict[int, Change], revised: int | None
    ) -> None:
        if rows.is_empty():
            return
        final, starts = rows["final"].to_numpy(), array_of(rows["ts"])
        family: Family = (Channel.INDICATORS, interval.name, detail)
        after = np.zeros(len(rows), np.bool_) if revised is None else starts >= revised
        closed = np.isin(starts, list(changes)) & ~after
        for chosen, change in ((after, Change.REVISED), (closed, Change.CLOSED)):
            if (chosen & final).any():
                self._hub.publish(family, change, Batch(rows.filter(pl.Series(chosen & final))))
        if not final[-1]:
            self._hub.publish_newest((Channel.PREVIEWS, *family[1:]), Change.FORMING, Batch(rows.tail(1)))

    def forget_others(self, read: set[Key]) -> None:
        """Forget the calculations that nobody reads any more."""
        for key in list(self._running):
            if (key[0], key[1]) not in read or key[2] not in self._details(key[0], key[1]):
                del self._running[key]


class _Calculation:
    """Indicators of the bars of one symbol, with the state after all bars but the newest ones."""

    def __init__(self, bars: BarReader, functions: Functions, symbol: Symbol, interval: Interval, detail: str) -> None:
        self._bars = bars
        self._functions = functions
        self._symbol = symbol
        self._interval = interval
        instances = select(detail, {}, "indicators")
        self._bundle = Bundle(instances)
        self._columns = column_names(instances)
        self._reset()

    def _reset(self) -> None:
        self._states = self._bundle.fresh(1)
        self._covered: int | None = None  # the start of the last bar in the state
        self._revision = 0  # the highest revision up to there

    async def update(self, revised: int | None, until: datetime) -> pl.DataFrame:
        """Return the newest bars with their values: all from `revised` on, at least those that are not in the state."""
        if revised is not None and self._covered is not None and revised <= self._covered:
            self._reset()
        start = None if self._covered is None else from_micros(self._covered + 1)
        parts: list[pl.DataFrame] = []
        before: pl.DataFrame | None = None
        async for page in self._bars.between(self._symbol, self._interval, start, None, until):
            if before is not None:
                parts = [*parts, await self._calculated(before, whole=True)][-2:]
            before = page
        if before is None:
            return pl.DataFrame()
        return pl.concat([*parts, await self._calculated(before, whole=False)]).tail(_MOST_ROWS)

    async def _calculated(self, bars: pl.DataFrame, *, whole: bool) -> pl.DataFrame:
        return await offload.in_reader_thread(partial(self._calculate, bars, whole=whole))

    def _calculate(self, bars: pl.DataFrame, *, whole: bool) -> pl.DataFrame:
        """Return bars with their values. `whole` puts all into the state, else all before the newest closed bar."""
        states = self._states if whole else [state.copy() for state in self._states]
        out, revision = self._run(states, bars), np.maximum.accumulate(bars["revision"].to_numpy())
        shown = bars.select(pl.lit(self._symbol.name).alias("symbol"), "ts", "close", "final").with_columns(
            pl.Series("revision", np.maximum(revision, self._revision)),
            *(pl.Series(name, values, nan_to_null=True) for name, values in zip(self._columns, out, strict=True)),
        )
        open_bars = np.flatnonzero(~bars["final"].to_numpy())
        settled = bars.height if whole else max(int(open_bars[0]) if len(open_bars) else bars.height, 1) - 1
        if settled:
            if not whole:
                self._run(self._states, bars[:settled])
            self._covered = int(array_of(bars["ts"])[settled - 1])
            self._revision = int(shown["revision"][settled - 1])
        return shown

    def _run(self, states: list[Floats], bars: pl.DataFrame) -> Floats:
        zero, last = np.zeros(1, np.int64), np.array([bars.height])
        inputs = frame_inputs(bars, self._symbol, self._interval)
        return self._bundle.calculate(self._functions, states, zero, zero, last, inputs)
