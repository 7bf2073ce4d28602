"""A past day of a provider, as trades in event time."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from stockpulse.errors import InvalidInput, NotFound
from stockpulse.market.schemas import TICKS
from stockpulse.providers.base import Capabilities, History
from stockpulse.providers.vendor_day import trades_of, trades_of_bars
from stockpulse.testing import ScriptedProvider, bars_frame, ticks_frame

START = datetime(2024, 11, 14, 5, tzinfo=UTC)
END = START + timedelta(days=1)
OPEN = datetime(2024, 11, 14, 14, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HAS = Capabilities(trades=True, history={"1m": History(timedelta(days=7))})


def bar(symbol, minute, prices, volume=400.0):
    fields = dict(zip(("open", "high", "low", "close"), prices, strict=True))
    return {"symbol": symbol, "interval": "1m", "ts": OPEN + minute * 60 * SECOND, "volume": volume} | fields


class Traded(ScriptedProvider):
    """A provider with trades of the past, symbol by symbol."""

    async def trades(self, symbols, start, end):
        for symbol in symbols:
            rows = [{"symbol": symbol, "ts": OPEN + n * SECOND, "price": 10.0 + n, "size": 1.0} for n in range(3)]
            yield ticks_frame(*rows)


async def test_trades_come_in_the_order_of_their_times():
    ticks = await trades_of(Traded(), HAS, ["A", "B"], START, END, bars=False)
    assert ticks.schema == TICKS
    assert ticks["symbol"].to_list() == ["A", "B"] * 3
    assert ticks["ts"].is_sorted()


async def test_bars_become_trades_that_make_the_same_bars():
    provider = ScriptedProvider(
        bars=bars_frame(bar("A", 0, (10, 12, 9, 11)), bar("A", 1, (11, 11.5, 8, 9), 10), bar("B", 0, (1, 1, 1, 1)))
    )
    ticks = await trades_of(provider, HAS, ["A", "B"], START, END, bars=True)
    assert [symbols for symbols, *_ in provider.requests] == [("A",), ("B",)]
    of_a = ticks.filter(pl.col("symbol") == "A")
    assert of_a["price"].to_list() == [10, 9, 12, 11, 11, 11.5, 8, 9]
    assert of_a["ts"].to_list() == [OPEN + n * 15 * SECOND for n in range(8)]
    assert of_a["size"].to_list() == [100] * 4 + [2.5] * 4
    assert of_a["trade_id"].n_unique() == 8
    assert ticks["ts"].is_sorted()
    fives = bars_frame(bar("A", 0, (10, 12, 9, 11)) | {"interval": "5m"})
    assert trades_of_bars(fives)["ts"].to_list() == [OPEN + n * 75 * SECOND for n in range(4)]


async def test_says_what_the_provider_does_not_have():
    with pytest.raises(InvalidInput, match="no trades of the past; with --bars"):
        await trades_of(ScriptedProvider(), Capabilities(), ["A"], START, END, bars=False)
    with pytest.raises(InvalidInput, match="no bars of minutes"):
        await trades_of(ScriptedProvider(), Capabilities(), ["A"], START, END, bars=True)
    with pytest.raises(NotFound, match="has no bars of A from 2024-11-14"):
        await trades_of(ScriptedProvider(), HAS, ["A"], START, END, bars=True)
