"""Gaps of a live feed: they are listed when they begin, and filled when data flows again."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from live_feeds import healing_feed
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M1
from stockpulse.pipeline.feed_gap_log import OVERLAP
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.providers.base import Capabilities, History
from stockpulse.providers.faults import (
    BadRequest,
    NotEntitled,
    RateLimited,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.testing import ScriptedProvider, SetClock, bars_frame, corrections_frame, ticks_frame
from store_stack import DAY, HOUR, MINUTE, NOW, SECOND, bar, stack, tick

BROKEN = Unreachable("the stream of scripted is broken off")
MINUTES = {"1m": History(window=timedelta(hours=2), symbols=2)}
TRADES = Capabilities(trades=True)
BARS = Capabilities(history=MINUTES)


class Vendor(ScriptedProvider):
    """A scripted stream, and the trades of the past in `past`; `faults` are raised by requests for them."""

    def __init__(self, *script, **options):
        super().__init__(script, can_wait=False, live=True, **options)
        self.past = []
        self.faults = []
        self.taken_back = []
        self.asked = []

    async def trades(self, symbols, start, end):
        self.asked.append((tuple(symbols), start, end))
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        rows = [one for one in self.past if one["symbol"] in symbols and start <= one["ts"] < end]
        if rows:
            yield ticks_frame(*rows)
        if self.taken_back:
            yield corrections_frame(*self.taken_back)


def trade(seconds, symbol="A", **fields):
    return tick(symbol, NOW + seconds * SECOND, 100 + seconds, **{"trade_id": f"{symbol}{seconds}"} | fields)


class Story:
    """A feed that a test drives step by step; waits move the clock on."""

    def __init__(self, parts, vendor, symbols=("A",), has=TRADES):
        self.parts, self.vendor, self.clock = parts, vendor, parts.clock
        self.waited = []
        self.feed = healing_feed(parts, vendor, symbols, has, self.wait)
        self.feed.live.sleep = self.wait
        self._task = None

    async def wait(self, seconds):
        self.waited.append(seconds)
        self.clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)

    async def receive(self, *rows, at=None):
        """Let the stream yield rows; return when the feed has taken them."""
        self.clock.at = max(self.clock.at, at or rows[-1]["ts"])
        before = self.feed.live.gaps._newest
        self.vendor.add(ticks_frame(*rows))
        self._task = self._task or asyncio.create_task(self.feed.live.follow())
        while self.feed.live.gaps._newest in (None, before):
            await asyncio.sleep(0.001)
        await self.parts.settled()

    async def break_off(self, fault=BROKEN):
        before = self.feed.state.reconnects
        self.vendor.add(fault)
        while self.feed.state.reconnects == before and not self._task.done():
            await asyncio.sleep(0.001)

    async def write(self):
        """Write what the log of gaps knows; return its rows."""
        await self.feed.live.gaps.write()
        return await self.rows()

    async def fill(self):
        await self.feed.fill()
        await self.parts.settled()
        return await self.rows()

    async def rows(self):
        return [
            (one["symbol"], one["start_at"] - NOW, one["end_at"] and one["end_at"] - NOW, one["state"], one["rows"])
            for one in await self.parts.pool.fetch("SELECT * FROM feed_gaps ORDER BY start_at, id")
        ]

    async def problems(self):
        rows = await self.parts.pool.fetch(
            "SELECT symbol, problem FROM feed_gaps WHERE problem IS NOT NULL ORDER BY id"
        )
        return [tuple(one) for one in rows]

    async def close(self):
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task


async def interrupted(parts, vendor, *more, **options):
    """Return a story with a gap from 50 to 120 seconds after NOW."""
    story = Story(parts, vendor, **options)
    await story.receive(trade(0))
    await story.write()
    await story.receive(trade(60))
    await story.break_off()
    await story.receive(trade(120), *more)
    return story


@pytest.fixture
async def parts(postgres_dsn):
    async with stack(postgres_dsn, clock=SetClock(NOW)) as parts:
        yield parts


class TestAGap:
    async def test_is_listed_when_it_begins_and_ends_with_the_first_data(self, parts):
        story = Story(parts, Vendor())
        await story.receive(trade(0))
        assert await story.write() == []
        await story.receive(trade(60))
        await story.break_off()
        assert await story.write() == [(None, 50 * SECOND, None, "open", 0)]
        await story.break_off()  # of the same gap
        (shown,) = story.feed.state.unfilled
        assert (shown.end, shown.why, story.feed.state.gaps) == (None, str(BROKEN), {"open": 1})
        await story.receive(trade(120))
        assert await story.write() == [(None, 50 * SECOND, 120 * SECOND, "open", 0)]
        await story.close()

    async def test_of_a_feed_that_is_refused_lasts(self, parts):
        story = Story(parts, Vendor())
        await story.receive(trade(0))
        await story.break_off(WrongKey("no such key"))
        assert await story.write() == [(None, -OVERLAP, None, "open", 0)]
        assert await story.fill() == [(None, -OVERLAP, None, "open", 0)]

    async def test_of_a_feed_that_never_had_data_is_none(self, parts):
        story = Story(parts, Vendor(BROKEN))
        await story.receive(trade(0))
        assert await story.write() == []
        await story.close()

    async def test_of_a_recording_is_none(self, parts):
        story = Story(parts, Vendor(clock=Clock.EVENT))
        await story.receive(trade(0))
        await story.break_off()
        await story.receive(trade(50))
        assert await story.write() == []
        await story.close()

    async def test_of_a_delayed_feed_is_in_event_time(self, parts):
        story = Story(parts, Vendor(delay_seconds=900.0))
        await story.receive(trade(0), at=NOW + 900 * SECOND)
        await story.break_off()
        await story.receive(trade(60), at=NOW + 960 * SECOND)
        assert await story.write() == [(None, -OVERLAP, 60 * SECOND, "open", 0)]
        await story.close()

    async def test_ends_when_a_quiet_stream_is_open(self, parts):
        story = Story(parts, Vendor())
        await story.receive(trade(0))
        await story.break_off()
        story.clock.at = NOW + 90 * SECOND
        story.feed.live.gaps.settle()
        assert await story.write() == [(None, -OVERLAP, 90 * SECOND, "open", 0)]
        await story.break_off()  # of a stream that was mute: its gap begins at the data before
        story.clock.at = NOW + 120 * SECOND
        story.feed.live.gaps.settle()
        assert (await story.write())[-1] == (None, -OVERLAP, 120 * SECOND, "open", 0)
        await story.close()


async def test_a_stop_is_a_gap_since_the_newest_stored_data(postgres_dsn):
    clock = SetClock(NOW)
    async with stack(postgres_dsn, clock=clock) as parts:
        story = Story(parts, Vendor())
        await story.receive(trade(0))
        await story.write()
        await story.receive(trade(60))
        await story.write()
        await story.close()
    clock.at = NOW + 300 * SECOND
    async with stack(postgres_dsn, clock=clock) as parts:
        story = Story(parts, Vendor())
        story.vendor.past = [trade(seconds) for seconds in (0, 60, 100, 299)]
        await story.receive(trade(301))
        assert await story.write() == [(None, 50 * SECOND, 301 * SECOND, "open", 0)]
        assert await story.fill() == [(None, 50 * SECOND, 301 * SECOND, "filled", 2)]
        await story.close()


async def test_a_kill_before_the_gap_was_listed_loses_none(postgres_dsn):
    """The mark of the feed does not pass an interruption that is in memory alone."""
    clock = SetClock(NOW)
    async with stack(postgres_dsn, clock=clock) as parts:
        story = Story(parts, Vendor())
        await story.receive(trade(0))
        await story.write()
        await story.break_off()
        await story.receive(trade(100))
        await story.close()
    async with stack(postgres_dsn, clock=clock) as parts:
        story = Story(parts, Vendor())
        await story.receive(trade(101))
        assert await story.write() == [(None, -OVERLAP, 101 * SECOND, "open", 0)]
        await story.close()


class TestFillingWithTrades:
    async def test_stores_each_once(self, parts):
        """Live and filled ticks overlap at both ends; the same id on another exchange is another trade."""
        vendor = Vendor()
        elsewhere = trade(60, exchange="X")
        vendor.past = [trade(55), trade(60), elsewhere, trade(80), trade(119), trade(120)]
        story = await interrupted(parts, vendor)
        assert await story.fill() == [(None, 50 * SECOND, 120 * SECOND, "filled", 4)]
        assert story.feed.state.gaps == {"filled": 1}
        assert vendor.asked == [(("A",), NOW + 50 * SECOND, NOW + 120 * SECOND)]
        assert sum(row["trade_count"] for row in await parts.between("A", M1)) == 7
        assert story.clock() >= NOW + 135 * SECOND  # when the provider has them for sure
        await story.close()

    async def test_takes_back_what_was_cancelled_meanwhile(self, parts):
        vendor = Vendor()
        vendor.past = [trade(55), trade(80)]
        vendor.taken_back = [{"symbol": "A", "ts": NOW + 60 * SECOND, "trade_id": "A60"}]
        story = await interrupted(parts, vendor)
        assert [row[3:] for row in await story.fill()] == [("filled", 2)]
        assert sum(row["trade_count"] for row in await parts.between("A", M1)) == 4  # at 0, 55, 80 and 120 seconds
        await story.close()

    async def test_goes_on_where_it_was(self, parts):
        vendor = Vendor()
        story = await interrupted(parts, vendor)
        await story.break_off()
        await story.receive(trade(3 * 3600))
        vendor.faults = [None, Unreachable("reset"), RateLimited("wait", story.clock() + HOUR), None]
        assert [row[3] for row in await story.fill()] == ["filled", "filled"]
        starts = [(start - NOW) // SECOND for _, start, _ in vendor.asked]
        assert starts == [110, 3710, 3710, 3710, 7310, 50]
        assert max(story.waited) > 3500
        await story.close()

    @pytest.mark.parametrize("fault", [UnknownSymbol, NotEntitled])
    async def test_leaves_out_a_refused_symbol(self, parts, fault):
        vendor = Vendor()
        vendor.past = [trade(70, "A"), trade(71, "C")]
        vendor.faults = [fault("scripted does not know B", "B")]
        story = await interrupted(parts, vendor, symbols=("A", "B", "C"))
        assert await story.fill() == [
            (None, 50 * SECOND, 120 * SECOND, "filled", 2),
            ("B", 50 * SECOND, 120 * SECOND, "cannot", 0),
        ]
        assert await story.problems() == [("B", "scripted does not know B")]
        assert [symbols for symbols, *_ in vendor.asked] == [("A", "B", "C"), ("A", "C")]
        await story.close()

    async def test_finds_the_refused_symbol_that_is_not_named(self, parts):
        vendor = Vendor()
        wrong = BadRequest("one of them is wrong")
        vendor.faults = [wrong, None, wrong, wrong, None]
        story = await interrupted(parts, vendor, symbols=("A", "B", "C", "D"))
        assert [row[::3] for row in await story.fill()] == [(None, "filled"), ("C", "cannot")]
        assert [symbols for symbols, *_ in vendor.asked] == [
            ("A", "B", "C", "D"),
            ("A", "B"),
            ("C", "D"),
            ("C",),
            ("D",),
        ]
        await story.close()

    async def test_waits_for_the_newest_minutes_of_a_plan(self, parts):
        vendor = Vendor()
        vendor.past = [trade(70)]
        vendor.faults = [NotEntitled("the plan has no recent trades")]
        story = await interrupted(parts, vendor)
        assert await story.fill() == [(None, 50 * SECOND, 120 * SECOND, "filled", 1)]
        assert story.clock() >= NOW + 120 * SECOND + 20 * MINUTE
        await story.close()

    async def test_that_the_plan_never_includes_is_given_up(self, parts):
        vendor = Vendor()
        vendor.faults = [NotEntitled("the plan has no trades")] * 9
        story = await interrupted(parts, vendor)
        assert [row[3] for row in await story.fill()] == ["cannot"]
        ((_, problem),) = await story.problems()
        assert problem == "the plan has no trades; scripted has no 1-minute bars of the past either"
        (shown,) = story.feed.state.unfilled
        assert (shown.state, shown.problem) == ("cannot", problem)
        await story.close()

    async def test_ends_with_a_wrong_key(self, parts):
        vendor = Vendor()
        vendor.faults = [WrongKey("no such key")]
        story = await interrupted(parts, vendor)
        await story.write()
        await story.feed.filler.run()
        assert [row[3] for row in await story.rows()] == ["open"]
        assert await story.problems() == [(None, "no such key")]
        await story.close()


class TestFillingWithBars:
    async def test_takes_all_minutes_that_the_gap_touches(self, parts):
        vendor = Vendor()
        minutes = [bar("A", "1m", NOW + minute * MINUTE, 500.0 + minute, 7.0) for minute in range(-1, 5)]
        vendor.bars = bars_frame(*minutes)
        story = await interrupted(parts, vendor, has=BARS)
        assert await story.fill() == [(None, 50 * SECOND, 120 * SECOND, "filled", 2)]
        assert vendor.requests == [(("A",), "1m", NOW, NOW + 2 * MINUTE)]
        rows = [(row["ts"] - NOW, row["close"]) for row in await parts.between("A", M1)]
        assert rows == [(0 * SECOND, 500.0), (MINUTE, 501.0), (2 * MINUTE, 220.0)]
        await story.close()

    async def test_waits_for_the_end_of_the_last_minute(self, parts):
        vendor = Vendor()
        story = Story(parts, vendor, has=BARS)
        await story.receive(trade(0))
        await story.break_off()
        await story.receive(trade(61))
        assert [row[3] for row in await story.fill()] == ["filled"]
        assert vendor.requests == [(("A",), "1m", NOW - MINUTE, NOW + 2 * MINUTE)]
        assert story.clock() >= NOW + 2 * MINUTE
        await story.close()

    async def test_instead_of_trades_without_ids(self, parts):
        vendor = Vendor()
        vendor.past = [trade(70, trade_id=None)]
        vendor.bars = bars_frame(bar("A", "1m", NOW + MINUTE, 9.0, 7.0))
        story = await interrupted(parts, vendor, has=Capabilities(trades=True, history=MINUTES))
        assert [row[3:] for row in await story.fill()] == [("filled", 1)]
        await story.close()

    async def test_instead_of_trades_of_long_ago(self, parts):
        vendor = Vendor()
        story = Story(parts, vendor, has=Capabilities(trades=True, history=MINUTES))
        await story.receive(trade(0))
        await story.break_off()
        await story.receive(trade(5 * 86_400))
        assert [row[3] for row in await story.fill()] == ["filled"]
        assert vendor.asked == []
        assert len(vendor.requests) == 61  # of two hours each
        await story.close()

    async def test_asks_for_as_many_symbols_as_one_request_takes(self, parts):
        vendor = Vendor()
        story = await interrupted(parts, vendor, symbols=("A", "B", "C"), has=BARS)
        await story.fill()
        assert [symbols for symbols, *_ in vendor.requests] == [("A", "B"), ("C",)]
        await story.close()

    async def test_of_a_provider_that_has_no_past_is_given_up(self, parts):
        story = await interrupted(parts, Vendor(), has=Capabilities())
        assert [row[3] for row in await story.fill()] == ["cannot"]
        ((_, problem),) = await story.problems()
        assert problem == "scripted has no trades of the past; scripted has no 1-minute bars of the past either"
        await story.close()


async def test_a_gap_outside_sessions_is_nothing(parts):
    vendor = Vendor(calendar="XNYS")
    parts.clock.at = NOW + 4 * DAY + 8 * HOUR  # a Friday night
    story = Story(parts, vendor, symbols=("IBM",))
    friday = tick("IBM", parts.clock(), trade_id="1")
    await story.receive(friday)
    await story.break_off()
    sunday = tick("IBM", friday["ts"] + 2 * DAY, trade_id="2")
    await story.receive(sunday)
    assert [row[3] for row in await story.fill()] == ["filled"]
    await story.break_off()
    monday = tick("IBM", friday["ts"] + 3 * DAY, trade_id="3")
    await story.receive(monday)
    assert [row[3] for row in await story.fill()] == ["filled"] * 2
    assert vendor.asked[0][1:] == (sunday["ts"] - OVERLAP, sunday["ts"] - OVERLAP + HOUR)
    assert len(vendor.asked) == 25
    await story.close()


async def test_the_calendar_of_the_feed_counts_for_unknown_symbols(parts):
    story = Story(parts, Vendor(), symbols=("A",))
    assert feed_of(story.vendor).calendar_of("A") == "24/7"
    await story.close()
