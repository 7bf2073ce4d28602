"""DELETE /ticks takes ticks back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

AT = datetime(2026, 2, 27, 15, 30, tzinfo=UTC)
TICKS = "/api/v1/ticks"
TAPE = {"provider": "file", "calendar": "24/7", "clock": "event", "end_of_stream": "true"}


def row(symbol: str, minute: float, price: float, **fields: object) -> dict[str, object]:
    ts = (AT + timedelta(minutes=minute)).isoformat()
    return {"symbol": symbol, "ts": ts, "price": price, "size": 10, **fields}


async def post(client: httpx2.AsyncClient, *rows: dict[str, object], **query: str) -> dict[str, Any]:
    answer = await client.post(TICKS, params=TAPE | query, json=list(rows))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def closes(client: httpx2.AsyncClient, symbol: str, interval: str = "1m") -> list[float]:
    answer = await client.get(f"/api/v1/ohlc/{symbol}", params={"interval": interval})
    return [one["close"] for one in answer.json()["bars"]] if answer.status_code == 200 else []


async def forget(client: httpx2.AsyncClient, **query: str) -> dict[str, Any]:
    answer = await client.delete(TICKS, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_takes_a_range_of_a_symbol_back(client):
    await post(client, *[row("AAPL", minute, 10 + minute) for minute in range(4)], row("MSFT", 1, 99))
    start, end = (f"{(AT + timedelta(minutes=minute)).isoformat()}".replace("+00:00", "Z") for minute in (1, 3))
    done = await forget(client, symbol="AAPL", provider="file", start=start, end=end)
    assert done == {
        "symbol": "AAPL",
        "provider": "file",
        "start": start,
        "end": end,
        "done": True,
        "ticks": 2,
        "provider_bars": 0,
        "bars_changed": 2,
        "bars_removed": 2,
        "bars_refused": 0,
    }
    assert await closes(client, "AAPL") == [10, 13]
    assert await closes(client, "AAPL", "5m") == [13]
    assert await closes(client, "MSFT") == [99]
    latest = (await client.get(f"{TICKS}/latest", params={"symbol": "AAPL"})).json()["ticks"]
    assert [tick["price"] for tick in latest] == [13, 10]


async def test_takes_a_whole_recording_back(client):
    await post(client, row("AAPL", 0, 10), row("MSFT", 0, 20))
    await post(client, row("TSLA", 0, 30), provider="live")
    done = await forget(client, provider="file")
    assert (done["symbol"], done["ticks"], done["bars_removed"]) == (None, 2, 6)
    assert [await closes(client, symbol) for symbol in ("AAPL", "MSFT", "TSLA")] == [[], [], [30]]
    assert (await forget(client, provider="file"))["ticks"] == 0


async def test_what_was_replayed_twice_is_put_right(client):
    """A file without trade_ids doubles its volume; taken back and replayed once it has the right one."""
    rows = [row("AAPL", minute, 10 + minute) for minute in range(4)]
    for _ in range(2):
        await post(client, *rows)
    await forget(client, symbol="AAPL", provider="file")
    assert (await post(client, *rows))["accepted"] == 4
    answer = await client.get("/api/v1/ohlc/AAPL", params={"interval": "5m"})
    assert [one["volume"] for one in answer.json()["bars"]] == [40]


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({}, 422, "give a symbol, a provider, or both"),
        ({"symbol": "AAPL", "start": "2026-03-01", "end": "2026-02-01"}, 422, "end"),
        ({"symbol": "AAPL", "start": "2026-03-01", "end": "2026-03-01"}, 422, "comes after start"),
        ({"symbol": "AAPL", "start": "yesterday"}, 422, "start"),
        ({"symbol": "NONE"}, 404, "no such symbol"),
        ({"symbol": "AAPL", "provider": "nobody"}, 404, "no such provider"),
        ({"provider": "No Body"}, 422, "provider"),
    ],
    ids=str,
)
async def test_says_what_is_wrong(client, query, status, message):
    await post(client, row("AAPL", 0, 10))
    answer = await client.delete(TICKS, params=query)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text
    assert await closes(client, "AAPL") == [10]
