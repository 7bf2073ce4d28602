"""The engine of one shard: from records of the log to bars, and its state.

It is pure: no I/O, no clock. What it makes of the bars' values depends on the records and their order
alone; the clocks it is given only decide when a bar is announced as final.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_math import BAR, Floats, Ints, Mask, Rows, from_ticks, pairs_in, roll_up
from stockpulse.engine.bar_table import BarTable
from stockpulse.engine.checkpoint_state import SYMBOL_STATE, Changes, State, of_symbols, with_room
from stockpulse.market.calendar import NO_DAY, Calendar
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5, Interval
from stockpulse.market.schemas import PRIMARY

END_OF_TIME: Final = np.iinfo(np.int64).max // 2
"""The clock of a provider that will send nothing more."""


@dataclass(frozen=True)
class TickBatch:
    """Consecutive trades of the log, as arrays of one length."""

    seq: Ints
    symbol_id: Ints
    provider_id: Ints
    ts: Ints
    price: Floats
    size: Floats
    flags: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ProviderBars:
    """A provider's own bars of one interval; see `bars.from_provider`."""

    interval: Interval
    rows: Rows


@dataclass(frozen=True)
class Range:
    """Stored bars that the engine needs before it can go on: start <= ts < end, one of each per row."""

    interval: Interval
    symbol_id: Ints
    start: Ints
    end: Ints


@dataclass(frozen=True)
class BarEvents:
    """Bars that were announced as final, or revised after that; the highest revision of a bar stands."""

    interval: Interval
    rows: Rows
    revised: bool
    """Whether they had been announced before."""


@dataclass
class Work:
    """A batch on its way through the engine."""

    minutes: Rows
    given: ProviderBars | None = None
    last_seq: int = 0
    touched: dict[Interval, list[Ints]] = field(default_factory=dict)


