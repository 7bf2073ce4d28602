"""From a provider into the pipeline: the missing history, then the stream."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from live_feeds import live_feed
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import D1, M1, M5
from stockpulse.pipeline import ingestor
from stockpulse.pipeline.backfill import DEPTH, Backfill
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.providers.simulated import SimulatedProvider
from stockpulse.providers.trade_conditions import algoseek, all_count
from stockpulse.testing import ScriptedProvider, SetClock, ticks_frame
from store_stack import BARS, DAY, HOUR, MINUTE, NOW, SECOND, TICKS, bar, stack, tick

LENGTHS = {"1m": MINUTE, "5m": 5 * MINUTE, "1d": DAY}
MIDNIGHT = NOW.replace(hour=0, minute=0)


class Vendor:
    """A provider with bars of every bucket up to the time of its clock, and no trades."""

    name = "vendor"
    calendar = "24/7"
    clock = Clock.WALL
    can_wait = True
    delay_seconds = 0.0

    def __init__(self, clock, depth=5 * DAY):
        self.now = clock
        self.asked = []
        self._since = NOW - depth

    async def stream(self):
        return
        yield TICKS.to_frame()

    async def history(self, symbols, interval, start, end):
        (symbol,) = symbols
        self.asked.append((symbol, interval, start, end))
        length = LENGTHS[interval]
        first = max(start, self._since)
        at = datetime(1970, 1, 5, tzinfo=UTC) + -((datetime(1970, 1, 5, tzinfo=UTC) - first) // length) * length
        at += length * (at < first)
        rows = []
        while at < min(end, self.now()):
            price = 100 + at.hour + at.minute / 60
            rows.append(bar(symbol, interval, at, price, length / MINUTE, trade_count=2, vwap=price))
            at += length
        for begin in range(0, len(rows), 500):
            page = [dict.fromkeys(BARS) | row for row in rows[begin : begin + 500]]
            yield pl.DataFrame(page, schema=BARS, orient="row")


class Stocks(Vendor):
    calendar = "XNYS"


async def filled(parts, vendor, *symbols):
    """Load missing history; return the number of bars, and the requests."""
    vendor.asked.clear()
    count = await Backfill(vendor, parts.ingestor, parts.bars, parts.names).run(symbols, parts.clock())
    await parts.settled()
    return count, {(symbol, interval): (start, end) for symbol, interval, start, end in vendor.asked}


class TestBackfill:
    async def test_of_the_first_start_asks_for_everything(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            vendor = Vendor(parts.clock)
            count, asked = await filled(parts, vendor, "A", "B")
            assert asked == {
                (symbol, interval): window
                for symbol in "AB"
                for interval, window in {
                    "1d": (NOW - DEPTH[D1], MIDNIGHT),
                    "5m": (NOW - DEPTH[M5], MIDNIGHT),
                    "1m": (MIDNIGHT, NOW),
                }.items()
            }
            before_today = timedelta(hours=8, minutes=30) + 4 * DAY  # of the five days that it has
            assert count == 2 * (4 + before_today // (5 * MINUTE) + 930)
            for interval in (M1, M5, D1):
                rows = await parts.between("A", interval)
                length = LENGTHS[interval.name]
                assert all(later["ts"] - row["ts"] == length for row, later in itertools.pairwise(rows))
                assert rows[-1]["ts"] + length > NOW - 5 * MINUTE

    async def test_the_running_day_is_made_of_its_minutes(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await filled(parts, Vendor(parts.clock), "A")
            minutes = [row for row in await parts.between("A", M1) if row["ts"] >= MIDNIGHT]
            yesterday, today = (await parts.between("A", D1))[-2:]
            assert (yesterday["source"], today["source"]) == ("vendor", "trades")
            assert today["ts"] == MIDNIGHT
            assert not today["final"]
            assert today["open"] == minutes[0]["open"]
            assert today["close"] == minutes[-1]["close"]
            assert today["high"] == max(row["high"] for row in minutes)
            assert today["low"] == min(row["low"] for row in minutes)
            assert today["volume"] == sum(row["volume"] for row in minutes)
            assert today["trade_count"] == sum(row["trade_count"] for row in minutes) == 2 * 930
            assert today["vwap"] == pytest.approx(sum(row["vwap"] * row["volume"] for row in minutes) / today["volume"])

    async def test_right_again_has_nothing_to_do_but_the_newest(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            vendor = Vendor(parts.clock)
            await filled(parts, vendor, "A")
            before = await parts.between("A", D1)
            count, asked = await filled(parts, vendor, "A")
            assert asked == {("A", "1m"): (NOW - MINUTE, NOW)}
            assert count == 1
            assert [row["volume"] for row in await parts.between("A", D1)] == [row["volume"] for row in before]

    async def test_after_a_pause_fills_the_gap(self, postgres_dsn):
        clock = SetClock(NOW)
        async with stack(postgres_dsn, clock=clock) as parts:
            await filled(parts, Vendor(clock), "A")
        clock.at = NOW + 40 * MINUTE
        async with stack(postgres_dsn, clock=clock) as parts:
            _, asked = await filled(parts, Vendor(clock), "A")
            assert asked == {("A", "1m"): (NOW - MINUTE, NOW + 40 * MINUTE)}
        clock.at = NOW + 2 * DAY
        async with stack(postgres_dsn, clock=clock) as parts:
            _, asked = await filled(parts, Vendor(clock), "A")
            assert asked == {
                ("A", "1d"): (MIDNIGHT, MIDNIGHT + 2 * DAY),
                ("A", "5m"): (NOW + 35 * MINUTE, MIDNIGHT + 2 * DAY),
                ("A", "1m"): (MIDNIGHT + 2 * DAY, NOW + 2 * DAY),
            }
            days = await parts.between("A", D1)
            assert [row["source"] for row in days] == ["vendor"] * (len(days) - 1) + ["trades"]
            fives = await parts.between("A", M5)
            assert all(later["ts"] - row["ts"] == 5 * MINUTE for row, later in itertools.pairwise(fives))

    async def test_days_are_those_of_the_exchange(self, postgres_dsn):
        new_york = NOW.replace(hour=5, minute=0)
        async with stack(postgres_dsn) as parts:
            _, asked = await filled(parts, Stocks(parts.clock), "IBM")
            assert asked["IBM", "1d"][1] == asked["IBM", "5m"][1] == asked["IBM", "1m"][0] == new_york
            today = (await parts.between("IBM", D1))[-1]
            assert (today["ts"], today["trade_count"]) == (new_york, 2 * 60)  # since 9:30

    async def test_days_of_a_pair_are_those_of_utc_whoever_sends_it(self, postgres_dsn):
        """Or its running day would come half done, and stay so."""
        async with stack(postgres_dsn) as parts:
            for _ in range(2):
                _, asked = await filled(parts, Stocks(parts.clock), "BTC/USD")
                assert parts.symbol("BTC/USD").calendar == "24/7"
                assert asked.get(("BTC/USD", "1d"), (None, MIDNIGHT))[1] == MIDNIGHT
            today = (await parts.between("BTC/USD", D1))[-1]
            assert (today["ts"], today["source"], today["trade_count"]) == (MIDNIGHT, "trades", 2 * 930)

    @pytest.mark.thorough
    async def test_of_the_simulated_market(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            provider = SimulatedProvider(("AAPL",), now=parts.clock)
            backfill = Backfill(provider, parts.ingestor, parts.bars, parts.names)
            # Of the first five minutes and the first day there is only a part within the depth.
            assert await backfill.run(("AAPL",), NOW) == 729 + (30 * 288 - 186) + 930
            await parts.settled()
            assert len(await parts.between("AAPL", D1)) == 730
            assert await backfill.run(("AAPL",), NOW) == 1

    async def test_of_no_symbols(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            assert await filled(parts, Vendor(parts.clock)) == (0, {})


class TestFollow:
    async def test_takes_in_the_stream_to_its_end(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            frames = [ticks_frame(tick("A", NOW - HOUR + second * SECOND, second + 1)) for second in range(5)]
            await live_feed(parts, ScriptedProvider(frames)).follow()
            await parts.settled()
            (row,) = await parts.latest("A", M1, 5)
            assert (row["open"], row["close"], row["trade_count"]) == (1.0, 5.0, 5)

    async def test_what_a_socket_pushes_while_there_is_no_room_is_counted_as_a_gap(self, postgres_dsn, monkeypatch):
        """Room for ten rows while nothing becomes durable: then the feed continues, and records the gap."""
        monkeypatch.setattr(ingestor, "_QUEUE_ROWS", 10)
        async with stack(postgres_dsn) as parts:
            durable, append = asyncio.Event(), parts.journal.append

            async def append_later(batch):
                await durable.wait()
                return await append(batch)

            monkeypatch.setattr(parts.journal, "append", append_later)
            vendor, pushed = ScriptedProvider(name="vendor", can_wait=False, live=True), 0
            five = ticks_frame(*[tick("A", NOW - HOUR, 1)] * 5)
            taken = asyncio.create_task(live_feed(parts, vendor).follow())
            while not parts.pipeline.counters.dropped:
                vendor.add(five)
                pushed += 5
                await asyncio.sleep(0.001)
            before = pushed - parts.pipeline.counters.dropped
            durable.set()
            while parts.pipeline.counters.ticks < before:
                await asyncio.sleep(0.001)
            vendor.add(five)
            vendor.end()
            await taken
            await parts.settled()
            dropped = parts.pipeline.counters.dropped
            assert parts.pipeline.counters.ticks == pushed + 5 - dropped > before
            gaps = await parts.pool.fetch("SELECT source, records_processed FROM etl_runs")
            assert [tuple(gap) for gap in gaps] == [("gap:vendor", dropped)]


def test_a_provider_as_a_feed():
    vendor = Stocks(SetClock(NOW))
    vendor.delay_seconds = 900.5
    feed = feed_of(vendor)
    assert (feed.provider, feed.calendar, feed.clock) == ("vendor", "XNYS", Clock.WALL)
    assert (feed.delay_micros, feed.rule) == (900_500_000, all_count)
    vendor.name = "algoseek"
    assert feed_of(vendor).rule is algoseek


def test_calendar_of_a_new_symbol():
    feed = feed_of(Stocks(SetClock(NOW)))
    assert [feed.calendar_of(symbol) for symbol in ("IBM", "BTC/USD", "BRK.B")] == ["XNYS", "24/7", "XNYS"]
    assert trading_calendar(feed.calendar_of("BTC/USD")).name == "24/7"
