"""Bars of seconds: from the ticks that are kept, by the engine's own definition of a bar."""

import asyncio

import numpy as np
import polars as pl
import pytest

from stockpulse.engine.bar_math import bars_of_symbol, from_ticks, roll_up
from stockpulse.errors import InvalidInput
from stockpulse.ingest.feed import Feed
from stockpulse.journal.records import Forget
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M1, parse_interval
from stockpulse.market.schemas import ALL_FLAGS, DAY_APART
from stockpulse.market.times import micros
from stockpulse.providers.trade_conditions import alpaca
from stockpulse.storage import second_bars
from store_stack import DAY, HOUR, MINUTE, NOW, SECOND, bar, frame_of_ticks, stack, tick

TAPE = Feed("tape", "24/7", Clock.EVENT)
STOCKS = Feed("stocks", "XNYS", Clock.EVENT, rule=alpaca)
LENGTHS = [parse_interval(name, seconds=True) for name in ("1s", "5s", "10s", "15s", "30s")]
S10 = LENGTHS[2]
COLUMNS = ("ts", "open", "high", "low", "close", "volume", "trade_count")


@pytest.mark.parametrize("seed", range(40))
def test_of_any_ticks_make_the_bytes_of_their_minutes(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 400))
    ts = micros(NOW) + random.integers(0, 600, count) * 1_000_000 + random.integers(0, 3, count)
    trades = (
        np.full(count, 7),
        np.sort(ts) if random.random() < 0.3 else ts,
        np.arange(count) + 11,
        np.round(random.uniform(1, 2, count), 4),
        np.where(random.random(count) < 0.1, 1e-10, np.round(random.exponential(50, count), 6)),
        random.integers(0, ALL_FLAGS + 1, count).astype(np.uint16) & ~np.uint16(DAY_APART),
    )
    for interval in LENGTHS:
        short = bars_of_symbol(*trades, interval.micros)
        assert (short["ts"] % interval.micros == 0).all()
        assert (short["end"] - short["ts"] == interval.micros).all()
        start = short["ts"] // 60_000_000 * 60_000_000
        minutes = roll_up(short, start, start + 60_000_000)
        assert minutes.tobytes() == from_ticks(*trades).tobytes()


def recomposed(bars):
    """Add served bars of seconds up to minutes."""
    return (
        bars.sort("ts")
        .group_by_dynamic("ts", every="1m")
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
            pl.col("trade_count").sum(),
        )
        .select(COLUMNS)
    )


async def at_once(_: int) -> None:
    """Reserve any memory."""


async def short_bars(parts, interval, start=None, end=None):
    return await parts.context.second_bars.between(parts.symbol("A"), interval, start, end, parts.clock(), at_once)


async def stored_minutes(parts):
    pages = parts.bars.between(parts.symbol("A"), M1, None, None, parts.clock())
    return pl.concat([page async for page in pages]).select(COLUMNS)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(4))
async def test_add_up_to_the_stored_minutes(postgres_dsn, seed):
    """With late ticks, a forget, several feeds, and ticks in memory, in sealed and in indexed segments."""
    random = np.random.default_rng(seed)
    async with stack(postgres_dsn, segment_rows=500) as parts:
        for number in range(12):
            count = int(random.integers(1, 200))
            ts = micros(NOW - HOUR) + number * 120_000_000 - np.sort(random.integers(0, 900, count)) * 250_000
            frame = frame_of_ticks(
                random.choice(["A", "B"], count, p=[0.8, 0.2]),
                ts,
                np.round(random.uniform(90, 110, count), 2),
                random.integers(1, 500, count).astype(float),
            )
            await parts.ingestor.submit(frame, TAPE)
            await parts.submit(Feed("other", "24/7", Clock.EVENT), tick("A", NOW - HOUR, 1.0))
            if random.random() < 0.5:
                await parts.settled()
        await parts.ingestor.forget(Forget("A", None, micros(NOW - HOUR), micros(NOW - HOUR + 3 * MINUTE)))
        await parts.ingestor.end(TAPE)
        await parts.segments.index_sealed()
        for interval in LENGTHS:
            assert recomposed(await short_bars(parts, interval)).equals(await stored_minutes(parts))
            newest = await parts.context.second_bars.latest(parts.symbol("A"), interval, 7, parts.clock(), at_once)
            assert newest.equals((await short_bars(parts, interval)).tail(7))
        assert set((await short_bars(parts, S10))["source"]) == {"trades"}


