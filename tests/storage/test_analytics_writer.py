"""Stored indicators and signals equal one calculation over the stored bars, however they came about."""

import asyncio
import contextlib
import os
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bare_sink import spec_of
from derived_recompute import differences, in_plain_python, recomputed, stored
from stockpulse.engine import indicator_track
from stockpulse.engine.signals import Rule
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.ingest.feed import Feed
from stockpulse.market.clocks import Clock
from stockpulse.market.times import micros
from stockpulse.pipeline import flush_size, indicator_catch_up, shard_processor
from stockpulse.postgres.connect import create_pool
from stockpulse.providers.trade_conditions import alpaca
from stockpulse.rules import parse
from stockpulse.storage import sink
from stockpulse.storage.analytics_writer import drop_old_states, drop_other_states
from store_stack import DAY, HOUR, MINUTE, NOW, bar, frame_of_ticks, stack, tick

TAPE = Feed("tape", "24/7", Clock.EVENT)
STOCKS = Feed("stocks", "XNYS", Clock.EVENT, rule=alpaca)

INSTANCES = [Instance(CATALOGUE[name]) for name in ("sma", "ema", "rsi", "macd", "obv", "vwap")]
OTHERS = [Instance(CATALOGUE["sma"], {"period": 7}), Instance(CATALOGUE["obv"])]
RULE = Rule("early", parse("sma(3) > sma(8) and rsi(5) > 50"), parse("sma(3) < sma(8) or close < vwap"))
BEGIN = NOW - 12 * DAY
SEEDS = int(os.environ.get("STOCKPULSE_DERIVED_SEEDS", "2"))


def plain(dsn, **settings):
    return stack(dsn, **{"instances": INSTANCES, "rules": [RULE], "functions": in_plain_python} | settings)


async def caught_up(parts, feed=None):
    """Wait until all results of the log are stored."""
    if feed is not None:
        await parts.ingestor.end(feed)
    async with asyncio.timeout(20):
        while parts.shard.offset < parts.journal.head or parts.engine.analytics.behind():
            await asyncio.sleep(0.005)
    await parts.flush()


async def assert_right(parts):
    async with parts.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        analytics = parts.engine.analytics
        want = await recomputed(connection, analytics, in_plain_python)
        wrong = differences(await stored(connection, analytics), want)
        assert not wrong, "\n".join(wrong)
        assert all(table.rows for table in want.values())
    return want


async def anchors(parts):
    return await parts.pool.fetchval("SELECT count(*) FROM indicator_states")


class Ticks:
    """Ticks of a few symbols, whose price walks."""

    def __init__(self, random):
        self.random = random
        self.number = 0

    def frame(self, symbols, ts):
        """At these times, of any of these symbols."""
        count, pick = len(ts), self.random
        self.number += count
        prices = np.round(100 + 5 * np.sin(ts / 3.1e9) + pick.normal(0, 1, count), 2)
        return frame_of_ticks(pick.choice(symbols, count).tolist(), ts, prices, np.round(pick.exponential(9, count), 3))

    def some(self, symbols, now, count):
        """Now and shortly before; a few hours and days ago; or a stretch of the past, whole."""
        pick = self.random
        if pick.random() < 0.2:
            start = now - int(pick.integers(1, 9 * 1440)) * 60_000_000
            return self.frame(symbols, start + np.sort(pick.integers(0, 120 * 60_000_000, count)))
        ts = now - pick.integers(0, 180_000_000, count)
        late = pick.random(count) < 0.05
        ts -= np.where(late, np.exp(pick.uniform(17, 27.4, count)), 0).astype(np.int64)  # a minute to nine days
        return self.frame(symbols, ts)


