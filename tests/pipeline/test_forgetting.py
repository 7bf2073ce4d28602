"""Forgotten records: all stored data becomes equal to data without them."""

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from derived_recompute import differences, in_plain_python, recomputed, stored
from stockpulse.engine.bar_math import BAR
from stockpulse.engine.batches import bar_batches, tick_batch
from stockpulse.engine.forgetting import build_bars
from stockpulse.engine.signals import Rule
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.ingest.feed import Feed
from stockpulse.journal.offset_order import runs_in_order
from stockpulse.journal.records import Forget
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5
from stockpulse.market.schemas import LOGGED_BARS, LOGGED_TICKS
from stockpulse.market.times import micros
from stockpulse.pipeline import shard_processor
from stockpulse.pipeline.forgetting import Forgotten
from stockpulse.rules import parse
from store_stack import DAY, HOUR, MINUTE, NOW, SECOND, bar, stack, tick

AT = NOW - DAY
TAPE = Feed("tape", "24/7", Clock.EVENT)
OTHER = Feed("other", "24/7", Clock.EVENT)
VENDOR = Feed("vendor", "24/7", Clock.EVENT)
VALUES = [name for name in BAR.names if name not in ("revision", "final", "dirty")]
INSTANCES = [Instance(CATALOGUE[name]) for name in ("sma", "ema", "obv", "vwap")]
RULE = Rule("early", parse("sma(2) > sma(3)"), parse("close < vwap"))


