"""The app with Alpaca as its feed: data become ticks and bars, a wrong key is said once, and no key gets anywhere."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from starlette.responses import JSONResponse

from providers.fakes.alpaca import KEY, SECRET, FakeAlpaca, text_of

ENOUGH = 60
"""Seconds for what must happen at all; no test asserts a time."""


@pytest.fixture
async def fake():
    async with FakeAlpaca() as fake:
        yield fake


@pytest.fixture
def follows(fake, monkeypatch, serve, postgres_dsn):
    """Start the app with these options of the provider."""

    def start(**options):
        for name, value in {**fake.options, "feed": "test", "silence_seconds": "0", **options}.items():
            monkeypatch.setenv(f"STOCKPULSE_ALPACA_{name.upper()}", value)
        return serve(postgres_dsn, provider="alpaca", symbols="AAPL", log_level="debug")

    return start


async def until(read, right):
    async with asyncio.timeout(ENOUGH):
        while not right(found := await read()):
            await asyncio.sleep(0.05)
    return found


def trade(number, price, age_seconds=0.0):
    at = datetime.now(UTC) - timedelta(seconds=age_seconds)
    row = {"x": "V", "p": price, "s": 100, "c": ["@"], "i": number, "z": "C"}
    return {"t": text_of(int(at.timestamp() * 1_000_000) * 1000), **row}


async def test_trades_cancels_and_bars(fake, follows):
    async with follows() as client:

        async def bar():
            reply = await client.get("/api/v1/ohlc/AAPL?interval=1d&limit=1")
            return (reply.json().get("bars") or [{}])[-1]

        await until(lambda: asyncio.sleep(0, fake.clients), bool)
        right, wrong = trade(1, 100.0), trade(2, 900.0)
        await fake.trade("AAPL", right)
        await fake.trade("AAPL", wrong)
        assert (await until(bar, lambda bar: bar.get("trade_count") == 2))["high"] == 900.0
        await fake.cancel("AAPL", wrong)
        assert (await until(bar, lambda bar: bar.get("trade_count") == 1))["high"] == 100.0
        minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=2)
        prices = {"o": 50, "h": 52, "l": 49, "c": 51, "v": 7, "n": 3, "vw": 50.5}
        await fake.publish([{"T": "b", "S": "AAPL", "t": f"{minute:%Y-%m-%dT%H:%M:%SZ}", **prices}])

        async def minutes():
            return (await client.get("/api/v1/ohlc/AAPL?interval=1m&limit=10")).json()["bars"]

        bars = await until(minutes, lambda bars: any(bar["source"] == "alpaca" for bar in bars))
        (vendors,) = [bar for bar in bars if bar["source"] == "alpaca"]
        assert (vendors["open"], vendors["close"], vendors["volume"], vendors["vwap"]) == (50.0, 51.0, 7.0, 50.5)
        health = (await client.get("/health")).json()
        assert health["feeds"]["alpaca"]["state"] == "live"


async def test_a_wrong_key_is_said_once_and_does_not_hammer(fake, follows):
    with structlog.testing.capture_logs() as logs:
        async with follows(secret="wrong-CANARY") as client:

            async def feed():
                return (await client.get("/health")).json()["feeds"]["alpaca"]

            found = await until(feed, lambda feed: feed["state"] == "refused")
            await asyncio.sleep(1)
            assert "STOCKPULSE_ALPACA_SECRET" in found["why"]
            assert len(fake.paths) == 1
    lines = [line for line in logs if "refuses the key" in str(line) or "auth failed" in str(line)]
    assert (
        len([line for line in lines if line.get("provider") == "alpaca" and "a feed is refused" in line["event"]]) == 1
    )
    assert "wrong-CANARY" not in str(logs)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_no_key_gets_anywhere(fake, follows, contexts, caplog, encoding):
    """The vendor repeats the key wherever it can."""
    caplog.set_level("DEBUG")
    for name in ("websockets.server", "asyncio"):
        caplog.set_level("CRITICAL", name)  # the fake's own log
    said = f"{KEY} {SECRET}"
    with structlog.testing.capture_logs() as logs:
        async with follows(encoding=encoding) as client:
            await until(lambda: asyncio.sleep(0, fake.clients), bool)
            pool = contexts[0].pool
            await fake.publish([{"T": "t", "S": "AAPL", **trade(1, 100.0), "p": said}])
            await fake.clients[0].connection.send(said.encode() if encoding == "msgpack" else said)
            await until(lambda: pool.fetchval("SELECT count(*) FROM dead_letters"), lambda count: count >= 2)
            fake.switches.answers = [JSONResponse({"message": said}, 400)]
            await client.get("/api/v1/prices/latest?symbol=NEW&provider=alpaca")
            fake.switches.handshake = (502, said)
            await fake.clients[0].send([{"T": "error", "code": 500, "msg": said}])

            async def feed():
                return (await client.get("/health")).json()["feeds"]["alpaca"]

            await until(feed, lambda feed: "HTTP 502" in str(feed["why"]))
            await until(lambda: pool.fetchval("SELECT count(*) FROM raw_market_data"), bool)
            pages = [(await client.get(path)).text for path in ("/health", "/metrics", "/api/v1/dead-letters")]
            tables = [row["name"] for row in await pool.fetch(TABLES)]
            stored = [str(await pool.fetch(f'SELECT * FROM "{table}"')) for table in tables]
    everything = [*pages, *stored, str(logs), caplog.text]
    assert [secret for secret in (KEY, SECRET) for text in everything if secret in text] == []
    assert any("[hidden]" in text for text in stored)


TABLES = "SELECT relname AS name FROM pg_stat_user_tables WHERE schemaname = 'public' AND n_live_tup >= 0"
