"""A second provider of a symbol, and a second calendar: the answer warns that they have no effect."""

import asyncio
from datetime import UTC, datetime, timedelta

import orjson

MONDAY = datetime(2025, 11, 24, 15, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def ticks(symbol, start, count=3, size=1.0):
    rows = [(start + n * timedelta(seconds=5), 10.0 + n) for n in range(count)]
    return [{"symbol": symbol, "ts": ts.isoformat(), "price": price, "size": size} for ts, price in rows]


async def send(client, rows, **params):
    answer = await client.post(
        "/ticks",
        params={"clock": "event", "calendar": "24/7"} | params,
        content=orjson.dumps(rows),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    while (await client.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.005)
    return answer.json()


async def volumes(client, symbol):
    bars = (await client.get(f"/data/{symbol}", params={"interval": "1d"})).json()["bars"]
    return {bar["ts"][:10]: bar["volume"] for bar in bars}


async def test_ticks_of_the_same_day_count_for_no_bar_and_the_answer_says_so(client):
    assert "warnings" not in await send(client, ticks("A", MONDAY), provider="first")
    receipt = await send(client, ticks("A", MONDAY + timedelta(hours=1)) + ticks("B", MONDAY), provider="second")
    assert receipt["accepted"] == 6
    assert receipt["warnings"] == [
        "provider: ticks of A are stored and count for no bar: another provider builds its bars now"
    ]
    assert await volumes(client, "A") == {"2025-11-24": 3}
    assert await volumes(client, "B") == {"2025-11-24": 3}


async def test_ticks_of_another_day_build_bars(client):
    await send(client, ticks("A", MONDAY), provider="live")
    week = [row for n in range(-5, 3) for row in ticks("A", MONDAY + n * DAY, size=2.0)]
    receipt = await send(client, week, provider="backfill")
    assert receipt["warnings"][0].startswith("provider: ticks of A are stored")  # those of Monday
    volume = await volumes(client, "A")
    assert volume == {f"{MONDAY + n * DAY:%Y-%m-%d}": 3.0 if n == 0 else 6.0 for n in range(-5, 3)}


async def test_a_calendar_for_a_known_symbol_gets_a_warning(client):
    await send(client, ticks("A", MONDAY), calendar="24/7", provider="first")
    again = ticks("A", MONDAY + timedelta(minutes=1)) + ticks("NEW", MONDAY)
    receipt = await send(client, again, calendar="XNYS", provider="first")
    assert receipt["warnings"] == ["calendar: XNYS is for new symbols; A keeps 24/7"]
    assert "warnings" not in await send(client, ticks("NEW", MONDAY + DAY), calendar="XNYS", provider="first")
    pair = await send(client, ticks("BTC/USD", MONDAY), calendar="XNYS", provider="first")
    assert pair["warnings"] == ["calendar: XNYS is for new symbols; BTC/USD keeps 24/7"]