class Killed(Exception):
    """Ends a stack as a kill does: no drain, no last flush."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(shard_processor, "_CLOCK_SECONDS", 0.01)


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
    """Return the records of the log without the forgotten ones, read from the tables."""
    ticks = await parts.pool.fetch(f"SELECT {', '.join(LOGGED_TICKS)} FROM realtime_prices ORDER BY seq")
    bars = await parts.pool.fetch(f"SELECT {', '.join(LOGGED_BARS)} FROM provider_bars ORDER BY seq")
    forgets = await parts.pool.fetch("SELECT * FROM forgets")

    def stands(row, provider_id):
        return not any(
            one["seq"] > row["seq"]
            and one["symbol_id"] in (None, row["symbol_id"])
            and one["provider_id"] in (None, provider_id)
            and one["start_at"] <= row["ts"] < one["end_at"]
            for one in forgets
        )

    kinds = parts.names.kind_by_id
    ticks = [tuple(row) for row in ticks if stands(row, kinds[row["kind_id"]].provider_id)]
    bars = [tuple(row) for row in bars if stands(row, row["provider_id"])]
    return pl.DataFrame(ticks, LOGGED_TICKS, orient="row"), pl.DataFrame(bars, LOGGED_BARS, orient="row")


async def expected(parts):
    """Return the bars that the records make that are not forgotten."""
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
    """The stored bars are those of the records that are not forgotten; all else follows from them."""
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


class TestBars:
    async def test_become_what_they_would_be_without_the_ticks(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", AT, 10), tick("A", AT + SECOND, 99), tick("A", AT + 2 * SECOND, 11))
            await parts.submit(TAPE, *walk("A", AT + 5 * MINUTE, 20))
            await ended(parts)
            before = (await parts.stored(M1))[0]
            done = await parts.ingestor.forget(Forget("A", "tape", micros(AT + SECOND), micros(AT + SECOND) + 1))
            assert done == Forgotten(ticks=1, bars_changed=3)
            await settled(parts)
            await assert_right(parts)
            [row, *_] = await parts.stored(M1)
            assert (row["high"], row["trade_count"]) == (11, 2)
            assert row["revision"] > before["revision"]
            assert row["revision"] == parts.journal.head - 1

    async def test_vanish_with_their_last_tick(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *walk("A", AT, 30), *walk("B", AT, 3))
            await ended(parts)
            hole = Forget("A", None, micros(AT + 10 * MINUTE), micros(AT + 20 * MINUTE))
            done = await parts.ingestor.forget(hole)
            assert (done.ticks, done.bars_removed, done.bars_changed) == (10, 12, 1)  # 10 minutes, 2 of 5, the day
            await settled(parts)
            await assert_right(parts)
            assert len(await parts.stored(M1)) == 23
            assert await parts.pool.fetchval("SELECT count(*) FROM intraday_analytics") == 5

    async def test_of_a_symbol_vanish_whole(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *walk("A", AT - 2 * DAY, 30), *walk("A", AT, 30), *walk("B", AT, 3))
            await ended(parts)
            done = await parts.ingestor.forget(Forget("A", None))
            assert (done.ticks, done.bars_changed, done.bars_refused) == (60, 0, 0)
            await settled(parts)
            await assert_right(parts)
            assert await parts.between("A", D1) == []
            assert len(await parts.ticks.latest(parts.symbol("A").id, 10)) == 0
            assert len(await parts.ticks.latest(parts.symbol("B").id, 10)) == 3
            await parts.submit(TAPE, *walk("A", AT + HOUR, 30))
            await ended(parts)
            await assert_right(parts)
            assert len(await parts.between("A", M1)) == 30

    async def test_that_form_change_too(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", AT, 10), tick("A", AT + SECOND, 99))
            await parts.ingestor.forget(Forget("A", None, micros(AT + SECOND)))
            assert [row["high"] for row in await parts.resident(M1, "A")] == [10]
            await parts.ingestor.forget(Forget("A", None))
            assert len(await parts.resident(M1, "A")) == 0
            await ended(parts)
            await assert_right(parts)

    async def test_of_another_provider_stay(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *walk("A", AT, 5))
            await parts.submit(OTHER, *walk("B", AT, 5))
            await ended(parts, TAPE, OTHER)
            assert await parts.ingestor.forget(Forget(None, "other")) == Forgotten(ticks=5, bars_removed=7)
            assert await parts.ingestor.forget(Forget("A", "other")) == Forgotten()
            assert await parts.ingestor.forget(Forget(None, "nobody")) == Forgotten()
            assert await parts.ingestor.forget(Forget("NONE", None)) == Forgotten()
            await settled(parts)
            await assert_right(parts)
            assert len(await parts.stored(M1)) == 5

    async def test_of_a_provider_make_room_for_those_of_ticks(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *walk("A", AT, 10))
            await parts.submit(
                VENDOR, bar("A", "1m", AT + MINUTE, 55), bar("A", "5m", AT + 5 * MINUTE, 66), of_bars=True
            )
            await parts.submit(VENDOR, bar("A", "1d", AT - 3 * DAY, 77), of_bars=True)
            await ended(parts, TAPE, VENDOR)
            assert (await prices(parts, M1))[:3] == [100, 55, 102]
            assert 66 in await prices(parts, M5)
            done = await parts.ingestor.forget(Forget(None, "vendor"))
            assert (done.ticks, done.provider_bars, done.bars_removed, done.bars_refused) == (0, 3, 1, 0)
            await settled(parts)
            assert (await prices(parts, M1))[:3] == [100, 101, 102]
            assert 66 not in await prices(parts, M5)
            assert len(await prices(parts, D1)) == 1
            await assert_right(parts)

    async def test_whose_ticks_are_not_all_kept_are_refused(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *walk("A", AT, 4))
            await ended(parts)
            await parts.pool.execute("DELETE FROM realtime_prices WHERE price = 101")  # as retention does, by segments
            done = await parts.ingestor.forget(Forget("A", None, micros(AT + 2 * MINUTE), micros(AT + 3 * MINUTE)))
            assert (done.ticks, done.bars_removed, done.bars_refused) == (1, 1, 2)
            await settled(parts)
            assert await prices(parts, M1) == [100, 101, 103]
            assert [row["trade_count"] for row in await parts.stored(D1)] == [4]

    async def test_of_ticks_after_the_forget_are_not_touched(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", AT, 10))
            await parts.ingestor.forget(Forget("A", None))
            await parts.submit(TAPE, tick("A", AT, 12))
            await ended(parts)
            await assert_right(parts)
            assert await prices(parts, M1) == [12]

    async def test_events_tell_of_those_that_vanish(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            heard = []
            parts.processor.writer._listener.on_bars = heard.append
            await parts.submit(TAPE, *walk("A", AT, 2))
            await ended(parts)
            heard.clear()
            await parts.ingestor.forget(Forget("A", None, micros(AT + MINUTE)))
            told = {(event.interval.name, event.removed): event.rows for event in heard if event.revised}
            assert told.keys() == {("1m", True), ("5m", False), ("1d", False)}
            assert told["1m", True]["ts"].tolist() == [micros(AT + MINUTE)]
            assert {int(rows["revision"][0]) for rows in told.values()} == {parts.journal.head - 1}


class TestTicks:
    @pytest.mark.thorough
    async def test_are_served_no_more(self, postgres_dsn):
        async with plain(postgres_dsn, segment_rows=20) as parts:
            for n in range(4):  # in indexed segments, in sealed segments and in memory
                await parts.submit(TAPE, *walk("A", AT + n * HOUR, 15))
                if n == 1:
                    await parts.segments.index_sealed()
            await ended(parts)
            symbol = parts.symbol("A").id
            await parts.ingestor.forget(Forget("A", "tape", micros(AT), micros(AT + HOUR + 5 * MINUTE)))
            assert len(await parts.ticks.latest(symbol, 100)) == 40
            assert (await parts.ticks.summary(symbol, AT, AT + DAY)).count == 40
            assert await parts.pool.fetchval("SELECT count(*) FROM stock_ticks") == 40
            assert await parts.pool.fetchval("SELECT count(*) FROM realtime_prices") == 60  # the log is as it was
        async with plain(postgres_dsn) as parts:
            assert len(await parts.ticks.latest(symbol, 100)) == 40
            await assert_right(parts)

    @pytest.mark.thorough
    async def test_are_accepted_when_they_come_again(self, postgres_dsn):
        rows = [tick("A", AT + n * SECOND, 10 + n, trade_id=str(n)) for n in range(5)]
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *rows)
            await parts.ingestor.forget(Forget("A", "tape", micros(AT + SECOND), micros(AT + 3 * SECOND)))
            receipt = await parts.submit(TAPE, *rows)
            assert (receipt.accepted, receipt.duplicates) == (2, 3)
            again = await parts.submit(TAPE, *rows)
            assert (again.accepted, again.duplicates) == (0, 5)
        async with plain(postgres_dsn) as parts:
            again = await parts.submit(TAPE, *rows)
            assert (again.accepted, again.duplicates) == (0, 5)
            await parts.ingestor.forget(Forget(None, "tape"))
        async with plain(postgres_dsn) as parts:
            receipt = await parts.submit(TAPE, *rows)
            assert (receipt.accepted, receipt.duplicates) == (5, 0)
            await ended(parts)
            await assert_right(parts)

    async def test_give_the_price_of_the_moment_back(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *[tick("A", AT + n * SECOND, 10 + n) for n in range(6)])
            await parts.submit(TAPE, tick("A", AT + 9 * SECOND, 99))
            await settled(parts)
            await parts.ingestor.forget(Forget("A", None, micros(AT + 9 * SECOND)))
            changed = parts.engine.analytics.prices.changed()
            assert (changed.price.tolist(), changed.average.tolist()) == ([15], [13])


class TestCrash:
    @pytest.mark.thorough
    @pytest.mark.parametrize("moment", ["before", "between", "after"])
    async def test_in_the_middle_of_a_forget(self, postgres_dsn, monkeypatch, moment):
        """The record is durable: the next start completes a partial forget."""
        with contextlib.suppress(Killed):
            async with plain(postgres_dsn) as parts:
                await parts.submit(TAPE, *walk("A", AT - 3 * DAY, 20), *walk("B", AT, 20), *walk("C", AT, 20))
                await ended(parts)
                forgetting, reached = parts.processor._forgetting, asyncio.Event()
                amend, amended = forgetting._amend, itertools.count()

                async def stopping(*arguments):
                    number = next(amended)
                    done = await amend(*arguments) if (moment, number) != ("before", 0) else None
                    if moment != "after" and number == (moment == "between"):
                        await parts.flush()  # as the flush of every moment may
                        reached.set()
                        await asyncio.Event().wait()
                    return done

                forgetting._amend = stopping
                task = asyncio.create_task(parts.ingestor.forget(Forget(None, "tape", micros(AT - 4 * DAY))))
                await (reached.wait() if moment != "after" else task)
                task.cancel()
                raise Killed
        async with plain(postgres_dsn) as parts:
            await settled(parts)
            await assert_right(parts)
            assert len(await parts.stored(M1)) == 0


BEGIN = datetime(2026, 2, 23, tzinfo=UTC)
FEEDS = {"A": TAPE, "B": OTHER, "C": TAPE}


class History:
    """Ticks and bars that come, are forgotten and come again, at random."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.acts = {self.ticks: 0.25, self.stretch: 0.25, self.bars: 0.15, self.forget: 0.2, self.end: 0.1}
        self.acts[self.flush] = 0.05

    async def act(self, parts):
        symbol = str(self.random.choice(list(FEEDS)))
        chosen = list(self.acts)[self.random.choice(len(self.acts), p=list(self.acts.values()))]
        await chosen(parts, symbol)

    def number(self, most):
        return float(self.random.integers(0, most))

    def instant(self):
        return BEGIN + self.number(5 * 1440) * MINUTE + self.number(60) * SECOND

    async def ticks(self, parts, symbol):
        rows = [tick(symbol, self.instant(), 1 + self.number(50), self.number(5)) for _ in range(20)]
        await parts.submit(FEEDS[symbol], *rows)

    async def stretch(self, parts, symbol):
        await parts.submit(FEEDS[symbol], *walk(symbol, self.instant(), 15, 1 + self.number(50)))

    async def bars(self, parts, symbol):
        interval, step = [("1m", MINUTE), ("5m", 5 * MINUTE), ("1d", DAY)][self.random.integers(3)]
        at = BEGIN + step * int((self.instant() - BEGIN) / step)
        await parts.submit(
            VENDOR, *[bar(symbol, interval, at + n * step, 1 + self.number(50)) for n in range(3)], of_bars=True
        )

    async def forget(self, parts, symbol):
        start, end = sorted([micros(self.instant()), micros(self.instant()) + 1])
        provider = self.random.choice([None, "tape", "other", "vendor"])
        name = symbol if provider is None or self.random.random() < 0.7 else None
        await parts.ingestor.forget(Forget(name, provider, start, end))

    async def end(self, parts, symbol):
        await parts.ingestor.end(FEEDS[symbol])

    async def flush(self, parts, _symbol):
        await parts.flush()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 6))])
async def test_any_history(postgres_dsn, seed):
    """However often records are forgotten, and the process dies in between, bars stay a function of the log."""
    history = History(seed)
    for _ in range(4):
        with contextlib.suppress(Killed):
            async with plain(postgres_dsn) as parts:
                for _ in range(5 + int(history.number(10))):
                    await history.act(parts)
                if history.random.random() < 0.5:
                    raise Killed
    async with plain(postgres_dsn) as parts:
        await ended(parts, TAPE, OTHER, VENDOR)
        await assert_right(parts)
        assert await parts.pool.fetchval("SELECT count(*) FROM forgets") > 2
