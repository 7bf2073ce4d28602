"""Processes forgets of the log in a shard: the driver of `engine.forgetting`.

It runs in the loop of the shard, at the place of the forget in the log, so there is no second writer. Symbol by symbol,
and group of days by group of days, it reads the kept records, lets the engine build the bars with and without the
forgotten ones, and amends the bars in memory; the next flush stores the changes. A crash in the middle does no harm:
the same forget is processed again, and bars that it has already amended do not change.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog

from stockpulse.engine.batches import tick_batch
from stockpulse.engine.forgetting import touched
from stockpulse.journal.forgets import forgotten_rows
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Forget
from stockpulse.market.arrays import Ints
from stockpulse.market.intervals import BASE_INTERVALS
from stockpulse.market.symbology import Names
from stockpulse.market.times import DAY_MICROS
from stockpulse.pipeline.amending import Amending, apply
from stockpulse.pipeline.locked_engine import LockedEngine
from stockpulse.pipeline.shard_writer import ShardWriter
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


class Forgetting:
    """Processes the forgets of one shard."""

    def __init__(
        self,
        engine: LockedEngine,
        writer: ShardWriter,
        amending: Amending,
        kept: KeptRecords,
        names: Names,
        recent: RecentTicks,
        symbols: Callable[[], list[int]],
    ) -> None:
        """`recent` holds the ticks in memory, `symbols` returns the symbols of the shard."""
        self._engine = engine
        self._writer = writer
        self._amending = amending
        self._kept = kept
        self._names = names
        self._recent = recent
        self._symbols = symbols

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
        records = await self._amending.records(seq, symbol_id, start, end)
        gone = records.where(lambda frame: forgotten_rows(frame, forget, self._names))
        of_days = gone.where(lambda frame: (frame["ts"].to_physical() // DAY_MICROS).is_in(days.tolist()))
        rest = records.without(gone)
        before, after, candidates = [await self._amending.bars_of(symbol_id, one) for one in (records, rest, of_days)]
        done = Forgotten(len(of_days.ticks), sum(len(bars) for bars in of_days.bars.values()))
        async with self._engine as engine:
            for interval in BASE_INTERVALS:
                buckets = touched(before[interval], after[interval], candidates[interval]["ts"])
                if len(buckets):
                    revisions = np.full(len(buckets), seq)
                    part = await self._amending.load(engine, interval, symbol_id, buckets, before, after, revisions)
                    self._writer.announce(apply(engine, interval, part))
                    done += Forgotten(0, 0, len(part.changed), len(part.removed), part.refused)
            if len(gone.ticks) and start <= engine.analytics.prices.newest(symbol_id) < end:
                engine.analytics.prices.clear(symbol_id)
                if len(rest.ticks):
                    engine.analytics.apply_ticks(tick_batch(rest.ticks, self._names))
        return done
