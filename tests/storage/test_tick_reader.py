"""Reading ticks, against a scan of all of them: in memory, in sealed segments, in indexed segments."""

import asyncio
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from stockpulse.ingest.feed import Feed
from stockpulse.journal.segments import first_offset
from stockpulse.market.clocks import Clock
from stockpulse.market.times import micros
from stockpulse.storage.tick_cursor import TickCursor
from stockpulse.storage.tick_reader import SERVED_TICKS
from stockpulse.testing import SetClock
from store_stack import DAY, MINUTE, NOW, SECOND, bar, frame_of_ticks, stack, tick

FEED = Feed("sender", "24/7")
SYMBOLS = ("A", "B", "C")
MICRO = timedelta(microseconds=1)


def chosen(random, texts, count):
    return pl.Series([texts[at] for at in random.integers(0, len(texts), count)], dtype=pl.String)


def batch(random, count, spread_seconds=300):
    """Trades of few distinct times, so that there are many ties."""
    ts = micros(NOW) - random.integers(0, spread_seconds, count) * 1_000_000
    names = random.choice(SYMBOLS, count, p=[0.6, 0.39, 0.01])
    return frame_of_ticks(
        names,
        ts,
        np.round(random.uniform(1, 100, count), 2),
        random.integers(0, 100, count).astype(float),
        exchange=chosen(random, ["Q", "N", None], count),
        conditions=chosen(random, ["@", None], count),
    )


class Scan:
    """All the ticks that were sent, in the order of the log."""

    def __init__(self):
        self.frames = []

    def add(self, frame):
        self.frames.append(frame)

    def of(self, symbol):
        whole = pl.concat(self.frames).with_row_index("place")
        return whole.filter(pl.col("symbol") == symbol)

    def latest(self, symbol, limit):
        return self.of(symbol).sort("ts", "place", descending=True).head(limit)

    def within(self, symbol, start, end):
        return self.of(symbol).filter((pl.col("ts") >= start) & (pl.col("ts") < end))


async def assert_reads_are(scan, parts, symbol, limit, start, end):
    found = await parts.ticks.latest(parts.symbol(symbol).id, limit)
    wanted = scan.latest(symbol, limit)
    assert found.schema == SERVED_TICKS
    for name, here in (
        ("ts", "event_time"),
        ("size", "volume"),
        *((same, same) for same in ("symbol", "price", "exchange", "conditions", "trade_id")),
    ):
        assert found[here].to_list() == wanted[name].to_list(), here
    assert set(found["provider"]) <= {"sender"}
    newest = await parts.ticks.newest_price(parts.symbol(symbol))
    assert newest["price"].to_list() == wanted["price"].head(1).to_list()
    summary = await parts.ticks.summary(parts.symbol(symbol).id, start, end)
    inside = scan.within(symbol, start, end)
    assert summary.count == len(inside)
    assert (summary.min_price, summary.max_price) == (inside["price"].min(), inside["price"].max())
    assert summary.avg_price == (pytest.approx(inside["price"].mean()) if len(inside) else None)
    assert summary.sum_volume == inside["size"].sum()


async def assert_pages_are(scan, parts, limit, start, end, *, descending):
    """All pages together have each tick of all symbols once, by symbol, then by time and offset."""
    symbols = [parts.symbol(name) for name in reversed(SYMBOLS) if name in parts.names.symbols]
    found, cursor, first = [], None, True
    while first or cursor is not None:
        page = await parts.ticks.page(symbols, start, end, limit, cursor, descending=descending)
        assert len(page.ticks) <= limit
        assert page.next is None or len(page.ticks) == limit
        cursor, first = None if page.next is None else TickCursor.decode(page.next.encode()), False
        found += page.ticks.select("symbol", "event_time", "price", "volume").rows()
    wanted = [scan.within(name, start, end).sort("ts", "place", descending=descending) for name in SYMBOLS]
    assert found == pl.concat(wanted).select("symbol", "ts", "price", "size").rows()


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_reads_are_those_of_a_scan(postgres_dsn, seed):
    random = np.random.default_rng(seed)
    scan = Scan()
    clock = SetClock(NOW)
    async with stack(postgres_dsn, segment_rows=120, clock=clock) as parts:
        for round_number in range(24):
            # Now and then nothing but old ticks, so that the newest are in older segments.
            frame = batch(random, int(random.integers(1, 60)), spread_seconds=30 if round_number % 3 else 300)
            if round_number % 5 == 4:
                frame = frame.with_columns(pl.col("ts") - timedelta(minutes=10))
            frame = (
                frame.with_columns(trade_id=pl.lit(None, pl.String))
                if round_number % 2
                else unique(frame, round_number)
            )
            receipt = await parts.ingestor.submit(frame, FEED)
            assert receipt.accepted == len(frame)
            scan.add(frame)
            if random.random() < 0.4:
                await parts.segments.index_sealed()
            for symbol in SYMBOLS:
                if symbol in parts.names.symbols:
                    start, end = sorted(NOW - int(n) * SECOND for n in random.integers(-20, 1000, 2))
                    await assert_reads_are(scan, parts, symbol, int(random.choice([1, 2, 7, 50, 5000])), start, end)
            if round_number % 6 == 5:
                for descending in (False, True):
                    await assert_pages_are(scan, parts, 40, NOW - 800 * SECOND, NOW, descending=descending)
        assert len(parts.segments.sealed) > 3
    async with stack(postgres_dsn, segment_rows=120, memory_rows=int(random.choice([0, 1000]))) as parts:
        for symbol in SYMBOLS:
            await assert_reads_are(scan, parts, symbol, 70, NOW - MINUTE, NOW + SECOND)
        for limit, descending in ((1000, False), (1000, True), (7, True)):
            await assert_pages_are(scan, parts, limit, NOW - 100 * SECOND, NOW, descending=descending)


