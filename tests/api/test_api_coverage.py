"""GET /coverage says which sessions are complete, and why bars are missing; bars can say it too."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY = timedelta(days=1)
START = MIDNIGHT - 4 * DAY


def text(moment):
    return moment.isoformat().replace("+00:00", "Z")


async def load(client, start, end, interval="5m", provider="simulated", symbol="BTC/USD"):
    wanted = {"symbols": [symbol], "interval": interval, "start": text(start), "end": text(end), "provider": provider}
    answer = await client.post("/backfill", json=wanted)
    assert answer.status_code == 202, answer.text
    while (await client.get(f"/backfill/{answer.json()['id']}")).json()["completed_at"] is None:
        await asyncio.sleep(0.02)
    while (await client.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.01)


@pytest.fixture
async def market(client):
    """Two of four days of 5-minute bars; of the second, half an hour was taken back."""
    await load(client, START, START + 2 * DAY)
    gone = {"symbol": "BTC/USD", "start": text(START + DAY), "end": text(START + DAY + timedelta(minutes=30))}
    assert (await client.delete("/ticks", params=gone)).status_code == 200
    return client


async def test_says_what_is_complete_and_what_is_missing(market):
    query = {"interval": "5m", "start": text(START), "end": text(MIDNIGHT)}
    for prefix in ("/api/v1", "/api", ""):
        answer = await market.get(f"{prefix}/coverage/BTC/USD", params=query)
        assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["symbol"], body["calendar"]) == ("BTC/USD", "24/7")
    [fives] = body["intervals"]
    assert (fives["interval"], fives["complete"], fives["expected"], fives["stored"]) == ("5m", False, 1152, 570)
    first, second, third, fourth = fives["sessions"]
    assert first == {
        "date": f"{START:%Y-%m-%d}",
        "open": text(START),
        "close": text(START + DAY),
        "reason": None,
        "complete": True,
        "expected": 288,
        "stored": 288,
        "missing": [],
    }
    # The provider was asked for this day: what is not there now, it does not have, as far as we know.
    assert second["missing"] == [
        {
            "start": text(START + DAY),
            "end": text(START + DAY + timedelta(minutes=30)),
            "bars": 6,
            "reason": "nothing there",
            "detail": None,
        }
    ]
    assert [one["missing"][0]["reason"] for one in (third, fourth)] == ["not asked"] * 2
    assert [one["complete"] for one in (third, fourth)] == [False] * 2


async def test_of_all_intervals(market):
    body = (await market.get("/coverage/BTC/USD")).json()
    assert [one["interval"] for one in body["intervals"]] == ["1m", "5m", "1d"]
    assert body["as_of"] == body["intervals"][0]["end"]


async def test_holidays_are_named(client):
    tick = {"symbol": "GE", "ts": "2026-11-25T15:00:00Z", "price": 1, "size": 1}
    assert (await client.post("/ticks?calendar=XNYS", json=[tick])).json()["accepted"] == 1
    query = {"interval": "1d", "start": "2026-11-25", "end": "2026-11-28"}
    body = (await client.get("/coverage/GE", params=query)).json()
    found = [(one["date"], one["reason"], one["open"]) for one in body["intervals"][0]["sessions"]]
    assert [one for one in found if one[1]] == [("2026-11-26", "holiday", None)]


async def test_bars_say_if_they_are_complete(market):
    query = {"interval": "1h", "start": text(START), "end": text(START + 3 * DAY), "complete": "true"}
    answer = await market.get("/data/BTC/USD", params=query)
    assert answer.status_code == 200, answer.text
    bars = answer.json()["bars"]
    # Half of the first hour of the second day was taken back: the provider has no more of it, as far as we know.
    assert [bar["complete"] for bar in bars] == [True] * 48
    tick = {"symbol": "BTC/USD", "ts": text(START + 2 * DAY + timedelta(minutes=2)), "price": 1, "size": 1}
    assert (
        await market.post("/ticks?provider=other&clock=event", json=[tick, tick | {"ts": text(MIDNIGHT)}])
    ).is_success
    while (await market.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.01)
    bars = (await market.get("/data/BTC/USD", params=query)).json()["bars"]
    assert [bar["complete"] for bar in bars] == [True] * 48 + [False]
    csv = await market.get("/data/BTC/USD", params=query | {"format": "csv"})
    assert csv.text.splitlines()[0].endswith(",filled,complete")
    without = (await market.get("/data/BTC/USD", params=query | {"complete": "false"})).json()["bars"]
    assert all("complete" not in bar for bar in without)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"interval": "15m"}, 422),
        ({"interval": "1m", "start": "2020-01-01"}, 422),
        ({"start": "never"}, 422),
        ({"start": "2026-03-02", "end": "2026-03-01"}, 422),
    ],
)
async def test_a_wrong_request_is_refused(market, query, status):
    assert (await market.get("/coverage/BTC/USD", params=query)).status_code == status


async def test_an_unknown_symbol_is_not_found(client):
    assert (await client.get("/coverage/NOBODY")).status_code == 404
