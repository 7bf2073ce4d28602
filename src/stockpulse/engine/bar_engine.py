"""Builds the bars of one shard from the records of its log, and keeps their state.

The code is pure: no I/O, no clock. The values of the bars depend only on the records and their order; the
clocks that it is given only decide when a bar is announced as final.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_buckets import Buckets
from stockpulse.engine.bar_math import Rows, day_parts, from_ticks, pairs_in, roll_up
from stockpulse.engine.bar_table import BarTable
from stockpulse.engine.checkpoint_state import SYMBOL_STATE, Changes, State, of_symbols, with_room
from stockpulse.engine.older_state import current_rows
from stockpulse.engine.step import BarEvents, Batch, ProviderBars, Range, Step, TickBatch
from stockpulse.market.arrays import Ints, Mask
from stockpulse.market.calendar import Calendar
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5, Interval
from stockpulse.market.schemas import PRIMARY

END_OF_TIME: Final = np.iinfo(np.int64).max // 2
"""The clock of a provider that sends nothing more."""

_REMOVED: Final = "removed "
"""The name of a part of the state: keys of bars that were removed since the part before."""

_Loading: TypeAlias = Generator[Range, Rows, None]
_Touched: TypeAlias = dict[Interval, list[Ints]]
"""The keys of the bars that a step changed. Rows move when others are inserted, keys stay."""


class BarEngine:
    """The bars of the symbols of one shard."""

    def __init__(self, *, lateness_micros: int = 2_000_000, extended_day: bool = False) -> None:
        self.offset = 0  # of the next record expected
        self.buckets = Buckets(extended_day=extended_day)
        self._taken_offset = 0
        self._lateness = lateness_micros
        self._tables = {interval: BarTable() for interval in BASE_INTERVALS}
        self._symbols = np.zeros(0, SYMBOL_STATE)

    def learn(self, symbol_id: int, calendar: Calendar) -> None:
        """Set the calendar of a symbol; call this before its first record arrives."""
        self._reserve(symbol_id)
        self.buckets.learn(symbol_id, calendar)

    def learn_later(self, symbol_id: int, name: str, load: Callable[[str], Calendar]) -> None:
        """Set the calendar of a symbol, which is loaded when it is needed; call this before its first record."""
        self._reserve(symbol_id)
        self.buckets.learn_later(symbol_id, name, load)

    def _reserve(self, symbol_id: int) -> None:
        if symbol_id >= len(self._symbols):
            self._symbols = with_room(self._symbols, symbol_id)

    # A step -------------------------------------------------------------------------------------

    def step(self, batch: Batch, clocks: Mapping[int, int]) -> Step:
        """Merge the next records of the log into the bars.

        Yields each range of stored bars that the records change, and receives these bars by `send`. Returns the bars
        that were revised after they had been announced as final, and the bars that close now. `clocks` has the time
        that each provider has reached, in UTC microseconds.

        No bar changes before the last range is answered, so a cancelled step can be repeated.
        """
        touched: _Touched = {}
        if isinstance(batch, TickBatch):
            minutes, days = from_ticks(*batch.trades), day_parts(*batch.trades)
            yield from self._load_buckets(minutes)
            if days is not None:
                yield from self._load_missing(D1, *self.buckets.distinct(D1, days[1], by_date=True)[:2])
            self.watch(batch)
            self._merge_trades(touched, minutes, days)
            self.offset = max(self.offset, int(batch.seq[-1]) + 1)
        else:
            for bars in batch:
                yield from self._load_for(bars)
            for bars in batch:
                self._watch_bars(bars)
                self._replace(touched, bars)
                self.offset = max(self.offset, int(bars.rows["revision"].max()) + 1)
        return self._revised(touched) + self.close(clocks)

    def watch(self, batch: TickBatch) -> None:
        """Advance the watermarks of the symbols, and note whose clock each symbol follows."""
        counts = batch.flags & PRIMARY != 0
        symbol_id = batch.symbol_id[counts]
        np.maximum.at(self._symbols["watermark"], symbol_id, batch.ts[counts])
        self._symbols["provider_id"][symbol_id] = batch.provider_id[counts]
        self._symbols["dirty"][symbol_id] = True

    def _watch_bars(self, bars: ProviderBars) -> None:
        rows = bars.rows[np.argsort(bars.rows["revision"])]  # the newest record decides which provider's clock counts
        self._symbols["provider_id"][rows["symbol_id"]] = rows["provider_id"]
        self._symbols["dirty"][rows["symbol_id"]] = True

    # Loading ------------------------------------------------------------------------------------

    def _load_for(self, bars: ProviderBars) -> _Loading:
        """Load the bars that a provider's bars replace, and the bars that are needed to rebuild the longer bars."""
        if bars.interval is not M1:
            yield from self._load_missing(bars.interval, bars.rows["symbol_id"], bars.rows["ts"])
            return
        yield from self._load_buckets(bars.rows)
        for longer in (M5, D1):
            symbol_id, begin, end, _ = self.buckets.spans(longer, bars.rows[self._rebuilds(longer, bars.rows)])
            if len(symbol_id):
                yield from self._load(Range(M1, symbol_id, begin, end))

    def _load_buckets(self, minutes: Rows) -> _Loading:
        """Load the bars of these minutes and the longer bars that contain them."""
        wanted = [(M1, minutes["symbol_id"], minutes["ts"])]
        for longer in (M5, D1):
            symbol_id, start, _ = self.buckets.distinct(longer, minutes)
            wanted.append((longer, symbol_id, start))
        for interval, symbol_id, ts in wanted:
            yield from self._load_missing(interval, symbol_id, ts)

    def _load_missing(self, interval: Interval, symbol_id: Ints, ts: Ints) -> _Loading:
        missing = self._tables[interval].missing(symbol_id, ts)
        if missing.any():
            yield from self._load(Range(interval, symbol_id[missing], ts[missing], ts[missing] + 1))

    def _load(self, wanted: Range) -> _Loading:
        stored = yield wanted
        self._tables[wanted.interval].admit(stored)

    # Changing bars ------------------------------------------------------------------------------

    def _merge_trades(self, touched: _Touched, minutes: Rows, days: tuple[Rows, Rows] | None) -> None:
        """Merge the bars of new trades. A provider's own minute stays unchanged, and so do the longer bars.

        `days` are those of `bar_math.day_parts`. A day that follows its minutes takes the minutes instead.
        """
        minutes = minutes[~self._is_provided(M1, minutes)]
        _touch(touched, M1, self._tables[M1].merge(minutes))
        self._merge_parts(touched, M5, self.buckets.roll_up(M5, minutes))
        parts = self.buckets.roll_up(D1, minutes)
        if days is None:
            self._merge_parts(touched, D1, parts)
            return
        self._merge_parts(touched, D1, parts[self._follows_minutes(parts)])
        for rows, by_date in zip(days, (False, True), strict=True):
            parts = self.buckets.roll_up(D1, rows, by_date=by_date)
            self._merge_parts(touched, D1, parts[~self._follows_minutes(parts)])

    def _merge_parts(self, touched: _Touched, interval: Interval, parts: Rows) -> None:
        """Merge parts of longer bars, except into a provider's own."""
        parts = parts[~self._is_provided(interval, parts)]
        _touch(touched, interval, self._tables[interval].merge(parts))

    def _is_provided(self, interval: Interval, bars: Rows) -> Mask:
        """Return True for each of these buckets that holds a provider's own bar."""
        return self._tables[interval].marked("provider_id", bars["symbol_id"], bars["ts"])

    def _follows_minutes(self, days: Rows) -> Mask:
        """Return True for each of these days that is built from its minutes, not from trades."""
        return self._tables[D1].marked("by_minutes", days["symbol_id"], days["ts"])

    def _replace(self, touched: _Touched, provider_bars: ProviderBars) -> None:
        """Replace bars by a provider's bars, and update the longer bars."""
        rows, table = provider_bars.rows, self._tables[provider_bars.interval]
        if provider_bars.interval is not M1:
            _touch(touched, provider_bars.interval, table.replace(rows))
            return
        rebuilds = {interval: self._rebuilds(interval, rows) for interval in (M5, D1)}
        _touch(touched, M1, table.replace(rows))
        for interval, outdated in rebuilds.items():
            rebuilt = self._rebuild(touched, interval, rows[outdated])
            fresh = rows[~outdated]
            start, _ = self.buckets.of(interval, fresh)
            parts = self.buckets.roll_up(interval, fresh[~pairs_in(fresh["symbol_id"], start, rebuilt)])
            parts["by_minutes"] = interval is D1
            self._merge_parts(touched, interval, parts)

    def _rebuilds(self, interval: Interval, minutes: Rows) -> Mask:
        """Return True for each of a provider's minutes whose longer bar has to be rebuilt from all its minutes.

        That is so if the minute replaces another one, or if the day was built from trades: with the first minute
        that a provider gives, a day begins to follow its minutes.
        """
        outdated = self._tables[M1].find(minutes["symbol_id"], minutes["ts"])[1]
        if interval is D1:
            start, _ = self.buckets.of(D1, minutes)
            day = minutes["symbol_id"], start
            _, found = self._tables[D1].find(*day)
            settled = self._tables[D1].marked("by_minutes", *day) | self._tables[D1].marked("provider_id", *day)
            outdated |= found & ~settled
        return outdated

    def _rebuild(self, touched: _Touched, interval: Interval, outdated: Rows) -> Rows:
        """Rebuild the longer bars of these minutes from all their minutes; return them."""
        symbol_id, begin, end, label = self.buckets.spans(interval, outdated)
        minutes, bucket = self._tables[M1].within(symbol_id, begin, end)
        bars = roll_up(minutes, label[bucket], end[bucket])
        bars["by_minutes"] = interval is D1
        ours = bars[~self._is_provided(interval, bars)]
        _touch(touched, interval, self._tables[interval].replace(ours))
        return bars

    def _revised(self, touched: _Touched) -> list[BarEvents]:
        """Return the changed bars that had been announced as final before."""
        final = {interval: self._tables[interval].final(np.concatenate(keys)) for interval, keys in touched.items()}
        return [BarEvents(interval, rows, revised=True) for interval, rows in final.items() if len(rows)]

    # Amending bars ------------------------------------------------------------------------------

    def current(self, interval: Interval, symbol_id: int, stored: Rows) -> Rows:
        """Add stored bars to the table, and return a copy of the bars of these buckets that are there now."""
        table = self._tables[interval]
        table.admit(stored)
        return table.of_symbol(symbol_id).copy()

    def removed(self, interval: Interval) -> Ints:
        """Return the keys of bars that were removed here and may still be stored."""
        return self._tables[interval].removed()

    def amend(self, interval: Interval, changed: Rows, removed: Rows, seq: int) -> list[BarEvents]:
        """Replace bars by others and remove some, all of one symbol, as the record `seq` of the log demands.

        All bars in question are in the table, and so is the first bar after each removed one. That bar takes `seq`
        as its revision: the indicators from there on change, and their revision must grow.
        """
        table = self._tables[interval]
        key = table.replace(changed)
        gone = table.remove(removed["symbol_id"], removed["ts"])
        lost = np.concatenate([gone, changed[np.isnan(changed["open"])]])
        if len(lost):
            next_key = table.touch_first_after(int(lost["symbol_id"][0]), int(lost["ts"].min()), seq)
            key = np.concatenate([key, next_key])
        events = []
        if len(final := table.final(key)):
            events.append(BarEvents(interval, final, revised=True))
        if len(gone):
            gone["revision"] = seq
            events.append(BarEvents(interval, gone, revised=True, removed=True))
        return events

    # Closing ------------------------------------------------------------------------------------

    def close(self, clocks: Mapping[int, int]) -> list[BarEvents]:
        """Announce bars as final.

        These are bars whose end plus the lateness is not after the symbol's watermark or its provider's clock.
        """
        horizon: Ints | None = None
        events = []
        for interval, table in self._tables.items():
            open_rows = np.flatnonzero(~table.rows["final"])
            if len(open_rows) == 0:
                continue
            if horizon is None:
                horizon = self._horizon(clocks)
            end, symbol_id = table.rows["end"][open_rows], table.rows["symbol_id"][open_rows]
            over = open_rows[end <= horizon[symbol_id]]
            if len(over):
                table.rows["final"][over] = True
                table.rows["dirty"][over] = True
                events.append(BarEvents(interval, table.rows[over], revised=False))
        return events

    def _horizon(self, clocks: Mapping[int, int]) -> Ints:
        """Return for each symbol the event time up to which it is complete."""
        clock = np.zeros(max(clocks, default=0) + 1, np.int64)
        clock[list(clocks)] = list(clocks.values())
        provider_id = self._symbols["provider_id"]
        known = np.where(provider_id < len(clock), clock[np.minimum(provider_id, len(clock) - 1)], 0)
        horizon: Ints = np.maximum(self._symbols["watermark"], known) - self._lateness
        return horizon

    def newest(self, provider_id: int) -> int:
        """Return the greatest event time of this provider's trades, in UTC microseconds; 0 without any."""
        return int(self._symbols["watermark"][self._symbols["provider_id"] == provider_id].max(initial=0))

    def provider_of(self, symbol_id: int) -> int:
        """Return the provider whose clock the symbol follows; 0 if it has no record yet."""
        return int(self._symbols["provider_id"][symbol_id]) if symbol_id < len(self._symbols) else 0

    # Reading ------------------------------------------------------------------------------------

    def forming(self) -> int:
        """Return the number of bars that have not been announced as final."""
        return sum(int((~table.rows["final"]).sum()) for table in self._tables.values())

    def unstored(self) -> int:
        """Return the number of bars that changed since they were stored."""
        return sum(int(np.count_nonzero(table.rows["dirty"])) for table in self._tables.values())

    def unstored_final(self) -> int:
        """Return the number of final bars that changed since they were stored: the rows of the next flush."""
        tables = self._tables.values()
        return sum(int(np.count_nonzero(table.rows["dirty"] & table.rows["final"])) for table in tables)

    def resident(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """Return a copy of the bars in memory, forming ones included, of one symbol or of all."""
        table = self._tables[interval]
        if symbol_id is None:
            return table.rows.copy()
        return table.of_symbol(symbol_id).copy()

    def selected(self, interval: Interval, *, final: bool) -> Rows:
        """Return a copy of the bars in memory that have, or have not, been announced as final."""
        rows = self._tables[interval].rows
        chosen: Rows = rows[rows["final"] == final]
        return chosen

    # State --------------------------------------------------------------------------------------

    def take_changes(self) -> Changes:
        """Return the changes for a flush; call `flushed` once they are committed."""
        bars, state, removed = {}, {}, {}
        for interval, table in self._tables.items():
            if len(keys := table.take_removed()):
                removed[interval] = state[_REMOVED + interval.name] = keys
            rows = table.rows[table.rows["dirty"]]
            table.rows["dirty"] = False
            if len(rows):
                state[interval.name] = rows
                bars[interval] = rows[rows["final"]]
        symbols = self._symbols[self._symbols["dirty"]]
        self._symbols["dirty"] = False
        if len(symbols):
            state["symbols"] = symbols
        moved, self._taken_offset = self.offset != self._taken_offset, self.offset
        return Changes(self.offset, moved, bars, state, removed)

    def flushed(self) -> None:
        """Note that the last changes are stored, and drop bars that need not stay in memory."""
        for table in self._tables.values():
            table.deleted()
            table.evict()

    def snapshot(self, among: Ints | None = None) -> State:
        """Return the whole state, or that of these symbols."""
        state = {interval.name: of_symbols(table.rows, among) for interval, table in self._tables.items()}
        return state | {"symbols": of_symbols(self._symbols[self._symbols["provider_id"] != 0], among)}

    def restore(self, offset: int, parts: Iterable[State]) -> None:
        """Restore a checkpoint: a whole snapshot and the changes that followed it, in order."""
        self.offset = self._taken_offset = offset
        for part in parts:
            for interval in BASE_INTERVALS:
                if _REMOVED + interval.name in part:
                    self._tables[interval].discard(part[_REMOVED + interval.name])
                if interval.name in part:
                    rows = current_rows(part[interval.name])
                    rows["dirty"] = False
                    self._tables[interval].put(rows)
            if "symbols" in part:
                self._restore_symbols(part["symbols"])
        self.flushed()

    def _restore_symbols(self, symbols: npt.NDArray[np.void]) -> None:
        if len(symbols) == 0:
            return
        self._reserve(int(symbols["symbol_id"].max()))
        self._symbols[symbols["symbol_id"]] = symbols
        self._symbols["dirty"] = False


def _touch(touched: _Touched, interval: Interval, keys: Ints) -> None:
    touched.setdefault(interval, []).append(keys)