def unique(frame, number):
    return frame.with_columns(pl.int_range(len(frame)).cast(pl.String).alias("trade_id") + f"-{number}")


async def test_ties_are_told_apart_by_the_log(postgres_dsn):
    async with stack(postgres_dsn, segment_rows=4) as parts:
        for price in range(1, 14):
            await parts.submit(FEED, tick("A", NOW, price))
            if price == 8:
                await parts.segments.index_sealed()
        for limit in (1, 3, 6, 9, 13, 20):
            found = await parts.ticks.latest(parts.symbol("A").id, limit)
            assert found["price"].to_list() == [float(price) for price in range(13, 0, -1)][:limit]
            assert found["seq"].is_sorted(descending=True)


async def test_the_window_is_half_open(postgres_dsn):
    async with stack(postgres_dsn) as parts:
        await parts.submit(FEED, tick("A", NOW - SECOND, 1), tick("A", NOW - MICRO, 2), tick("A", NOW, 4))
        of = parts.symbol("A").id
        counts = [
            (await parts.ticks.summary(of, start, end)).count
            for start, end in (
                (NOW - SECOND, NOW),
                (NOW - SECOND, NOW + MICRO),
                (NOW - SECOND + MICRO, NOW),
                (NOW, NOW),
                (NOW, NOW - SECOND),
            )
        ]
        assert counts == [2, 3, 1, 0, 0]


async def test_without_ticks(postgres_dsn):
    async with stack(postgres_dsn) as parts:
        await parts.submit(FEED, bar("A", "1d", NOW - DAY), of_bars=True)
        symbol_id = parts.symbol("A").id
        assert (await parts.ticks.latest(symbol_id, 5)).schema == SERVED_TICKS
        summary = await parts.ticks.summary(symbol_id, NOW - DAY, NOW)
        assert (summary.count, summary.avg_price, summary.min_price, summary.sum_volume) == (0, None, None, 0.0)


async def test_old_ticks_that_come_late_are_found_by_their_time(postgres_dsn):
    """The newest by event time may be in the oldest segment."""
    async with stack(postgres_dsn, segment_rows=3) as parts:
        await parts.submit(FEED, tick("A", NOW, 50), tick("B", NOW), tick("B", NOW))
        for price in range(10):
            await parts.submit(FEED, tick("A", NOW - DAY + price * SECOND, price + 1), tick("B", NOW - DAY))
        for _ in range(2):
            found = await parts.ticks.latest(parts.symbol("A").id, 3)
            assert found["price"].to_list() == [50.0, 10.0, 9.0]
            summary = await parts.ticks.summary(parts.symbol("A").id, NOW - MINUTE, NOW + SECOND)
            assert (summary.count, summary.max_price) == (1, 50.0)
            await parts.segments.index_sealed()


async def test_what_is_not_said_is_null(postgres_dsn):
    async with stack(postgres_dsn) as parts:
        await parts.submit(FEED, tick("A", NOW), tick("A", NOW, exchange="Q", conditions="@, ,I", trade_id="7"))
        first, second = (await parts.ticks.latest(parts.symbol("A").id, 2)).iter_rows(named=True)
        assert (first["exchange"], first["conditions"], first["trade_id"]) == ("Q", "@, ,I", "7")
        assert (second["exchange"], second["conditions"], second["trade_id"]) == (None, None, None)
        assert first["received_at"] == NOW


@pytest.mark.thorough
async def test_every_tick_is_seen_once_while_segments_are_sealed_and_indexed(postgres_dsn):
    """A reader that never stops sees each answered tick, once, at every moment."""
    async with stack(postgres_dsn, segment_rows=40) as parts:
        await parts.submit(Feed("other", "24/7", Clock.EVENT), tick("A", NOW - DAY))
        of, sent, looks = parts.symbol("A").id, 1, 0
        over = asyncio.Event()

        async def preview():
            nonlocal looks
            while not over.is_set():
                before = sent
                summary = await parts.ticks.summary(of, NOW - 2 * DAY, NOW + DAY)
                found = await parts.ticks.latest(of, 10_000)
                assert before <= summary.count <= sent + 7
                assert before <= len(found) <= sent + 7
                assert found["seq"].n_unique() == len(found)
                looks += 1
                await asyncio.sleep(0)

        async def tend():
            while not over.is_set():
                await parts.segments.ensure(parts.segments.following)
                await parts.segments.index_sealed()
                await asyncio.sleep(0)

        looking, tending = asyncio.create_task(preview()), asyncio.create_task(tend())
        for _ in range(60):
            await parts.submit(FEED, *(tick("A", NOW - n * SECOND) for n in range(7)))
            sent += 7
            if looking.done() or tending.done():
                break
        over.set()
        await looking
        await tending
        assert looks > 5
        assert parts.segments.open > first_offset(5)
