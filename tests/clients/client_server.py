"""A running app with known ticks, for the tests with Alpaca's own clients."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from app_process import AppProcess

START = datetime(2026, 7, 6, 13, 30, tzinfo=UTC)  # a Monday, at the open in New York
SYMBOLS = ("AAPL", "MSFT", "TSLA")
MINUTES = 20_000


def price_of(symbol: str, minute: int) -> float:
    """Return the price of the one trade of a minute."""
    return 100.0 * (1 + SYMBOLS.index(symbol)) + minute % 500 / 100


def ticks(symbol: str, minutes: range) -> list[dict[str, Any]]:
    """Return one trade of each of these minutes after the start, with all fields of Alpaca's trades."""
    return [
        {
            "symbol": symbol,
            "ts": (START + timedelta(minutes=minute, seconds=5, microseconds=208_000)).isoformat(),
            "price": price_of(symbol, minute),
            "size": 100 + minute % 7,
            "exchange": "V",
            "trade_id": str(10**12 + minute),
            "conditions": ["@"],
            "tape": "C",
        }
        for minute in minutes
    ]


def send(app: AppProcess, rows: Sequence[Mapping[str, Any]], **parameters: Any) -> None:
    """Send ticks and check that all are accepted."""
    reply = httpx2.post(f"{app.url}/ticks", json=list(rows), params=parameters, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.json()["accepted"] == len(rows), reply.text


def fill(app: AppProcess) -> None:
    """Send 20,000 minutes of three symbols as a recording, and wait until their bars are stored."""
    for symbol in SYMBOLS:
        send(app, ticks(symbol, range(MINUTES)), provider="recorded", clock="event")
    httpx2.post(
        f"{app.url}/ticks?provider=recorded&clock=event&end_of_stream=true",
        headers={"Content-Type": "application/json"},
        timeout=60,
    ).raise_for_status()
    for symbol in SYMBOLS:
        app.wait_for(
            f"/ohlc/{symbol}?interval=1m&limit=1", lambda answer: answer["bars"] and answer["bars"][0]["final"]
        )
