"""Stored data compared with a recompute from the records of the log that no later record has taken back."""

import asyncio

import numpy as np
import polars as pl

from derived_recompute import differences, in_plain_python, recomputed, stored
from stockpulse.engine.bar_math import BAR
from stockpulse.engine.batches import bar_batches, tick_batch
from stockpulse.engine.forgetting import build_bars
from stockpulse.engine.signals import Rule
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.ingest.feed import Feed
from stockpulse.journal.offset_order import runs_in_order
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import BASE_INTERVALS
from stockpulse.market.schemas import LOGGED_BARS, LOGGED_TICKS
from stockpulse.rules import parse
from store_stack import DAY, MINUTE, NOW, stack, tick

AT = NOW - DAY
TAPE = Feed("tape", "24/7", Clock.EVENT)
OTHER = Feed("other", "24/7", Clock.EVENT)
VENDOR = Feed("vendor", "24/7", Clock.EVENT)
VALUES = [name for name in BAR.names if name not in ("revision", "final", "dirty")]
INSTANCES = [Instance(CATALOGUE[name]) for name in ("sma", "ema", "obv", "vwap")]
RULE = Rule("early", parse("sma(2) > sma(3)"), parse("close < vwap"))


class Killed(Exception):
    """Ends a stack as a kill does: no drain, no last flush."""


async def settled(parts):
    """Wait until everything that follows from the log is stored."""
    async with asyncio.timeout(30):
        while parts.shard.offset < parts.journal.head or parts.engine.analytics.behind():
            await asyncio.sleep(0.005)
    await parts.flush()


async def ended(parts, *feeds):
    for feed in feeds or (TAPE,):
        await parts.ingestor.end(feed)
    await settled(parts)


async def records(parts):
    """Return the records of the log without those that were taken back, read from the tables."""
    ticks = await parts.pool.fetch(f"SELECT {', '.join(LOGGED_TICKS)} FROM realtime_prices ORDER BY seq")
    bars = await parts.pool.fetch(f"SELECT {', '.join(LOGGED_BARS)} FROM provider_bars ORDER BY seq")
    forgets = await parts.pool.fetch("SELECT * FROM forgets")
    corrections = await parts.pool.fetch("SELECT * FROM corrections ORDER BY seq")

    def stands(row, provider_id):
        return not any(
            one["seq"] > row["seq"]
            and one["symbol_id"] in (None, row["symbol_id"])
            and one["provider_id"] in (None, provider_id)
            and one["start_at"] <= row["ts"] < one["end_at"]
            for one in forgets
        )

    def corrected(row, kind):
        return any(
            one["seq"] > row["seq"]
            and (one["symbol_id"], one["provider_id"]) == (row["symbol_id"], kind.provider_id)
            and one["exchange"] in (None, kind.exchange)
            and one["trade_id"] == row["trade_id"]
            and one["since"] <= row["ts"] <= one["ts"]
            for one in corrections
        )

    kinds = parts.names.kind_by_id
    ticks = [row for row in ticks if not corrected(row, kinds[row["kind_id"]])]
    ticks = [tuple(row) for row in ticks if stands(row, kinds[row["kind_id"]].provider_id)]
    bars = [tuple(row) for row in bars if stands(row, row["provider_id"])]
    return pl.DataFrame(ticks, LOGGED_TICKS, orient="row"), pl.DataFrame(bars, LOGGED_BARS, orient="row")


async def expected(parts):
    """Return the bars that the records make that were not taken back."""
    ticks, bars = await records(parts)
    found = {interval: [] for interval in BASE_INTERVALS}
    for symbol in parts.names.symbol_by_id.values():
        calendar = trading_calendar(symbol.calendar)
        batches = []
        mine = [frame.filter(pl.col("symbol_id") == symbol.id) for frame in (ticks, bars)]
        for kind, run in runs_in_order(mine):
            batches += (
                [tick_batch(run, parts.names)]
                if kind == 0
                else [bar_batches(run[at], lambda _, one=calendar: one, extended_day=False) for at in range(len(run))]
            )
        for interval, rows in build_bars(batches, symbol.id, calendar, extended_day=False).items():
            found[interval].append(rows)
    return {interval: np.concatenate(rows) for interval, rows in found.items()}


async def assert_right(parts):
    """The stored bars are those of the records that were not taken back; all else follows from them."""
    want = await expected(parts)
    for interval in BASE_INTERVALS:
        have = await parts.stored(interval)
        for rows in (have, want[interval]):
            rows.sort(order=["symbol_id", "ts"])
        assert have[["symbol_id", "ts"]].tolist() == want[interval][["symbol_id", "ts"]].tolist(), interval
        for name in VALUES:
            assert have[name].tobytes() == want[interval][name].tobytes(), (interval, name)
    analytics = parts.engine.analytics
    async with parts.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        wrong = differences(
            await stored(connection, analytics), await recomputed(connection, analytics, in_plain_python)
        )
    assert not wrong, "\n".join(wrong)


def plain(dsn, **settings):
    return stack(dsn, instances=INSTANCES, rules=[RULE], functions=in_plain_python, **settings)


def walk(symbol, start, minutes, price=100.0, **fields):
    return [tick(symbol, start + n * MINUTE, price + n % 7, 1 + n % 3, **fields) for n in range(minutes)]


async def prices(parts, interval, name="A"):
    return [row["close"] for row in await parts.between(name, interval)]
