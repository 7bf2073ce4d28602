"""Windows that end at the market time of a symbol hold both of their ends."""

import asyncio
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from stockpulse.api.windows import Window

NOON = datetime(2025, 11, 28, 15, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def tick(symbol, at, price, size=1.0, **more):
    return {"symbol": symbol, "ts": at.isoformat(), "price": price, "size": size} | more


async def send(client, *rows, **params):
    params = {"clock": "event", "calendar": "24/7", "provider": "tape"} | params
    answer = await client.post(
        "/ticks", params=params, content=orjson.dumps(rows), headers={"Content-Type": "application/json"}
    )
    assert answer.json()["accepted"] == len(rows)
    while (await client.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.005)


async def get(client, path, **params):
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_window_holds_both_ends():
    window = Window(5, NOON)
    assert window.start == NOON - 5 * MINUTE
    assert window.end == NOON + timedelta(microseconds=1)


@pytest.mark.parametrize("at", [NOON, NOON + timedelta(seconds=17.000001), NOON + timedelta(seconds=59.999999)])
async def test_the_only_tick_of_a_recording_counts(client, at):
    await send(client, tick("ONE", at, 10, 3))
    ticks = await get(client, "/ticks/summary", symbol="ONE", minutes=1)
    assert (ticks["count"], ticks["avg_price"], ticks["sum_volume"]) == (1, 10, 3)
    assert datetime.fromisoformat(ticks["as_of"]) == datetime.fromisoformat(ticks["end_time"]) == at
    bars = await get(client, "/bars/summary", symbol="ONE", minutes=1)
    assert (bars["bar_count"], bars["open"], bars["close"], bars["total_volume"]) == (1, 10, 10, 3)
    (mover,) = (await get(client, "/movers", minutes=1))["movers"]
    assert (mover["symbol"], mover["price_open"], mover["price_close"]) == ("ONE", 10, 10)


async def test_the_first_moment_of_the_window_counts_and_the_one_before_does_not(client):
    start = NOON - 5 * MINUTE
    times = [start - timedelta(microseconds=1), start, NOON - MINUTE, NOON]
    await send(client, *(tick("A", at, n + 1.0) for n, at in enumerate(times)))
    ticks = await get(client, "/ticks/summary", symbol="A", minutes=5)
    assert (ticks["count"], ticks["min_price"], ticks["max_price"]) == (3, 2, 4)
    bars = await get(client, "/bars/summary", symbol="A", minutes=5)
    assert (bars["bar_count"], bars["open"], bars["close"]) == (3, 2, 4)
    (mover,) = (await get(client, "/movers", minutes=5))["movers"]
    assert (mover["price_open"], mover["price_close"]) == (2, 4)


async def test_a_live_feed_ends_now(client):
    before = datetime.now(UTC)
    await send(client, tick("LIVE", before - 10 * MINUTE, 1), tick("LIVE", before, 2), clock="wall")
    ticks = await get(client, "/ticks/summary", symbol="LIVE", minutes=5)
    assert (ticks["count"], ticks["avg_price"]) == (1, 2)
    assert before <= datetime.fromisoformat(ticks["as_of"]) <= datetime.now(UTC)


async def test_each_mover_has_the_market_time_of_its_symbol(client):
    before = datetime.now(UTC)
    await send(client, tick("OLD", NOON - 2 * MINUTE, 10), tick("OLD", NOON, 12), provider="replayed")
    await send(client, tick("OLDER", NOON - 900 * MINUTE, 10), tick("OLDER", NOON - 899 * MINUTE, 11), provider="other")
    await send(client, tick("LIVE", before - MINUTE, 100), tick("LIVE", before, 90), clock="wall", provider="live")
    body = await get(client, "/movers", minutes=5)
    found = {one["symbol"]: (one["change_pct"], datetime.fromisoformat(one["as_of"])) for one in body["movers"]}
    assert found["OLD"] == (20.0, NOON)
    assert found["OLDER"] == (10.0, NOON - 899 * MINUTE)
    assert found["LIVE"][0] == -10.0
    assert before <= found["LIVE"][1] <= datetime.now(UTC)
    assert datetime.fromisoformat(body["as_of"]) == found["LIVE"][1]


async def test_a_summary_names_its_feeds_and_leaves_out_what_bars_do_not_count(client):
    first = [tick("A", NOON - 2 * MINUTE, 10, 100, conditions=["@"]), tick("A", NOON, 99, 5, conditions=["M"])]
    await send(client, *first, provider="first", conditions="alpaca")
    await send(client, tick("A", NOON - MINUTE, 20, 1000, conditions=["@"]), provider="second", conditions="alpaca")
    everything = await get(client, "/ticks/summary", symbol="A", minutes=5)
    assert (everything["count"], everything["sum_volume"], everything["eligible"]) == (3, 1105, False)
    assert everything["feeds"] == {"first": 2, "second": 1}
    of_bars = await get(client, "/ticks/summary", symbol="A", minutes=5, eligible=True)
    assert (of_bars["count"], of_bars["sum_volume"], of_bars["avg_price"], of_bars["eligible"]) == (1, 100, 10, True)
    assert of_bars["feeds"] == {"first": 1}
    assert (await get(client, "/bars/summary", symbol="A", minutes=5))["total_volume"] == of_bars["sum_volume"]