async def test_keep_to_the_range_and_say_what_they_are(postgres_dsn):
    async with stack(postgres_dsn) as parts:
        start = NOW - HOUR
        await parts.submit(TAPE, *(tick("A", start + at * SECOND, 100 + at) for at in range(0, 65, 5)))
        await parts.settled()
        bars = await short_bars(parts, S10, start + 10 * SECOND, start + 40 * SECOND)
        assert bars["ts"].to_list() == [start + at * SECOND for at in (10, 20, 30)]
        assert bars.row(0, named=True) == {
            "symbol": "A",
            "interval": "10s",
            "ts": start + 10 * SECOND,
            "open": 110.0,
            "high": 115.0,
            "low": 110.0,
            "close": 115.0,
            "volume": 2.0,
            "trade_count": 2,
            "vwap": 112.5,
            "revision": bars["revision"][0],
            "final": True,
            "source": "trades",
            "filled": False,
        }


async def test_are_final_by_the_clock_that_closes_minutes(postgres_dsn):
    live = Feed("live", "24/7")
    async with stack(postgres_dsn) as parts:
        await parts.submit(live, tick("A", NOW), tick("A", NOW + SECOND))
        await parts.settled()
        for later, final in ((11, False), (12, True)):  # two seconds of allowed lateness
            parts.clock.at = NOW + later * SECOND
            assert (await short_bars(parts, S10))["final"].to_list() == [final]


async def test_follow_the_conditions(postgres_dsn):
    """An odd lot counts for volume only: a bar of nothing else has no price, and is not shown."""
    start = NOW - HOUR
    async with stack(postgres_dsn) as parts:
        rows = [tick("A", start, 10, 50, conditions="@,I"), tick("A", start + 20 * SECOND, 11, 100, conditions="@")]
        rows.append(tick("A", start + 21 * SECOND, 12, 70, conditions="@,I"))
        await parts.submit(STOCKS, *rows)
        await parts.settled()
        bars = await short_bars(parts, S10)
        assert bars.select("ts", "high", "volume").rows() == [(start + 20 * SECOND, 11.0, 170.0)]


class TestRefused:
    async def test_where_ticks_are_no_longer_kept(self, postgres_dsn):
        start = NOW - HOUR
        async with stack(postgres_dsn, segment_rows=10) as parts:
            for at in range(30):
                await parts.submit(TAPE, tick("A", start + at * 20 * SECOND))
            await parts.ingestor.end(TAPE)
            await parts.segments.index_sealed()
            whole = await short_bars(parts, S10)
            first = min(parts.segments.sealed)
            assert await parts.segments.drop_older(NOW + 9 * DAY, parts.journal.head)
            assert first not in parts.segments.sealed
            with pytest.raises(InvalidInput, match=r"not all ticks of A before .* are kept any more") as refused:
                await short_bars(parts, S10)
            kept_from = str(refused.value).split("before ")[1].split(" ")[0]
            kept = whole.filter(pl.col("ts") >= pl.lit(kept_from).str.to_datetime(time_zone="UTC"))
            newest = await parts.context.second_bars.latest(parts.symbol("A"), S10, 100, parts.clock(), at_once)
            assert 0 < len(newest) < len(whole)
            assert newest.equals(kept)
            assert (await short_bars(parts, S10, newest["ts"][0])).equals(newest)

    async def test_where_there_are_too_many(self, postgres_dsn, monkeypatch):
        monkeypatch.setattr(second_bars, "_MOST_TICKS", 50)
        start = NOW - HOUR
        async with stack(postgres_dsn) as parts:
            await parts.submit(TAPE, *(tick("A", start + at * SECOND) for at in range(120)))
            await parts.settled()
            with pytest.raises(InvalidInput, match=r"^start: 10s bars are built from ticks.*at most 50"):
                await short_bars(parts, S10)
            with pytest.raises(InvalidInput, match=r"^limit: 10s bars"):
                await parts.context.second_bars.latest(parts.symbol("A"), S10, 100, parts.clock(), at_once)


async def test_of_a_minute_that_a_provider_gave_are_those_of_its_ticks(postgres_dsn):
    start = NOW - HOUR
    async with stack(postgres_dsn) as parts:
        await parts.submit(TAPE, bar("A", "1m", start, 50, trade_count=900), of_bars=True)
        assert (await short_bars(parts, S10)).is_empty()
        await parts.submit(TAPE, tick("A", start + 11 * SECOND, 51))
        await parts.settled()
        assert (await short_bars(parts, S10)).select("ts", "close").rows() == [(start + 10 * SECOND, 51.0)]


async def test_of_a_symbol_without_ticks_there_are_none(postgres_dsn):
    async with stack(postgres_dsn) as parts:
        await parts.submit(TAPE, bar("A", "1d", (NOW - DAY).replace(hour=0, minute=0)), of_bars=True)
        await asyncio.sleep(0)
        assert (await short_bars(parts, S10)).is_empty()
        assert (await parts.context.second_bars.latest(parts.symbol("A"), S10, 5, parts.clock(), at_once)).is_empty()
