"""Whatever breaks: once the gaps are filled, each trade of the source is stored once, and bars are those of all trades.

A market of two symbols streams its trades. The stream breaks at random moments and loses the trades that were on their
way; at times it delivers trades again; the pipeline is restarted; requests for past trades fail in the middle. Live and
filled trades overlap.
"""

import asyncio
import random
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta

import pytest

from live_feeds import healing_feed
from stockpulse.ingest import redelivery
from stockpulse.ingest.redelivery import RedeliveryWindow
from stockpulse.market.intervals import M1
from stockpulse.pipeline.feed_gap_log import OVERLAP
from stockpulse.providers.base import Capabilities, ProviderBase
from stockpulse.providers.faults import BadReply, RateLimited, TooManyConnections, Unreachable
from stockpulse.testing import SetClock, ticks_frame
from store_stack import NOW, SECOND, stack, tick

HAS = Capabilities(trades=True)
PUBLISHED = timedelta(seconds=10)
"""The time after which a trade is part of the provider's past."""
FAULTS = (Unreachable("reset"), BadReply("no JSON"), TooManyConnections("406"))


class Market(ProviderBase):
    """All trades of the source, and a stream and a past of them that fail at random."""

    name = "market"
    calendar = "24/7"

    def __init__(self, seed, clock, size, breaking):
        self.random = random.Random(seed)
        self.breaking = breaking
        self.now = clock
        self.breaks = 0
        at, self.all = NOW, []
        for number in range(size):
            at += timedelta(microseconds=self.random.randrange(1, 4_000_000))
            symbol, exchange = self.random.choice("AB"), self.random.choice(["X", "Y", None])
            price, size = self.random.randrange(9_000, 11_000) / 100, self.random.randrange(1, 500)
            self.all.append(tick(symbol, at, price, size, exchange=exchange, trade_id=str(number)))
        self.end = at

    async def stream(self):
        """Stream the trades after now, or from some seconds before: until the source has no more."""
        since = self.now() - timedelta(seconds=self.random.choice([0, 0, 3, 30]))
        coming = [one for one in self.all if one["ts"] > since]
        while coming:
            count = self.random.randrange(1, 20)
            batch, coming = coming[:count], coming[count:]
            self.now.at = max(self.now.at, batch[-1]["ts"] + timedelta(milliseconds=self.random.randrange(500)))
            if len(coming) + count < len(self.all) and self.random.random() < self.breaking:
                self.breaks += 1
                lost = self.now() - OVERLAP / 2  # the trades that were on their way
                arrived = [one for one in batch if one["ts"] < lost]
                if arrived:
                    yield ticks_frame(*arrived)
                raise self.random.choice(FAULTS)
            yield ticks_frame(*batch)
            await asyncio.sleep(0)
        self.now.at += timedelta(minutes=30)

    async def trades(self, symbols, start, end):
        """Yield past trades in pages, as far as they are published; break off at times."""
        for symbol in symbols:
            known = [
                one
                for one in self.all
                if one["symbol"] == symbol and start <= one["ts"] < end and one["ts"] <= self.now() - PUBLISHED
            ]
            while known:
                count = self.random.randrange(1, 60)
                page, known = known[:count], known[count:]
                if self.random.random() < 0.1:
                    raise self.random.choice([Unreachable("reset"), RateLimited("slowly")])
                yield ticks_frame(*page)
                await asyncio.sleep(0)


class Forgetful(RedeliveryWindow):
    """A window of redeliveries of half a minute and few keys: a gap is longer, as with a busy feed."""

    def __init__(self, **options):
        super().__init__(**{**options, "window_micros": 30_000_000, "most_keys": 300, "least_keys": 30})


class Waits:
    """Waits of a feed move the clock on; waits of the filler end when the feed has moved it."""

    def __init__(self, clock):
        self.clock = clock

    async def of_feed(self, seconds):
        self.clock.at += timedelta(seconds=seconds)
        await asyncio.sleep(0)

    async def of_filler(self, seconds):
        until = self.clock() + timedelta(seconds=seconds)
        while self.clock() < until:
            await asyncio.sleep(0.001)


def bars_of(trades):
    """Return the 1-minute bars of trades, one trade at a time."""
    minutes = defaultdict(list)
    for one in sorted(trades, key=lambda one: one["ts"]):
        minutes[one["symbol"], one["ts"].replace(second=0, microsecond=0)].append(one)
    return {
        key: (
            rows[0]["price"],
            max(row["price"] for row in rows),
            min(row["price"] for row in rows),
            rows[-1]["price"],
            sum(row["size"] for row in rows),
            len(rows),
        )
        for key, rows in minutes.items()
    }


async def stored_bars(parts):
    return {
        (symbol, row["ts"]): tuple(row[name] for name in ("open", "high", "low", "close", "volume", "trade_count"))
        for symbol in "AB"
        for row in await parts.between(symbol, M1)
    }


async def follow_for_a_while(parts, market, waits, stop_at):
    """Follow the market, and fill its gaps meanwhile, until it ends or until this time."""
    feed = healing_feed(parts, market, "AB", HAS, waits.of_filler)
    feed.live.sleep = waits.of_feed
    feed.live.gaps._mark_seconds = 0.01
    tasks = [asyncio.create_task(run()) for run in (feed.live.follow, feed.live.gaps.run, feed.filler.run)]
    while not tasks[0].done() and (market.now() < stop_at or await feed.gaps.complete_until("market") is None):
        await asyncio.sleep(0.001)
    if not tasks[0].done():
        await stopped(tasks[:1])
    else:
        tasks[0].result()
        while (await feed.gaps.counts("market")).keys() - {"filled"} or feed.live.gaps._waiting:
            market.now.at += SECOND
            await asyncio.sleep(0.005)
    await stopped(tasks)
    return feed


async def stopped(tasks):
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_bars_are_those_of_all_trades_that_the_source_ever_had(postgres_dsn, seed, monkeypatch):
    market, _ = await run_of(postgres_dsn, seed, monkeypatch, 300 + 150 * seed, 0.12)
    assert market.breaks > 0


@pytest.mark.slow
@pytest.mark.longest
async def test_more_than_two_hundred_breaks_in_one_run(postgres_dsn, monkeypatch):
    market, filled = await run_of(postgres_dsn, 1, monkeypatch, 9_000, 0.3)
    print(f"{market.breaks} breaks, {filled} gaps filled, {len(market.all)} trades")
    assert market.breaks > 200


async def run_of(postgres_dsn, seed, monkeypatch, size, breaking):
    """Follow a market to its end, with two restarts; check what is stored; return the market and the filled gaps."""
    monkeypatch.setattr(redelivery, "RedeliveryWindow", Forgetful)
    clock = SetClock(NOW)
    market = Market(seed, clock, size, breaking)
    waits = Waits(clock)
    span = market.end - NOW
    stops = [NOW + span * part for part in sorted(market.random.random() for _ in range(2))]
    for stop in [*stops, market.end + timedelta(days=1)]:
        async with stack(postgres_dsn, clock=clock) as parts:
            feed = await follow_for_a_while(parts, market, waits, stop)
            await parts.settled()
            stored = await stored_bars(parts)
            ids = await parts.pool.fetch("SELECT trade_id FROM realtime_prices")
            counts = await feed.gaps.counts("market")
        clock.at += timedelta(seconds=market.random.randrange(100))
    assert len(ids) == len({row[0] for row in ids}) == len(market.all)
    assert stored == bars_of(market.all)
    assert counts.keys() == {"filled"}
    assert counts["filled"] > 1
    return market, counts["filled"]
