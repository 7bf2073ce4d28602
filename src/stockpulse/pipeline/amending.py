"""Reads the kept records of a symbol, and builds and loads the bars that a forget or a correction amends."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.engine.bar_math import Rows, newest_of_each
from stockpulse.engine.batches import tick_batch
from stockpulse.engine.engine import Engine
from stockpulse.engine.forgetting import Amendment, BarsByInterval, amendment, build_bars
from stockpulse.engine.step import BarEvents, Batch, ProviderBars, Range
from stockpulse.market.arrays import Ints
from stockpulse.market.calendar import Calendar
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import BASE_INTERVALS, Interval
from stockpulse.market.symbology import Names
from stockpulse.pipeline.locked_engine import LockedEngine
from stockpulse.storage.engine_reads import EngineReads
from stockpulse.storage.kept_records import KeptRecords


@dataclass(frozen=True)
class Records:
    """Records of one symbol: ticks in the order of the log, and bars of providers."""

    ticks: pl.DataFrame
    bars: BarsByInterval

    def where(self, chosen: Callable[[pl.DataFrame], pl.Series]) -> "Records":
        """Return the records for which `chosen` holds; it takes frames of ticks, and of bars with the same names."""
        bars = {interval: rows[chosen(_frame(rows)).to_numpy()] for interval, rows in self.bars.items()}
        return Records(self.ticks.filter(chosen(self.ticks)), bars)

    def without(self, others: "Records") -> "Records":
        """Return the records that are not among the others."""
        bars = {one: rows[~np.isin(rows["ts"], others.bars[one]["ts"])] for one, rows in self.bars.items()}
        return Records(self.ticks.filter(~self.ticks["seq"].is_in(others.ticks["seq"].to_list())), bars)

    def batches(self, names: Names) -> list[Batch]:
        """Return the records for the engine. Ticks do not change a provider's bar, before it in the log or after."""
        given = [ProviderBars(one, rows) for one, rows in reversed(self.bars.items()) if len(rows)]
        batches: list[Batch] = [given] if given else []
        return [tick_batch(self.ticks, names), *batches] if len(self.ticks) else batches


def _frame(bars: Rows) -> pl.DataFrame:
    return pl.DataFrame({name: bars[name] for name in ("symbol_id", "provider_id", "ts")})


class Amending:
    """The reads and builds of one shard."""

    def __init__(
        self, engine: LockedEngine, reads: EngineReads, kept: KeptRecords, names: Names, *, extended_day: bool
    ) -> None:
        self._engine = engine
        self._reads = reads
        self._kept = kept
        self._names = names
        self._extended_day = extended_day

    def calendar_of(self, symbol_id: int) -> Calendar:
        """Return the calendar of a symbol."""
        return trading_calendar(self._names.symbol_by_id[symbol_id].calendar)

    async def records(self, seq: int, symbol_id: int, start: int, end: int) -> Records:
        """Return the records of a symbol before `seq` that are kept, and whose event time is in [start, end)."""
        bars = {}
        for interval in BASE_INTERVALS:
            stored = await self._reads.provided(interval, symbol_id, start, end)
            memory = self._engine.unlocked.bars.resident(interval, symbol_id)
            memory = memory[(memory["provider_id"] != 0) & (memory["ts"] >= start) & (memory["ts"] < end)]
            bars[interval] = newest_of_each(np.concatenate([stored, memory]))
        return Records(await self.ticks(seq, symbol_id, start, end), bars)

    async def ticks(self, seq: int, symbol_id: int, start: int, end: int) -> pl.DataFrame:
        """Return the kept ticks of a symbol before `seq` with start <= ts < end, as `schemas.LOGGED_TICKS`."""
        return await self._kept.ticks(seq, symbol_id, start, end)

    async def bars_of(self, symbol_id: int, records: Records) -> BarsByInterval:
        """Build the bars of these records alone."""
        return await offload.run(len(records.ticks), partial(self._build, symbol_id, records))

    def _build(self, symbol_id: int, records: Records) -> BarsByInterval:
        batches = records.batches(self._names)
        return build_bars(batches, symbol_id, self.calendar_of(symbol_id), extended_day=self._extended_day)

    async def load(
        self,
        engine: Engine,
        interval: Interval,
        symbol_id: int,
        buckets: Ints,
        before: BarsByInterval,
        after: BarsByInterval,
        seq: Ints,
        fresh: Ints | None = None,
    ) -> Amendment:
        """Load the bars of these buckets and the neighbours of the bars that will be deleted; return the amendment."""
        stored = await self._reads.bars(Range(interval, np.full(len(buckets), symbol_id), buckets, buckets + 1))
        present = engine.bars.current(interval, symbol_id, stored)
        part = amendment(present, before[interval], after[interval], buckets, seq, fresh)
        lost = np.concatenate([part.removed, part.changed[np.isnan(part.changed["open"])]])
        for revision in np.unique(lost["revision"]):
            first = int(lost["ts"][lost["revision"] == revision].min())
            neighbours = await self._reads.neighbours(interval, symbol_id, lost["ts"], first)
            engine.bars.current(interval, symbol_id, neighbours)
        return part


def apply(engine: Engine, interval: Interval, part: Amendment) -> list[BarEvents]:
    """Amend the bars of the engine, record by record in the order of the log; return the events."""
    events = []
    for seq in np.unique(np.concatenate([part.changed["revision"], part.removed["revision"]])).tolist():
        changed, removed = (rows[rows["revision"] == seq] for rows in (part.changed, part.removed))
        events += engine.amend(interval, changed, removed, seq)
    return events
