"""The life of a live feed: connections that break are opened again, and a refusal is said once."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from live_feeds import live_feed
from stockpulse.aio.backoff import Backoff
from stockpulse.market.intervals import M1
from stockpulse.pipeline.feed_state import Phase
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    QuotaUsedUp,
    RateLimited,
    TooManyConnections,
    Unreachable,
    WrongKey,
)
from stockpulse.testing import ScriptedProvider, bars_frame, ticks_frame
from store_stack import MINUTE, NOW, SECOND, TICKS, bar, stack, tick

BROKEN = Unreachable("the stream of scripted is broken off")


def trade(number):
    return ticks_frame(tick("A", NOW - MINUTE + number * SECOND, number, trade_id=str(number)))


class Sleeps:
    """Sleeps of no time: they note their seconds, and the state of the feed meanwhile."""

    def __init__(self):
        self.seconds = []
        self.states = []
        self.feed = None

    async def __call__(self, seconds):
        self.seconds.append(seconds)
        self.states.append((self.feed.state.phase, self.feed.state.why, self.feed.state.until))
        await asyncio.sleep(0)


def scripted_feed(parts, *script, **options):
    sleeps = Sleeps()
    sleeps.feed = live_feed(parts, ScriptedProvider(script), sleep=sleeps, **options)
    return sleeps.feed, sleeps


class TestABrokenStream:
    async def test_is_opened_again_and_nothing_is_lost(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            faults = (BROKEN, BadReply("no JSON"), RateLimited("too many requests"), TooManyConnections("taken"))
            script = [step for number, fault in enumerate(faults, 1) for step in (trade(number), fault)]
            feed, sleeps = scripted_feed(parts, *script, trade(5))
            await feed.follow()
            await parts.settled()
            (row,) = await parts.latest("A", M1, 5)
            assert row["trade_count"] == 5
            assert (feed.state.phase, feed.state.messages, feed.state.reconnects) == (Phase.ENDED, 5, 4)
            assert feed.state.last_message_at == NOW
            assert [state[:2] for state in sleeps.states] == [(Phase.WAITING, str(fault)) for fault in faults]
            assert all(
                until == NOW + timedelta(seconds=seconds)
                for (_, _, until), seconds in zip(sleeps.states, sleeps.seconds, strict=True)
            )

    async def test_waits_longer_each_time_and_briefly_again_after_data(self, postgres_dsn):
        """An accepted connection is no data: neither is a frame without rows."""
        async with stack(postgres_dsn) as parts:
            mute = [TICKS.to_frame(), BROKEN] * 12
            feed, sleeps = scripted_feed(
                parts, BROKEN, *mute, trade(1), BROKEN, BROKEN, backoff=Backoff(first=1.0, longest=30.0)
            )
            await feed.follow()
            bounds = [1, 2, 4, 8, 16, *[30] * 8, 1, 2]
            assert len(sleeps.seconds) == len(bounds)
            for seconds, bound in zip(sleeps.seconds, bounds, strict=True):
                assert bound / 2 <= seconds <= bound

    @pytest.mark.parametrize("fault", [RateLimited, QuotaUsedUp])
    async def test_waits_for_as_long_as_the_provider_says(self, postgres_dsn, fault):
        async with stack(postgres_dsn) as parts:
            feed, sleeps = scripted_feed(parts, fault("tomorrow", NOW + timedelta(hours=9)), trade(1))
            await feed.follow()
            (seconds,) = sleeps.seconds
            assert 9 * 3600 <= seconds < 9 * 3600 + 60
            assert feed.state.messages == 1

    async def test_waits_for_the_end_of_another_connection(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            feed, sleeps = scripted_feed(parts, *[TooManyConnections("406")] * 3, trade(1))
            await feed.follow()
            assert all(seconds >= 15 for seconds in sleeps.seconds)
            assert feed.state.messages == 1

    async def test_is_closed_before_it_is_opened_again(self, postgres_dsn):
        open_connections = []

        class Vendor(ScriptedProvider):
            async def stream(self):
                assert open_connections == []
                open_connections.append(self)
                try:
                    async for frame in super().stream():
                        yield frame
                finally:
                    open_connections.remove(self)

        async with stack(postgres_dsn) as parts:
            vendor = Vendor([trade(1), BROKEN, trade(2)], live=True)
            feed = live_feed(parts, vendor, backoff=Backoff(0.001, 0.001))
            following = asyncio.create_task(feed.follow())
            while feed.state.messages < 2:
                await asyncio.sleep(0.001)
            assert open_connections == [vendor]
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                await following
            assert open_connections == []


class TestARefusal:
    @pytest.mark.parametrize("fault", [WrongKey, NotEntitled, BadRequest])
    async def test_is_said_once_and_not_asked_again(self, postgres_dsn, fault):
        async with stack(postgres_dsn) as parts:
            feed, sleeps = scripted_feed(parts, trade(1), fault("scripted refuses it: see scripted.example"), trade(2))
            with capture_logs() as logs:
                await feed.follow()
            assert (feed.state.phase, feed.state.why) == (Phase.REFUSED, "scripted refuses it: see scripted.example")
            assert not feed.state.works
            assert sleeps.seconds == []
            said = [line for line in logs if line["log_level"] == "error"]
            assert [(line["fault"], line["why"]) for line in said] == [
                (fault.code, "scripted refuses it: see scripted.example")
            ]

    async def test_of_another_kind_is_left_to_the_supervisor(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            feed, sleeps = scripted_feed(parts, ConnectionError("hung up"), trade(1))
            with pytest.raises(ConnectionError):
                await feed.follow()
            assert (feed.state.phase, feed.state.why) == (Phase.WAITING, "ConnectionError('hung up')")
            await feed.follow()
            assert (feed.state.phase, feed.state.reconnects, sleeps.seconds) == (Phase.ENDED, 1, [])


async def test_a_stream_of_bars_and_ticks(postgres_dsn):
    async with stack(postgres_dsn) as parts:
        minute = bar("A", "1m", NOW - 5 * MINUTE, 50.0, 7.0, trade_count=3, vwap=50.0)
        feed, _ = scripted_feed(parts, bars_frame(minute), trade(1))
        await feed.follow()
        await parts.settled()
        rows = await parts.between("A", M1)
        assert [(row["close"], row["volume"]) for row in rows] == [(50.0, 7.0), (1.0, 1.0)]
        assert feed.state.messages == 2
