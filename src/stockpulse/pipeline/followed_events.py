"""Events for listeners of a process that only answers requests: new records of other processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import BAR
from stockpulse.engine.step import BarEvents
from stockpulse.market.intervals import Interval
from stockpulse.market.symbology import Names
from stockpulse.pipeline.events import Listener

_MOST_WAITING: Final = 100_000
"""The maximum number of bars and of frames of ticks that wait for the names of their symbols."""


@dataclass(frozen=True)
class FollowedBar:
    """A bar of the topic, and its effect."""

    symbol: str
    row: np.void
    revised: bool
    removed: bool


class FollowedEvents:
    """Passes bars and ticks of other processes on, as soon as their names are known here."""

    def __init__(self, names: Names, listener: Listener) -> None:
        self._names = names
        self._listener = listener
        self._bars: list[tuple[Interval, FollowedBar]] = []
        self._ticks: list[pl.DataFrame] = []

    def tell_bars(self, interval: Interval, bars: Sequence[FollowedBar]) -> None:
        """Pass bars on, each at most once for a version."""
        self._bars += [(interval, bar) for bar in bars]
        known = [one for one in self._bars if one[1].symbol in self._names.symbols]
        self._bars = [one for one in self._bars if one[1].symbol not in self._names.symbols][-_MOST_WAITING:]
        groups: dict[tuple[Interval, bool, bool, bool], list[FollowedBar]] = {}
        for of, bar in known:
            groups.setdefault((of, bool(bar.row["final"]), bar.revised, bar.removed), []).append(bar)
        for (of, _, revised, removed), members in groups.items():
            rows = np.array([bar.row for bar in members], BAR)
            rows["symbol_id"] = [self._names.symbols[bar.symbol].id for bar in members]
            self._listener.on_bars(BarEvents(of, rows, revised=revised, removed=removed))

    def tell_ticks(self, ticks: pl.DataFrame) -> None:
        """Pass stored ticks on, in their order."""
        self._ticks.append(ticks)
        while self._ticks and self._are_known(self._ticks[0]):
            self._listener.on_ticks(self._ticks.pop(0))

    def _are_known(self, ticks: pl.DataFrame) -> bool:
        names = self._names
        return set(ticks["kind_id"].unique()) <= names.kind_by_id.keys() and (
            set(ticks["symbol_id"].unique()) <= names.symbol_by_id.keys()
        )