class BarEngine:
    """The bars of the symbols of one shard.

    For each batch: `digest` it, bring in what `needs` asks for with `admit`, then `apply` it.
    """

    def __init__(self, *, lateness_micros: int = 2_000_000, extended_day: bool = False) -> None:
        self.offset = 0  # of the next record expected
        self._taken_offset = 0
        self._lateness = lateness_micros
        self._extended_day = extended_day
        self._tables = {interval: BarTable() for interval in BASE_INTERVALS}
        self._symbols = np.zeros(0, SYMBOL_STATE)
        self._calendars: list[Calendar] = []
        self._calendar_of = np.zeros(0, np.int64)

    # Symbols ------------------------------------------------------------------------------------

    def learn(self, symbol_id: int, calendar: Calendar) -> None:
        """Tell which calendar the days of a symbol follow; before its first record comes."""
        if calendar not in self._calendars:
            self._calendars.append(calendar)
        self._reserve(symbol_id)
        self._calendar_of[symbol_id] = self._calendars.index(calendar)

    def _reserve(self, symbol_id: int) -> None:
        if symbol_id < len(self._symbols):
            return
        self._symbols = with_room(self._symbols, symbol_id)
        more = len(self._symbols) - len(self._calendar_of)
        self._calendar_of = np.concatenate([self._calendar_of, np.zeros(more, np.int64)])

    # Records ------------------------------------------------------------------------------------

    def digest_ticks(self, batch: TickBatch) -> Work:
        """The batch reduced to its own 1-minute bars."""
        self._watch(batch)
        minutes = from_ticks(batch.symbol_id, batch.ts, batch.seq, batch.price, batch.size, batch.flags)
        return Work(minutes, last_seq=int(batch.seq[-1]))

    def digest_bars(self, batch: ProviderBars) -> Work:
        """A provider's bars, which replace what is there."""
        rows = batch.rows[np.argsort(batch.rows["revision"])]  # the newest record says whose clock counts
        self._symbols["provider_id"][rows["symbol_id"]] = rows["provider_id"]
        self._symbols["dirty"][rows["symbol_id"]] = True
        return Work(np.empty(0, BAR), batch, last_seq=int(batch.rows["revision"].max()))

    def _watch(self, batch: TickBatch) -> None:
        """Move the watermarks of the symbols on, and note whose clock each follows."""
        counts = batch.flags & PRIMARY != 0
        symbol_id = batch.symbol_id[counts]
        np.maximum.at(self._symbols["watermark"], symbol_id, batch.ts[counts])
        self._symbols["provider_id"][symbol_id] = batch.provider_id[counts]
        self._symbols["dirty"][symbol_id] = True

    def needs(self, work: Work) -> Iterator[list[Range]]:
        """What must be brought in with `admit` before `apply`; each answer before the next question."""
        if work.given is None:
            yield from self._absent(work.minutes)
            return
        given = work.given
        if given.interval is not M1:
            yield from self._absent_of(given.interval, given.rows["symbol_id"], given.rows["ts"])
            return
        yield from self._absent(given.rows)
        replaced = given.rows[self._tables[M1].find(given.rows)[1]]
        ranges = [Range(M1, *self._reaches(longer, replaced)[:3]) for longer in (M5, D1)]
        yield [r for r in ranges if len(r.symbol_id)]

    def _absent(self, minutes: Rows) -> Iterator[list[Range]]:
        wanted = [(M1, minutes["symbol_id"], minutes["ts"])]
        for longer in (M5, D1):
            symbol_id, start, _ = self._buckets(longer, minutes)
            wanted.append((longer, symbol_id, start))
        for interval, symbol_id, ts in wanted:
            yield from self._absent_of(interval, symbol_id, ts)

    def _absent_of(self, interval: Interval, symbol_id: Ints, ts: Ints) -> Iterator[list[Range]]:
        absent = self._tables[interval].missing(symbol_id, ts)
        if absent.any():
            yield [Range(interval, symbol_id[absent], ts[absent], ts[absent] + 1)]

    def _buckets(self, interval: Interval, minutes: Rows) -> tuple[Ints, Ints, Ints]:
        """The longer buckets that minutes lie in: symbol, start, end; each bucket once."""
        start, end = self._labels(interval, minutes)
        inside = start != NO_DAY
        found = np.stack([minutes["symbol_id"][inside], start[inside], end[inside]])
        symbol_id, start, end = np.unique(found, axis=1) if found.size else found
        return symbol_id, start, end

    def _reaches(self, interval: Interval, minutes: Rows) -> tuple[Ints, Ints, Ints, Ints]:
        """From when to when minutes belong to the longer buckets that these lie in: symbol, from, to, label.

        A day that opens on the eve begins before the midnight that labels it. Every minute between is of it.
        """
        symbol_id, label, end = self._buckets(interval, minutes)
        begin = label.copy()
        if interval is D1 and len(label):
            calendar_of = self._calendar_of[symbol_id]
            for index in np.unique(calendar_of):
                rows = calendar_of == index
                labels, opens, _ = self._calendars[index].sessions(label[rows].min(), label[rows].max() + 1)
                opening = opens[np.searchsorted(labels, label[rows])]
                begin[rows] = np.minimum(label[rows], opening) if self._extended_day else opening
        return symbol_id, begin, end, label

    def _labels(self, interval: Interval, minutes: Rows) -> tuple[Ints, Ints]:
        """Start and end of the longer bucket of each minute; NO_DAY outside the session of a day."""
        if interval is M5:
            start = minutes["ts"] // M5.micros * M5.micros
            return start, start + M5.micros
        start = np.full(len(minutes), NO_DAY)
        end = np.full(len(minutes), NO_DAY)
        calendar_of = self._calendar_of[minutes["symbol_id"]]
        for index, calendar in enumerate(self._calendars):
            rows = np.flatnonzero(calendar_of == index)
            if len(rows) == 0:
                continue
            day = calendar.trading_day(minutes["ts"][rows], extended=self._extended_day)
            inside = day != NO_DAY
            start[rows] = day
            end[rows[inside]] = calendar.day_end(day[inside], extended=self._extended_day)
        return start, end

    def admit(self, interval: Interval, stored: Rows) -> None:
        """Bring in stored bars that `needs` asked for."""
        self._tables[interval].admit(stored)

    def apply(self, work: Work, clocks: Mapping[int, int]) -> list[BarEvents]:
        """Merge the batch into the bars; return what was revised after its close, and what closes now.

        `clocks` says for each provider how far its event time has come, in UTC microseconds.
        """
        if work.given is None:
            self._merge_trades(work, work.minutes)
        else:
            self._replace(work, work.given)
        self.offset = max(self.offset, work.last_seq + 1)
        revised = self._revised(work)
        return revised + self.close(clocks)

    def _merge_trades(self, work: Work, minutes: Rows) -> None:
        """Trades do not change a bar that a provider gave, nor the longer bars through it."""
        minutes = minutes[~self._given(M1, minutes)]
        self._touch(work, M1, self._tables[M1].merge(minutes))
        self._merge_longer(work, minutes)

    def _merge_longer(self, work: Work, minutes: Rows) -> None:
        for interval in (M5, D1):
            start, end = self._labels(interval, minutes)
            inside = start != NO_DAY
            parts = roll_up(minutes[inside], start[inside], end[inside])
            parts = parts[~self._given(interval, parts)]
            self._touch(work, interval, self._tables[interval].merge(parts))

    def _given(self, interval: Interval, bars: Rows) -> Mask:
        """Which of these buckets hold a provider's own bar."""
        table = self._tables[interval]
        at, found = table.find(bars)
        given = np.zeros(len(bars), bool)
        given[found] = table.rows["provider_id"][at[found]] != 0
        return given

    def _replace(self, work: Work, given: ProviderBars) -> None:
        table = self._tables[given.interval]
        _, known = table.find(given.rows)
        self._touch(work, given.interval, table.replace(given.rows))
        if given.interval is not M1:
            return
        for interval in (M5, D1):
            rebuilt = self._rebuild(work, interval, given.rows[known])
            fresh = given.rows[~known]
            start, end = self._labels(interval, fresh)
            new = (start != NO_DAY) & ~pairs_in(fresh["symbol_id"], start, rebuilt)
            parts = roll_up(fresh[new], start[new], end[new])
            parts["provider_id"] = 0
            parts = parts[~self._given(interval, parts)]
            self._touch(work, interval, self._tables[interval].merge(parts))

    def _rebuild(self, work: Work, interval: Interval, replaced: Rows) -> Rows:
        """Build the longer bars anew in which a minute was replaced, from all their minutes."""
        symbol_id, begin, end, label = self._reaches(interval, replaced)
        minutes, bucket = self._tables[M1].within(symbol_id, begin, end)
        bars = roll_up(minutes, label[bucket], end[bucket])
        own = self._given(interval, bars)
        self._touch(work, interval, self._tables[interval].replace(bars[~own]))
        return bars

    def _touch(self, work: Work, interval: Interval, key: Ints) -> None:
        # Places move when rows are inserted, so the keys are remembered instead.
        work.touched.setdefault(interval, []).append(key)

    def _revised(self, work: Work) -> list[BarEvents]:
        """The bars this batch changed that had been announced as final before."""
        final = {interval: self._tables[interval].final(np.concatenate(key)) for interval, key in work.touched.items()}
        return [BarEvents(interval, rows, revised=True) for interval, rows in final.items() if len(rows)]

    # Closing ------------------------------------------------------------------------------------

    def close(self, clocks: Mapping[int, int]) -> list[BarEvents]:
        """Announce as final what its symbol's watermark, or its provider's clock, has passed."""
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
        """Up to which event time each symbol is complete."""
        clock = np.zeros(max(clocks, default=0) + 1, np.int64)
        clock[list(clocks)] = list(clocks.values())
        provider_id = self._symbols["provider_id"]
        known = np.where(provider_id < len(clock), clock[np.minimum(provider_id, len(clock) - 1)], 0)
        horizon: Ints = np.maximum(self._symbols["watermark"], known) - self._lateness
        return horizon

    def newest(self, provider_id: int) -> int:
        """The greatest event time of a trade of this provider's symbols, UTC microseconds; 0 if there is none."""
        return int(self._symbols["watermark"][self._symbols["provider_id"] == provider_id].max(initial=0))

    def provider_of(self, symbol_id: int) -> int:
        """The provider whose clock the symbol follows; 0 if nothing has come for it."""
        return int(self._symbols["provider_id"][symbol_id]) if symbol_id < len(self._symbols) else 0

    # Reading ------------------------------------------------------------------------------------

    def forming(self) -> int:
        """How many bars have not been announced as final."""
        return sum(int((~table.rows["final"]).sum()) for table in self._tables.values())

    def unstored(self) -> int:
        """How many bars changed since they were stored."""
        return sum(int(np.count_nonzero(table.rows["dirty"])) for table in self._tables.values())

    def dates(self, symbol_id: Ints, ts: Ints) -> Ints:
        """The trading date, as its midnight, that each time of a symbol counts to."""
        if not self._calendars:
            raise RuntimeError("no symbol has been learned")
        found = np.empty(len(ts), np.int64)
        calendar_of = self._calendar_of[symbol_id]
        for index, calendar in enumerate(self._calendars):
            rows = calendar_of == index
            found[rows] = calendar.trading_date(ts[rows])
        return found

    def resident(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """The bars in memory, forming ones included: a copy, of one symbol or of all."""
        table = self._tables[interval]
        if symbol_id is None:
            return table.rows.copy()
        return table.of_symbol(symbol_id).copy()

    def selected(self, interval: Interval, *, final: bool) -> Rows:
        """Those bars in memory that have, or have not, been announced as final: a copy of these alone."""
        rows = self._tables[interval].rows
        chosen: Rows = rows[rows["final"] == final]
        return chosen

    # State --------------------------------------------------------------------------------------

    def take_changes(self) -> Changes:
        """What a flush has to write, if anything; call `flushed` once it is committed."""
        bars, state = {}, {}
        for interval, table in self._tables.items():
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
        return Changes(self.offset, moved, bars, state)

    def flushed(self) -> None:
        """The last changes are stored; what need not stay in memory may go."""
        for table in self._tables.values():
            table.evict()

    def snapshot(self, among: Ints | None = None) -> State:
        """The whole state, or that of these symbols."""
        state = {interval.name: of_symbols(table.rows, among) for interval, table in self._tables.items()}
        return state | {"symbols": of_symbols(self._symbols[self._symbols["provider_id"] != 0], among)}

    def restore(self, offset: int, parts: Iterable[State]) -> None:
        """Take up the state of a checkpoint: a whole snapshot and the changes that followed it, in order."""
        self.offset = self._taken_offset = offset
        for part in parts:
            for interval in BASE_INTERVALS:
                if interval.name in part:
                    rows = part[interval.name].copy()
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
