"""Processes forgets of the log in a shard: the driver of `engine.forgetting`.

It runs in the loop of the shard, at the place of the forget in the log, so there is no second writer. Symbol by symbol,
and group of days by group of days, it reads the kept records, lets the engine build the bars with and without the
forgotten ones, and amends the bars in memory; the next flush stores the changes. A crash in the middle does no harm:
the same forget is processed again, and bars that it has already amended do not change.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import polars as pl
import structlog

from stockpulse.aio import offload
from stockpulse.engine.bar_math import Rows, newest_of_each
from stockpulse.engine.batches import tick_batch
from stockpulse.engine.engine import Engine
from stockpulse.engine.forgetting import Amendment, BarsByInterval, amendment, build_bars, touched
from stockpulse.engine.step import Batch, ProviderBars, Range
from stockpulse.journal.forgets import forgotten_rows
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Forget
from stockpulse.market.arrays import Ints
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import BASE_INTERVALS, Interval
from stockpulse.market.symbology import Names
from stockpulse.market.times import DAY_MICROS
from stockpulse.pipeline.locked_engine import LockedEngine
from stockpulse.pipeline.shard_writer import ShardWriter
from stockpulse.storage.engine_reads import EngineReads
from stockpulse.storage.kept_records import KeptRecords, bounds, groups

_MAX_TICKS: Final = 500_000
"""Days with more ticks together are processed one after the other."""

_PADDING_DAYS: Final = 2
"""A trading day may begin on the day before its date: its ticks lie within this number of days (UTC) around it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Forgotten:
    """The results of a forget in one shard."""

    ticks: int = 0
    provider_bars: int = 0
    bars_changed: int = 0
    bars_removed: int = 0
    bars_refused: int = 0
    """Bars that stay unchanged, because not all of their records are stored."""

    def __add__(self, other: "Forgotten") -> "Forgotten":
        return Forgotten(
            self.ticks + other.ticks,
            self.provider_bars + other.provider_bars,
            self.bars_changed + other.bars_changed,
            self.bars_removed + other.bars_removed,
            self.bars_refused + other.bars_refused,
        )


@dataclass(frozen=True)
class _Records:
    """Records of one symbol: ticks in the order of the log, and bars of providers."""

    ticks: pl.DataFrame
    bars: BarsByInterval

    def where(self, chosen: Callable[[pl.DataFrame], pl.Series]) -> "_Records":
        """Return the records for which `chosen` holds; it takes frames of ticks, and of bars with the same names."""
        bars = {interval: rows[chosen(_frame(rows)).to_numpy()] for interval, rows in self.bars.items()}
        return _Records(self.ticks.filter(chosen(self.ticks)), bars)

    def without(self, others: "_Records") -> "_Records":
        """Return the records that are not among the others."""
        bars = {one: rows[~np.isin(rows["ts"], others.bars[one]["ts"])] for one, rows in self.bars.items()}
        return _Records(self.ticks.filter(~self.ticks["seq"].is_in(others.ticks["seq"].to_list())), bars)

    def batches(self, names: Names) -> list[Batch]:
        """Return the records for the engine. Ticks do not change a provider's bar, before it in the log or after."""
        given = [ProviderBars(one, rows) for one, rows in reversed(self.bars.items()) if len(rows)]
        batches: list[Batch] = [given] if given else []
        return [tick_batch(self.ticks, names), *batches] if len(self.ticks) else batches


def _frame(bars: Rows) -> pl.DataFrame:
    return pl.DataFrame({name: bars[name] for name in ("symbol_id", "provider_id", "ts")})


