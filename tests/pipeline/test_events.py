"""Listeners receive all events of the shards, and never change stored data."""

import asyncio

import numpy as np
import pytest

from derived_recompute import in_plain_python
from stockpulse.engine.signals import Rule
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.ingest.feed import Feed
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5
from stockpulse.pipeline.events import Listener
from stockpulse.rules import parse
from store_stack import DAY, MINUTE, NOW, SECOND, stack, tick

TAPE = Feed("tape", "24/7", Clock.EVENT)
START = NOW - DAY


class Recorder(Listener):
    """Keeps the events that it receives."""

    def __init__(self):
        self.ticks, self.bars, self.indicators, self.signals = [], [], [], []

    def on_ticks(self, ticks):
        self.ticks += ticks["price"].to_list()

    def on_bars(self, bars):
        self.bars.append(bars)

    def on_indicators(self, indicators):
        self.indicators.append(indicators)

    def on_signals(self, signals):
        self.signals.append(signals)

    def newest(self, interval):
        """The final bars that are left if the highest revision of each stands."""
        kept = {}
        for event in self.bars:
            for row in event.rows[event.rows["final"]] if event.interval is interval else []:
                key = (int(row["symbol_id"]), int(row["ts"]))
                if key not in kept or kept[key]["revision"] <= row["revision"]:
                    kept[key] = row
        return kept


class Faulty(Listener):
    """Raises at every event."""

    def on_ticks(self, ticks):
        raise RuntimeError("a listener's own fault")

    on_bars = on_indicators = on_signals = on_ticks


class Slow(Listener):
    """Has no room, or nothing delivered, until it is let go."""

    def __init__(self):
        self.room, self.delivered = asyncio.Event(), asyncio.Event()
        self.room.set()
        self.delivered.set()

    async def until_room(self):
        await self.room.wait()

    async def until_delivered(self):
        await self.delivered.wait()


@pytest.mark.thorough
async def test_the_highest_revisions_are_the_stored_bars(postgres_dsn):
    heard, random = Recorder(), np.random.default_rng(1)
    async with stack(postgres_dsn, listeners=[heard]) as parts:
        for _ in range(30):  # up to ten minutes late
            late = [START + int(second) * SECOND for second in random.integers(-600, 600, 20)]
            await parts.submit(
                TAPE, *[tick("A", ts, price) for ts, price in zip(late, random.uniform(1, 9, 20), strict=True)]
            )
        await parts.ingestor.end(TAPE)
        await parts.settled()
        for interval in BASE_INTERVALS:
            stored = {(int(row["symbol_id"]), int(row["ts"])): row for row in await parts.stored(interval)}
            newest = heard.newest(interval)
            assert newest.keys() == stored.keys() != set()
            columns = ["open", "high", "low", "close", "volume_units", "trade_count", "revision"]
            for key, row in stored.items():
                assert newest[key][columns].tolist() == row[columns].tolist()
    assert len(heard.ticks) == 600
    assert any(event.revised for event in heard.bars)


async def test_a_late_tick_is_a_revision(postgres_dsn):
    heard = Recorder()
    async with stack(postgres_dsn, listeners=[heard]) as parts:
        await parts.submit(TAPE, tick("A", START, 10), tick("A", START + 3 * MINUTE, 11))
        await parts.settled()
        before = heard.newest(M1)
        await parts.submit(TAPE, tick("A", START + SECOND, 12))
        await parts.settled()
        (revised,) = [event for event in heard.bars if event.revised and event.interval is M1]
        ((key, first),) = before.items()
        assert revised.rows["close"].tolist() == [12.0]
        assert revised.rows["revision"][0] > first["revision"]
        assert heard.newest(M1)[key]["close"] == 12.0


@pytest.mark.thorough
async def test_indicators_and_signals_are_the_stored_ones(postgres_dsn):
    heard = Recorder()
    rule = Rule("up", parse("close > sma(2)"), parse("close < sma(2)"))
    instances = [Instance(CATALOGUE["sma"])]
    async with stack(
        postgres_dsn, instances=instances, rules=[rule], functions=in_plain_python, listeners=[heard]
    ) as parts:
        for minute in range(400):
            await parts.submit(TAPE, tick("A", START + minute * MINUTE, 100 + minute % 7))
        await parts.ingestor.end(TAPE)
        async with asyncio.timeout(20):
            while parts.engine.analytics.behind() or parts.shard.offset < parts.journal.head:
                await asyncio.sleep(0.01)
        await parts.flush()
        stored = await parts.pool.fetch("SELECT ts FROM signals ORDER BY ts")
        values = await parts.pool.fetch("SELECT ts FROM intraday_analytics ORDER BY ts")
    assert len(stored) > 300
    assert {int(ts) for event in heard.signals for ts in event.ts} == {
        round(row["ts"].timestamp() * 1e6) for row in stored
    }
    intraday = {int(ts) for event in heard.indicators if event.tier == "intraday" for ts in event.rows.ts}
    assert intraday == {round(row["ts"].timestamp() * 1e6) for row in values}
    assert {event.interval for event in heard.bars} == {M1, M5, D1}


@pytest.mark.thorough
async def test_a_fault_of_a_listener_harms_nobody_else(postgres_dsn, capsys):
    heard = Recorder()
    async with stack(postgres_dsn, listeners=[Faulty(), heard]) as parts:
        await parts.submit(TAPE, tick("A", START, 10), tick("A", START + 3 * MINUTE, 11))
        await parts.settled()
        assert heard.ticks == [10.0, 11.0]
        assert len(await parts.stored(M1)) == 1
    assert "Faulty" in capsys.readouterr().out


async def test_nothing_is_stored_before_it_is_delivered(postgres_dsn):
    slow = Slow()
    async with stack(postgres_dsn, listeners=[slow]) as parts:
        slow.delivered.clear()
        await parts.submit(TAPE, tick("A", START, 10), tick("A", START + 3 * MINUTE, 11))
        while parts.shard.offset < parts.journal.head:
            await asyncio.sleep(0.01)
        flush = asyncio.create_task(parts.flush())
        await asyncio.sleep(0.1)
        assert len(await parts.stored(M1)) == 0
        slow.delivered.set()
        await flush
        await parts.settled()
        assert len(await parts.stored(M1)) == 1


async def test_a_listener_without_room_slows_the_shard(postgres_dsn):
    slow = Slow()
    async with stack(postgres_dsn, listeners=[slow]) as parts:
        slow.room.clear()
        await parts.submit(TAPE, tick("A", START, 10))
        await asyncio.sleep(0.1)
        assert parts.shard.offset < parts.journal.head
        slow.room.set()
        await parts.settled()
        assert parts.shard.offset == parts.journal.head
