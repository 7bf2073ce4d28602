"""The simulated market: prices as a function of time, and a stream that keeps to the clock."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.base import Clock, Provider
from stockpulse.providers.random_walk import KNOWN_ANCHORS, RandomWalk, to_cents
from stockpulse.providers.simulated import BATCH_ROWS, INTERVALS, SIZES, SimulatedProvider

START = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
SYMBOLS = ("AAPL", "MSFT", "GOOG", "AMZN", "TSLA", "NVDA")
SECOND = timedelta(seconds=1)


class ManualClock:
    """A clock that only sleeping moves."""

    def __init__(self, now=START):
        self.time = now

    def now(self):
        return self.time

    async def sleep(self, seconds):
        self.time += timedelta(seconds=seconds)


def simulated(clock=None, **arguments):
    clock = clock or ManualClock()
    return SimulatedProvider(**{"symbols": SYMBOLS, "now": clock.now, "sleep": clock.sleep, **arguments})


async def stream_for(provider, clock, seconds):
    """The frames that are yielded until the clock has moved on by that much."""
    end = clock.time + timedelta(seconds=seconds)
    frames = []
    async for frame in provider.stream():
        if clock.time > end:
            break
        frames.append(frame)
    return frames


async def bars(provider, symbol, interval, start, end):
    frames = [frame async for frame in provider.history((symbol,), interval, start, end)]
    return pl.concat(frames) if frames else BARS.to_frame()


def at(symbol, *moments, seed=0):
    seconds = np.array([int(moment.timestamp()) for moment in moments])
    return to_cents(RandomWalk((symbol,), seed).at(seconds))[:, 0].tolist()


# ── The price function ─────────────────────────────────────────────────────────────────────────────────────


def test_a_price_does_not_depend_on_what_else_is_asked():
    seconds = np.random.default_rng(1).integers(0, 2_000_000_000, 20_000)
    together = RandomWalk(SYMBOLS, 7).at(seconds)
    assert (RandomWalk(SYMBOLS, 7).at(seconds[::-1])[::-1] == together).all()
    assert (RandomWalk(("GOOG",), 7).at(seconds)[:, 0] == together[:, 2]).all()
    for i in range(0, len(seconds), 5_000):
        assert (RandomWalk(SYMBOLS, 7).at(seconds[i : i + 1])[0] == together[i]).all()


def test_a_price_is_the_same_in_every_version():
    # A change of these changes the prices of all running installations.
    assert at("AAPL", START, START + SECOND, START + timedelta(days=1)) == [182.22, 182.22, 181.80]
    assert at("X", START, seed=3) == [19.07]


def test_seeds_and_symbols_have_paths_of_their_own():
    minutes = np.arange(0, 86_400 * 30, 60)
    returns = np.diff(np.log(np.hstack([RandomWalk(SYMBOLS, seed).at(minutes) for seed in (0, 1)])), axis=0)
    correlations = np.corrcoef(returns.T) - np.eye(12)
    assert np.abs(correlations).max() < 0.05


@pytest.mark.parametrize("symbol", [*SYMBOLS, "BRK.B", "BTC-USD"])
def test_daily_closes_have_a_believable_volatility(symbol):
    days = np.arange(18_000, 18_000 + 4 * 365) * 86_400
    closes = RandomWalk((symbol,), 0).at(days)[:, 0]
    assert 0.25 < np.diff(np.log(closes)).std() * math.sqrt(365) < 0.35


@pytest.mark.parametrize("step", [1, 10, 60, 900, 14_400])
def test_it_is_as_rough_at_every_scale(step):
    prices = RandomWalk(SYMBOLS, 0).at(1_772_000_000 + np.arange(4_000) * step)
    volatility = np.diff(np.log(prices), axis=0).std() * math.sqrt(365.25 * 86_400 / step)
    assert 0.27 < volatility < 0.33


def test_prices_stay_near_their_anchors_for_decades():
    weeks = np.arange(0, 100 * 52) * 7 * 86_400
    prices = RandomWalk(SYMBOLS, 0).at(weeks)
    anchors = np.array([KNOWN_ANCHORS[symbol] for symbol in SYMBOLS])
    assert (np.abs(np.log(prices / anchors)) < 1).all()


def test_unknown_symbols_get_believable_prices():
    prices = RandomWalk([f"S{i}" for i in range(2_000)], 0).at(np.array([1_772_000_000]))[0]
    assert 4 < prices.min() < 15
    assert 300 < prices.max() < 1_000


# ── The stream ─────────────────────────────────────────────────────────────────────────────────────────────


def test_it_says_what_it_is():
    provider: Provider = SimulatedProvider(SYMBOLS)
    assert (provider.name, provider.calendar, provider.clock, provider.delay_seconds) == (
        "simulated",
        "24/7",
        Clock.WALL,
        0,
    )


@pytest.mark.parametrize("rate", [0.5, 3, 250.0, 40_000, 3_000_000])
async def test_frames_are_well_formed(rate):
    clock = ManualClock()
    last = None
    for frame in (await stream_for(simulated(clock, rate=rate), clock, max(0.2, 10 / rate)))[:20]:
        assert frame.schema == TICKS
        assert 0 < len(frame) <= BATCH_ROWS
        assert frame["ts"].is_sorted()
        assert last is None or last <= frame["ts"][0]
        last = frame["ts"][-1]
        assert frame["price"].min() > 0
        assert (frame["price"] == frame["price"].round(2)).all()
        assert frame["size"].is_in(SIZES.tolist()).all()
        assert frame["symbol"].is_in(list(SYMBOLS)).all()
        assert frame["trade_id"].null_count() == frame["conditions"].null_count() == len(frame)


async def test_ticks_are_never_ahead_of_the_clock_nor_far_behind():
    clock = ManualClock()
    frames = 0
    async for frame in simulated(clock, rate=5_000).stream():
        assert clock.time - timedelta(seconds=0.05) < frame["ts"][0]
        assert frame["ts"][-1] <= clock.time
        frames += 1
        if frames == 100:
            break


async def test_the_same_seed_gives_the_same_frames():
    def run(seed):
        clock = ManualClock()
        return stream_for(simulated(clock, rate=2_000, seed=seed), clock, 1)

    first, again, other = pl.concat(await run(0)), pl.concat(await run(0)), pl.concat(await run(1))
    assert first.equals(again)
    assert not first["ts"].equals(other["ts"])
    assert not first["price"].equals(other["price"])


async def test_a_stream_that_starts_later_sends_what_the_earlier_one_would():
    early, late = ManualClock(), ManualClock(START + 5 * SECOND)
    long = pl.concat(await stream_for(simulated(early, rate=20), early, 10))
    short = pl.concat(await stream_for(simulated(late, rate=20), late, 5))
    assert long.filter(pl.col("ts") >= short["ts"][0]).equals(short)


@pytest.mark.slow
async def test_without_a_rate_each_symbol_ticks_every_two_seconds():
    clock = ManualClock()
    ticks = pl.concat(await stream_for(simulated(clock), clock, 300))
    counts = ticks["symbol"].value_counts()["count"]
    assert len(counts) == 6
    assert counts.is_between(149, 151).all()
    gaps = ticks.filter(symbol="TSLA")["ts"].diff().dt.total_milliseconds().drop_nulls()
    assert gaps.is_between(1_600, 2_400).all()
    assert gaps.n_unique() > 100


@pytest.mark.parametrize("rate", [1, 7, 1_000, 33_333.3, 1_000_000])
async def test_the_rate_is_kept(rate):
    clock = ManualClock()
    seconds = 20 / rate if rate < 10 else 0.5
    provider = simulated(clock, rate=rate)
    sent = sum(map(len, await stream_for(provider, clock, seconds)))
    assert sent == pytest.approx(rate * seconds, abs=2, rel=0.05)
    assert provider.skipped == 0


async def test_pauses_are_neither_too_short_nor_too_long():
    clock = ManualClock()
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)
        await clock.sleep(seconds)

    for rate in (0.01, 1_000, 500_000):
        await stream_for(simulated(clock, rate=rate, sleep=sleep), clock, max(0.2, 2 / rate))
    assert min(pauses) >= 0.01
    assert max(pauses) <= 1


async def test_what_a_slow_reader_misses_is_skipped_and_counted():
    clock = ManualClock()
    provider = simulated(clock, rate=1_000)
    stream = provider.stream()
    sent = len(await anext(stream))
    clock.time += timedelta(seconds=11)
    after = await anext(stream)
    assert timedelta(seconds=0.99) < clock.time - after["ts"][0] <= SECOND
    assert len(after) == pytest.approx(1_000, abs=2)
    assert provider.skipped == pytest.approx(10_000, abs=2)
    total = sent + len(after) + provider.skipped
    assert total == pytest.approx(1_000 * (clock.time - START).total_seconds(), abs=2)


async def test_a_backlog_comes_in_bounded_batches_without_a_pause():
    clock = ManualClock()
    stream = simulated(clock, rate=100_000).stream()
    await anext(stream)
    clock.time += timedelta(seconds=0.9)
    before = clock.time
    assert [len(await anext(stream)) for _ in range(4)] == [BATCH_ROWS] * 4
    assert clock.time == before


async def test_at_an_infinite_rate_every_batch_is_full():
    clock = ManualClock()
    frames = await stream_for(simulated(clock, rate=math.inf), clock, 0.02)
    assert len(frames) > 5
    assert all(len(frame) == BATCH_ROWS for frame in frames)


async def test_the_time_that_the_reader_takes_is_not_slept_as_well():
    clock = ManualClock()
    stream = simulated(clock, rate=1).stream()
    first = await anext(stream)
    clock.time = first["ts"][0] + timedelta(seconds=0.1)
    second = await anext(stream)
    assert clock.time == second["ts"][0]


async def test_a_clock_that_is_set_back_repeats_nothing():
    clock = ManualClock()
    stream = simulated(clock, rate=10).stream()
    first = await anext(stream)
    clock.time -= 30 * SECOND
    assert (await anext(stream))["ts"][0] > first["ts"][-1]


@pytest.mark.parametrize("rate", [0, -1, math.nan])
def test_a_rate_must_be_above_0(rate):
    with pytest.raises(InvalidInput, match="rate: "):
        SimulatedProvider(SYMBOLS, rate=rate)


def test_there_must_be_symbols():
    with pytest.raises(InvalidInput, match="symbols: "):
        SimulatedProvider([])


def test_sizes_are_skewed():
    assert (SIZES >= 1).all()
    assert (SIZES.round() == SIZES).all()
    assert len(SIZES) == 1_024  # a power of two: they are chosen by the bits of a hash
    assert np.median(SIZES) < 100 < SIZES.mean() < 300
    assert 0.3 < (SIZES % 100 == 0).mean() < 0.6
    assert (SIZES >= 1_000).mean() < 0.03


# ── History ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("interval", INTERVALS)
async def test_bars_are_well_formed(interval):
    length = timedelta(seconds=INTERVALS[interval][0])
    end = START - timedelta(days=3)
    frame = await bars(simulated(), "TSLA", interval, end - 400 * length, end)
    assert frame.schema == BARS
    assert frame["symbol"].unique().to_list() == ["TSLA"]
    assert frame["interval"].unique().to_list() == [interval]
    assert (frame["ts"].diff().drop_nulls() == length).all()
    assert frame.filter(
        (pl.col("low") <= pl.min_horizontal("open", "close", "vwap"))
        & (pl.col("high") >= pl.max_horizontal("open", "close", "vwap"))
        & (pl.col("low") > 0)
        & (pl.col("trade_count") > 0)
        & (pl.col("volume") >= pl.col("trade_count"))
    ).equals(frame)
    assert frame.null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("interval", INTERVALS)
async def test_bars_open_and_close_at_the_price_of_the_moment(interval):
    length = timedelta(seconds=INTERVALS[interval][0])
    frame = await bars(simulated(), "MSFT", interval, START - 10 * length, START)
    assert frame["open"].to_list() == at("MSFT", *frame["ts"])
    assert frame["close"].to_list() == at("MSFT", *(frame["ts"] + length - SECOND))


async def test_only_whole_buckets_that_are_over_are_given():
    provider = simulated()
    minute = timedelta(minutes=1)
    frame = await bars(provider, "AAPL", "1m", START - 3 * minute - SECOND, START + 5 * minute)
    assert frame["ts"].to_list() == [START - 3 * minute, START - 2 * minute, START - minute]
    frame = await bars(provider, "AAPL", "1m", START - 3 * minute + SECOND, START - SECOND)
    assert frame["ts"].to_list() == [START - 2 * minute]
    assert (await bars(provider, "AAPL", "1d", START - timedelta(hours=30), START)).is_empty()
    assert (await bars(provider, "AAPL", "1m", START, START - minute)).is_empty()


async def test_history_is_the_same_whenever_it_is_asked():
    start, end = START - timedelta(days=40), START - timedelta(days=5)
    now = await bars(simulated(), "NVDA", "5m", start, end)
    later = await bars(simulated(ManualClock(START + timedelta(days=900)), symbols=("X",)), "NVDA", "5m", start, end)
    part = await bars(simulated(), "NVDA", "5m", start + timedelta(days=17), end)
    assert now.equals(later)
    assert now.tail(len(part)).equals(part)
    assert len(now) > 10_000


async def test_history_comes_in_bounded_chunks():
    frames = [frame async for frame in simulated().history(["AAPL"], "1m", START - timedelta(days=10), START)]
    assert sum(map(len, frames)) == 14_400
    assert max(map(len, frames)) <= 10_000


async def test_a_day_is_made_of_its_minutes():
    day = START.replace(hour=0, minute=0)
    daily = (await bars(simulated(), "GOOG", "1d", day - timedelta(days=1), day)).row(0, named=True)
    for interval in ("5m", "1m"):
        inside = await bars(simulated(), "GOOG", interval, day - timedelta(days=1), day)
        assert inside["open"][0] == daily["open"]
        assert inside["close"][-1] == daily["close"]
        assert inside["high"].max() >= daily["high"]
        assert inside["low"].min() <= daily["low"]
        assert inside["trade_count"].sum() == pytest.approx(daily["trade_count"], rel=0.05)
        assert inside["volume"].sum() == pytest.approx(daily["volume"], rel=0.05)


@pytest.mark.slow
async def test_the_stream_goes_on_where_history_ends():
    clock = ManualClock()
    ticks = pl.concat(await stream_for(simulated(clock, rate=24), clock, 61))
    history = await bars(simulated(clock), "AAPL", "1m", START - timedelta(minutes=1), START + timedelta(minutes=1))
    own = ticks.filter(pl.col("symbol") == "AAPL", pl.col("ts") < START + timedelta(minutes=1))
    before, during = history.rows(named=True)
    assert own["price"][0] == pytest.approx(before["close"], rel=5e-4)
    assert own["price"][0] == pytest.approx(during["open"], rel=2e-4)
    assert own["price"][-1] == pytest.approx(during["close"], rel=2e-4)
    assert own["price"].max() == pytest.approx(during["high"], rel=5e-4)
    assert own["price"].min() == pytest.approx(during["low"], rel=5e-4)


async def test_every_tick_lies_on_the_price_function():
    clock = ManualClock()
    ticks = pl.concat(await stream_for(simulated(clock, rate=500), clock, 2)).filter(symbol="NVDA")
    for ts, price in ticks.select("ts", "price").iter_rows():
        whole = ts.replace(microsecond=0)
        low, high = sorted(at("NVDA", whole, whole + SECOND))
        assert low <= price <= high


async def test_volume_has_a_shape_over_the_day():
    frame = await bars(simulated(), "AAPL", "5m", START - timedelta(days=30), START)
    by_hour = frame.group_by(pl.col("ts").dt.hour()).agg(pl.col("volume").mean()).sort("ts")["volume"]
    assert by_hour.arg_max() in range(14, 21)
    assert by_hour.max() > 2 * by_hour.min()


async def test_an_unknown_interval_is_refused():
    with pytest.raises(InvalidInput, match="interval: "):
        await bars(simulated(), "AAPL", "2h", START, START)


async def test_a_clock_that_is_set_back_does_not_silence_the_stream():
    clock = ManualClock()
    provider = simulated(clock)
    stream = provider.stream()
    first = await anext(stream)
    clock.time -= timedelta(hours=1)
    while (frame := await anext(stream))["ts"].max() >= first["ts"].min():
        pass
    assert clock.time - timedelta(seconds=2) <= frame["ts"].max() <= clock.time
    assert clock.time < START - timedelta(minutes=59)
