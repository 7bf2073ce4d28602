"""The figures of /health: once they are 0, everything is stored."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest

START = datetime(2025, 11, 24, tzinfo=UTC)


async def is_done(client):
    health = (await client.get("/health")).json()
    (shard,) = health["shards"].values()
    assert health["analytics"]["compiled"]
    return not (shard["unprocessed"] or shard["unflushed"] or health["analytics"]["behind"])


@pytest.mark.thorough
async def test_indicators_count_until_they_are_stored(serve, postgres_dsn, compiled):
    connection = await asyncpg.connect(postgres_dsn)
    count = "SELECT (SELECT count(*) FROM intraday_analytics), (SELECT count(*) FROM intraday_ohlcv)"
    async with serve(postgres_dsn) as client:
        while not (await client.get("/health")).json()["analytics"]["compiled"]:
            await asyncio.sleep(0.05)
        for n in range(4):
            rows = [
                {
                    "symbol": f"S{n}",
                    "ts": (START + timedelta(minutes=5 * at)).isoformat(),
                    "price": 10 + at % 9,
                    "size": 1,
                }
                for at in range(1500)
            ]
            answer = await client.post(
                "/ticks",
                params={"clock": "event", "calendar": "24/7", "provider": f"tape{n}", "end_of_stream": "true"},
                content=orjson.dumps(rows),
                headers={"Content-Type": "application/json"},
            )
            assert answer.json()["accepted"] == len(rows)
            while not await is_done(client):
                await asyncio.sleep(0)
            assert tuple(await connection.fetchrow(count)) == ((n + 1) * 1500, (n + 1) * 1500)
    await connection.close()
