"""Bars that have changed and must be derived again: marked at once, worked off later."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stockpulse.engine.bar_math import Rows
from stockpulse.hub.hub import Hub
from stockpulse.hub.messages import Change, Channel
from stockpulse.market.intervals import Interval, parse_interval
from stockpulse.market.symbology import Names, Symbol

Key = tuple[Interval, Symbol]


@dataclass(frozen=True, slots=True)
class Mark:
    """The change of a base bar, and its revision."""

    change: Change
    revision: int


class Marks:
    """The changed base bars of each interval and symbol that someone reads, by their start in UTC microseconds.

    An entry without bars means: look at the newest bar.
    """

    def __init__(self, hub: Hub, names: Names) -> None:
        self._hub = hub
        self._names = names
        self._marks: dict[Key, dict[int, Mark]] = {}

    def __len__(self) -> int:
        return len(self._marks)

    def read(self) -> set[Key]:
        """Return the intervals and symbols that someone reads and that are derived: bars, or indicators."""
        found: set[Key] = set()
        known = self._names.symbols
        for family in self._hub.families(Channel.BARS, Channel.FORMING, Channel.INDICATORS, Channel.PREVIEWS):
            interval = parse_interval(family[1])
            if interval.base is not interval or family[0] in (Channel.INDICATORS, Channel.PREVIEWS):
                symbols = self._hub.symbols(family) or ()
                found.update((interval, known[name]) for name in symbols if name in known)
        return found

    def note(self, base: Interval, rows: Rows, change: Change) -> None:
        """Mark base bars that have closed, were revised or are gone."""
        keys: defaultdict[int, list[Key]] = defaultdict(list)
        for key in self.read():
            if key[0].base is base:
                keys[key[1].id].append(key)
        rows = rows[np.isin(rows["symbol_id"], list(keys))]
        columns = [rows[name].tolist() for name in ("symbol_id", "ts", "revision")]
        for number, ts, revision in zip(*columns, strict=True):
            for key in keys[number]:
                self.add(key, {ts: Mark(change, revision)})

    def note_traded(self, symbol_ids: set[int]) -> None:
        """Mark the newest bars of symbols."""
        for key in self.read():
            if key[1].id in symbol_ids:
                self.add(key, {})

    def add(self, key: Key, bars: dict[int, Mark]) -> None:
        """Mark bars; a revision is not replaced by a close."""
        marked = self._marks.setdefault(key, {})
        for ts, mark in bars.items():
            if ts not in marked or mark.change is not Change.CLOSED:
                marked[ts] = mark

    def take(self) -> Iterator[tuple[Key, dict[int, Mark]]]:
        """Yield the marks of one interval and symbol after the other; each is removed once it has been worked off."""
        for key in list(self._marks):
            bars = self._marks.pop(key)
            done = False
            try:
                yield key, bars
                done = True
            finally:
                if not done:  # the work has failed: it is done again after a restart of the task
                    self.add(key, bars)

    def drop(self, keys: Iterable[Key]) -> None:
        """Forget marks."""
        for key in keys:
            self._marks.pop(key, None)
