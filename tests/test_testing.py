"""The scripted parts behave like the real ones: they stream, end, fail and answer from history."""

import asyncio
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from live_feeds import live_feed
from stockpulse.aio.supervisor import State, Supervisor
from stockpulse.errors import InvalidInput
from stockpulse.market.intervals import M1
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.pipeline.backfill.backfills import Group
from stockpulse.pipeline.backfill.targets import Target
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.pipeline.sources import Source
from stockpulse.providers.base import Capabilities, Clock, History, Provider, ProviderEntry
from stockpulse.testing import ScriptedProvider, SetClock, bars_frame, ticks_frame
from store_stack import stack

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def trade(price):
    return ticks_frame({"symbol": "A", "ts": NOW, "price": price, "size": 1.0})


def minute_bar(symbol, ts, price):
    prices = dict.fromkeys(("open", "high", "low", "close"), price)
    return {"symbol": symbol, "interval": "1m", "ts": ts, "volume": 10.0} | prices


async def prices(provider):
    return [frame["price"][0] async for frame in provider.stream()]


class TestSetClock:
    def test_stands_still_until_it_is_set(self):
        clock = SetClock(NOW)
        assert clock() == clock() == NOW
        clock.at = NOW + MINUTE
        assert clock() == NOW + MINUTE
        clock.advance(MINUTE)
        assert clock() == NOW + 2 * MINUTE


class TestFrames:
    def test_have_the_schema_and_null_for_what_is_not_named(self):
        ticks = ticks_frame({"symbol": "A", "ts": NOW, "price": 1, "size": 2}, {"symbol": "B", "trade_id": "7"})
        assert ticks.schema == TICKS
        null = dict.fromkeys(TICKS)
        first, second = {"symbol": "A", "ts": NOW, "price": 1.0, "size": 2.0}, {"symbol": "B", "trade_id": "7"}
        assert ticks.to_dicts() == [null | first, null | second]
        assert bars_frame().schema == BARS
        assert bars_frame(minute_bar("A", NOW, 5))["close"].to_list() == [5.0]

    def test_refuse_a_column_that_the_schema_does_not_have(self):
        with pytest.raises(ValueError, match="no such column: volume; there are symbol, ts, price"):
            ticks_frame({"symbol": "A", "volume": 1})


class TestScriptedProvider:
    def test_is_a_provider(self):
        provider: Provider = ScriptedProvider(name="vendor", calendar="XNYS", clock=Clock.EVENT, delay_seconds=900)
        assert (provider.name, provider.calendar, provider.clock) == ("vendor", "XNYS", Clock.EVENT)
        assert (provider.can_wait, provider.delay_seconds) == (True, 900)

    def test_its_name_can_be_stored(self):
        with pytest.raises(InvalidInput, match="provider"):
            ScriptedProvider(name="No Name!")

    async def test_streams_its_script_to_the_end(self):
        assert await prices(ScriptedProvider([trade(1), trade(2)])) == [1.0, 2.0]
        assert await prices(ScriptedProvider()) == []

    async def test_raises_what_the_script_says_and_goes_on_after_it(self):
        provider = ScriptedProvider([trade(1), ConnectionError("hung up"), trade(2)])
        stream = provider.stream()
        assert (await anext(stream))["price"][0] == 1.0
        with pytest.raises(ConnectionError, match="hung up"):
            await anext(stream)
        assert await prices(provider) == [2.0]

    async def test_a_live_one_waits_for_more_until_it_ends(self):
        provider = ScriptedProvider([trade(1)], live=True)
        reading = asyncio.create_task(prices(provider))
        for price in (2, 3):
            await asyncio.sleep(0.01)
            assert not reading.done()
            provider.add(trade(price))
        provider.end()
        assert await reading == [1.0, 2.0, 3.0]

    async def test_answers_from_its_bars_and_remembers_the_requests(self):
        rows = [minute_bar(symbol, NOW - n * MINUTE, n) for n in range(5) for symbol in "AB"]
        provider = ScriptedProvider(bars=bars_frame(*rows))
        [found] = [frame async for frame in provider.history(["B"], "1m", NOW - 3 * MINUTE, NOW)]
        assert found.schema == BARS
        assert found["symbol"].unique().to_list() == ["B"]
        assert found["close"].to_list() == [3.0, 2.0, 1.0]
        assert [frame async for frame in provider.history(["B"], "5m", NOW - 3 * MINUTE, NOW)] == []
        assert provider.requests == [(("B",), interval, NOW - 3 * MINUTE, NOW) for interval in ("1m", "5m")]

    async def test_history_fails_as_often_as_it_is_told(self):
        provider = ScriptedProvider(bars=bars_frame(minute_bar("A", NOW, 1)))
        provider.history_faults += [TimeoutError()]
        with pytest.raises(TimeoutError):
            await anext(provider.history(["A"], "1m", NOW, NOW + MINUTE))
        assert len(await anext(provider.history(["A"], "1m", NOW, NOW + MINUTE))) == 1


class TestWithThePipeline:
    async def test_a_supervised_feed_outlives_a_fault(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(NOW)) as parts:
            provider = ScriptedProvider([trade(1), ConnectionError("hung up"), trade(2)])
            async with Supervisor(transient=(ConnectionError,)) as tasks:
                tasks.start(
                    "feed",
                    live_feed(parts, provider).follow,
                )
                while tasks.health["feed"].state is not State.DONE:
                    await asyncio.sleep(0.01)
            await parts.settled()
            assert await parts.pool.fetchval("SELECT array_agg(price ORDER BY seq) FROM realtime_prices") == [1.0, 2.0]

    async def test_its_history_fills_a_database(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(NOW + MINUTE)) as parts:
            provider = ScriptedProvider(
                bars=bars_frame(*[minute_bar("A", NOW - n * MINUTE, n) for n in range(9, 0, -1)])
            )
            has = Capabilities(history={"1m": History(timedelta(days=1))})
            source = Source(
                ProviderEntry(provider.name, lambda _: provider, capabilities=has), provider, (), feed_of(provider)
            )
            run = await parts.context.required_backfills.fill_round([Target(M1, days=1)], Group(("A",), (source,)))
            assert (run.bars, run.requests) == (9, 1)
            await parts.settled()
            assert [row["close"] for row in await parts.between("A", M1)] == [
                9.0,
                8.0,
                7.0,
                6.0,
                5.0,
                4.0,
                3.0,
                2.0,
                1.0,
            ]


def test_frames_and_polars_agree():
    row = {"symbol": "A", "ts": NOW, "price": 1.5, "size": 2.0, "exchange": "Q", "trade_id": "1", "conditions": "@"}
    assert ticks_frame(row).equals(pl.DataFrame([row], schema=TICKS))
