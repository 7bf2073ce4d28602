"""POST /backfill loads bars of the past; its progress is shown."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

BACKFILL = "/api/v1/backfill"
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
THREE_DAYS_AGO = MIDNIGHT - timedelta(days=3)
WANTED = {
    "symbols": ["btc/usd", "ETH/USD"],
    "interval": "5min",
    "start": THREE_DAYS_AGO.isoformat(),
    "end": (THREE_DAYS_AGO + timedelta(days=1)).isoformat(),
    "provider": "test",
}


async def ended(client, number):
    """The final state of a backfill."""
    while True:
        answer = await client.get(f"{BACKFILL}/{number}")
        assert answer.status_code == 200
        if answer.json()["completed_at"] is not None:
            return answer.json()
        await asyncio.sleep(0.02)


async def posted(client, **changes):
    answer = await client.post(BACKFILL, json=WANTED | changes)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def test_loads_missing_bars_and_shows_its_progress(client):
    begun = await posted(client)
    assert (begun["status"], begun["provider"], begun["symbols"], begun["intervals"]) == (
        "running",
        "simulated",
        2,
        ["5m"],
    )
    done = await ended(client, begun["id"])
    assert (done["status"], done["bars"], done["expected_bars"], done["done_bars"]) == ("completed", 576, 576, 576)
    assert (done["requests"], done["refused"], done["refusals"], done["last_fault"]) == (2, 0, [], None)
    bars = (await client.get("/api/v1/data/BTC/USD?interval=5m")).json()["bars"]
    assert (len(bars), bars[0]["source"]) == (288, "simulated")
    assert bars[0]["ts"] == THREE_DAYS_AGO.isoformat().replace("+00:00", "Z")
    listed = (await client.get(BACKFILL)).json()["backfills"]
    assert listed == [done]
    for path in ("/api/backfill", "/backfill"):
        assert (await client.get(path)).json()["backfills"] == listed
    metrics = (await client.get("/metrics")).text
    assert "stockpulse_backfill_bars_total 576.0" in metrics
    assert 'stockpulse_backfills{status="running"} 0.0' in metrics
    health = (await client.get("/health")).json()
    assert (health["backfills"], health["tasks"]["backfill"]["state"]) == ([], "done")


async def test_asks_only_once(client):
    assert (await ended(client, (await posted(client))["id"]))["requests"] == 2
    assert (await ended(client, (await posted(client))["id"]))["requests"] == 0
    third = await ended(client, (await posted(client, again=True))["id"])
    assert third["requests"] == 0  # all bars are stored


async def test_taken_back_bars_are_loaded_again_if_told_so(client):
    await ended(client, (await posted(client))["id"])
    answer = await client.delete("/api/v1/ticks", params={"symbol": "BTC/USD"})
    assert answer.status_code == 200
    assert (await ended(client, (await posted(client))["id"]))["bars"] == 0
    assert (await ended(client, (await posted(client, again=True))["id"]))["bars"] == 288


async def test_dates_are_those_of_the_exchange(client):
    begun = await posted(client, symbols=["IBM"], interval="1d", start="2026-11-23", end="2026-11-26")
    done = await ended(client, begun["id"])
    assert done["expected_bars"] == 3
    assert (done["start"], done["end"]) == ("2026-11-23T00:00:00Z", "2026-11-26T00:00:00Z")


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"symbols": []}, 422, "symbols"),
        ({"symbols": ["not a symbol"]}, 422, "symbols"),
        ({"interval": "15m"}, 422, "interval"),
        ({"interval": "never"}, 422, "interval"),
        ({"start": "yesterday"}, 422, "start"),
        ({"end": "2026"}, 422, "end"),
        ({"end": "2020-01-01"}, 422, "end"),
        ({"provider": "nobody"}, 404, "nobody"),
        ({"provider": None}, 422, "provider"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
async def test_a_wrong_request_is_refused(client, changes, status, field):
    answer = await client.post(BACKFILL, json=WANTED | changes)
    assert answer.status_code == status, answer.text
    assert field in str(answer.json()["error"])


async def test_an_unknown_one_is_not_found(client):
    assert (await client.get(f"{BACKFILL}/99")).status_code == 404
    assert (await client.get(f"{BACKFILL}/x")).status_code == 422


async def test_the_feeds_are_filled_beside_their_ticks(serve, postgres_dsn):
    days = {"backfill_daily_days": 30, "backfill_5m_days": 2, "backfill_1m_days": 0}
    async with serve(postgres_dsn, provider="simulated", symbols=("BTC/USD",), simulated_rate=20, **days) as client:
        while not (await client.get(BACKFILL)).json()["backfills"]:
            await asyncio.sleep(0.02)
        [run] = (await client.get(BACKFILL)).json()["backfills"]
        done = await ended(client, run["id"])
        assert (done["status"], done["intervals"], done["symbols"]) == ("completed", ["1d", "5m"], 1)
        daily = (await client.get("/api/v1/data/BTC/USD?interval=1d")).json()["bars"]
        assert len([bar for bar in daily if bar["source"] == "simulated"]) == 30
        latest = await client.get("/api/v1/ticks/latest?symbol=BTC/USD")
        while latest.status_code == 404 or not latest.json()["ticks"]:
            latest = await client.get("/api/v1/ticks/latest?symbol=BTC/USD")
        assert {"feed:simulated", "backfill:simulated"} <= (await client.get("/health")).json()["tasks"].keys()
