"""A process that only answers requests takes the newest bars from the topic of bars."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from stockpulse.engine.bar_math import volume_of, vwap_of
from stockpulse.journal.codecs import OHLCV
from stockpulse.journal.codecs.json_codec import JsonCodec
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M1, M5
from stockpulse.market.symbology import Names, ProviderName, Symbol
from stockpulse.market.times import micros
from stockpulse.pipeline.followed_bars import FollowedBars

T0 = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
CODEC = JsonCodec()


def bar(minute: int, *, symbol: str = "AAPL", close: float = 10.0, revision: int = 1, **others: object) -> bytes:
    row = {
        "symbol": symbol,
        "interval": "1m",
        "timestamp": T0 + timedelta(minutes=minute),
        "open": 10.0,
        "high": 12.0,
        "low": 9.0,
        "close": close,
        "volume": 100.5,
        "trade_count": 3,
        "vwap": 10.25,
        "revision": revision,
        "final": True,
        "source": "ticks",
        **others,
    }
    [value] = CODEC.encode_ohlcv(pl.DataFrame([row], schema=OHLCV, orient="row"))
    return value


@pytest.fixture
def names() -> Names:
    names = Names()
    names.add_symbols([Symbol(1, "AAPL", "XNYS"), Symbol(2, "MSFT", "XNYS")])
    names.add_provider(ProviderName(7, "alpaca", Clock.WALL, 0))
    return names


@pytest.fixture
def follow(names: Names) -> Callable[..., object]:
    """Feeds these batches of values to new `FollowedBars` and returns it."""

    async def followed(*batches: list[bytes | None]) -> FollowedBars:
        async def records() -> AsyncIterator[list[bytes | None]]:
            for batch in batches:
                yield batch

        bars = FollowedBars(records, CODEC, names)
        await bars.run()
        return bars

    return followed


async def test_a_bar_keeps_its_values(follow):
    bars = await follow([bar(0, final=False)])
    rows = await bars.in_memory(M1, 1)
    [row] = rows
    assert (row["symbol_id"], row["ts"], row["open"], row["high"], row["low"], row["close"]) == (
        *(1, micros(T0)),
        *(10.0, 12.0, 9.0, 10.0),
    )
    assert (row["trade_count"], row["revision"], row["final"], row["provider_id"]) == (3, 1, False, 0)
    assert volume_of(rows) == [100.5]
    assert vwap_of(rows) == [10.25]


async def test_the_highest_revision_stands_in_whatever_order_they_come(follow):
    bars = await follow([bar(0, revision=5, close=11.0)], [bar(0, revision=4, close=10.0)])
    assert [(row["revision"], row["close"]) for row in await bars.in_memory(M1, 1)] == [(5, 11.0)]
    bars = await follow([bar(0, revision=4, close=10.0), bar(0, revision=5, close=11.0)])
    assert [(row["revision"], row["close"]) for row in await bars.in_memory(M1, 1)] == [(5, 11.0)]


async def test_of_an_equal_revision_the_later_record_stands(follow):
    """A bar is published again when it closes: its values and revision are the same, but it is final."""
    bars = await follow([bar(0, final=False), bar(0, final=True)])
    assert [row["final"] for row in await bars.in_memory(M1, 1)] == [True]


async def test_only_the_newest_three_bars_of_a_symbol_are_kept(follow):
    bars = await follow([bar(minute) for minute in (4, 0, 1, 3, 2)])
    kept = [(int(row["ts"]) - micros(T0)) // 60_000_000 for row in await bars.in_memory(M1, 1)]
    assert sorted(kept) == [2, 3, 4]


async def test_symbols_and_intervals_are_apart(follow):
    bars = await follow([bar(0), bar(0, symbol="MSFT", close=11.0), bar(0, interval="5m", close=12.0)])
    assert [row["close"] for row in await bars.in_memory(M1, 1)] == [10.0]
    assert [row["close"] for row in await bars.in_memory(M1, 2)] == [11.0]
    assert [row["close"] for row in await bars.in_memory(M5, 1)] == [12.0]
    assert sorted(row["symbol_id"] for row in await bars.in_memory(M1)) == [1, 2]
    assert len(await bars.in_memory(M5, 2)) == 0


async def test_a_bar_of_a_provider_says_so(follow):
    bars = await follow([bar(0, source="alpaca")])
    assert [row["provider_id"] for row in await bars.in_memory(M1, 1)] == [7]


async def test_unknown_volumes_stay_unknown(follow):
    bars = await follow([bar(0, source="alpaca", trade_count=None, vwap=None)])
    [row] = await bars.in_memory(M1, 1)
    assert row["trade_count"] == -1


async def test_values_that_are_no_bars_are_skipped(follow):
    bars = await follow([b"{", None, b'{"symbol":"AAPL"}', bar(0)])
    assert len(await bars.in_memory(M1)) == 1


async def test_a_symbol_that_is_not_known_yet_is_served_once_it_is(follow, names):
    bars = await follow([bar(0, symbol="TSLA")])
    assert len(await bars.in_memory(M1)) == 0
    names.add_symbols([Symbol(3, "TSLA", "XNYS")])
    assert [row["symbol_id"] for row in await bars.in_memory(M1)] == [3]


async def test_following_goes_on_after_a_fault(names):
    """The supervisor calls `run` again: then it reads from the start again."""
    begun = 0

    async def records() -> AsyncIterator[list[bytes | None]]:
        nonlocal begun
        begun += 1
        yield [bar(begun)]
        if begun == 1:
            raise OSError("away")

    bars = FollowedBars(records, CODEC, names)
    with pytest.raises(OSError, match="away"):
        await bars.run()
    await asyncio.wait_for(bars.run(), 5)
    assert len(await bars.in_memory(M1, 1)) == 2
