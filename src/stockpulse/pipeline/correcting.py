"""Processes corrections and cancels of trades in a shard, as `pipeline.forgetting` processes forgets.

The bars of a trade's date are built from the kept ticks twice: with the wrong trade, and without it or with the right
one in its place. The first must equal the present bar, or not all of its ticks are stored: then the bar stays as it is.

Consecutive corrections are processed together, in rounds in which no correction touches the trade of another. A round
changes the engine at once, with the offset: a checkpoint has all of it or nothing. The revision of a bar is the newest
correction that has a trade in it. So neither depends on how the records come together.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import structlog

from stockpulse.engine.batches import tick_batch
from stockpulse.engine.engine import Engine
from stockpulse.engine.forgetting import Amendment, BarsByInterval, touched
from stockpulse.engine.last_prices import POINTS
from stockpulse.ingest.corrected_trades import rounds
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Corrections
from stockpulse.market.arrays import Ints, array_of
from stockpulse.market.intervals import BASE_INTERVALS, Interval
from stockpulse.market.schemas import COUNTS_FOR_PRICE, PRIMARY
from stockpulse.market.symbology import Names
from stockpulse.market.times import DAY_MICROS
from stockpulse.pipeline.amending import Amending, Records, apply
from stockpulse.pipeline.locked_engine import LockedEngine
from stockpulse.pipeline.shard_writer import ShardWriter
from stockpulse.storage.corrected_ticks import CorrectedTicks
from stockpulse.telemetry.counters import Counters

_MOST: Final = 200
"""The most corrections of a round, which holds the engine while it loads their bars."""

_PRICES_WITHIN: Final = 2 * DAY_MICROS
"""The newest prices of a symbol are looked for within this time around the date of a corrected trade."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Plan:
    """The bars of one symbol on one date, before and after a round."""

    symbol_id: int
    before: BarsByInterval
    after: BarsByInterval
    alone: BarsByInterval
    """Bars of the wrong and the right trades alone. Their revision is the newest correction with a trade in them."""
    right: BarsByInterval
    """Bars of the right trades alone."""
    prices: pl.DataFrame | None
    """The ticks to find the newest prices in, if a wrong trade is among these."""


_Part = tuple[int, Interval, Amendment]
"""The amendment of the bars of a symbol in an interval."""


