"""From a provider's stream into the pipeline."""

import asyncio

from live_feeds import live_feed
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M1
from stockpulse.pipeline import ingestor
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.providers.trade_conditions import algoseek, all_count
from stockpulse.testing import ScriptedProvider, ticks_frame
from store_stack import HOUR, NOW, SECOND, stack, tick


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

            async def append_later(*batch):
                await durable.wait()
                return await append(*batch)

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
    vendor = ScriptedProvider(name="vendor", calendar="XNYS", delay_seconds=900.5)
    feed = feed_of(vendor)
    assert (feed.provider, feed.calendar, feed.clock) == ("vendor", "XNYS", Clock.WALL)
    assert (feed.delay_micros, feed.rule) == (900_500_000, all_count)
    vendor.name = "algoseek"
    assert feed_of(vendor).rule is algoseek


def test_calendar_of_a_new_symbol():
    feed = feed_of(ScriptedProvider(calendar="XNYS"))
    assert [feed.calendar_of(symbol) for symbol in ("IBM", "BTC/USD", "BRK.B")] == ["XNYS", "24/7", "XNYS"]
    assert trading_calendar(feed.calendar_of("BTC/USD")).name == "24/7"