class Killed(Exception):
    """Ends a stack as a kill does: no drain, no last flush."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    """Between two parts of catching up on a quiet day."""
    monkeypatch.setattr(shard_processor, "_CLOCK_SECONDS", 0.01)


@pytest.fixture
def small_steps(monkeypatch):
    """Anchors and parts of a catch-up after a few bars, as if there were thousands of times more."""
    monkeypatch.setattr(indicator_track, "ANCHOR_BARS", 40)
    monkeypatch.setattr(indicator_track, "MAX_BARS_AT_ONCE", 60)
    monkeypatch.setattr(indicator_catch_up, "_SYMBOLS", 2)
    monkeypatch.setattr(indicator_catch_up, "_BARS", 20)
    monkeypatch.setattr(indicator_catch_up, "_LEAST_BARS", 5)
    monkeypatch.setattr(flush_size, "_FIRST_ROWS", 100)
    monkeypatch.setattr(flush_size, "_LEAST_ROWS", 100)


class TestAnyOrder:
    @pytest.mark.thorough
    @pytest.mark.parametrize("seed", range(SEEDS))
    async def test_of_ticks_with_kills_and_flushes(self, postgres_dsn, small_steps, seed):
        random = np.random.default_rng(seed)
        ticks, now, begun = Ticks(random), micros(BEGIN), 0
        for functions in (in_plain_python, None, in_plain_python):
            with contextlib.suppress(Killed):
                async with plain(postgres_dsn, functions=functions) as parts:
                    for _ in range(random.integers(8, 20)):
                        now += int(random.integers(1, 600)) * 1_000_000
                        feed, symbols = ((TAPE, ("A", "B", "C")), (STOCKS, ("D", "E")))[random.integers(2)]
                        await parts.ingestor.submit(ticks.some(symbols, now, int(random.integers(1, 60))), feed)
                        if random.random() < 0.3:
                            await parts.flush()
                        if functions and random.random() < 0.1:
                            await caught_up(parts, random.choice([None, TAPE, STOCKS]))
                        begun = max(begun, await anchors(parts))
                    if functions is None and random.random() < 0.5:
                        parts.engine.analytics.set_functions(in_plain_python)
                    if random.random() < 0.7:
                        raise Killed
        assert begun > 0
        async with plain(postgres_dsn) as parts:
            await caught_up(parts, TAPE)
            await caught_up(parts, STOCKS)
            want = await assert_right(parts)
            assert len({key[0] for key in want["intraday_analytics"].rows}) == 5
        # And nothing is to be done after another start.
        async with plain(postgres_dsn) as parts:
            assert parts.engine.analytics.behind() == 0
            await caught_up(parts)
            assert (await assert_right(parts)).keys() == want.keys()

    async def test_of_bars_without_a_price(self, postgres_dsn, small_steps):
        """Odd lots alone make a bar that has a volume and no price; there may be more of them than one part holds."""
        prices = [(minute, "@,I" if 10 <= minute < 40 else "@") for minute in range(60)]
        async with plain(postgres_dsn, functions=None) as parts:
            rows = [tick("D", BEGIN + minute * MINUTE, 100 + minute % 9, 5, conditions=code) for minute, code in prices]
            await parts.submit(STOCKS, *rows)
            await parts.ingestor.end(STOCKS)
            parts.engine.analytics.set_functions(in_plain_python)
            await caught_up(parts)
            await assert_right(parts)

    async def test_flushes_while_it_works_its_way_up_to_what_changed(self, postgres_dsn, small_steps, monkeypatch):
        """Nothing is to be stored of the bars before that."""
        monkeypatch.setattr(indicator_track, "ANCHOR_BARS", 1_000_000)  # back to the first bar, that is
        ticks, start = Ticks(np.random.default_rng(1)), micros(BEGIN)
        async with plain(postgres_dsn) as parts:
            await parts.ingestor.submit(ticks.frame(["A"], start + np.arange(150) * 60_000_000), TAPE)
            await caught_up(parts, TAPE)
            for _ in range(5):
                await parts.ingestor.submit(ticks.frame(["A"], np.array([start + 149 * 60_000_000])), TAPE)
                await parts.ingestor.submit(ticks.frame(["A"], np.array([start + 148 * 60_000_000])), TAPE)
                while parts.shard.offset < parts.journal.head or parts.engine.analytics.behind():
                    await parts.flush()
                    await asyncio.sleep(0.001)
            await caught_up(parts, TAPE)
            await assert_right(parts)

    async def test_a_restart_in_the_middle_of_a_recording(self, postgres_dsn):
        """Its bars close then, before anything new has come."""
        async with plain(postgres_dsn) as parts:
            for n in range(30):
                await parts.submit(TAPE, tick("A", BEGIN + n * 7 * HOUR, 100 + n % 7, 5))
            await parts.settled()
        async with plain(postgres_dsn) as parts:
            await caught_up(parts, TAPE)
            await assert_right(parts)
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", BEGIN + 30 * 7 * HOUR, 99, 5))
            await caught_up(parts, TAPE)
            await assert_right(parts)

    @pytest.mark.thorough
    async def test_back_to_an_anchor_again_and_again(self, postgres_dsn, monkeypatch):
        monkeypatch.setattr(indicator_track, "ANCHOR_BARS", 50)
        random = np.random.default_rng(5)
        ticks = Ticks(random)
        start = micros(BEGIN)
        async with plain(postgres_dsn) as parts:
            for part in np.split(start + np.arange(600) * 60_000_000, 20):
                await parts.ingestor.submit(ticks.frame(["A"], part), TAPE)
                await caught_up(parts)
            await parts.ingestor.end(TAPE)
            assert await anchors(parts) >= 10
            for minute in (590, 520, 521, 100, 300, 20, 599):  # each in a bar that is closed
                await parts.ingestor.submit(ticks.frame(["A"], np.array([start + minute * 60_000_000 + 5])), TAPE)
                await caught_up(parts)
                await assert_right(parts)
            # Bars that were not there move all anchors behind them.
            await parts.ingestor.submit(ticks.frame(["A"], start + np.arange(-90, 0) * 60_000_000), TAPE)
            await parts.ingestor.submit(ticks.frame(["A"], start + np.arange(600, 640) * 60_000_000), TAPE)
            await caught_up(parts, TAPE)
            await assert_right(parts)


class TestProvidersBars:
    async def test_history_that_comes_after_what_is_newer(self, postgres_dsn, monkeypatch):
        monkeypatch.setattr(indicator_track, "ANCHOR_BARS", 40)
        random = np.random.default_rng(9)
        ticks = Ticks(random)

        def history(interval, length, start, count):
            prices = np.round(100 + random.normal(0, 1, count).cumsum(), 2).tolist()
            return [bar(s, interval, start + n * length, prices[n], n + 1) for n in range(count) for s in ("A", "D")]

        async with plain(postgres_dsn) as parts:
            for n in range(20):
                frame = ticks.some(["A", "D"], micros(NOW) + n * 60_000_000, 40)
                await parts.ingestor.submit(frame, TAPE)
            await parts.flush()
            today = NOW.replace(hour=0, minute=0)
            await parts.submit(TAPE, *history("1d", DAY, today - 200 * DAY, 200), of_bars=True)
            await parts.submit(TAPE, *history("5m", 5 * MINUTE, today - 2 * DAY, 500), of_bars=True)
            await caught_up(parts, TAPE)
            await assert_right(parts)
            await parts.submit(TAPE, *history("1m", MINUTE, today, 500), of_bars=True)
        async with plain(postgres_dsn) as parts:
            # In place of existing bars, and before all existing bars.
            await parts.submit(TAPE, *history("5m", 5 * MINUTE, today - 4 * DAY, 700), of_bars=True)
            await parts.flush()
            await parts.submit(TAPE, *history("1d", DAY, today - 300 * DAY, 150), of_bars=True)
            await parts.ingestor.submit(ticks.some(["A", "D"], micros(NOW), 50), TAPE)
            await caught_up(parts, TAPE)
            await assert_right(parts)
            assert await anchors(parts) > 0


class TestDefinition:
    async def fill(self, parts, ticks, now):
        for n in range(8):
            await parts.ingestor.submit(ticks.some(["A", "B"], now + n * 300_000_000, 80), TAPE)
        await caught_up(parts, TAPE)

    async def test_that_changed_has_all_calculated_anew(self, postgres_dsn, monkeypatch):
        monkeypatch.setattr(indicator_track, "ANCHOR_BARS", 40)
        ticks = Ticks(np.random.default_rng(3))
        async with plain(postgres_dsn) as parts:
            await self.fill(parts, ticks, micros(BEGIN))
            await assert_right(parts)
        async with plain(postgres_dsn, instances=OTHERS) as parts:
            await caught_up(parts)
            await assert_right(parts)
            await self.fill(parts, ticks, micros(BEGIN) + 3_600_000_000)
            await assert_right(parts)

    @pytest.mark.thorough
    async def test_that_comes_back_does_not_go_on_from_its_old_state(self, postgres_dsn, monkeypatch):
        """It also has the bars that arrived during the time of the other rule."""
        monkeypatch.setattr(indicator_track, "ANCHOR_BARS", 40)
        ticks = Ticks(np.random.default_rng(4))
        other = Rule("early", parse("ema(4) > close"), parse("ema(4) < close"))
        for n, (instances, rules) in enumerate([(INSTANCES, [RULE]), (OTHERS, [other]), (INSTANCES, [RULE])]):
            async with plain(postgres_dsn, instances=instances, rules=rules) as parts:
                await self.fill(parts, ticks, micros(BEGIN) + n * 3_600_000_000)
                await assert_right(parts)

    async def test_that_comes_back_does_not_go_back_to_its_old_anchors(self, postgres_dsn, monkeypatch):
        """They belong to bars that have changed since then, while no track updated them."""
        monkeypatch.setattr(indicator_track, "ANCHOR_BARS", 20)
        monkeypatch.setattr(sink, "_MOST_PARTS", 0)  # each flush writes the whole state: the old one is gone
        ticks, start = Ticks(np.random.default_rng(7)), micros(BEGIN)

        def minutes(*numbers):
            return ticks.frame(["A"], start + np.array(numbers) * 60_000_000)

        async with plain(postgres_dsn) as parts:
            for first in range(0, 200, 10):
                await parts.ingestor.submit(minutes(*range(first, first + 10)), TAPE)
                await caught_up(parts)
        async with plain(postgres_dsn, instances=OTHERS, functions=None) as parts:
            await parts.ingestor.submit(minutes(50, -1, -2, -3, -300), TAPE)
            await parts.settled()
        async with plain(postgres_dsn) as parts:
            await caught_up(parts, TAPE)
            await assert_right(parts)
            await parts.ingestor.submit(minutes(150), TAPE)
            await caught_up(parts, TAPE)
            await assert_right(parts)

    @pytest.mark.thorough
    async def test_without_rules_for_a_while(self, postgres_dsn):
        ticks = Ticks(np.random.default_rng(4))
        for n, rules in enumerate([[RULE], [], [RULE]]):
            async with plain(postgres_dsn, rules=rules) as parts:
                await self.fill(parts, ticks, micros(BEGIN) + n * 3_600_000_000)
                if rules:
                    await assert_right(parts)

    async def test_of_a_rule_of_the_same_indicators(self, postgres_dsn):
        """The table has the signals of the rule in `signal_rules`."""
        ticks = Ticks(np.random.default_rng(6))
        async with plain(postgres_dsn) as parts:
            await self.fill(parts, ticks, micros(BEGIN))
        stricter = Rule(
            "early", parse("sma(3) > sma(8) and rsi(5) > 80"), parse("sma(3) < sma(8) or close < 1.01 * vwap")
        )
        assert {term.label for term in stricter.buy.terms} == {term.label for term in RULE.buy.terms}
        async with plain(postgres_dsn, rules=[stricter]) as parts:
            await self.fill(parts, ticks, micros(BEGIN) + 3_600_000_000)
            await assert_right(parts)


class TestLateLoops:
    async def test_give_the_same(self, postgres_dsn, small_steps):
        ticks = Ticks(np.random.default_rng(8))
        now = micros(BEGIN)
        async with plain(postgres_dsn, functions=None) as parts:
            for n in range(10):
                await parts.ingestor.submit(ticks.some(["A", "B"], now + n * 300_000_000, 80), TAPE)
            await parts.flush()
            assert parts.engine.analytics.behind()
            assert await parts.pool.fetchval("SELECT count(*) FROM intraday_analytics") == 0
            parts.engine.analytics.set_functions(in_plain_python)
            for n in range(10, 20):  # while it catches up
                await parts.ingestor.submit(ticks.some(["A", "B"], now + n * 300_000_000, 80), TAPE)
            await caught_up(parts, TAPE)
            await assert_right(parts)

    @pytest.mark.thorough
    async def test_after_a_restart(self, postgres_dsn, small_steps):
        ticks = Ticks(np.random.default_rng(2))
        now = micros(BEGIN)
        async with plain(postgres_dsn) as parts:
            for n in range(10):
                await parts.ingestor.submit(ticks.some(["A", "B"], now + n * 300_000_000, 80), TAPE)
        async with plain(postgres_dsn, functions=None) as parts:
            for n in range(10, 20):
                await parts.ingestor.submit(ticks.some(["A", "B"], now + n * 300_000_000, 80), TAPE)
            await parts.ingestor.end(TAPE)
        async with plain(postgres_dsn) as parts:
            await caught_up(parts)
            await assert_right(parts)


async def test_states_of_dropped_bars_go_but_for_the_newest(postgres_dsn):
    """From there indicators over all history, such as OBV, continue as if all bars were still stored."""
    now = datetime(2026, 3, 2, tzinfo=UTC)
    days = (1000, 900, 800, 700, 600)
    spec = spec_of([Instance(CATALOGUE["obv"])])
    intraday, daily = (spec.tracks[name] for name in ("intraday", "daily"))
    pool = await create_pool(postgres_dsn, 2)
    try:
        for one in (intraday, daily):
            for symbol in (1, 2):
                for age in days[:1] if symbol == 2 else days:
                    at = now - timedelta(days=age)
                    arguments = (one.name, symbol, at, one.definition, b"")
                    await pool.execute("INSERT INTO indicator_states VALUES ($1, $2, $3, $4, $5)", *arguments)
        assert [await drop_old_states(pool, one, now) for one in (intraday, daily)] == [2, 0]
        kept = await pool.fetch("SELECT symbol_id, ts FROM indicator_states WHERE track = 'intraday' ORDER BY 1, 2")
        assert [(row["symbol_id"], (now - row["ts"]).days) for row in kept] == [(1, 800), (1, 700), (1, 600), (2, 1000)]
        await drop_other_states(pool, [daily])
        assert await pool.fetchval("SELECT count(*) FROM indicator_states WHERE track = 'intraday'") == 0
        assert await pool.fetchval("SELECT count(*) FROM indicator_states") == 6
    finally:
        await pool.close()
