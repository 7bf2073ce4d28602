"""Forgotten records: all stored data becomes equal to data without them."""

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime

import numpy as np
import pytest
from log_reference import AT, OTHER, TAPE, VENDOR, Killed, assert_right, ended, plain, prices, settled, walk

from stockpulse.journal.records import Forget
from stockpulse.market.intervals import D1, M1, M5
from stockpulse.market.times import micros
from stockpulse.pipeline import shard_processor
from stockpulse.pipeline.forgetting import Forgotten
from store_stack import DAY, HOUR, MINUTE, SECOND, bar, tick


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(shard_processor, "_CLOCK_SECONDS", 0.01)


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
            parts.segments.recent.drop_rows(lambda ticks: ticks["price"] == 101)
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