class Forgetting:
    """Processes the forgets of one shard."""

    def __init__(
        self,
        engine: LockedEngine,
        writer: ShardWriter,
        reads: EngineReads,
        kept: KeptRecords,
        names: Names,
        recent: RecentTicks,
        symbols: Callable[[], list[int]],
        *,
        extended_day: bool,
    ) -> None:
        """`recent` holds the ticks in memory, `symbols` returns the symbols of the shard."""
        self._engine = engine
        self._writer = writer
        self._reads = reads
        self._kept = kept
        self._names = names
        self._recent = recent
        self._symbols = symbols
        self._extended_day = extended_day

    async def process(self, forget: Forget, seq: int, until_room: Callable[[], Awaitable[None]]) -> Forgotten:
        """Amend the bars that the forget `seq` touches; `until_room` is called after each part."""
        await self._writer.flush_once()  # from here on the database has all that was processed before the forget
        done = Forgotten()
        for affected in await self._kept.affected(forget, seq, self._candidates(forget)):
            for days in groups(affected, _MAX_TICKS):
                done += await self._amend(forget, seq, affected.symbol_id, days)
                await until_room()
        self._recent.drop_rows(lambda ticks: forgotten_rows(ticks, forget, self._names) & (ticks["seq"] < seq))
        log.info("forgotten", symbol=forget.symbol, provider=forget.provider, offset=seq, **done.__dict__)
        return done

    def _candidates(self, forget: Forget) -> list[int]:
        if forget.symbol is None:
            return self._symbols()
        known = self._names.symbols.get(forget.symbol)
        return [] if known is None else [known.id]

    async def _amend(self, forget: Forget, seq: int, symbol_id: int, days: Ints) -> Forgotten:
        """Amend the bars of one symbol that have forgotten records of these days."""
        start, end = bounds(days, _PADDING_DAYS)
        records = await self._records(seq, symbol_id, start, end)
        gone = records.where(lambda frame: forgotten_rows(frame, forget, self._names))
        of_days = gone.where(lambda frame: (frame["ts"].to_physical() // DAY_MICROS).is_in(days.tolist()))
        rest = records.without(gone)
        before, after, candidates = [
            await offload.run(len(one.ticks), partial(self._build, symbol_id, one)) for one in (records, rest, of_days)
        ]
        done = Forgotten(len(of_days.ticks), sum(len(bars) for bars in of_days.bars.values()))
        async with self._engine as engine:
            for interval in BASE_INTERVALS:
                buckets = touched(before[interval], after[interval], candidates[interval]["ts"])
                if len(buckets):
                    part = await self._part(engine, interval, symbol_id, buckets, before, after, seq)
                    self._writer.announce(engine.amend(interval, part.changed, part.removed, seq))
                    done += Forgotten(0, 0, len(part.changed), len(part.removed), part.refused)
            if len(gone.ticks) and start <= engine.analytics.prices.newest(symbol_id) < end:
                engine.analytics.prices.clear(symbol_id)
                if len(rest.ticks):
                    engine.analytics.apply_ticks(tick_batch(rest.ticks, self._names))
        return done

    async def _records(self, seq: int, symbol_id: int, start: int, end: int) -> _Records:
        """Return the records of a symbol before `seq` that are kept, and whose event time is in [start, end)."""
        bars = {}
        for interval in BASE_INTERVALS:
            stored = await self._reads.provided(interval, symbol_id, start, end)
            memory = self._engine.unlocked.bars.resident(interval, symbol_id)
            memory = memory[(memory["provider_id"] != 0) & (memory["ts"] >= start) & (memory["ts"] < end)]
            bars[interval] = newest_of_each(np.concatenate([stored, memory]))
        return _Records(await self._kept.ticks(seq, symbol_id, start, end), bars)

    def _build(self, symbol_id: int, records: _Records) -> BarsByInterval:
        calendar = trading_calendar(self._names.symbol_by_id[symbol_id].calendar)
        return build_bars(records.batches(self._names), symbol_id, calendar, extended_day=self._extended_day)

    async def _part(
        self,
        engine: Engine,
        interval: Interval,
        symbol_id: int,
        buckets: Ints,
        before: BarsByInterval,
        after: BarsByInterval,
        seq: int,
    ) -> Amendment:
        """Load the bars of these buckets and the neighbours of the bars that will be deleted; return the amendment."""
        stored = await self._reads.bars(Range(interval, np.full(len(buckets), symbol_id), buckets, buckets + 1))
        present = engine.bars.current(interval, symbol_id, stored)
        part = amendment(present, before[interval], after[interval], buckets, seq)
        lost = np.concatenate([part.removed["ts"], part.changed["ts"][np.isnan(part.changed["open"])]])
        if len(lost):
            engine.bars.current(interval, symbol_id, await self._reads.neighbours(interval, symbol_id, lost))
        return part