class Correcting:
    """Processes the corrections of one shard."""

    def __init__(
        self,
        engine: LockedEngine,
        writer: ShardWriter,
        amending: Amending,
        ticks: CorrectedTicks,
        names: Names,
        recent: RecentTicks,
        counters: Counters,
    ) -> None:
        """`recent` holds the ticks in memory."""
        self._engine = engine
        self._writer = writer
        self._amending = amending
        self._ticks = ticks
        self._names = names
        self._recent = recent
        self._counters = counters

    async def process(self, corrections: pl.DataFrame, until_room: Callable[[], Awaitable[None]]) -> None:
        """Amend the bars of corrections, a frame of LOGGED_CORRECTIONS; `until_room` is called before each round."""
        for together in rounds(corrections, "symbol_id"):
            for part in together.iter_slices(_MOST):
                await until_room()
                await self._round(part)

    async def _round(self, part: pl.DataFrame) -> None:
        await self._writer.flush_once()  # from here on the database has all that was processed before the round
        wrong = await self._ticks.taken_back(part)
        right = Corrections(part).right_trades
        plans = []
        for symbol_id in part["symbol_id"].unique(maintain_order=True):
            mine = [frame.filter(pl.col("symbol_id") == symbol_id) for frame in (wrong, right)]
            plans += await self._plans(int(part["seq"][0]), symbol_id, *mine)
        async with self._engine as engine:
            parts = [one for plan in plans for one in await self._amendments(engine, plan)]
            for _, interval, amendment in parts:  # from here on nothing waits: the round is whole, or not begun
                self._writer.announce(apply(engine, interval, amendment))
            self._set_prices(engine, plans, right)
            self._writer.keep_corrections(part, wrong, right)
            engine.bars.offset = max(engine.bars.offset, int(part["seq"][-1]) + 1)
        self._recent.drop_rows(lambda ticks: ticks["seq"].is_in(wrong["seq"].implode()))
        self._report(part, wrong, parts)

    async def _plans(self, seq: int, symbol_id: int, wrong: pl.DataFrame, right: pl.DataFrame) -> list[_Plan]:
        """Build the bars of one symbol, date by date, from its records before `seq`."""
        times = np.concatenate([array_of(wrong["ts"]), array_of(right["ts"])])
        spans = self._amending.calendar_of(symbol_id).date_span(times)
        return [
            await self._plan(seq, symbol_id, start, end, wrong, right)
            for start, end in np.unique(np.stack(spans, axis=1), axis=0).tolist()
        ]

    async def _plan(
        self, seq: int, symbol_id: int, start: int, end: int, wrong: pl.DataFrame, right: pl.DataFrame
    ) -> _Plan:
        records = await self._amending.records(seq, symbol_id, start, end)
        right = right.filter(pl.col("ts").to_physical().is_between(start, end, closed="left"))
        by = records.ticks.join(wrong.select("seq", "by_seq"), on="seq").with_columns(seq="by_seq").drop("by_seq")
        rest = _without(records.ticks, wrong)
        after = Records(pl.concat([rest, right]), records.bars)
        none = {interval: rows[:0] for interval, rows in records.bars.items()}
        alone = Records(pl.concat([by, right]).sort("seq"), none)
        prices, newest = None, self._engine.unlocked.analytics.prices
        if newest.holds(symbol_id, wrong["seq"].to_numpy()):
            priced = after.ticks
            if newest.newest(symbol_id) >= end or self._prices_in(priced) < POINTS:
                around = await self._amending.ticks(seq, symbol_id, start - _PRICES_WITHIN, end + _PRICES_WITHIN)
                priced = pl.concat([_without(around, wrong), right])
            prices = priced
        return _Plan(
            symbol_id,
            before=await self._amending.bars_of(symbol_id, records),
            after=await self._amending.bars_of(symbol_id, after),
            alone=await self._amending.bars_of(symbol_id, alone),
            right=await self._amending.bars_of(symbol_id, Records(right, none)),
            prices=prices,
        )

    def _prices_in(self, ticks: pl.DataFrame) -> int:
        """Return the number of ticks that count for prices."""
        flags = self._names.flags_of(ticks["kind_id"].to_numpy())
        return int(np.count_nonzero((flags & PRIMARY != 0) & (flags & COUNTS_FOR_PRICE != 0)))

    async def _amendments(self, engine: Engine, plan: _Plan) -> list[_Part]:
        """Load the present bars and return their amendments. No bar changes yet."""
        parts = []
        for interval in BASE_INTERVALS:
            buckets, seqs = _buckets(plan, interval)
            if len(buckets):
                fresh = plan.right[interval]["ts"]
                part = await self._amending.load(
                    engine, interval, plan.symbol_id, buckets, plan.before, plan.after, seqs, fresh
                )
                parts.append((plan.symbol_id, interval, part))
        return parts

    def _set_prices(self, engine: Engine, plans: list[_Plan], right: pl.DataFrame) -> None:
        for plan in plans:
            if plan.prices is not None:
                engine.analytics.prices.clear(plan.symbol_id)
                if len(plan.prices):
                    engine.analytics.apply_ticks(tick_batch(plan.prices, self._names))
        if len(right):
            batch = tick_batch(right, self._names)
            engine.bars.watch(batch)
            engine.analytics.apply_ticks(batch)

    def _report(self, part: pl.DataFrame, wrong: pl.DataFrame, parts: list[_Part]) -> None:
        """Count and log the corrections that have no effect, or not all of it."""
        done = set(wrong["by_seq"])
        refused = Counter[int]()
        for symbol_id, _, amendment in parts:
            refused[symbol_id] += amendment.refused
        self._counters.bars_not_corrected += refused.total()
        for seq, symbol_id, trade_id in part.select("seq", "symbol_id", "trade_id").iter_rows():
            about = {"symbol": self._names.symbol_by_id[symbol_id].name, "trade_id": trade_id, "offset": seq}
            if seq not in done:
                self._counters.corrections_without_trade += 1
                log.info("the trade of a correction is not stored", **about)
            if refused[symbol_id]:
                log.warning("not all ticks are stored: bars are not corrected", bars=refused[symbol_id], **about)


def _buckets(plan: _Plan, interval: Interval) -> tuple[Ints, Ints]:
    """Return the buckets to amend, and the newest correction of each.

    A bar of ticks counts as amended even if its values are the same: so its revision does not depend on the rounds.
    """
    before, alone = plan.before[interval], plan.alone[interval]
    differ = np.isin(alone["ts"], touched(before, plan.after[interval], alone["ts"]))
    of_ticks = np.isin(alone["ts"], before["ts"][before["provider_id"] == 0])
    return alone["ts"][differ | of_ticks], alone["revision"][differ | of_ticks]


def _without(ticks: pl.DataFrame, wrong: pl.DataFrame) -> pl.DataFrame:
    return ticks.filter(~pl.col("seq").is_in(wrong["seq"].implode()))
