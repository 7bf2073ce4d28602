"""Latest prices: callers share answers, and one bad symbol does not stop the others."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from stockpulse.pipeline.latest_prices import LatestPrices, NoPrice
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.pipeline.polled_feed import PolledFeed
from stockpulse.pipeline.sources import Source
from stockpulse.providers.base import Capabilities, ProviderBase, ProviderEntry
from stockpulse.providers.faults import BadRequest, RateLimited, UnknownSymbol, Unreachable, WrongKey
from stockpulse.testing import ticks_frame

NOW = datetime(2026, 7, 14, 15, tzinfo=UTC)


class Vendor(ProviderBase):
    """Answers from a table of prices; a symbol may have a fault instead."""

    name = "vendor"
    calendar = "24/7"

    def __init__(self, prices, *, names_the_culprit=True):
        self.prices = prices
        self.names_the_culprit = names_the_culprit
        self.requests = []
        self.ts = NOW
        self.gate = asyncio.Event()
        self.gate.set()

    async def latest(self, symbols):
        self.requests.append(list(symbols))
        await self.gate.wait()
        for one in symbols:
            if isinstance(self.prices.get(one), Exception):
                fault = self.prices[one]
                if isinstance(fault, BadRequest):
                    fault.symbol = one if self.names_the_culprit else None
                raise fault
        rows = [
            {"symbol": one, "ts": self.ts, "price": self.prices[one], "size": 0.0}
            for one in symbols
            if one in self.prices
        ]
        return ticks_frame(*rows)


class Clock:
    now = NOW

    def __call__(self):
        return self.now


def source_of(vendor, symbols=(), **has):
    entry = ProviderEntry("vendor", lambda _: vendor, capabilities=Capabilities(ticks=False, latest=True, **has))
    return Source(entry, vendor, symbols, feed_of(vendor))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def prices(clock):
    return LatestPrices(clock)


def faults(found):
    return {symbol: type(answer.fault) for symbol, answer in found.answers.items() if answer.fault}


async def test_prices_come_as_ticks_with_an_id(prices):
    found = await prices.ask(source_of(Vendor({"A": 1.5, "B": 2.0}), latest_symbols=9), ["A", "B"])
    assert found.ticks.select("symbol", "ts", "price", "trade_id").rows() == [
        ("A", NOW, 1.5, "price 1.5"),
        ("B", NOW, 2.0, "price 2.0"),
    ]
    assert [(one.price, one.ts, one.fault) for one in found.answers.values()] == [(1.5, NOW, None), (2.0, NOW, None)]


async def test_requests_have_as_many_symbols_as_the_provider_takes(prices):
    vendor = Vendor(dict.fromkeys("ABCDE", 1.0))
    await prices.ask(source_of(vendor, latest_symbols=2), list("ABCDEA"))
    assert vendor.requests == [["A", "B"], ["C", "D"], ["E"]]


async def test_a_symbol_is_not_asked_for_again_within_the_pause(prices, clock):
    vendor = Vendor({"A": 1.0, "B": 2.0})
    source = source_of(vendor, poll_seconds=15.0)
    await prices.ask(source, ["A"])
    clock.now += timedelta(seconds=14)
    assert (await prices.ask(source, ["A", "B"])).answers["A"].price == 1.0
    assert vendor.requests == [["A"], ["B"]]
    clock.now += timedelta(seconds=1)
    await prices.ask(source, ["A"])
    assert vendor.requests == [["A"], ["B"], ["A"]]


async def test_an_unchanged_price_is_no_new_tick(prices, clock):
    vendor = Vendor({"A": 1.0})
    source = source_of(vendor)
    lengths = []
    for price, ts in ((1.0, NOW), (1.0, NOW), (1.0, NOW + timedelta(seconds=1)), (1.1, NOW + timedelta(seconds=1))):
        vendor.prices["A"], vendor.ts = price, ts
        lengths.append(len((await prices.ask(source, ["A"])).ticks))
    assert lengths == [1, 0, 1, 1]


@pytest.mark.parametrize("names_the_culprit", [True, False])
async def test_a_bad_symbol_does_not_stop_the_others(prices, names_the_culprit):
    vendor = Vendor(
        {"A": 1.0, "BAD": UnknownSymbol("no"), "C": 3.0, "WORSE": BadRequest("no"), "E": 5.0},
        names_the_culprit=names_the_culprit,
    )
    found = await prices.ask(source_of(vendor, latest_symbols=10), ["A", "BAD", "C", "WORSE", "E"])
    assert {one: answer.price for one, answer in found.answers.items()} == {
        "A": 1,
        "BAD": None,
        "C": 3,
        "WORSE": None,
        "E": 5,
    }
    assert faults(found) == {"BAD": UnknownSymbol, "WORSE": BadRequest}
    found.raise_fault()  # there is none: others have prices


async def test_a_refused_symbol_is_asked_for_again_after_an_hour(prices, clock):
    vendor = Vendor({"BAD": UnknownSymbol("no")})
    source = source_of(vendor)
    for _ in range(3):
        await prices.ask(source, ["BAD"])
    assert len(vendor.requests) == 1
    clock.now += timedelta(hours=1)
    vendor.prices["BAD"] = 7.0
    assert (await prices.ask(source, ["BAD"])).answers["BAD"].price == 7.0


async def test_nothing_is_sent_while_the_provider_says_so(prices, clock):
    vendor = Vendor({"A": RateLimited("slowly", NOW + timedelta(minutes=5))})
    source = source_of(vendor)
    for _ in range(3):
        with pytest.raises(RateLimited):
            (await prices.ask(source, ["A"])).raise_fault()
    assert len(vendor.requests) == 1
    clock.now += timedelta(minutes=5)
    await prices.ask(source, ["A"])
    assert len(vendor.requests) == 2


async def test_a_wrong_key_is_tried_once(prices, clock):
    vendor = Vendor({"A": WrongKey("no")})
    for _ in range(3):
        clock.now += timedelta(days=1)
        with pytest.raises(WrongKey):
            (await prices.ask(source_of(vendor), ["A"])).raise_fault()
    assert len(vendor.requests) == 1


async def test_a_fault_keeps_the_last_price(prices, clock):
    vendor = Vendor({"A": 1.0})
    source = source_of(vendor)
    await prices.ask(source, ["A"])
    vendor.prices["A"] = Unreachable("gone")
    found = await prices.ask(source, ["A"])
    assert found.answers["A"].price == 1.0
    assert faults(found) == {"A": Unreachable}
    vendor.prices["A"] = 1.0
    assert faults(await prices.ask(source, ["A"])) == {}


async def test_a_symbol_without_a_price_is_said(prices):
    found = await prices.ask(source_of(Vendor({"A": 1.0}), latest_symbols=5), ["A", "B"])
    assert faults(found) == {"B": NoPrice}


async def test_callers_at_the_same_time_share_one_request(prices):
    vendor = Vendor({"A": 1.0, "B": 2.0})
    vendor.gate.clear()
    source = source_of(vendor, poll_seconds=1.0, latest_symbols=2)
    asking = [asyncio.create_task(prices.ask(source, ["A", "B"])) for _ in range(5)]
    await asyncio.sleep(0.01)
    vendor.gate.set()
    found = await asyncio.gather(*asking)
    assert vendor.requests == [["A", "B"]]
    assert [one.answers["B"].price for one in found] == [2.0] * 5
    assert sorted(len(one.ticks) for one in found) == [0, 0, 0, 0, 2]  # one caller brings them into the log


async def test_a_caller_that_goes_away_leaves_no_request_behind(prices):
    vendor = Vendor({"A": 1.0})
    vendor.gate.clear()
    source = source_of(vendor)
    first = asyncio.create_task(prices.ask(source, ["A"]))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(prices.ask(source, ["A"]))
    await asyncio.sleep(0.01)
    first.cancel()
    assert faults(await second) == {"A": NoPrice}
    vendor.gate.set()
    assert (await prices.ask(source, ["A"])).answers["A"].price == 1.0


async def test_the_feed_of_a_provider_without_a_stream(prices, clock):
    vendor = Vendor({"A": 1.0, "B": UnknownSymbol("no")})
    waits = []

    async def sleep(seconds):
        waits.append(round(seconds))
        clock.now += timedelta(seconds=20)
        vendor.prices["A"] = vendor.prices["A"] + 1 if len(waits) < 3 else Unreachable("gone")
        await asyncio.sleep(0)

    feed = PolledFeed(source_of(vendor, ("A", "B"), poll_seconds=20.0), prices, sleep)
    seen = []

    async def follow():
        async for ticks in feed.stream():
            seen.extend(ticks["price"])

    with pytest.raises(Unreachable):
        await follow()
    assert seen == [1.0, 2.0, 3.0]
    assert waits == [20, 20, 20]
    assert feed.can_wait
